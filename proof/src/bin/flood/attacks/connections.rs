//! Connections that hold what a connection holds.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::sleep;

use super::connection::Attacker;

const HEADS: u32 = 1000;
const SILENT: u32 = 1000;
/// How much of a head comes at once: more than most servers keep.
const LONG: usize = 24 << 10;

pub(super) async fn heads(attacker: Attacker) {
    attacker.many(HEADS, endless_head).await;
}

async fn endless_head(attacker: Attacker) -> io::Result<()> {
    let mut connection = attacker.connect().await?;
    let begin = format!(
        "POST /orders HTTP/1.1\r\nhost: flood\r\nx-long: {}\r\n",
        "x".repeat(LONG)
    );
    connection.write_all(begin.as_bytes()).await?;
    loop {
        // A field in time, so that the head is never silent.
        sleep(Duration::from_millis(500)).await;
        connection.write_all(b"x-more: 1\r\n").await?;
    }
}

pub(super) async fn metrics(attacker: Attacker) {
    attacker.many(SILENT, unread_metrics).await;
}

async fn unread_metrics(attacker: Attacker) -> io::Result<()> {
    let mut connection = attacker.connect_to_metrics().await?;
    connection
        .write_all(b"GET /metrics HTTP/1.1\r\nhost: flood\r\n\r\n")
        .await?;
    loop {
        sleep(Duration::from_millis(500)).await;
        connection.write_all(b"G").await?;
    }
}

pub(super) async fn silence(attacker: Attacker) {
    attacker.many(SILENT, silent).await;
}

async fn silent(attacker: Attacker) -> io::Result<()> {
    let mut connection = attacker.connect().await?;
    connection.read_u8().await?;
    Ok(())
}
