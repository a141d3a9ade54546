//! This client speaks HTTP/1.1 over a bare connection, one request and one response
//! at a time.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use super::history::{Answer, Saw, digest};

#[derive(Debug)]
pub(crate) struct Connection(BufReader<TcpStream>);

impl Connection {
    pub(crate) async fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        // The connection is closed with a reset, so that no closed port stays in
        // TIME_WAIT.
        stream.set_zero_linger()?;
        Ok(Self(BufReader::new(stream)))
    }

    pub(crate) async fn ask(&mut self, request: &[u8]) -> io::Result<Saw> {
        self.0.write_all(request).await?;
        let line = self.line().await?;
        let status = line.split(' ').nth(1).and_then(|code| code.parse().ok());
        let status: u16 = status.ok_or(io::ErrorKind::InvalidData)?;
        let (mut length, mut replayed, mut unrecorded, mut problem) = (0, false, false, false);
        loop {
            let line = self.line().await?.to_ascii_lowercase();
            let Some((name, value)) = line.split_once(':') else {
                break;
            };
            let value = value.trim();
            match name {
                "content-length" => {
                    length = value.parse().map_err(|_| io::ErrorKind::InvalidData)?;
                }
                "idempotency-replayed" => replayed = value == "true",
                "idempotency-status" => unrecorded = true,
                "content-type" => problem = value == "application/problem+json",
                _ => {}
            }
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).await?;
        if problem {
            let problem: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
            let code = problem["code"].as_str().unwrap_or("unreadable");
            return Ok(Saw::Refused(code.to_owned()));
        }
        // The response's own status header says that the response is not recorded.
        if unrecorded || !(200..300).contains(&status) {
            return Ok(Saw::Failed(if unrecorded { 503 } else { status }));
        }
        let told: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
        let operation = told["operation"].as_u64().unwrap_or(u64::MAX);
        Ok(Saw::Answer(Answer {
            entry: told["entry"].as_str().unwrap_or_default().to_owned(),
            operation: u32::try_from(operation).unwrap_or(u32::MAX),
            digest: digest(status, &body),
            replayed,
        }))
    }

    async fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        self.0.read_line(&mut line).await?;
        let line = line.strip_suffix("\r\n");
        line.map(str::to_owned)
            .ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }
}
