//! The client's side of TLS, for connections to the upstream and to the authorizer.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::client::ResolvesClientCert;
use rustls::pki_types::ServerName;
use rustls::sign::SingleCertAndKey;
use rustls::version::{TLS12, TLS13};
use rustls::{AlertDescription, ClientConfig, RootCertStore};
use tokio_rustls::TlsConnector;
use tower_idempotency::for_sidecar::ClientFiles;

use super::TlsError;
use super::files::{authorities, certified, provider};
use super::reload::{Reload, Reloaded};
use super::{MAX_UNSENT, Protocols};
use crate::socket::Socket;
use crate::transport::Transport;

/// Speaks TLS with the authorities and the certificate that were read last.
#[derive(Clone)]
pub(crate) struct Connector(Arc<Reloaded<ClientConfig>>);

impl Connector {
    /// `entry` is the table of the configuration that names the files, and `url` the entry of the URL.
    pub(crate) fn new(url: &str, entry: &str, files: &ClientFiles) -> Result<Self, TlsError> {
        let all = [&files.ca, &files.certificate, &files.key];
        let watched: Vec<PathBuf> = all.into_iter().flatten().cloned().collect();
        let load = {
            let (url, entry, files) = (url.to_owned(), entry.to_owned(), files.clone());
            move || config(&url, &entry, &files)
        };
        Ok(Self(Arc::new(Reloaded::new(entry, watched, load)?)))
    }

    pub(crate) fn files(&self) -> Arc<dyn Reload> {
        Arc::clone(&self.0) as _
    }

    /// Completes when the handshake is done. The name in the server's certificate has to be `host`. The
    /// handshake has no limit of its own in time.
    pub(crate) async fn connect(
        &self,
        host: &str,
        socket: Socket,
        protocols: Protocols,
    ) -> io::Result<Transport> {
        let name = ServerName::try_from(host.to_owned())
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let protocols: &[&str] = match protocols {
            Protocols::Http1 => &["http/1.1"],
            Protocols::Http2 => &["h2"],
            Protocols::Both => &["h2", "http/1.1"],
        };
        let protocols = protocols.iter().map(|own| own.as_bytes().to_vec());
        let connected = TlsConnector::from(self.0.current())
            .with_alpn(protocols.collect())
            .connect_with(name, socket, |session| {
                session.set_buffer_limit(Some(MAX_UNSENT));
            });
        Ok(Transport::tls(connected.await?.into()))
    }
}

fn config(url: &str, entry: &str, files: &ClientFiles) -> Result<ClientConfig, TlsError> {
    let roots = match &files.ca {
        Some(file) => authorities(&format!("{entry}.ca"), file)?,
        None => of_system(url)?,
    };
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13, &TLS12])
        .expect("ring has suites of both versions")
        .with_root_certificates(roots);
    Ok(match (&files.certificate, &files.key) {
        (Some(certificate), Some(key)) => {
            let certified = certified(
                (&format!("{entry}.certificate"), certificate),
                (&format!("{entry}.key"), key),
            )?;
            let resolver: Arc<dyn ResolvesClientCert> = Arc::new(SingleCertAndKey::from(certified));
            builder.with_client_cert_resolver(resolver)
        }
        _ => builder.with_no_client_auth(),
    })
}

/// The authorities that the system trusts.
fn of_system(url: &str) -> Result<Arc<RootCertStore>, TlsError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let why = found.errors.first().map(|error| format!(" ({error})"));
        return Err(TlsError {
            entry: url.to_owned(),
            file: None,
            why: format!(
                "is of `https`, and the system has no authorities that could be trusted{}: install \
                 them (`ca-certificates`), or name a file as `ca`",
                why.unwrap_or_default()
            ),
        });
    }
    Ok(Arc::new(roots))
}

/// Whether a server has refused the handshake itself, so that it has read no request. Over TLS 1.3 a
/// server looks at a client's certificate when the client may already have sent one.
pub(crate) fn refused_handshake(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let inner = error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref);
        let inner = inner.and_then(|inner| inner.downcast_ref::<rustls::Error>());
        if let Some(rustls::Error::AlertReceived(alert)) = inner {
            return matches!(
                alert,
                AlertDescription::AccessDenied
                    | AlertDescription::BadCertificate
                    | AlertDescription::CertificateExpired
                    | AlertDescription::CertificateRequired
                    | AlertDescription::CertificateRevoked
                    | AlertDescription::CertificateUnknown
                    | AlertDescription::DecryptError
                    | AlertDescription::HandshakeFailure
                    | AlertDescription::UnknownCA
                    | AlertDescription::UnsupportedCertificate
            );
        }
        cause = error.source();
    }
    false
}
