//! What the memory store keeps of operations that come and go: nothing, by the count of the
//! allocator.

#![cfg(feature = "memory")]

use std::alloc::System;
use std::convert::Infallible;
use std::future::pending;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use tower::{Layer, Service, service_fn};
use tower_idempotency::options::OnDisconnect;
use tower_idempotency::{IdempotencyLayer, MemoryStore, scope};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const RECORDS: usize = 500;

/// Each of these clients leaves while its operation runs, and none comes twice.
async fn leave(layer: &IdempotencyLayer, keys: std::ops::Range<usize>) {
    let begins = service_fn(async |_: Request<Full<Bytes>>| {
        pending::<()>().await;
        Ok::<_, Infallible>(Response::new(Full::new(Bytes::new())))
    });
    let mut service = layer.layer(begins);
    for key in keys {
        let request = Request::post("/")
            .header("idempotency-key", format!("key-{key}"))
            .body(Full::default())
            .unwrap();
        let mut call = Box::pin(service.call(request));
        tokio::select! {
            biased;
            _ = &mut call => unreachable!("its handler never ends"),
            () = tokio::task::yield_now() => {}
        }
        drop(call);
        // The release runs in a task of its own.
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn clients_that_leave_cost_no_memory_beyond_the_caps() {
    let store = MemoryStore::builder().max_records(RECORDS).build().unwrap();
    let layer = IdempotencyLayer::builder(store.clone(), scope::shared())
        .defaults(|options| options.on_disconnect(OnDisconnect::Cancel))
        .build()
        .unwrap();
    // The store is full, and its maps have the size that they keep.
    leave(&layer, 0..5 * RECORDS).await;
    let begun = Region::new(ALLOCATOR);
    let more = 40 * RECORDS;
    leave(&layer, 5 * RECORDS..5 * RECORDS + more).await;
    let change = begun.change();
    let kept = change.bytes_allocated - change.bytes_deallocated;
    assert_eq!(store.stats().records, RECORDS);
    assert!(kept < 8 * more, "{kept} bytes after {more} operations");
}
