//! The connections of an attack: where they come from, and how many bytes they send.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use h2::client::{Builder, SendRequest};
use http::Request;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

const FROM: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
pub(crate) const CALLER: &str = "Bearer attacker";
/// How long a connection that was closed waits before it comes back.
const PAUSE: Duration = Duration::from_millis(100);
const CONNECTS_WITHIN: Duration = Duration::from_secs(2);

#[derive(Clone, Debug)]
pub(crate) struct Attacker {
    sidecar: SocketAddr,
    metrics: SocketAddr,
    sent: Arc<AtomicU64>,
    keys: Arc<AtomicU64>,
}

impl Attacker {
    pub(crate) fn new(sidecar: SocketAddr, metrics: SocketAddr, sent: Arc<AtomicU64>) -> Self {
        Self {
            sidecar,
            metrics,
            sent,
            keys: Arc::default(),
        }
    }

    /// Returns a key that was not used before.
    pub(crate) fn key(&self) -> String {
        format!("attack-{}", self.keys.fetch_add(1, Ordering::Relaxed))
    }

    /// Connects to where the sidecar serves its clients.
    pub(crate) async fn connect(&self) -> io::Result<Counted> {
        self.connect_to(self.sidecar).await
    }

    pub(crate) async fn connect_to_metrics(&self) -> io::Result<Counted> {
        self.connect_to(self.metrics).await
    }

    async fn connect_to(&self, address: SocketAddr) -> io::Result<Counted> {
        let socket = TcpSocket::new_v4()?;
        socket.bind((FROM, 0).into())?;
        let stream = timeout(CONNECTS_WITHIN, socket.connect(address)).await??;
        Ok(Counted {
            stream,
            sent: Arc::clone(&self.sent),
        })
    }

    /// Connects with HTTP/2. The connection is driven by a task that ends with the runtime.
    pub(crate) async fn connect_http2(&self, builder: &Builder) -> io::Result<SendRequest<Bytes>> {
        let stream = self.connect().await?;
        let (client, connection) = builder.handshake(stream).await.map_err(io::Error::other)?;
        tokio::spawn(connection);
        Ok(client)
    }

    /// Returns a request of HTTP/2 with a new key and without a body.
    pub(crate) fn post(&self, path: &str) -> Request<()> {
        Request::post(format!("http://flood{path}"))
            .header("authorization", CALLER)
            .header("idempotency-key", self.key())
            .body(())
            .expect("a request")
    }

    /// Keeps so many connections busy with `one`, which is the life of a connection.
    pub(crate) async fn many<F>(
        &self,
        connections: u32,
        one: impl Fn(Self) -> F + Copy + Send + 'static,
    ) where
        F: Future<Output = io::Result<()>> + Send + 'static,
    {
        self.many_by(Duration::ZERO, connections, one).await;
    }

    /// As [`many`](Self::many), where each connection begins a step after the one before.
    pub(crate) async fn many_by<F>(
        &self,
        step: Duration,
        connections: u32,
        one: impl Fn(Self) -> F + Copy + Send + 'static,
    ) where
        F: Future<Output = io::Result<()>> + Send + 'static,
    {
        let mut tasks = JoinSet::new();
        for number in 0..connections {
            let own = self.clone();
            tasks.spawn(async move {
                sleep(step * number).await;
                loop {
                    // A connection that is refused or closed is what the attack has to expect.
                    let _ = one(own.clone()).await;
                    sleep(PAUSE).await;
                }
            });
        }
        tasks.join_all().await;
    }
}

/// A connection that counts the bytes that are written to it.
#[derive(Debug)]
pub(crate) struct Counted {
    stream: TcpStream,
    sent: Arc<AtomicU64>,
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, data);
        if let Poll::Ready(Ok(written)) = written {
            self.sent.fetch_add(written as u64, Ordering::Relaxed);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
