//! The conformance suite is tested on stores that keep the contract and on
//! stores that break it.

#[path = "../../examples/custom_store.rs"]
#[allow(dead_code, reason = "its main is for who runs it")]
mod custom_store;

mod broken;
mod fault;
mod report;
mod row;

use std::collections::BTreeSet;
use std::sync::Arc;

use tower_idempotency::MemoryStore;
use tower_idempotency::conformance::{check, check_only};

use crate::broken::BrokenStore;
use crate::fault::CAUGHT;

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

#[tokio::test(start_paused = true)]
async fn a_store_keeps_every_rule_as_long_as_nothing_is_broken() {
    let store = BrokenStore::with(None);
    check(async || store.clone()).await.assert_passed();
}

#[tokio::test(start_paused = true)]
async fn each_way_to_break_the_contract_is_caught_by_its_rule() {
    let mut missed = Vec::new();
    for (fault, rules) in CAUGHT {
        let store = BrokenStore::with(Some(*fault));
        let report = check_only(async || store.clone(), *rules).await;
        missed.extend(
            report
                .passed()
                .map(|rule| format!("{fault:?} passed {rule}")),
        );
    }
    assert!(missed.is_empty(), "{missed:#?}");
}

#[tokio::test(start_paused = true)]
async fn every_rule_catches_something() {
    let store = MemoryStore::new();
    let report = check(async || store.clone()).await;
    let catches: BTreeSet<_> = CAUGHT.iter().flat_map(|(_, rules)| *rules).collect();
    let idle: Vec<_> = report
        .passed()
        .filter(|rule| !catches.contains(rule))
        .collect();
    assert!(idle.is_empty(), "{idle:#?}");
}
