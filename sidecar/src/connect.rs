//! TCP connections to the upstream and to the authorizer.

use std::io;
use std::time::Duration;

use http::Uri;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Connects over TCP. `timeout` includes the look-up of the address.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Connector {
    pub(crate) timeout: Duration,
}

impl Connector {
    pub(crate) async fn connect(self, server: &Uri) -> io::Result<TcpStream> {
        let host = server.host().unwrap_or_default();
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let port = server.port_u16().unwrap_or(80);
        let connected = timeout(self.timeout, TcpStream::connect((host, port))).await;
        let stream = connected.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}
