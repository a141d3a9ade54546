//! An HTTP/1 client that shows each byte of a response.

use http::{HeaderMap, HeaderName, HeaderValue};
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::Seen;
use crate::within;

pub(crate) struct Wire {
    pub(crate) stream: TcpStream,
    /// Bytes that were read and not parsed yet.
    read: Vec<u8>,
    framing: Framing,
}

/// How a response marks the end of its body.
#[derive(Clone, Copy, Debug)]
enum Framing {
    Length(usize),
    Chunked,
    UntilClose,
}

/// A part of a response's body.
#[derive(Debug, PartialEq)]
pub(crate) enum Part {
    Data(Vec<u8>),
    End(Option<HeaderMap>),
    /// The connection ended before the body did.
    Cut,
}

impl Wire {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        Self {
            stream: TcpStream::connect(address).await.unwrap(),
            read: Vec::new(),
            framing: Framing::UntilClose,
        }
    }

    pub(crate) async fn say(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).await.unwrap();
    }

    /// Reads once, and returns whether bytes arrived.
    async fn more(&mut self) -> bool {
        let read = within(self.stream.read_buf(&mut self.read)).await;
        read.is_ok_and(|length| length > 0)
    }

    /// Takes the bytes up to and with `end`, if they have arrived.
    fn line(&mut self, end: &[u8]) -> Option<String> {
        let found = self.read.windows(end.len()).position(|some| some == end)?;
        let line = self.take(found + end.len());
        Some(String::from_utf8(line).unwrap())
    }

    fn take(&mut self, length: usize) -> Vec<u8> {
        let rest = self.read.split_off(length);
        std::mem::replace(&mut self.read, rest)
    }

    /// The head of a response as it was sent, with its last line. `None` if the
    /// connection ends instead.
    pub(crate) async fn head_text(&mut self) -> Option<String> {
        loop {
            if let Some(head) = self.line(b"\r\n\r\n") {
                return Some(head);
            }
            if !self.more().await {
                return None;
            }
        }
    }

    pub(crate) async fn head(&mut self) -> Option<(u16, HeaderMap)> {
        let text = self.head_text().await?;
        let (first, lines) = text.split_once("\r\n").unwrap();
        let status = first.split(' ').nth(1).unwrap().parse().unwrap();
        let headers = fields(lines);
        let of = |name: &str| headers.get(name)?.to_str().ok();
        let length = of("content-length").map(|length| length.parse().unwrap());
        self.framing = match (of("transfer-encoding"), length) {
            (Some("chunked"), None) => Framing::Chunked,
            (None, Some(length)) => Framing::Length(length),
            (None, None) if status == 204 => Framing::Length(0),
            (None, None) => Framing::UntilClose,
            both => panic!("an answer of two minds: {both:?}"),
        };
        Some((status, headers))
    }

    /// The next part of the body, as much of it as has arrived.
    pub(crate) async fn part(&mut self) -> Part {
        loop {
            if let Some(part) = self.parse() {
                return part;
            }
            if !self.more().await {
                return match self.framing {
                    Framing::UntilClose => Part::End(None),
                    _ => Part::Cut,
                };
            }
        }
    }

    fn parse(&mut self) -> Option<Part> {
        match &mut self.framing {
            Framing::Length(0) => Some(Part::End(None)),
            Framing::UntilClose | Framing::Length(_) if self.read.is_empty() => None,
            Framing::UntilClose => Some(Part::Data(std::mem::take(&mut self.read))),
            Framing::Length(left) => {
                let length = self.read.len().min(*left);
                *left -= length;
                Some(Part::Data(self.take(length)))
            }
            Framing::Chunked => {
                let line = self.read.windows(2).position(|two| two == b"\r\n")?;
                let size = std::str::from_utf8(&self.read[..line]).unwrap();
                let size = usize::from_str_radix(size, 16).unwrap();
                if size == 0 {
                    if self.read[line..].starts_with(b"\r\n\r\n") {
                        self.take(line + 4);
                        return Some(Part::End(None));
                    }
                    let trailers = self.line(b"\r\n\r\n")?;
                    return Some(Part::End(Some(fields(&trailers[line + 2..]))));
                }
                let whole = line + 2 + size + 2;
                if self.read.len() < whole {
                    return None;
                }
                let chunk = self.take(whole);
                Some(Part::Data(chunk[line + 2..whole - 2].to_vec()))
            }
        }
    }

    /// Reads a whole response. `None` if it is cut off.
    pub(crate) async fn answer(&mut self) -> Option<Seen> {
        let (status, headers) = self.head().await?;
        let mut body = Vec::new();
        let trailers = loop {
            match self.part().await {
                Part::Data(data) => body.extend(data),
                Part::End(trailers) => break trailers,
                Part::Cut => return None,
            }
        };
        let body = body.into();
        Some(Seen {
            status,
            headers,
            body,
            trailers,
        })
    }
}

fn fields(lines: &str) -> HeaderMap {
    let lines = lines.split("\r\n").filter(|line| !line.is_empty());
    lines
        .map(|line| {
            let (name, value) = line.split_once(": ").unwrap();
            let name: HeaderName = name.parse().unwrap();
            (name, HeaderValue::from_str(value).unwrap())
        })
        .collect()
}
