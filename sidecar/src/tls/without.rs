//! What stands for TLS in a program that was built without it. None of these values exists.

use std::io;
use std::sync::Arc;

use tower_idempotency::for_sidecar::ServerFiles;

use super::TlsError;
use crate::socket::Socket;
use crate::transport::Transport;

pub(crate) trait Reload: Send + Sync {
    fn reload(&self);
    fn look(&self);
}

#[derive(Clone)]
pub(crate) enum Acceptor {}

impl Acceptor {
    /// Settings with such files are refused before.
    pub(crate) fn new(_: &str, _: &ServerFiles) -> Result<Self, TlsError> {
        unreachable!("the settings are checked first")
    }

    pub(crate) fn files(&self) -> Arc<dyn Reload> {
        match *self {}
    }

    pub(crate) fn accept(&self, _: Socket) -> std::future::Ready<io::Result<Transport>> {
        match *self {}
    }
}
