//! What stands for TLS in a program that was built without it. None of these values exists.

use std::io;
use std::sync::Arc;

use tower_idempotency::for_sidecar::{ClientFiles, ServerFiles};

use super::{Protocols, TlsError};
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

#[derive(Clone)]
pub(crate) enum Connector {}

impl Connector {
    /// Settings with such a URL are refused before.
    pub(crate) fn new(_: &str, _: &str, _: &ClientFiles) -> Result<Self, TlsError> {
        unreachable!("the settings are checked first")
    }

    pub(crate) fn files(&self) -> Arc<dyn Reload> {
        match *self {}
    }

    pub(crate) fn connect(
        &self,
        _: &str,
        _: Socket,
        _: Protocols,
    ) -> std::future::Ready<io::Result<Transport>> {
        match *self {}
    }
}

pub(crate) fn refused_handshake(_: &(dyn std::error::Error + 'static)) -> bool {
    false
}
