//! HTTP/1.1 as bytes, for the good caller and for the attacks.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt};

/// A whole response.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    /// The response is a replay, as `Idempotency-Replayed` says.
    pub(crate) is_replay: bool,
    /// The server closes the connection after this response.
    pub(crate) closes: bool,
    pub(crate) body: Vec<u8>,
}

/// Returns the head of a request whose body has `length` bytes.
pub(crate) fn head(target: &str, caller: &str, key: Option<&str>, length: usize) -> String {
    let key = key.map_or_else(String::new, |key| format!("idempotency-key: {key}\r\n"));
    format!(
        "{target} HTTP/1.1\r\nhost: flood\r\nauthorization: {caller}\r\n{key}\
         content-type: application/json\r\ncontent-length: {length}\r\n\r\n"
    )
}

/// Returns a whole request.
pub(crate) fn request(target: &str, caller: &str, key: Option<&str>, body: &[u8]) -> Vec<u8> {
    let mut request = head(target, caller, key, body.len()).into_bytes();
    request.extend_from_slice(body);
    request
}

/// Reads a response whose `Content-Length` tells its end.
pub(crate) async fn response(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Response> {
    let mut read = Vec::new();
    let end = loop {
        if let Some(at) = read.windows(4).position(|four| four == b"\r\n\r\n") {
            break at;
        }
        more(stream, &mut read).await?;
    };
    let head = String::from_utf8_lossy(&read[..end]).into_owned();
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1));
    let status = status.and_then(|digits| digits.parse().ok());
    let mut length = None;
    let (mut is_replay, mut closes) = (false, false);
    for (name, value) in lines.filter_map(|line| line.split_once(": ")) {
        match name {
            "content-length" => length = value.parse().ok(),
            "idempotency-replayed" => is_replay = value == "true",
            "connection" => closes = value == "close",
            _ => {}
        }
    }
    let (Some(status), Some(length)) = (status, length) else {
        return Err(io::Error::other(format!("not understood: {head}")));
    };
    let mut body = read.split_off(end + 4);
    while body.len() < length {
        more(stream, &mut body).await?;
    }
    Ok(Response {
        status,
        is_replay,
        closes,
        body,
    })
}

async fn more(stream: &mut (impl AsyncRead + Unpin), read: &mut Vec<u8>) -> io::Result<()> {
    match stream.read_buf(read).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_response_is_read_to_the_end_that_its_length_tells() {
        let mut sent =
            &b"HTTP/1.1 201 Created\r\ncontent-length: 2\r\nidempotency-replayed: true\r\n\r\nok"[..];
        let read = response(&mut sent).await.unwrap();
        assert_eq!(
            (read.status, read.is_replay, read.closes),
            (201, true, false)
        );
        assert_eq!(read.body, b"ok");
        let mut cut = &b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok"[..];
        let error = response(&mut cut).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        let mut endless = &b"HTTP/1.1 200 OK\r\n\r\n"[..];
        assert!(response(&mut endless).await.is_err());
    }
}
