//! TLS to the servers of stores: the files that a URL names, the meaning of errors, and the
//! warning where there is no TLS.

use std::net::IpAddr;

use tracing::warn;

#[cfg(feature = "tls")]
mod files;

#[cfg(feature = "tls")]
pub(super) use files::{Files, decoded};

/// The parameters that name files. The first name is the one of every engine, and the drivers of
/// PostgreSQL and MySQL have the others.
pub(super) const CA: &[&str] = &["ssl-ca", "sslrootcert", "ssl-root-cert", "sslca"];
pub(super) const CERTIFICATE: &[&str] = &["ssl-cert", "sslcert"];
pub(super) const KEY: &[&str] = &["ssl-key", "sslkey"];

#[allow(dead_code, reason = "Redis needs it without the feature alone")]
pub(super) const FEATURE_IS_OFF: &str = "the URL of the store asks for TLS, which needs the feature \
    `tls` of tower-idempotency: `cargo add tower-idempotency --features tls`";

/// Whether nothing that is sent to this host leaves the machine.
pub(super) fn is_local(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    if let Ok(address) = host.parse::<IpAddr>() {
        return address.to_canonical().is_loopback();
    }
    let name = host.trim_end_matches('.').to_ascii_lowercase();
    name == "localhost" || name.ends_with(".localhost")
}

/// Warns that the connection to another machine is not encrypted. `option` is what to write into
/// the URL.
pub(super) fn warn_of_plain_text(option: &str) {
    let feature = if cfg!(feature = "tls") {
        ""
    } else {
        ", with the feature `tls` of tower-idempotency"
    };
    warn!(
        "the connection to the store's server is not encrypted: whoever is on its way reads records \
         and can change them; set {option} in the URL of the store{feature}"
    );
}

/// What to do about an error of TLS, by the text that rustls and the drivers give it. The drivers
/// keep the error itself in different places, and the one of a cluster keeps its text alone.
pub(super) fn remedy(error: &str) -> Option<&'static str> {
    let says = |text: &str| error.contains(text);
    Some(if says("invalid peer certificate: ") {
        // The signature is a bad one where two CAs have the same name.
        if says("UnknownIssuer") || says("BadSignature") {
            "no CA that is trusted here has issued the certificate of the server: name the file of \
             its CA by `ssl-ca` in the URL"
        } else if says("not valid for") {
            "connect by a name that the certificate of the server is for"
        } else if says("expired") || says("Expired") {
            "renew the certificate of the server, and see the clock of this machine"
        } else if says("not valid yet") || says("NotValidYet") {
            "see the clocks of this machine and of the server, and its certificate"
        } else if says("CaUsedAsEndEntity") {
            "the server uses the certificate of its CA: give the server a certificate of its own"
        } else {
            "see the certificate of the server"
        }
    } else if says("received fatal alert: CertificateRequired") {
        "the server wants the certificate of a client: name its file and that of its key by \
         `ssl-cert` and `ssl-key` in the URL"
    } else if says("received fatal alert: ") {
        "the server rejects the TLS of this client: see the certificate of `ssl-cert`, and the CA \
         that the server trusts"
    } else if says("received corrupt message") {
        "what listens at this address does not speak TLS: see its port"
    } else if says("invalid dns name") {
        "give the host by its name or its IP address, which a certificate can be for"
    } else if says("server does not support TLS") {
        "turn on TLS at the server"
    } else if says("built without TLS support") || says("can't connect with TLS, the feature") {
        "turn on the feature `tls` of tower-idempotency"
    } else if says("RSA auth backend disabled") {
        "the user has the plugin caching_sha2_password or sha256_password, which sends the password \
         over TLS alone: set `ssl-mode=VERIFY_IDENTITY` and `ssl-ca` in the URL, and TLS at the server"
    } else {
        return None;
    })
}

/// Makes ring the provider of cryptography for connections whose driver takes that of the process,
/// unless the application has installed one. Without a provider the driver would panic where
/// another crate has turned on a second one.
pub(super) fn install_provider() {
    #[cfg(feature = "tls")]
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        // An error says that another thread was faster.
        let _ = rustls::crypto::ring::default_provider().install_default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stays_on_the_machine_is_known_by_its_name_or_address() {
        for host in [
            "localhost",
            "LOCALHOST.",
            "db.localhost",
            "127.0.0.1",
            "127.8.9.1",
            "::1",
            "[::1]",
            "::ffff:127.0.0.1",
        ] {
            assert!(is_local(host), "{host}");
        }
        for host in [
            "db",
            "localhost.example",
            "10.0.0.1",
            "0.0.0.0",
            "fd00::2",
            "::ffff:10.0.0.1",
            "",
        ] {
            assert!(!is_local(host), "{host}");
        }
    }
}
