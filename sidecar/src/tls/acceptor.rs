//! The server's side of TLS, for connections of clients.

use std::io;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::server::WebPkiClientVerifier;
use rustls::sign::SingleCertAndKey;
use rustls::version::{TLS12, TLS13};
use tokio_rustls::TlsAcceptor;
use tower_idempotency::for_sidecar::ServerFiles;

use super::files::{authorities, certified, provider};
use super::reload::{Reload, Reloaded};
use super::{MAX_UNSENT, TlsError};
use crate::socket::Socket;
use crate::transport::Transport;

/// Accepts TLS with the certificate that was read last.
#[derive(Clone)]
pub(crate) struct Acceptor(Arc<Reloaded<ServerConfig>>);

impl Acceptor {
    /// `entry` is the table of the configuration that names the files.
    pub(crate) fn new(entry: &str, files: &ServerFiles) -> Result<Self, TlsError> {
        let mut watched = vec![files.certificate.clone(), files.key.clone()];
        watched.extend(files.client_ca.clone());
        let load = {
            let (entry, files) = (entry.to_owned(), files.clone());
            move || config(&entry, &files)
        };
        Ok(Self(Arc::new(Reloaded::new(entry, watched, load)?)))
    }

    pub(crate) fn files(&self) -> Arc<dyn Reload> {
        Arc::clone(&self.0) as _
    }

    /// Completes when the handshake is done. It has no limit of its own in time.
    pub(crate) async fn accept(&self, socket: Socket) -> io::Result<Transport> {
        let accepted = TlsAcceptor::from(self.0.current())
            .accept_with(socket, |session| session.set_buffer_limit(Some(MAX_UNSENT)));
        Ok(Transport::tls(accepted.await?.into()))
    }
}

fn config(entry: &str, files: &ServerFiles) -> Result<ServerConfig, TlsError> {
    let certified = certified(
        (&format!("{entry}.certificate"), &files.certificate),
        (&format!("{entry}.key"), &files.key),
    )?;
    let builder = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13, &TLS12])
        .expect("ring has suites of both versions");
    let builder = match &files.client_ca {
        None => builder.with_no_client_auth(),
        Some(file) => {
            let entry = format!("{entry}.client_ca");
            let roots = authorities(&entry, file)?;
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider()).build();
            let verifier = verifier
                .map_err(|error| TlsError::new(&entry, file, format!("can't be used: {error}")))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
    // Without HTTP/1.0, which clients do not name.
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // Early data can be replayed by anyone who has seen it, before a key could be claimed.
    config.max_early_data_size = 0;
    Ok(config)
}
