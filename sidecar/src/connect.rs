//! Connections to the upstream and to the authorizer.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Once};
use std::time::Duration;

use http::Uri;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tracing::warn;

use crate::socket::Socket;
use crate::tls;
use crate::tls::Protocols;
use crate::transport::Transport;

/// Connects to one server: over TCP, and with TLS if its URL is one of `https`.
#[derive(Clone)]
pub(crate) struct Connector {
    /// Includes the look-up of the address and the handshake.
    pub(crate) timeout: Duration,
    /// The entry of the configuration that has the URL.
    entry: &'static str,
    tls: Option<tls::Connector>,
    /// Whether the log says that what is sent can be read on the way.
    told: Arc<Once>,
}

impl Connector {
    pub(crate) fn new(entry: &'static str, timeout: Duration, tls: Option<tls::Connector>) -> Self {
        Self {
            timeout,
            entry,
            tls,
            told: Arc::new(Once::new()),
        }
    }

    pub(crate) fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// Connects, and offers these protocols to a server of TLS.
    pub(crate) async fn connect(
        &self,
        server: &Uri,
        protocols: Protocols,
    ) -> io::Result<Transport> {
        let connected = timeout(self.timeout, self.connect_without_end(server, protocols)).await;
        connected.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
    }

    async fn connect_without_end(
        &self,
        server: &Uri,
        protocols: Protocols,
    ) -> io::Result<Transport> {
        let host = server.host().unwrap_or_default();
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let usual = if self.is_tls() { 443 } else { 80 };
        let port = server.port_u16().unwrap_or(usual);
        let addresses: Vec<_> = lookup_host((host, port)).await?.collect();
        if !self.is_tls() {
            self.tell_of_plain_text(&addresses);
        }
        let stream = TcpStream::connect(&*addresses).await?;
        stream.set_nodelay(true)?;
        let socket = Socket::new(Arc::new(stream.into()));
        match &self.tls {
            Some(tls) => tls.connect(host, socket, protocols).await,
            None => Ok(Transport::plain(socket)),
        }
    }

    fn tell_of_plain_text(&self, addresses: &[SocketAddr]) {
        let is_elsewhere = |own: &&SocketAddr| !own.ip().to_canonical().is_loopback();
        let Some(address) = addresses.iter().find(is_elsewhere) else {
            return;
        };
        self.told.call_once(|| {
            warn!(
                %address,
                "requests to `{0}` leave this machine without encryption: give `{0}` a URL of `https`, \
                 with a `ca` if its authority is your own",
                self.entry
            );
        });
    }
}

impl std::fmt::Debug for Connector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connector")
            .field("timeout", &self.timeout)
            .field("entry", &self.entry)
            .finish_non_exhaustive()
    }
}
