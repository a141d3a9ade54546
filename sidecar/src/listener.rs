//! Where clients connect.

use std::io;
use std::net::SocketAddr;

use tokio::net::TcpListener;

use crate::tls::Acceptor;

/// A listener, and the TLS that its connections begin with.
pub(crate) struct Listener {
    pub(crate) socket: TcpListener,
    pub(crate) tls: Option<Acceptor>,
}

impl Listener {
    pub(crate) async fn bind(address: SocketAddr, tls: Option<Acceptor>) -> io::Result<Self> {
        let socket = TcpListener::bind(address).await?;
        Ok(Self { socket, tls })
    }

    pub(crate) fn address(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }
}
