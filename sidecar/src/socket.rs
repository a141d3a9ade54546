//! The socket of a client, which is shared by the connection's task and by hyper or h2; and that of
//! a connection to a server, which is shared by the pool and by hyper.

use std::io;
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::timeout;
use tracing::debug;

use crate::metrics::{Limit, Numbers};
use crate::patience::Patience;
use crate::stream::Stream;

/// How long a connection may rest before TCP asks whether the client's system still knows it.
const PROBE_AFTER: Duration = Duration::from_secs(30);
/// How long the sidecar reads on at most once it has nothing more to say.
const LINGER: Duration = Duration::from_secs(30);
/// How long the client may pause meanwhile.
const LINGER_PAUSE: Duration = Duration::from_secs(3);
/// How many bytes the sidecar discards at most.
const LINGER_BYTES: usize = 64 << 20;

/// The half of the socket that hyper or h2 reads and writes.
#[derive(Debug)]
pub(crate) struct Socket {
    stream: Arc<Stream>,
    /// How long a client may take nothing of what is written.
    unread: Option<(Patience, Arc<Numbers>)>,
}

/// Splits a connection into the half that speaks HTTP and the half of the connection's task.
pub(crate) fn share(stream: Stream) -> (Socket, Watched) {
    let socket = SockRef::from(&stream);
    // hyper writes a response in large pieces, so Nagle's algorithm could only delay the last one.
    // Neither option changes what is sent, so a system that refuses one does no harm.
    let _ = socket.set_tcp_nodelay(true);
    let probes = TcpKeepalive::new()
        .with_time(PROBE_AFTER)
        .with_interval(PROBE_AFTER);
    let _ = socket.set_tcp_keepalive(&probes);
    let stream = Arc::new(stream);
    (Socket::new(Arc::clone(&stream)), Watched(stream))
}

/// Whether the other side has neither sent anything that was not read yet nor closed the
/// connection, as the system knows it now.
pub(crate) fn is_quiet(stream: &Stream) -> bool {
    let arrived = SockRef::from(stream).peek(&mut [MaybeUninit::uninit()]);
    arrived.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
}

impl Socket {
    pub(crate) fn new(stream: Arc<Stream>) -> Self {
        Self {
            stream,
            unread: None,
        }
    }

    /// Ends the connection when the client takes nothing of what is written for this time.
    pub(crate) fn end_if_unread(&mut self, timeout: Duration, numbers: &Arc<Numbers>) {
        self.unread = Some((Patience::new(timeout), Arc::clone(numbers)));
    }

    /// The stream, for as long as this half of it is open.
    pub(crate) fn stream(&self) -> Weak<Stream> {
        Arc::downgrade(&self.stream)
    }

    fn poll_try_write(
        &mut self,
        cx: &mut Context<'_>,
        write: impl Fn(&Stream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        while self.poll_room(cx)?.is_ready() {
            match write(&self.stream) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => {
                    if let Some((patience, _)) = &mut self.unread {
                        patience.restart();
                    }
                    return Poll::Ready(written);
                }
            }
        }
        Poll::Pending
    }

    /// Waits until the system takes something to write.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Poll::Ready(room) = self.stream.poll_write_ready(cx) {
            return Poll::Ready(room);
        }
        let Some((patience, numbers)) = &mut self.unread else {
            return Poll::Pending;
        };
        ready!(patience.poll_end(cx));
        numbers.refused(Limit::Client);
        // Otherwise the system would keep what it could not send after the connection is closed.
        let _ = SockRef::from(&*self.stream).set_linger(Some(Duration::ZERO));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(self.stream.poll_read_ready(cx))?;
            match self.stream.try_read_buf(into) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return Poll::Ready(read.map(drop)),
            }
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_try_write(cx, |stream| stream.try_write(data))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_try_write(cx, |stream| stream.try_write_vectored(data))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(SockRef::from(&*self.stream).shutdown(Shutdown::Write))
    }
}

/// The connection task's half of the socket.
#[derive(Debug)]
pub(crate) struct Watched(Arc<Stream>);

impl Watched {
    /// Completes when the client has reset the connection, or no longer answers TCP's probes.
    ///
    /// The end of what the client sends says nothing: a client may close the sending half of its
    /// connection and wait for the response. hyper reads nothing while a response is pending, so it
    /// would not notice a reset.
    pub(crate) async fn failed(&self) {
        if self.0.failed().await.is_err() {
            // The runtime shuts down.
            std::future::pending::<()>().await;
        }
    }

    /// Reads on and discards what the client still sends, within bounds, before the connection is
    /// closed (RFC 9112, 9.6). Otherwise the system would reset the connection, and the
    /// client could lose a response that it has not read yet, such as a 413 to a body that it is still
    /// sending.
    pub(crate) async fn linger(self) {
        // A tunnel goes on with the other half of the socket.
        let Some(stream) = Arc::into_inner(self.0) else {
            return;
        };
        let _ = SockRef::from(&stream).shutdown(Shutdown::Write);
        let discarded = async {
            let mut left = LINGER_BYTES;
            let mut some = vec![0; 16 << 10];
            while let Ok(Ok(read)) = timeout(LINGER_PAUSE, stream.read(&mut some)).await {
                if read == 0 || read > left {
                    break;
                }
                left -= read;
            }
            LINGER_BYTES - left
        };
        match timeout(LINGER, discarded).await {
            Ok(0) => {}
            Ok(bytes) => debug!(bytes, "discarded what the client sent after its response"),
            Err(_) => debug!("the client sends without end"),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::{TcpListener, TcpStream};
    use tokio::time::{Instant, sleep};

    use super::*;

    /// Returns a client, and the sidecar's half of a connection that has nothing more to say.
    async fn lingering() -> (TcpStream, tokio::task::JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap());
        let (client, accepted) = tokio::join!(client, listener.accept());
        let client = client.unwrap();
        client.set_nodelay(true).unwrap();
        let (socket, watched) = share(accepted.unwrap().0.into());
        drop(socket);
        (client, tokio::spawn(watched.linger()))
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_pauses_is_not_waited_for() {
        let (_client, lingers) = lingering().await;
        let begun = Instant::now();
        lingers.await.unwrap();
        assert_eq!(begun.elapsed().as_secs(), LINGER_PAUSE.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_sends_slowly_is_read_for_a_while() {
        let (mut client, lingers) = lingering().await;
        let begun = Instant::now();
        while !lingers.is_finished() {
            let _ = client.write_all(b"more").await;
            sleep(Duration::from_secs(1)).await;
        }
        let took = begun.elapsed();
        assert!(
            took >= LINGER && took < LINGER + 2 * LINGER_PAUSE,
            "{took:?}"
        );
    }

    #[tokio::test]
    async fn a_client_that_sends_without_end_is_read_up_to_a_bound() {
        let (mut client, lingers) = lingering().await;
        let some = vec![0; 64 << 10];
        let mut sent = 0;
        while client.write_all(&some).await.is_ok() {
            sent += some.len();
        }
        lingers.await.unwrap();
        // The buffers of the system hold a part too.
        assert!((LINGER_BYTES..2 * LINGER_BYTES).contains(&sent), "{sent}");
    }
}
