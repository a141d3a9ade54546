//! The task `suggest`: what an observing sidecar suggests, from its operator's listener.

use std::error::Error;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(10);

/// The configuration that the sidecar at `from` suggests, such as `http://127.0.0.1:9090`.
pub(crate) fn suggestion(from: &str) -> Result<String, Box<dyn Error>> {
    let address = from.strip_prefix("http://").unwrap_or(from);
    let address = address.trim_end_matches('/');
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(
        stream,
        "GET /observed HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n"
    )?;
    let mut response = String::new();
    stream.read_to_string(&mut response)?;
    let (head, body) = response
        .split_once("\r\n\r\n")
        .ok_or("it sent no response")?;
    let status = head.split(' ').nth(1).unwrap_or_default();
    if status == "404" && body.starts_with("Nothing is observed") {
        return Err(format!("{from}: {}", body.trim_end()).into());
    }
    if status != "200" {
        return Err(
            format!("{from} responded with {status}: it is no listener of `metrics`").into(),
        );
    }
    Ok(body.to_owned())
}
