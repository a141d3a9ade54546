//! TLS, by rustls with the provider ring: on the listeners, to the upstream and to the authorizer.

use std::fmt;
use std::path::{Path, PathBuf};

#[cfg(feature = "tls")]
mod acceptor;
#[cfg(feature = "tls")]
mod connector;
#[cfg(feature = "tls")]
mod files;
#[cfg(feature = "tls")]
mod reload;
#[cfg(not(feature = "tls"))]
mod without;

#[cfg(feature = "tls")]
pub(crate) use self::acceptor::Acceptor;
#[cfg(feature = "tls")]
pub(crate) use self::connector::{Connector, refused_handshake};
#[cfg(feature = "tls")]
pub(crate) use self::reload::Reload;
#[cfg(not(feature = "tls"))]
pub(crate) use self::without::{Acceptor, Connector, Reload, refused_handshake};

/// How many bytes rustls keeps that are written and not sent yet.
#[cfg(feature = "tls")]
const MAX_UNSENT: usize = 16 << 10;

/// What is offered to a server by ALPN.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Protocols {
    Http1,
    Http2,
    Both,
}

/// A file of a certificate or a key that can't be used. It never quotes what stands in the file.
#[derive(Clone, Debug)]
pub(crate) struct TlsError {
    /// The entry that names the file, such as `tls.key`.
    pub(crate) entry: String,
    file: Option<PathBuf>,
    /// The rest of a sentence about the file.
    why: String,
}

#[cfg_attr(not(feature = "tls"), allow(dead_code, reason = "no file is read"))]
impl TlsError {
    fn new(entry: &str, file: &Path, why: impl Into<String>) -> Self {
        Self {
            entry: entry.to_owned(),
            file: Some(file.to_path_buf()),
            why: why.into(),
        }
    }

    /// What is wrong with the entry: the rest of a sentence.
    pub(crate) fn message(&self) -> String {
        match &self.file {
            Some(file) => format!("names {}, which {}", file.display(), self.why),
            None => self.why.clone(),
        }
    }
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` {}", self.entry, self.message())
    }
}

impl std::error::Error for TlsError {}
