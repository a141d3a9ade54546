//! This client of HTTP/2 writes frame by frame what a test gives it, also what no library would send.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{Running, within};

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;
/// A message that is its head.
pub(crate) const ALL: u8 = END_HEADERS | END_STREAM;

#[derive(Clone, Debug)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    pub(crate) fn new(kind: u8, flags: u8, stream: u32, payload: impl Into<Vec<u8>>) -> Self {
        Self {
            kind,
            flags,
            stream,
            payload: payload.into(),
        }
    }

    /// Returns a frame with these fields.
    pub(crate) fn head(flags: u8, stream: u32, fields: &[(&str, &str)]) -> Self {
        Self::new(HEADERS, flags, stream, block(fields))
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let length = u32::try_from(self.payload.len()).unwrap().to_be_bytes();
        let mut bytes = length[1..].to_vec();
        bytes.extend([self.kind, self.flags]);
        bytes.extend(self.stream.to_be_bytes());
        bytes.extend(&self.payload);
        bytes
    }

    fn number(&self, at: usize) -> u32 {
        u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap())
    }

    /// Returns the status of a head in which it comes first.
    pub(crate) fn status(&self) -> u16 {
        let [first, rest @ ..] = &self.payload[..] else {
            panic!("an empty head");
        };
        match first {
            0x88 => 200,
            0x89 => 204,
            0x8b => 304,
            0x8c => 400,
            0x8d => 404,
            0x8e => 500,
            0x08 | 0x48 => digits(rest),
            _ => panic!("not a status: {:?}", self.payload),
        }
    }
}

/// Decodes three digits in the code of RFC 7541, appendix B: `0` to `2` have five bits, `3` to `9` six.
fn digits(text: &[u8]) -> u16 {
    let length = usize::from(text[0] & 0x7f);
    let text = &text[1..=length];
    let mut bits = text
        .iter()
        .flat_map(|byte| (0..8).rev().map(move |at| byte >> at & 1));
    let mut number = 0;
    for _ in 0..3 {
        let mut code = 0;
        for _ in 0..5 {
            code = code << 1 | u16::from(bits.next().unwrap());
        }
        if code > 2 {
            code = (code << 1 | u16::from(bits.next().unwrap())) - 25 + 3;
        }
        number = number * 10 + code;
    }
    number
}

/// Encodes fields without an index and without a code (RFC 7541, 6.2.2).
pub(crate) fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            let length = u8::try_from(text.len()).unwrap();
            assert!(length < 127, "only short texts: {text}");
            block.push(length);
            block.extend(text.bytes());
        }
    }
    block
}

/// Returns the fields of a request, and `more` behind them.
pub(crate) fn fields<'a>(
    method: &'a str,
    path: &'a str,
    more: &[(&'a str, &'a str)],
) -> Vec<(&'a str, &'a str)> {
    let mut fields = vec![
        (":method", method),
        (":scheme", "http"),
        (":authority", "a.example"),
        (":path", path),
    ];
    fields.extend(more);
    fields
}

/// How the sidecar answers a stream or ends a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// A whole response: its status and its body.
    Response(u16, Vec<u8>),
    /// `RST_STREAM`, with its code.
    Reset(u32),
    /// GOAWAY, with its code.
    GoAway(u32),
    Closed,
}

pub(crate) struct Frames {
    stream: TcpStream,
    /// What the sidecar announced at first.
    pub(crate) settings: Vec<u8>,
}

impl Frames {
    pub(crate) async fn connect(sidecar: &Running) -> Self {
        Self::connect_to(sidecar.address).await
    }

    pub(crate) async fn connect_to(address: SocketAddr) -> Self {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        stream
            .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
            .await
            .unwrap();
        let settings = Vec::new();
        let mut frames = Self { stream, settings };
        frames.send(&Frame::new(SETTINGS, 0, 0, [])).await;
        let announced = frames.read().await.unwrap();
        assert_eq!((announced.kind, announced.flags), (SETTINGS, 0));
        // The larger windows hold from here on.
        frames.send(&Frame::new(SETTINGS, 1, 0, [])).await;
        frames.settings = announced.payload;
        frames
    }

    pub(crate) async fn send(&mut self, frame: &Frame) {
        self.write(&frame.bytes()).await;
    }

    pub(crate) async fn write(&mut self, bytes: &[u8]) {
        // The sidecar may have closed the connection.
        let _ = self.stream.write_all(bytes).await;
    }

    pub(crate) async fn read(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        within(self.stream.read_exact(&mut head)).await.ok()?;
        let [a, b, c, kind, flags, stream @ ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        within(self.stream.read_exact(&mut payload)).await.ok()?;
        Some(Frame::new(kind, flags, u32::from_be_bytes(stream), payload))
    }

    /// Reads until the next frame of this kind.
    pub(crate) async fn next(&mut self, kind: u8) -> Frame {
        loop {
            let frame = self.read().await.expect("another frame");
            if frame.kind == kind {
                return frame;
            }
        }
    }

    /// Reads until the sidecar has answered the stream.
    pub(crate) async fn outcome(&mut self, stream: u32) -> Outcome {
        let mut status = 0;
        let mut body = Vec::new();
        while let Some(frame) = self.read().await {
            match frame.kind {
                GOAWAY => return Outcome::GoAway(frame.number(4)),
                RST_STREAM if frame.stream == stream => return Outcome::Reset(frame.number(0)),
                HEADERS if frame.stream == stream && status < 200 => status = frame.status(),
                DATA if frame.stream == stream => body.extend(&frame.payload),
                _ => continue,
            }
            if frame.flags & END_STREAM != 0 {
                return Outcome::Response(status, body);
            }
        }
        Outcome::Closed
    }

    /// Writes the same bytes again and again, and reads nothing. Returns `false` if the sidecar
    /// reads on all the time.
    pub(crate) async fn is_stopped(&mut self, bytes: &[u8], total: usize) -> bool {
        let many = bytes.repeat((64 << 10) / bytes.len() + 1);
        for _ in 0..total / many.len() {
            let written = self.stream.write_all(&many);
            match tokio::time::timeout(Duration::from_secs(1), written).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return true,
            }
        }
        false
    }
}
