//! This client speaks HTTP/1.1 over a bare connection, so that the client can leave
//! at any byte.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use super::handler::EXECUTION;
use super::history::{What, WholeAnswer, digest};

#[derive(Debug)]
pub(crate) struct Connection(BufReader<TcpStream>);

/// A client leaves at this place in a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LeaveAt {
    Never,
    Somewhere,
    TheLastByte,
}

/// `Read` is what was read of a response.
#[derive(Debug)]
pub(crate) enum Read {
    Whole(Whole),
    /// The server ended the connection. The head is there if it had come.
    Cut(Option<Head>),
    Left,
}

#[derive(Debug)]
pub(crate) struct Whole {
    pub(crate) head: Head,
    body: Vec<u8>,
    trailers: Vec<(String, String)>,
}

#[derive(Debug)]
pub(crate) struct Head {
    status: u16,
    fields: Vec<(String, String)>,
}

impl Connection {
    pub(crate) async fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self(BufReader::new(stream)))
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes).await
    }

    /// Leaves without closing the connection properly, as a machine that lost its
    /// power does.
    pub(crate) fn reset(self) {
        // If the option cannot be set, the client closes the connection properly
        // instead.
        let _ = self.0.get_ref().set_zero_linger();
    }

    pub(crate) async fn read(&mut self, leave: LeaveAt) -> Read {
        let Ok(head) = self.head().await else {
            return Read::Cut(None);
        };
        match self.rest(&head, leave).await {
            Ok(Some((body, trailers))) => Read::Whole(Whole {
                head,
                body,
                trailers,
            }),
            Ok(None) => Read::Left,
            Err(_) => Read::Cut(Some(head)),
        }
    }

    async fn head(&mut self) -> io::Result<Head> {
        let line = self.line().await?;
        let status = line.split(' ').nth(1).and_then(|code| code.parse().ok());
        Ok(Head {
            status: status.ok_or_else(malformed)?,
            fields: self.fields().await?,
        })
    }

    /// Reads the rest of the response. Returns `None` if the client left.
    async fn rest(
        &mut self,
        head: &Head,
        leave: LeaveAt,
    ) -> io::Result<Option<(Vec<u8>, Vec<(String, String)>)>> {
        let mut body = Vec::new();
        if let Some(length) = head.field("content-length") {
            let length: usize = length.parse().map_err(|_| malformed())?;
            let until = match leave {
                LeaveAt::Never => length,
                LeaveAt::Somewhere => length / 2,
                LeaveAt::TheLastByte => length.saturating_sub(1),
            };
            body.resize(until, 0);
            self.0.read_exact(&mut body).await?;
            return Ok((leave == LeaveAt::Never).then_some((body, Vec::new())));
        }
        if head.field("transfer-encoding") != Some("chunked") {
            return Err(malformed());
        }
        loop {
            let size = self.line().await?;
            let size = usize::from_str_radix(&size, 16).map_err(|_| malformed())?;
            if size == 0 {
                if leave != LeaveAt::Never {
                    return Ok(None);
                }
                let trailers = self.fields().await?;
                return Ok(Some((body, trailers)));
            }
            let start = body.len();
            body.resize(start + size, 0);
            self.0.read_exact(&mut body[start..]).await?;
            if !self.line().await?.is_empty() {
                return Err(malformed());
            }
            if leave == LeaveAt::Somewhere {
                return Ok(None);
            }
        }
    }

    /// Reads header or trailer lines, up to the empty line.
    async fn fields(&mut self) -> io::Result<Vec<(String, String)>> {
        let mut fields = Vec::new();
        loop {
            let line = self.line().await?;
            if line.is_empty() {
                return Ok(fields);
            }
            let (name, value) = line.split_once(':').ok_or_else(malformed)?;
            fields.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
    }

    async fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        self.0.read_line(&mut line).await?;
        let line = line.strip_suffix("\r\n");
        line.map(str::to_owned)
            .ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }
}

fn malformed() -> io::Error {
    io::ErrorKind::InvalidData.into()
}

impl Head {
    fn field(&self, name: &str) -> Option<&str> {
        let mut values = self.fields.iter().filter(|(own, _)| own == name);
        values.next().map(|(_, value)| value.as_str())
    }

    pub(crate) fn execution(&self) -> Option<u32> {
        self.field(EXECUTION)?.parse().ok()
    }
}

impl Whole {
    /// Returns whether the connection can carry another request.
    pub(crate) fn leaves_open(&self) -> bool {
        self.head.field("connection") != Some("close")
    }

    pub(crate) fn seen(&self) -> What {
        let Head { status, .. } = self.head;
        if self.head.field("content-type") == Some("application/problem+json") {
            let problem: serde_json::Value = serde_json::from_slice(&self.body).unwrap_or_default();
            let code = problem["code"].as_str().unwrap_or("unreadable").to_owned();
            return What::Refused { status, code };
        }
        What::Answer(WholeAnswer {
            status,
            execution: self.head.execution(),
            replayed: self.head.field("idempotency-replayed") == Some("true"),
            lacks: self.head.field("idempotency-status").map(str::to_owned),
            digest: digest(status, &self.body, &self.trailers),
        })
    }
}
