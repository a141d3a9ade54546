//! The conformance suite, proven on stores that keep the contract and on
//! stores that break it.

#[path = "../../examples/custom_store.rs"]
#[allow(dead_code, reason = "its main is for who runs it")]
mod custom_store;

use std::sync::Arc;

use tower_idempotency::MemoryStore;
use tower_idempotency::store::conformance::check;

#[tokio::test(start_paused = true)]
async fn the_memory_store_keeps_every_rule() {
    let store = MemoryStore::new();
    check(async || store.clone()).await.assert_passed();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_memory_store_keeps_every_rule_on_threads() {
    let store = MemoryStore::new();
    check(async || store.clone()).await.assert_passed();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_store_of_the_example_keeps_every_rule() {
    let store = Arc::new(custom_store::MapStore::default());
    check(async || Arc::clone(&store)).await.assert_passed();
}
