//! G12: what a handler can't ask of a step, and what it is told.

use std::collections::HashMap;
use std::convert::Infallible;
use std::error::Error;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::StatusCode;
use tokio::time::sleep;
use tower::Layer;
use tower_idempotency::IdempotencyContext;
use tower_idempotency::steps::{StepError, StepFault, StepFaultKind};
use tower_idempotency::store::{
    Claim, Claimed, Lease, Nonce, Outcome, Ownership, RecordId, Release, Store, StoreError,
    StoreErrorKind,
};

use crate::g12_steps_done_stay_done::{shop, with_steps};
use crate::support::store::{Fault, Op, Steered};
use crate::support::{answer, builder, post, send, with_policy};

/// No text of an error may contain this.
const SECRET: &str = "4242-4242";

async fn done(context: &IdempotencyContext, name: &str) -> Result<String, StepFault> {
    let done = context.step(name, async |_| Ok::<_, StepFault>(SECRET.to_owned()));
    done.await.map_err(StepError::flatten)
}

/// The kind of a fault, and whether the closure has run. Its texts say nothing of the step.
#[track_caller]
fn told<T>(result: Result<T, StepFault>) -> (StepFaultKind, bool) {
    let Err(fault) = result else {
        panic!("the step has a result");
    };
    let mut texts = format!("{fault} {fault:?}");
    let mut source = fault.source();
    while let Some(cause) = source {
        texts.push_str(&cause.to_string());
        source = cause.source();
    }
    assert!(!texts.contains(SECRET), "{texts}");
    assert!(!texts.contains("charge"), "{texts}");
    (fault.kind(), fault.has_run())
}

/// Runs a handler once under these options, and returns the store.
async fn run<F, Fut>(store: &Steered, handle: F)
where
    F: Fn(IdempotencyContext) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let shop = shop(move |context, _| {
        let handled = handle(context);
        async move {
            handled.await;
            answer(StatusCode::SERVICE_UNAVAILABLE, "later")
        }
    });
    let app = with_steps(store).layer(shop);
    assert_eq!(send(&app, post("k", "{}")).await.status, 503);
}

