//! Authorities and certificates that tests make, and a client that speaks TLS.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd,
};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::support::within;

/// When a certificate is valid.
#[derive(Clone, Copy)]
pub(crate) enum Valid {
    Now,
    Until2020,
    From2090,
}

/// An authority signs certificates.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: Certificate,
}

/// A certificate and its key.
pub(crate) struct Issued {
    certificate: Certificate,
    key: KeyPair,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Self {
            issuer: Issuer::new(params, key),
            certificate,
        }
    }

    pub(crate) fn issue(&self, name: &str, valid: Valid) -> Issued {
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        match valid {
            Valid::Now => {}
            Valid::Until2020 => params.not_after = date_time_ymd(2020, 1, 1),
            Valid::From2090 => params.not_before = date_time_ymd(2090, 1, 1),
        }
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Issued { certificate, key }
    }

    pub(crate) fn pem(&self) -> String {
        self.certificate.pem()
    }

    /// Returns a client of this authority, which offers these protocols.
    pub(crate) fn client(&self, protocols: &[&str]) -> TlsClient {
        TlsClient(Arc::new(self.config(protocols, None)))
    }

    /// Returns a client that shows a certificate if it is asked for one.
    pub(crate) fn client_with(&self, protocols: &[&str], own: &Issued) -> TlsClient {
        TlsClient(Arc::new(self.config(protocols, Some(own))))
    }

    pub(crate) fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.der().clone()).unwrap();
        roots
    }

    pub(crate) fn config(&self, protocols: &[&str], own: Option<&Issued>) -> ClientConfig {
        let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(self.roots());
        let mut config = match own {
            None => builder.with_no_client_auth(),
            Some(own) => builder
                .with_client_auth_cert(vec![own.certificate.der().clone()], own.private_key())
                .unwrap(),
        };
        config.alpn_protocols = protocols.iter().map(|own| own.as_bytes().into()).collect();
        config
    }
}

impl Issued {
    pub(crate) fn pem(&self) -> String {
        self.certificate.pem()
    }

    pub(crate) fn key_pem(&self) -> String {
        self.key.serialize_pem()
    }

    pub(crate) fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_slice(self.key_pem().as_bytes()).unwrap()
    }

    pub(crate) fn der(&self) -> rustls::pki_types::CertificateDer<'static> {
        self.certificate.der().clone()
    }
}

/// A client of `localhost`.
#[derive(Clone)]
pub(crate) struct TlsClient(pub(crate) Arc<ClientConfig>);

impl TlsClient {
    pub(crate) async fn connect(&self, address: SocketAddr) -> io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from("localhost").unwrap();
        within(TlsConnector::from(Arc::clone(&self.0)).connect(name, stream)).await
    }

    /// Returns an address where what a client sends without TLS goes to `address` with TLS.
    pub(crate) async fn bridge(&self, address: SocketAddr) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let own = listener.local_addr().unwrap();
        let client = self.clone();
        tokio::spawn(async move {
            while let Ok((mut plain, _)) = listener.accept().await {
                plain.set_nodelay(true).unwrap();
                let client = client.clone();
                tokio::spawn(async move {
                    let mut secured = client.connect(address).await.unwrap();
                    let _ = copy_bidirectional(&mut plain, &mut secured).await;
                });
            }
        });
        own
    }
}

/// A folder that is removed when `Folder` is dropped.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("sidecar-tls-{}-{count}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Replaces a file, as programs do that renew certificates.
    pub(crate) fn write(&self, name: &str, text: &str) -> String {
        let path = self.0.join(name);
        let new = self.0.join(format!("{name}.new"));
        std::fs::write(&new, text).unwrap();
        std::fs::rename(&new, &path).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// Writes a certificate and its key.
    pub(crate) fn issue(&self, issued: &Issued) {
        self.write("cert.pem", &issued.pem());
        self.write("key.pem", &issued.key_pem());
    }

    /// Returns the entry of a listener whose files are in this folder.
    pub(crate) fn entry(&self, name: &str, more: &str) -> String {
        let folder = self.0.display();
        format!("{name} = {{ certificate = '{folder}/cert.pem', key = '{folder}/key.pem'{more} }}")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
