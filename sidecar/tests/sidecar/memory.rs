//! What the process keeps is what the memory store counts. Linux tells how much that is.

use std::ops::Range;

use crate::program::Serving;
use crate::support::{Client, File, Upstream, ok, post};

/// How many bytes of memory the process has allocated, used or not.
fn allocated(process: u32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmData:"));
    let kibibytes = line.unwrap().trim().strip_suffix(" kB").unwrap();
    kibibytes.parse::<usize>().unwrap() << 10
}

async fn pay(client: &mut Client, keys: Range<usize>) {
    for key in keys {
        client.send(&post("/a", &key.to_string(), "{}")).await;
        assert_eq!(client.answer().await.status(), 200);
    }
}

/// Each response comes in a read buffer that is larger than the response.
#[tokio::test]
async fn answers_one_after_another_take_no_more_memory_than_the_store_may_hold() {
    const ROOM: usize = 16 << 20;
    /// What the allocator and the connections have in hand.
    const SPARE: usize = 8 << 20;
    let body = "x".repeat(66_000);
    let upstream = Upstream::start(move |_| ok(&body)).await;
    let file = File::new(upstream.address).top("store = 'memory:?max_bytes=16MiB'");
    let sidecar = Serving::start("memory.toml", &file).await;
    let process = sidecar.child.id().unwrap();
    let mut client = Client::connect(sidecar.address).await;
    pay(&mut client, 0..20).await;
    let before = allocated(process);
    pay(&mut client, 20..800).await;
    let grown = allocated(process).saturating_sub(before);
    // A request may come before the connection of the last one is back: there are a few.
    assert!(upstream.connections() < 40, "{}", upstream.connections());
    assert!(
        grown <= ROOM + ROOM / 10 + SPARE,
        "{grown} bytes for {ROOM}"
    );
    // The store is full, and keeps the last of them.
    assert!(grown > ROOM / 2, "{grown} bytes");
    client.send(&post("/a", "799", "{}")).await;
    let replay = client.answer().await;
    assert_eq!(replay.field("idempotency-replayed"), Some("true"));
    assert_eq!(replay.body.len(), 66_000);
}
