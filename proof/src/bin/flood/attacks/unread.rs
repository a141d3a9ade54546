//! Clients that never read.

use std::io;
use std::time::Duration;

use h2::client::Builder;
use tokio::io::AsyncWriteExt;
use tokio::time::{sleep, timeout};

use super::connection::{Attacker, CALLER};
use crate::wire;

const STREAMS: usize = 100;
/// How long a connection is kept, if the server does not close it.
const KEPT: Duration = Duration::from_secs(120);

/// Four connections of HTTP/2 whose window stays closed, and two hundred of HTTP/1.1.
pub(super) async fn responses(attacker: Attacker) {
    tokio::join!(attacker.many(4, closed_window), attacker.many(200, unread));
}

async fn closed_window(attacker: Attacker) -> io::Result<()> {
    let mut builder = Builder::new();
    builder.initial_window_size(0);
    let mut client = attacker.connect_http2(&builder).await?;
    let mut open = Vec::new();
    for _ in 0..STREAMS {
        client = timeout(KEPT, client.ready())
            .await?
            .map_err(io::Error::other)?;
        let sent = client.send_request(attacker.post("/large"), true);
        open.push(sent.map_err(io::Error::other)?.0);
    }
    // The responses end when the server gives the connection up.
    for response in open {
        timeout(KEPT, async {
            if let Ok(response) = response.await {
                let _ = response.into_body().data().await;
            }
        })
        .await?;
    }
    Ok(())
}

async fn unread(attacker: Attacker) -> io::Result<()> {
    let mut connection = attacker.connect().await?;
    let request = wire::request("POST /large", CALLER, Some(&attacker.key()), b"{}");
    connection.write_all(&request).await?;
    // Without reading, only a request that can no longer be written tells that the server has left.
    loop {
        sleep(Duration::from_secs(2)).await;
        connection.write_all(b"\r\n").await?;
    }
}
