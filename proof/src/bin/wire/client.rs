//! This module is the client: one kept connection, and one request after the other.
//! A request leaves in one write, so that the server reads the same pieces in each run.

use std::future::poll_fn;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use bytes::Bytes;
use h2::client::SendRequest;
use http::Request;
use tokio::runtime::Runtime;

use crate::BoxError;

pub(crate) const BODY_IN: usize = 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Http1,
    Http2,
}

/// What is asked of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Bare,
    NoOp,
    NotProtected,
    First,
    Replay,
    Refused,
}

impl Kind {
    pub(crate) const ALL: [Self; 6] = [
        Self::Bare,
        Self::NoOp,
        Self::NotProtected,
        Self::First,
        Self::Replay,
        Self::Refused,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Bare => "bare",
            Self::NoOp => "no-op",
            Self::NotProtected => "not-protected",
            Self::First => "first",
            Self::Replay => "replay",
            Self::Refused => "refused",
        }
    }

    /// The header that makes the difference. All are of one length: a request that is not
    /// protected has another header in the place of the key.
    pub(crate) fn header(self, number: u64) -> (&'static str, String) {
        match self {
            Self::Bare | Self::NoOp | Self::NotProtected => (
                "x-request-id---",
                format!("8e03978e-40d5-43dd-bc93-{number:012x}"),
            ),
            Self::First => (
                "idempotency-key",
                format!("8e03978e-40d5-43dd-bc93-{number:012x}"),
            ),
            Self::Replay | Self::Refused => (
                "idempotency-key",
                "00000000-40d5-43dd-bc93-6894a57f9324".to_owned(),
            ),
        }
    }

    /// The byte that the request's body is full of.
    fn filling(self) -> u8 {
        if self == Self::Refused { b'z' } else { b'x' }
    }

    /// Whether the first digit of a status is the one that this kind must have.
    fn expects(self, status: u16) -> bool {
        (status / 100 == 4) == (self == Self::Refused)
    }
}

pub(crate) enum Connection {
    Http1(TcpStream, Vec<u8>),
    Http2(Runtime, SendRequest<Bytes>),
}

impl Connection {
    pub(crate) fn open(protocol: Protocol, server: SocketAddr) -> Result<Self, BoxError> {
        if protocol == Protocol::Http1 {
            return Ok(Self::Http1(TcpStream::connect(server)?, vec![0; 64 << 10]));
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let sender = runtime.block_on(async {
            let stream = tokio::net::TcpStream::connect(server).await?;
            let (sender, connection) = h2::client::handshake(stream).await?;
            tokio::spawn(connection);
            Ok::<_, BoxError>(sender)
        })?;
        Ok(Self::Http2(runtime, sender))
    }

    /// Sends a request and reads the whole response.
    pub(crate) fn exchange(&mut self, kind: Kind, number: u64) -> Result<(), BoxError> {
        let status = match self {
            Self::Http1(stream, buffer) => {
                stream.write_all(&http1_request(kind, number))?;
                read_response(stream, buffer)?
            }
            Self::Http2(runtime, sender) => {
                runtime.block_on(http2_exchange(sender, kind, number))?
            }
        };
        if kind.expects(status) {
            Ok(())
        } else {
            Err(format!("{} was answered with {status}", kind.name()).into())
        }
    }
}

fn http1_request(kind: Kind, number: u64) -> Vec<u8> {
    let (name, value) = kind.header(number);
    let mut request = format!(
        "POST /payments HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
         content-length: {BODY_IN}\r\nx-api-key: sk_live_0123456789abcdef\r\n\
         user-agent: bench/1.0\r\n{name}: {value}\r\n\r\n"
    )
    .into_bytes();
    request.resize(request.len() + BODY_IN, kind.filling());
    request
}

/// Reads a response with `Content-Length`, and returns its status.
fn read_response(stream: &mut TcpStream, buffer: &mut [u8]) -> Result<u16, BoxError> {
    let mut held = 0;
    loop {
        let read = stream.read(&mut buffer[held..])?;
        if read == 0 {
            return Err("the server closed the connection".into());
        }
        held += read;
        let Some(end) = buffer[..held]
            .windows(4)
            .position(|four| four == b"\r\n\r\n")
        else {
            continue;
        };
        let head = std::str::from_utf8(&buffer[..end])?.to_ascii_lowercase();
        let length = head
            .split("content-length: ")
            .nth(1)
            .and_then(|rest| rest.lines().next()?.parse::<usize>().ok())
            .ok_or("a response without Content-Length")?;
        if held >= end + 4 + length {
            return Ok(head.get(9..12).ok_or("no status")?.parse()?);
        }
    }
}

async fn http2_exchange(
    sender: &mut SendRequest<Bytes>,
    kind: Kind,
    number: u64,
) -> Result<u16, BoxError> {
    let (name, value) = kind.header(number);
    let request = Request::post("http://localhost/payments")
        .header("content-type", "application/json")
        .header("content-length", BODY_IN)
        .header("x-api-key", "sk_live_0123456789abcdef")
        .header("user-agent", "bench/1.0")
        .header(name, value)
        .body(())?;
    poll_fn(|cx| sender.poll_ready(cx)).await?;
    let (response, mut body) = sender.send_request(request, false)?;
    // The connection's task has not run since the head was handed over, so both go into
    // one write.
    body.send_data(Bytes::from(vec![kind.filling(); BODY_IN]), true)?;
    let response = response.await?;
    let status = response.status().as_u16();
    let mut incoming = response.into_body();
    while let Some(chunk) = incoming.data().await {
        incoming.flow_control().release_capacity(chunk?.len())?;
    }
    Ok(status)
}
