//! A connection on which HTTP is spoken: a socket, or TLS over a socket.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
#[cfg(feature = "tls")]
use tokio_rustls::TlsStream;

use crate::ending::Activity;
use crate::socket::{Socket, is_quiet};
use crate::stream::Stream;

/// What a connection of HTTP/2 begins with (RFC 9113, 3.4).
const HTTP2: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A connection on which HTTP is spoken.
#[derive(Debug)]
pub(crate) struct Transport {
    io: Io,
    /// The beginning of what the client sent, which is read again.
    begun: Bytes,
    /// Told of what is read, where that is HTTP/1.1.
    activity: Option<Activity>,
    /// Whether TLS keeps data that was received and not read yet.
    is_kept: Arc<AtomicBool>,
}

/// Tells whether the other side of a connection has sent something that is not read yet.
#[derive(Debug)]
pub(crate) struct Unread {
    /// Weak, so that hyper closes the socket of a connection that has ended.
    stream: Weak<Stream>,
    is_kept: Arc<AtomicBool>,
}

impl Unread {
    /// Whether the other side has neither sent anything that is not read yet nor closed the connection.
    pub(crate) fn is_quiet(&self) -> bool {
        let stream = self.stream.upgrade();
        stream.is_some_and(|stream| is_quiet(&stream)) && !self.is_kept.load(Ordering::Acquire)
    }
}

#[derive(Debug)]
enum Io {
    Plain(Socket),
    #[cfg(feature = "tls")]
    Tls(Box<TlsStream<Socket>>),
}

impl Transport {
    pub(crate) fn plain(socket: Socket) -> Self {
        Self::new(Io::Plain(socket))
    }

    #[cfg(feature = "tls")]
    pub(crate) fn tls(stream: TlsStream<Socket>) -> Self {
        Self::new(Io::Tls(Box::new(stream)))
    }

    fn new(io: Io) -> Self {
        Self {
            io,
            begun: Bytes::new(),
            activity: None,
            is_kept: Arc::default(),
        }
    }

    /// Tells `activity` of what is read from now on.
    pub(crate) fn tell(&mut self, activity: &Activity) {
        self.activity = Some(activity.clone());
    }

    /// What tells whether the other side has sent something that is not read yet.
    pub(crate) fn unread(&self) -> Unread {
        let socket = match &self.io {
            Io::Plain(socket) => socket,
            #[cfg(feature = "tls")]
            Io::Tls(stream) => stream.get_ref().0,
        };
        Unread {
            stream: socket.stream(),
            is_kept: Arc::clone(&self.is_kept),
        }
    }

    pub(crate) fn is_tls(&self) -> bool {
        !matches!(self.io, Io::Plain(_))
    }

    /// Whether HTTP/2 was chosen by ALPN.
    #[cfg_attr(
        not(feature = "tls"),
        expect(clippy::unused_self, reason = "no protocol is chosen")
    )]
    pub(crate) fn chose_http2(&self) -> bool {
        #[cfg(feature = "tls")]
        if let Io::Tls(stream) = &self.io {
            return stream.get_ref().1.alpn_protocol() == Some(b"h2");
        }
        false
    }

    /// Returns whether the client speaks HTTP/2. Over TLS it has said so in the handshake, and without
    /// TLS by what it sends first, of which as much is read as tells.
    pub(crate) async fn begins_with_http2(&mut self) -> io::Result<bool> {
        if self.is_tls() {
            return Ok(self.chose_http2());
        }
        let mut begun = Vec::with_capacity(HTTP2.len());
        while begun.len() < HTTP2.len() && HTTP2.starts_with(&begun) {
            let mut some = [0; HTTP2.len()];
            let left = HTTP2.len() - begun.len();
            let read = self.read(&mut some[..left]).await?;
            if read == 0 {
                break;
            }
            begun.extend_from_slice(&some[..read]);
        }
        let is_http2 = begun == HTTP2;
        self.begun = begun.into();
        Ok(is_http2)
    }
}

impl AsyncRead for Transport {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.begun.is_empty() {
            let length = self.begun.len().min(into.remaining());
            into.put_slice(&self.begun.split_to(length));
            return Poll::Ready(Ok(()));
        }
        let this = &mut *self;
        let read = match &mut this.io {
            Io::Plain(socket) => Pin::new(socket).poll_read(cx, into),
            #[cfg(feature = "tls")]
            Io::Tls(stream) => {
                let read = Pin::new(&mut **stream).poll_read(cx, into);
                // rustls wants no more to read while it has data for the reader.
                let is_kept = !stream.get_ref().1.wants_read();
                this.is_kept.store(is_kept, Ordering::Release);
                read
            }
        };
        let read = ready!(read);
        if let Some(activity) = &self.activity {
            activity.has_read();
        }
        Poll::Ready(read)
    }
}

impl AsyncWrite for Transport {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.io {
            Io::Plain(socket) => Pin::new(socket).poll_write(cx, data),
            #[cfg(feature = "tls")]
            Io::Tls(stream) => Pin::new(stream).poll_write(cx, data),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.io {
            Io::Plain(socket) => Pin::new(socket).poll_write_vectored(cx, data),
            #[cfg(feature = "tls")]
            Io::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, data),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Plain(socket) => Pin::new(socket).poll_flush(cx),
            #[cfg(feature = "tls")]
            Io::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Plain(socket) => Pin::new(socket).poll_shutdown(cx),
            #[cfg(feature = "tls")]
            Io::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::socket::share;

    #[tokio::test]
    async fn what_the_client_began_with_is_read_again() {
        for (sent, is_http2) in [
            (&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nmore"[..], true),
            (b"POST / HTTP/1.1\r\n", false),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r!", false),
            (b"P", false),
            (b"", false),
        ] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let mut client = TcpStream::connect(listener.local_addr().unwrap())
                .await
                .unwrap();
            let (socket, _watched) = share(listener.accept().await.unwrap().0.into());
            let mut transport = Transport::plain(socket);
            client.write_all(sent).await.unwrap();
            client.shutdown().await.unwrap();
            assert_eq!(transport.begins_with_http2().await.unwrap(), is_http2);
            let mut read = Vec::new();
            transport.read_to_end(&mut read).await.unwrap();
            assert_eq!(read, sent);
        }
    }
}