#[tokio::test(start_paused = true)]
async fn a_step_inside_a_step_is_refused() {
    let store = Steered::new();
    run(&store, async |context: IdempotencyContext| {
        let outer = context.step("outer", async |_| {
            let inner = told(done(&context, "charge").await);
            assert_eq!(inner, (StepFaultKind::Nested, false));
            Ok::<_, Infallible>(1)
        });
        assert_eq!(outer.await.unwrap(), 1);
        done(&context, "charge").await.unwrap();
    })
    .await;
    assert_eq!(store.steps().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_name_is_for_one_step_of_an_attempt() {
    let store = Steered::new();
    for _ in 0..2 {
        run(&store, async |context: IdempotencyContext| {
            let in_use = (StepFaultKind::NameInUse, false);
            let other = context.clone();
            let running = tokio::spawn(async move {
                let slow = other.step("charge-twice", async |_| {
                    sleep(Duration::from_secs(1)).await;
                    Ok::<_, Infallible>(())
                });
                slow.await
            });
            sleep(Duration::from_millis(100)).await;
            assert_eq!(told(done(&context, "charge-twice").await), in_use);
            running.await.unwrap().unwrap();
            assert_eq!(told(done(&context, "charge-twice").await), in_use);
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_step_after_the_answer_is_refused() {
    let store = Steered::new();
    let late = Arc::new(Mutex::new(Vec::new()));
    let told_late = late.clone();
    run(&store, move |context: IdempotencyContext| {
        let late = late.clone();
        async move {
            let (one, other) = (context.clone(), context);
            tokio::spawn(async move {
                let begun = one.step("begun-before", async |_| {
                    sleep(Duration::from_secs(1)).await;
                    Ok::<_, StepFault>(SECRET.to_owned())
                });
                let begun = begun.await.map_err(StepError::flatten);
                let begun = told(begun);
                late.lock().unwrap().push(begun);
                let after = told(done(&other, "charge").await);
                late.lock().unwrap().push(after);
            });
            sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
    sleep(Duration::from_secs(2)).await;
    let ended = StepFaultKind::Ended;
    assert_eq!(*told_late.lock().unwrap(), [(ended, true), (ended, false)]);
}

#[tokio::test(start_paused = true)]
async fn what_is_too_large_or_too_many_is_refused() {
    let store = Steered::new();
    let shop = shop(|context, _| async move {
        let of = async |name: &'static str, bytes: usize| {
            let done = context.step(name, async |_| Ok::<_, StepFault>("4".repeat(bytes)));
            done.await.map_err(StepError::flatten)
        };
        // A name of one byte, and a string of JSON in quotation marks.
        let too_large = (StepFaultKind::TooLarge, true);
        assert_eq!(told(of("a", 98).await), too_large);
        of("a", 97).await.unwrap();
        assert_eq!(told(of("b", 48).await), too_large);
        of("b", 47).await.unwrap();
        assert_eq!(told(of("c", 0).await), too_large);
        let too_many = (StepFaultKind::TooMany, false);
        let context_of_last = context.clone();
        let last = context.step("c", async move |_| {
            let context = context_of_last;
            let other = tokio::spawn(async move { done(&context, "d").await });
            assert_eq!(told(other.await.unwrap()), too_many);
            Err::<(), _>(())
        });
        last.await.unwrap_err();
        answer(StatusCode::CREATED, "ok")
    });
    let layer = with_policy(&store, |options| {
        let options = options.steps(true).max_steps(3);
        options.max_step_bytes(100).max_steps_bytes(150)
    });
    let app = layer.layer(shop);
    assert_eq!(send(&app, post("k", "{}")).await.status, 201);
    assert_eq!(store.steps().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn limits_count_what_earlier_attempts_recorded() {
    let store = Steered::new();
    let shop = shop(|context, run| async move {
        let name = ["first", "second", "third"][run - 1];
        let done = done(&context, name).await;
        if run == 3 {
            assert_eq!(told(done), (StepFaultKind::TooMany, false));
            return answer(StatusCode::CREATED, "ok");
        }
        done.unwrap();
        answer(StatusCode::SERVICE_UNAVAILABLE, "later")
    });
    let layer = with_policy(&store, |options| options.steps(true).max_steps(2));
    let app = layer.layer(shop);
    for status in [503, 503, 201] {
        assert_eq!(send(&app, post("k", "{}")).await.status, status);
    }
}

/// A later version of the handler asks for another type.
#[tokio::test(start_paused = true)]
async fn a_result_of_another_type_is_an_error_and_no_second_run() {
    let store = Steered::new();
    let shop = shop(|context, run| async move {
        if run == 1 {
            done(&context, "charge").await.unwrap();
            return answer(StatusCode::SERVICE_UNAVAILABLE, "later");
        }
        let number = context.step("charge", async |_| -> Result<u64, StepFault> {
            unreachable!("the step has a result");
        });
        let number = number.await.map_err(StepError::flatten);
        assert_eq!(told(number), (StepFaultKind::Unreadable, false));
        answer(StatusCode::CREATED, "ok")
    });
    let app = with_steps(&store).layer(shop);
    for status in [503, 201] {
        assert_eq!(send(&app, post("k", "{}")).await.status, status);
    }
}

#[tokio::test(start_paused = true)]
async fn a_result_that_is_no_json_is_refused() {
    let store = Steered::new();
    run(&store, async |context: IdempotencyContext| {
        let pairs = context.step("charge", async |_| {
            Ok::<_, StepFault>(HashMap::from([((SECRET.to_owned(), 1), 1)]))
        });
        let pairs = pairs.await.map_err(StepError::flatten);
        assert_eq!(told(pairs), (StepFaultKind::Unwritable, true));
    })
    .await;
    assert!(store.steps().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_store_that_refuses_a_step_is_asked_once() {
    let store = Steered::new();
    store.make(Op::RecordStep, Fault::Fails(StoreErrorKind::Refused));
    run(&store, async |context: IdempotencyContext| {
        let refused = told(done(&context, "charge").await);
        assert_eq!(refused, (StepFaultKind::Store, true));
        // Nobody knows whether a store has the step after other errors: the name stays in use.
        let again = told(done(&context, "charge").await);
        assert_eq!(again, (StepFaultKind::NameInUse, false));
    })
    .await;
    assert_eq!(store.calls(Op::RecordStep), 1);
}

#[tokio::test(start_paused = true)]
async fn a_route_without_steps_has_none() {
    let store = Steered::new();
    let shop = shop(|context, _| async move {
        let off = told(done(&context, "charge").await);
        assert_eq!(off, (StepFaultKind::Off, false));
        answer(StatusCode::CREATED, "ok")
    });
    let app = crate::support::protected(&store).layer(shop);
    assert_eq!(send(&app, post("k", "{}")).await.status, 201);
}

/// A store of one's own that keeps no steps.
struct Plain;

impl Store for Plain {
    async fn claim(&self, _: &Claim) -> Result<Claimed, StoreError> {
        unreachable!()
    }
    async fn renew(&self, _: &Lease) -> Result<Ownership, StoreError> {
        unreachable!()
    }
    async fn complete(&self, _: &Lease, _: &Outcome) -> Result<Ownership, StoreError> {
        unreachable!()
    }
    async fn release(&self, _: &RecordId, _: &Nonce, _: Release) -> Result<Ownership, StoreError> {
        unreachable!()
    }
}

#[tokio::test]
async fn a_layer_with_steps_is_not_built_on_a_store_without_them() {
    let plain = || builder(&Arc::new(Plain));
    assert!(plain().build().is_ok());
    let error = plain().defaults(|options| options.steps(true)).build();
    let error = error.unwrap_err();
    assert_eq!(error.option(), "steps");
    assert!(error.to_string().contains("needs a store that keeps steps"));
    let error = plain().route("POST /a", |options| options.steps(true));
    let error = error.build().unwrap_err();
    assert!(error.to_string().contains("POST /a"), "{error}");
    let store = Steered::new();
    assert!(
        builder(&store)
            .defaults(|options| options.steps(true))
            .build()
            .is_ok()
    );
}
