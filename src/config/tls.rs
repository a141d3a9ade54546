//! The files of certificates and keys with which the sidecar speaks TLS.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Deserialize;

use super::field::text;
use super::value::values;

values! {
    /// The path of a file.
    FileName(PathBuf): "the path of a file in PEM, such as \"/etc/tower-idempotency/tls.pem\"",
        { "type": "string", "pattern": "^[^\\u0000]+$" },
        |plain| {
            let is_path = |text: &&str| !text.is_empty() && !text.contains('\0');
            text(&plain).filter(is_path).map(PathBuf::from)
        };
}

/// The files with which a listener speaks TLS.
#[derive(Clone, Debug)]
pub struct ServerFiles {
    /// The certificate and its chain.
    pub certificate: PathBuf,
    /// The certificate's private key.
    pub key: PathBuf,
    /// The authorities one of which has signed each client's certificate.
    pub client_ca: Option<PathBuf>,
}

/// The files with which a server of https is spoken to.
#[derive(Clone, Debug, Default)]
pub struct ClientFiles {
    /// The authorities that are trusted instead of those of the system.
    pub ca: Option<PathBuf>,
    /// The sidecar's own certificate and its chain; never without a key.
    pub certificate: Option<PathBuf>,
    /// The certificate's private key.
    pub key: Option<PathBuf>,
}

/// With what a listener speaks TLS.
#[derive(Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline)]
pub(super) struct ServerTls {
    /// The certificate and the chain behind it, in PEM.
    certificate: FileName,
    /// The certificate's private key, in PEM.
    key: FileName,
    /// Certificates of authorities, in PEM. With them each client needs a certificate that one of them
    /// has signed.
    client_ca: Option<FileName>,
}

impl ServerTls {
    pub(super) fn files(&self) -> ServerFiles {
        ServerFiles {
            certificate: self.certificate.0.clone(),
            key: self.key.0.clone(),
            client_ca: self.client_ca.as_ref().map(|own| own.0.clone()),
        }
    }
}

/// How a server with an `https` URL is spoken to.
#[derive(Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline)]
pub(super) struct ClientTls {
    /// Certificates of the authorities that are trusted, in PEM, instead of those of the system.
    ca: Option<FileName>,
    /// The sidecar's own certificate and the chain behind it, in PEM, for a server that asks for one.
    certificate: Option<FileName>,
    /// The private key of `certificate`, in PEM.
    key: Option<FileName>,
}

impl ClientTls {
    pub(super) fn files(&self) -> ClientFiles {
        let path = |own: &Option<FileName>| own.as_ref().map(|own| own.0.clone());
        ClientFiles {
            ca: path(&self.ca),
            certificate: path(&self.certificate),
            key: path(&self.key),
        }
    }

    /// Returns the entry that lacks another beside it, and what is wrong with it.
    pub(super) fn wrong(&self) -> Option<(&'static str, &'static str)> {
        match (&self.certificate, &self.key) {
            (Some(_), None) => Some(("certificate", "needs its `key` beside it")),
            (None, Some(_)) => Some(("key", "needs its `certificate` beside it")),
            _ => None,
        }
    }
}
