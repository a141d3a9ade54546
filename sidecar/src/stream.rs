//! A connection of a client, over TCP or on a Unix socket.

use std::io;
use std::task::{Context, Poll};

use tokio::io::Interest;
use tokio::net::TcpStream;
#[cfg(unix)]
use tokio::net::UnixStream;

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

    pub(crate) fn try_read_buf(&self, into: &mut impl bytes::BufMut) -> io::Result<usize> {
        each!(self, own => own.try_read_buf(into))
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
