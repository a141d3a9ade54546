//! G11: a caller that fills the memory store takes no other caller's records.

use http::StatusCode;
use tower::Layer;
use tower_idempotency::MemoryStore;
use tower_idempotency::store::WhenFull;

use crate::support::{Runs, answer, by, counting, handler, post, protected, send};

/// Many large responses of one caller once made everybody's retries execute again.
#[tokio::test]
async fn a_caller_that_floods_a_memory_store_loses_only_its_own_records() {
    let store = MemoryStore::builder().max_bytes(2 << 20).build().unwrap();
    let runs = Runs::default();
    let app = protected(&store).layer(handler(&runs, |run, _| {
        let length = if run > 20 { 100_000 } else { 300 };
        answer(StatusCode::OK, vec![b'x'; length])
    }));
    let mut firsts = Vec::new();
    for key in 0..20 {
        let request = by("good", post(&key.to_string(), "{}"));
        firsts.push(send(&app, request).await);
    }
    for key in 0..200 {
        let seen = send(&app, by("bad", post(&key.to_string(), "{}"))).await;
        assert_eq!(seen.status, 200);
    }
    for (key, first) in firsts.iter().enumerate() {
        let retry = send(&app, by("good", post(&key.to_string(), "{}"))).await;
        retry.assert_replays(first);
    }
    assert_eq!(runs.count(), 220);
    assert!(store.stats().evicted > 150, "{:?}", store.stats());
}

#[tokio::test]
async fn who_has_its_share_of_a_store_that_refuses_is_told_so_and_others_go_on() {
    let limits = MemoryStore::builder().max_records(16);
    let store = limits.when_full(WhenFull::Refuse).build().unwrap();
    let runs = Runs::default();
    let app = protected(&store).layer(counting(&runs));
    for key in 0..14 {
        let seen = send(&app, by("bad", post(&key.to_string(), "{}"))).await;
        seen.assert_fresh(&format!("run {}", key + 1));
    }
    let over = send(&app, by("bad", post("14", "{}"))).await;
    assert_eq!(over.refusal(), "503 over-capacity");
    assert_eq!(over.header("retry-after"), Some("1"));
    let text = String::from_utf8_lossy(&over.body);
    assert!(text.contains("Your share is full"), "{text}");
    let good = send(&app, by("good", post("0", "{}"))).await;
    good.assert_fresh("run 15");
    // Replays go on.
    let replay = send(&app, by("bad", post("0", "{}"))).await;
    assert_eq!(replay.header("idempotency-replayed"), Some("true"));
    assert_eq!(store.stats().over_share, 1);
}
