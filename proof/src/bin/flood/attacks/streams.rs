//! Streams of HTTP/2 whose clients leave.

use std::io;
use std::time::Duration;

use h2::client::Builder;
use tokio::io::AsyncWriteExt;
use tokio::time::{sleep, timeout};

use super::connection::{Attacker, CALLER};
use crate::wire;

/// How many streams are open at once.
const STREAMS: usize = 100;
const OPEN_FOR: Duration = Duration::from_millis(60);

pub(super) async fn reset(attacker: Attacker) {
    attacker.many(2, streams).await;
}

async fn streams(attacker: Attacker) -> io::Result<()> {
    let mut client = attacker.connect_http2(&Builder::new()).await?;
    loop {
        let mut open = Vec::new();
        for _ in 0..STREAMS {
            // Where the server allows fewer streams, these are all.
            let Ok(ready) = timeout(OPEN_FOR, client.clone().ready()).await else {
                break;
            };
            client = ready.map_err(io::Error::other)?;
            let sent = client.send_request(attacker.post("/slow"), true);
            open.push(sent.map_err(io::Error::other)?);
        }
        sleep(OPEN_FOR).await;
        // A stream whose halves are dropped is reset.
        drop(open);
    }
}

/// Clients of HTTP/1.1 that leave while their operations run.
pub(super) async fn leave(attacker: Attacker) {
    attacker.many(40, operation).await;
}

async fn operation(attacker: Attacker) -> io::Result<()> {
    let mut connection = attacker.connect().await?;
    let request = wire::request("POST /slow", CALLER, Some(&attacker.key()), b"{}");
    connection.write_all(&request).await?;
    sleep(OPEN_FOR).await;
    Ok(())
}
