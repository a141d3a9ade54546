//! Certificates and keys from files in PEM.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime};

use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{Error as PemError, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, RootCertStore};

use super::TlsError;

/// The provider of all TLS here. None is installed for the process, so that no other crate decides.
pub(super) fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> =
        LazyLock::new(|| Arc::new(rustls::crypto::ring::default_provider()));
    Arc::clone(&PROVIDER)
}

/// A certificate with its chain and its key, in files that two entries name.
pub(super) fn certified(
    (entry, file): (&str, &Path),
    (key_entry, key_file): (&str, &Path),
) -> Result<CertifiedKey, TlsError> {
    let chain = certificates(entry, file)?;
    for certificate in &chain {
        is_in_time(certificate).map_err(|why| TlsError::new(entry, file, why))?;
    }
    let key = key(key_entry, key_file)?;
    CertifiedKey::from_der(chain, key, &provider()).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => {
            let why = format!("is not the key of the certificate in {}", file.display());
            TlsError::new(key_entry, key_file, why)
        }
        rustls::Error::InvalidCertificate(error) => {
            let why = format!("has a certificate that can't be used: {error}");
            TlsError::new(entry, file, why)
        }
        error => TlsError::new(
            key_entry,
            key_file,
            format!("has a key that can't be used: {error}"),
        ),
    })
}

/// The authorities in a file.
pub(super) fn authorities(entry: &str, file: &Path) -> Result<Arc<RootCertStore>, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(entry, file)? {
        roots.add(certificate).map_err(|error| {
            let why = format!("has a certificate that can't be used: {error}");
            TlsError::new(entry, file, why)
        })?;
    }
    Ok(Arc::new(roots))
}

fn certificates(entry: &str, file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let text = read(entry, file)?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    // The error of the parser is not shown, since it quotes lines of the file.
    let all = all.map_err(|_| TlsError::new(entry, file, "is not PEM"))?;
    if all.is_empty() {
        return Err(TlsError::new(entry, file, "has no certificate in PEM"));
    }
    Ok(all)
}

fn key(entry: &str, file: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let text = read(entry, file)?;
    PrivateKeyDer::from_pem_slice(&text).map_err(|error| {
        let why = match error {
            PemError::NoItemsFound => "has no private key in PEM, or one with a password",
            _ => "is not PEM",
        };
        TlsError::new(entry, file, why)
    })
}

fn read(entry: &str, file: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(file).map_err(|error| {
        let mut why = format!("can't be read: {error}");
        if error.kind() == io::ErrorKind::PermissionDenied
            && let Some(owner) = owner(file)
        {
            why = format!("{why}; {owner}");
        }
        TlsError::new(entry, file, why)
    })
}

/// The part of a message that says who may read the file.
#[cfg(unix)]
fn owner(file: &Path) -> Option<String> {
    use std::os::unix::fs::MetadataExt as _;
    let of_file = fs::metadata(file).ok()?;
    let (owner, group, mode) = (of_file.uid(), of_file.gid(), of_file.mode() & 0o7777);
    let own = fs::metadata("/proc/self").ok();
    let own = own.map_or(String::new(), |own| {
        format!(", and this process runs as user {}", own.uid())
    });
    let root = if owner == 0 && mode & 0o044 == 0 {
        "only root may read it: "
    } else {
        ""
    };
    Some(format!(
        "{root}it belongs to user {owner} and group {group} with the mode {mode:04o}{own}"
    ))
}

#[cfg(not(unix))]
fn owner(_: &Path) -> Option<String> {
    None
}

/// Whether a certificate is valid now; if it is not, the rest of a sentence.
///
/// rustls tells the time of a certificate only where it verifies one. It looks at the time before it
/// looks for an authority, of which there is none here, so any other error says that the time is right.
fn is_in_time(certificate: &CertificateDer<'_>) -> Result<(), String> {
    let parsed = ParsedCertificate::try_from(certificate)
        .map_err(|error| format!("has a certificate that can't be used: {error}"))?;
    let roots = RootCertStore::empty();
    let algorithms = provider().signature_verification_algorithms.all;
    let verified = verify_server_cert_signed_by_trust_anchor(
        &parsed,
        &roots,
        &[],
        UnixTime::now(),
        algorithms,
    );
    let date = |time: UnixTime| {
        httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + Duration::from_secs(time.as_secs()))
    };
    let Err(rustls::Error::InvalidCertificate(error)) = verified else {
        return Ok(());
    };
    match error {
        CertificateError::ExpiredContext { not_after, .. } => Err(format!(
            "has a certificate that has expired: it was valid until {}",
            date(not_after)
        )),
        CertificateError::NotValidYetContext { not_before, .. } => Err(format!(
            "has a certificate that is not valid yet: it is from {}",
            date(not_before)
        )),
        CertificateError::Expired => Err("has a certificate that has expired".to_owned()),
        CertificateError::NotValidYet => Err("has a certificate that is not valid yet".to_owned()),
        _ => Ok(()),
    }
}
