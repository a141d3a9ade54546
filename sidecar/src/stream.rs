//! A connection of a client, over TCP or on a Unix socket.

use std::io;
use std::task::{Context, Poll};

use tokio::io::{Interest, ReadBuf};
use tokio::net::TcpStream;
#[cfg(unix)]
use tokio::net::UnixStream;

/// Whether the system tells of everything that arrives after a read (epoll does, by edges), also if that read has left nothing.
const TELLS_WHAT_ARRIVES: bool = cfg!(any(target_os = "linux", target_os = "android"));

/// A connection over TCP, or on a Unix socket.
#[derive(Debug)]
pub(crate) enum Stream {
    Tcp(TcpStream),
    #[cfg(unix)]
    Unix(UnixStream),
}

/// The same call for both kinds.
macro_rules! each {
    ($stream:expr, $own:ident => $call:expr) => {
        match $stream {
            Stream::Tcp($own) => $call,
            #[cfg(unix)]
            Stream::Unix($own) => $call,
        }
    };
}

impl Stream {
    pub(crate) fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, own => own.poll_read_ready(cx))
    }

    pub(crate) fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, own => own.poll_write_ready(cx))
    }

    /// Reads what there is.
    ///
    /// A read that leaves room in `into` has emptied the stream. It then counts as not ready, so
    /// that the next reader waits at once and the system is not asked in vain. The readiness
    /// is the one from before the read: what arrives meanwhile makes the stream ready anew.
    pub(crate) fn try_read_buf(&self, into: &mut ReadBuf<'_>) -> io::Result<usize> {
        let room = into.remaining();
        let mut read = 0;
        let done = each!(self, own => own.try_io(Interest::READABLE, || {
            read = own.try_read_buf(into)?;
            if TELLS_WHAT_ARRIVES && 0 < read && read < room {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            Ok(())
        }));
        match done {
            Err(error) if read == 0 => Err(error),
            _ => Ok(read),
        }
    }

    pub(crate) fn try_write(&self, data: &[u8]) -> io::Result<usize> {
        each!(self, own => own.try_write(data))
    }

    pub(crate) fn try_write_vectored(&self, data: &[io::IoSlice<'_>]) -> io::Result<usize> {
        each!(self, own => own.try_write_vectored(data))
    }

    /// Completes when the connection has failed.
    pub(crate) async fn failed(&self) -> io::Result<()> {
        each!(self, own => own.ready(Interest::ERROR).await).map(drop)
    }

    /// Reads what there is, once there is something.
    pub(crate) async fn read(&self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            each!(self, own => own.readable().await)?;
            match each!(self, own => own.try_read(into)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return read,
            }
        }
    }
}

impl From<TcpStream> for Stream {
    fn from(stream: TcpStream) -> Self {
        Self::Tcp(stream)
    }
}

#[cfg(unix)]
impl std::os::fd::AsFd for Stream {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        each!(self, own => own.as_fd())
    }
}

#[cfg(windows)]
impl std::os::windows::io::AsSocket for Stream {
    fn as_socket(&self) -> std::os::windows::io::BorrowedSocket<'_> {
        each!(self, own => own.as_socket())
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::AsyncWriteExt as _;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn an_emptied_stream_is_not_ready_until_more_arrives_or_it_ends() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap());
        let (client, accepted) = tokio::join!(client, listener.accept());
        let (mut client, stream) = (client.unwrap(), Stream::from(accepted.unwrap().0));
        let mut space = [0; 16];
        for sent in [&b"some"[..], b"more"] {
            client.write_all(sent).await.unwrap();
            poll_fn(|cx| stream.poll_read_ready(cx)).await.unwrap();
            let mut into = ReadBuf::new(&mut space);
            assert_eq!(stream.try_read_buf(&mut into).unwrap(), sent.len());
            assert_eq!(into.filled(), sent);
            let ready = poll_fn(|cx| Poll::Ready(stream.poll_read_ready(cx).is_ready())).await;
            assert_eq!(ready, !TELLS_WHAT_ARRIVES);
        }
        client.write_all(&[7; 20]).await.unwrap();
        drop(client);
        for read in [16, 4, 0] {
            poll_fn(|cx| stream.poll_read_ready(cx)).await.unwrap();
            let mut into = ReadBuf::new(&mut space);
            assert_eq!(stream.try_read_buf(&mut into).unwrap(), read);
        }
    }
}
