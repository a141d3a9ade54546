//! Certificates and keys, as files that a URL names.

use std::fmt;
use std::io;
use std::sync::Arc;

use percent_encoding::percent_decode_str;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, InconsistentKeys, RootCertStore};

use super::{CA, CERTIFICATE, KEY};
use crate::store::{StoreError, StoreErrorKind};

/// The files that the URL of a store names. They were read, and can be used.
#[derive(Default)]
pub(in crate::store) struct Files {
    pub(in crate::store) ca: Option<Pem>,
    /// The certificate of this client, and its key. The drivers of SQL engines read them by themselves.
    #[cfg_attr(not(feature = "redis"), allow(dead_code))]
    pub(in crate::store) client: Option<(Pem, Pem)>,
}

/// The contents of a file.
pub(in crate::store) struct Pem {
    /// The parameter and the file, for messages.
    name: String,
    pub(in crate::store) bytes: Vec<u8>,
}

impl Files {
    /// Reads and checks the files. `value` returns the value of a parameter, decoded.
    ///
    /// # Errors
    /// If a file can't be read or has no certificate or key, if a certificate has no key or another
    /// one's, and if the certificate of the client has expired. Errors name the file.
    pub(in crate::store) fn read(
        value: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, StoreError> {
        let read = |names: &[&str]| {
            let mut given = names.iter().filter_map(|name| Some((*name, value(name)?)));
            given
                .next()
                .map(|(name, value)| Pem::read(name, &value))
                .transpose()
        };
        let ca = read(CA)?;
        if let Some(ca) = &ca {
            let mut roots = RootCertStore::empty();
            for certificate in ca.certificates()? {
                let added = roots.add(certificate);
                added
                    .map_err(|error| wrong(format!("{ca} has an unusable certificate: {error}")))?;
            }
        }
        let client = match (read(CERTIFICATE)?, read(KEY)?) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            (Some(_), None) => {
                return Err(wrong("`ssl-cert` in the URL of the store needs `ssl-key`"));
            }
            (None, Some(_)) => {
                return Err(wrong("`ssl-key` in the URL of the store needs `ssl-cert`"));
            }
        };
        if let Some((certificate, key)) = &client {
            check_client(certificate, key)?;
        }
        Ok(Self { ca, client })
    }
}

impl Pem {
    fn read(parameter: &str, value: &str) -> Result<Self, StoreError> {
        // The drivers take the text itself as well. It may be a key, which no message shows.
        if value.trim_start().starts_with("-----BEGIN") {
            return Ok(Self {
                name: format!("the text of `{parameter}`"),
                bytes: value.as_bytes().to_owned(),
            });
        }
        let name = format!("the file {value} of `{parameter}`");
        match std::fs::read(value) {
            Ok(bytes) => Ok(Self { name, bytes }),
            Err(error) => Err(unreadable(&name, &error)),
        }
    }

    fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, StoreError> {
        let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&self.bytes).collect();
        match found {
            Ok(found) if !found.is_empty() => Ok(found),
            _ => Err(wrong(format!("{self} has no certificate in PEM"))),
        }
    }
}

/// Writes the parameter and the name of the file, never its contents.
impl fmt::Display for Pem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// The value of a parameter without the encoding of a URL.
pub(in crate::store) fn decoded(value: &str) -> String {
    let spaced = value.replace('+', " ");
    percent_decode_str(&spaced).decode_utf8_lossy().into_owned()
}

fn check_client(certificate: &Pem, key: &Pem) -> Result<(), StoreError> {
    let chain = certificate.certificates()?;
    let end_entity = chain[0].clone();
    let Ok(private) = PrivateKeyDer::from_pem_slice(&key.bytes) else {
        return Err(wrong(format!(
            "{key} has no key in PEM, or one that is encrypted"
        )));
    };
    let provider = Arc::new(ring::default_provider());
    match CertifiedKey::from_der(chain, private, &provider) {
        Ok(_) => {}
        Err(rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
            return Err(wrong(format!("{key} is not the key of {certificate}")));
        }
        Err(error) => {
            return Err(wrong(format!(
                "{certificate} and {key} can't be used: {error}"
            )));
        }
    }
    match out_of_date(end_entity, provider) {
        Some(why) => Err(wrong(format!("{certificate}: {why}"))),
        None => Ok(()),
    }
}

/// Why the certificate is not valid at this time. rustls tells the time of a certificate in no
/// other way than by verifying the certificate, which begins with the time.
fn out_of_date(
    certificate: CertificateDer<'_>,
    provider: Arc<CryptoProvider>,
) -> Option<CertificateError> {
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone().into_owned()).ok()?;
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider);
    let name = ServerName::try_from("localhost").ok()?;
    let verified =
        verifier
            .build()
            .ok()?
            .verify_server_cert(&certificate, &[], &name, &[], UnixTime::now());
    match verified {
        Err(rustls::Error::InvalidCertificate(
            error @ (CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. }),
        )) => Some(error),
        _ => None,
    }
}

fn unreadable(name: &str, error: &io::Error) -> StoreError {
    let remedy = match error.kind() {
        io::ErrorKind::PermissionDenied => ": let the user of this process read it",
        _ => "",
    };
    wrong(format!("{name} can't be read: {error}{remedy}"))
}

fn wrong(message: impl Into<String>) -> StoreError {
    StoreError::new(StoreErrorKind::Refused, message.into())
}

#[cfg(test)]
mod tests {
    use std::error::Error;

    use super::*;

    #[test]
    fn a_file_that_another_user_alone_may_read_is_named_with_what_to_do() {
        let error = io::Error::from(io::ErrorKind::PermissionDenied);
        let error = unreadable("the file /etc/key.pem of `ssl-key`", &error);
        assert_eq!(
            error.source().unwrap().to_string(),
            "the file /etc/key.pem of `ssl-key` can't be read: permission denied: let the user of \
             this process read it"
        );
    }

    #[test]
    fn a_key_in_the_url_itself_is_not_shown() {
        let key = "-----BEGIN PRIVATE KEY-----\nhunter2\n-----END PRIVATE KEY-----";
        let read = Files::read(|name| name.contains("cert").then(|| key.to_owned()));
        let error = read.err().unwrap().source().unwrap().to_string();
        assert_eq!(error, "the text of `sslrootcert` has no certificate in PEM");
    }
}
