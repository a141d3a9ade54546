//! Watches for the status line of a response over HTTP/1. hyper reports a response that it can't
//! read as an error, whether or not a status line came before.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use http::StatusCode;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf, Take};

use crate::transport::Transport;

/// What has arrived of the response to the last request on a connection.
#[derive(Clone, Debug, Default)]
pub(crate) struct StatusLine(Arc<Mutex<Progress>>);

#[derive(Debug, Default)]
struct Progress {
    /// The beginning of the current line, and the length of that.
    line: [u8; Self::LONGEST],
    length: usize,
    /// The current line is a field of an interim response.
    in_interim: bool,
    has_begun: bool,
    status: Option<StatusCode>,
}

impl StatusLine {
    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins anew: what arrives from now on is the response to another request.
    pub(crate) fn expect(&self) {
        *self.progress() = Progress::default();
    }

    /// Whether any byte of a response has arrived.
    pub(crate) fn has_begun(&self) -> bool {
        self.progress().has_begun
    }

    /// The status of the final response (RFC 9110, section 15), if its status line has arrived. A
    /// status that is none counts as 500.
    pub(crate) fn status(&self) -> Option<StatusCode> {
        self.progress().status
    }
}

impl Progress {
    /// As much of a line as a status can stand in.
    const LONGEST: usize = 32;

    fn read(&mut self, bytes: &[u8]) {
        self.has_begun |= !bytes.is_empty();
        for byte in bytes {
            if self.status.is_some() {
                return;
            }
            match byte {
                b'\n' => self.end_line(),
                b'\r' => {}
                _ if self.length < Self::LONGEST => {
                    self.line[self.length] = *byte;
                    self.length += 1;
                }
                // The reason phrase may have no end.
                _ if !self.in_interim => {
                    self.status = status(&self.line).filter(|status| is_final(*status));
                }
                _ => {}
            }
        }
    }

    fn end_line(&mut self) {
        let line = &self.line[..std::mem::take(&mut self.length)];
        if self.in_interim {
            self.in_interim = !line.is_empty();
        } else if let Some(status) = status(line) {
            self.in_interim = !is_final(status);
            self.status = Some(status).filter(|status| is_final(*status));
        }
    }
}

/// Reads `HTTP/1.1 200`, in small letters and with more spaces, too: a server that writes this has
/// responded.
fn status(line: &[u8]) -> Option<StatusCode> {
    let line = line.trim_ascii_start();
    let is_http = line.get(..5)?.eq_ignore_ascii_case(b"http/");
    let version = line.iter().position(|byte| *byte == b' ')?;
    let (digits, rest) = line[version..].trim_ascii_start().split_at_checked(3)?;
    let number = std::str::from_utf8(digits).ok()?.parse::<u16>().ok()?;
    let is_whole = is_http && !rest.first().is_some_and(u8::is_ascii_digit);
    let status = StatusCode::from_u16(number).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    is_whole.then_some(status)
}

fn is_final(status: StatusCode) -> bool {
    !status.is_informational() || status == StatusCode::SWITCHING_PROTOCOLS
}

/// The most bytes of one read. hyper doubles its buffer while reads fill it, up to 408 KiB, and a
/// small part of a response that waits for its client keeps the whole buffer.
const MOST_PER_READ: u64 = 32 << 10;

/// A connection whose status lines are watched.
#[derive(Debug)]
pub(crate) struct Watched {
    socket: Take<Transport>,
    status_line: StatusLine,
}

impl Watched {
    pub(crate) fn new(socket: Transport, status_line: StatusLine) -> Self {
        Self {
            socket: socket.take(MOST_PER_READ),
            status_line,
        }
    }

    fn socket(self: Pin<&mut Self>) -> Pin<&mut Transport> {
        Pin::new(self.get_mut().socket.get_mut())
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        self.socket.set_limit(MOST_PER_READ);
        ready!(Pin::new(&mut self.socket).poll_read(cx, buffer))?;
        self.status_line.progress().read(&buffer.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.socket().poll_write(cx, data)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket().poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket().poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.socket().poll_write_vectored(cx, data)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.get_ref().is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(text: &str) -> Option<u16> {
        let whole = StatusLine::default();
        whole.progress().read(text.as_bytes());
        let in_pieces = StatusLine::default();
        for byte in text.bytes() {
            in_pieces.progress().read(&[byte]);
        }
        assert_eq!(whole.status(), in_pieces.status(), "{text}");
        whole.status().map(|status| status.as_u16())
    }

    #[test]
    fn the_status_of_the_final_response_is_seen_as_soon_as_its_line_is_there() {
        let long = format!("HTTP/1.1 200 {}", "x".repeat(100));
        for (text, status) in [
            ("HTTP/1.1 201 Created\r\n", Some(201)),
            ("\r\n\r\nHTTP/1.0 503 Later\r\n", Some(503)),
            ("HTTP/1.1 200\n", Some(200)),
            (&long, Some(200)),
            ("http/1.1 200 OK\r\n", Some(200)),
            ("HTTP/1.1  200 OK\r\n", Some(200)),
            ("HTTP/2 999 Odd\r\n", Some(999)),
            ("HTTP/1.1 099 Odd\r\n", Some(500)),
            ("HTTP/1.1 101 Switching\r\n", Some(101)),
            (
                "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nHTTP/1.1 200 x: y\r\n\r\n\
                 HTTP/1.1 404 No\r\n",
                Some(404),
            ),
            ("HTTP/1.1 103 Hints\r\nHTTP/1.1 200 x: y\r\n", None),
            ("HTTP/1.1 200 OK", None),
            ("HTTP/1.1 2000 OK\r\n", None),
            ("HTTP/1.1 OK\r\n", None),
            ("hello\r\n", None),
            ("", None),
        ] {
            assert_eq!(seen(text), status, "{text}");
        }
    }

    #[test]
    fn each_request_expects_a_status_line_of_its_own() {
        let line = StatusLine::default();
        line.progress().read(b"HTTP/1.1 201 Created\r\n");
        line.expect();
        assert_eq!((line.status(), line.has_begun()), (None, false));
        line.progress().read(b"HTTP");
        assert_eq!((line.status(), line.has_begun()), (None, true));
    }
}
