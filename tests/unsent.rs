//! What replays cost whose clients read nothing, as the process shows it: no more than
//! `max_unsent_bytes` and a fifth. The test has a process of its own.

#![cfg(all(feature = "memory", target_os = "linux"))]

#[path = "support/silent.rs"]
mod silent;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tower::{Layer, service_fn};
use tower_idempotency::store::{
    Claim, Claimed, Completion, Lease, Outcome, Ownership, Record, RecordState, Release, Store,
    StoreError,
};
use tower_idempotency::store::{Nonce, RecordId};
use tower_idempotency::{IdempotencyLayer, MemoryStore, RequestBody, scope};

use crate::silent::{KIB, MIB, Way, ask, resident, serve};

const MAX_UNSENT: usize = 16 * MIB;
const CLIENTS: u64 = 150;
const KEYS: u64 = 5;
/// A step that takes this long hangs.
const LIMIT: Duration = Duration::from_secs(10);
/// What a connection costs beside: its tasks, and the buffers and parts of responses that hyper has.
const BY_CLIENT: usize = 192 * KIB;

/// Gives each replay a body of its own, as a store does that is not in the process.
#[derive(Clone)]
struct Apart(Arc<MemoryStore>);

fn copy(record: &mut Record) {
    if let RecordState::Completed { completion, .. } = &mut record.state {
        let mut own = Completion::clone(completion);
        own.body = Bytes::copy_from_slice(&completion.body);
        *completion = Arc::new(own);
    }
}

impl Store for Apart {
    async fn claim(&self, claim: &Claim) -> Result<Claimed, StoreError> {
        let mut claimed = self.0.claim(claim).await?;
        if let Claimed::Found(record) = &mut claimed {
            copy(record);
        }
        Ok(claimed)
    }

    async fn look_up(&self, id: &RecordId) -> Result<Option<Record>, StoreError> {
        let mut found = self.0.look_up(id).await?;
        found.iter_mut().for_each(copy);
        Ok(found)
    }

    async fn renew(&self, lease: &Lease) -> Result<Ownership, StoreError> {
        self.0.renew(lease).await
    }

    async fn complete(&self, lease: &Lease, outcome: &Outcome) -> Result<Ownership, StoreError> {
        self.0.complete(lease, outcome).await
    }

    async fn release(
        &self,
        id: &RecordId,
        nonce: &Nonce,
        how: Release,
    ) -> Result<Ownership, StoreError> {
        self.0.release(id, nonce, how).await
    }
}

/// Sends a request and reads the response to its end. Returns its head, and how long its body is.
async fn read(address: SocketAddr, caller: &str, key: u64) -> (String, usize) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!(
        "POST /a HTTP/1.1\r\nhost: a\r\nx-api-key: {caller}\r\nidempotency-key: {key}\r\n\
         content-length: 0\r\nconnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut read = Vec::new();
    let reading = stream.read_to_end(&mut read);
    timeout(LIMIT, reading).await.unwrap().unwrap();
    let end = read
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .unwrap()
        + 4;
    let head = String::from_utf8(read[..end].to_vec()).unwrap();
    (head, read.len() - end)
}

#[tokio::test]
async fn a_caller_that_reads_no_replays_holds_its_share_and_replays_are_given() {
    let store = Apart(Arc::new(MemoryStore::new()));
    let layer = IdempotencyLayer::builder(store, scope::header("x-api-key"))
        .max_unsent_bytes(MAX_UNSENT)
        .build()
        .unwrap();
    let handler = service_fn(async |_: Request<RequestBody<Incoming>>| {
        let body = Full::new(Bytes::from(vec![7; MIB]));
        Ok::<_, Infallible>(Response::new(body))
    });
    let address = serve(layer.layer(handler));
    for key in 0..KEYS {
        let (head, length) = read(address, "alice", key).await;
        assert!(head.starts_with("HTTP/1.1 200") && length == MIB, "{head}");
    }
    let before = resident();
    let (mut most, mut open) = (0, JoinSet::new());
    for client in 0..CLIENTS {
        // With a window of one byte the server is asked for a part, and can send nothing of it.
        let way = Way::Http2(u32::from(client % 2 == 0));
        let key = (client % KEYS).to_string();
        ask(address, "alice", &key, way, &mut open).await;
        let replayed = async {
            while layer.counts().replayed <= client {
                sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(LIMIT, replayed).await.unwrap();
        most = most.max(resident());
    }
    let cost = most.saturating_sub(before);
    let clients = usize::try_from(CLIENTS).unwrap();
    let limit = MAX_UNSENT * 6 / 5 + clients * BY_CLIENT;
    println!("{} KiB of {} KiB", cost / KIB, limit / KIB);
    assert!(cost <= limit, "{} KiB, not {}", cost / KIB, limit / KIB);
    // What would begin is refused, a replay is not.
    let (head, _) = read(address, "alice", KEYS).await;
    assert!(head.starts_with("HTTP/1.1 503"), "{head}");
    let counts = layer.counts();
    let mut limits = counts.limits().iter();
    let limit = limits.find(|limit| limit.option == "max_unsent_bytes");
    assert_eq!(limit.map(|limit| limit.by_share), Some(1));
    for (caller, key, replayed) in [("alice", 0, true), ("bob", 0, false), ("bob", 0, true)] {
        let (head, length) = read(address, caller, key).await;
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        assert_eq!(head.contains("idempotency-replayed"), replayed, "{head}");
        assert_eq!(length, MIB, "{caller}");
    }
    open.shutdown().await;
}
