//! In these tests the result of the `COMMIT` of a step is lost, or its connection ends before: its
//! writes and its record are there together, or neither is.

use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use http::StatusCode;
use tower::BoxError;
use tower_idempotency::steps::StepFaultKind;

use super::super::wire::{Cut, Wire};
use super::shop::*;
use super::step_in::{reserve, with_steps};
use super::{COMMIT, address, options_at, pool, pool_with};

/// A handler that reserves over a wire that can be cut, and responds with what it was told.
async fn reserving() -> (Arc<Shop>, Wire, Till) {
    let wire = Wire::to(address(), COMMIT).await;
    let handlers = pool_with(options_at(wire.port));
    let shop = Shop::with(handlers, pool().await).await;
    let layer = with_steps(&shop).store_timeout(Duration::from_millis(500));
    let runs = Arc::new(AtomicU32::new(0));
    let till = {
        let shop = Arc::clone(&shop);
        till(&layer.build().unwrap(), move |request| {
            let (shop, runs) = (Arc::clone(&shop), Arc::clone(&runs));
            async move {
                let told = match reserve(&shop, &claim(&request), &runs).await {
                    Ok(run) => (StatusCode::CREATED, format!("reserved by {run}")),
                    Err(error) => {
                        let fault = error.fault().expect("a fault");
                        assert_eq!(fault.kind(), StepFaultKind::Store, "{error:?}");
                        let unknown = format!("unknown: {}", fault.has_run());
                        (StatusCode::SERVICE_UNAVAILABLE, unknown)
                    }
                };
                Ok::<_, BoxError>(answer(told.0, told.1))
            }
        })
    };
    (shop, wire, till)
}

#[tokio::test]
async fn a_step_whose_commit_was_not_answered_is_found() {
    let (shop, wire, till) = reserving().await;
    wire.cut(Cut::AfterIt);
    assert_eq!(ask(&till, "k").await, got(201, "reserved by 1"));
    assert!(wire.was_cut());
    assert_eq!(shop.entries().await, 1);
}

#[tokio::test]
async fn a_step_whose_commit_never_arrived_is_run_again() {
    let (shop, wire, till) = reserving().await;
    wire.cut(Cut::BeforeIt);
    assert_eq!(ask(&till, "k").await, got(201, "reserved by 2"));
    assert!(wire.was_cut());
    assert_eq!(shop.entries().await, 1);
}

/// Nobody can know what becomes of the `COMMIT`, until the server has got it or knows that the
/// connection has ended. No other attempt begins before that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_in_doubt_is_there_with_its_writes_or_run_again() {
    for (cut, then) in [
        (Cut::Late, "reserved by 1"),
        (Cut::Silently, "reserved by 2"),
    ] {
        let (shop, wire, till) = reserving().await;
        wire.cut(cut);
        assert_eq!(ask(&till, "k").await, got(503, "unknown: true"), "{cut:?}");
        assert_eq!(shop.entries().await, 0);
        let early = ask(&till, "k").await;
        assert_ne!(early.0, 201, "{cut:?}: {early:?}");
        wire.mend();
        until(async || ask(&till, "k").await == got(201, then)).await;
        assert_eq!(shop.entries().await, 1, "{cut:?}");
    }
}
