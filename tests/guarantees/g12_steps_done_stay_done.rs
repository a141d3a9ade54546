//! G12: a step whose result was recorded does not run again.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::{Future, pending};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use tokio::time::sleep;
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_idempotency::options::{OnDisconnect, OnMismatch};
use tower_idempotency::steps::{StepError, StepFault, StepFaultKind};
use tower_idempotency::store::StoreErrorKind;
use tower_idempotency::{IdempotencyContext, IdempotencyLayer, RouteOptions};

use crate::support::store::{Fault, Op, Steered};
use crate::support::{Gate, Runs, answer, builder, post, send, with_policy};

const LEASE: Duration = Duration::from_secs(30);

/// How often each step of a shop has run.
#[derive(Clone, Default)]
pub(crate) struct Effects(Arc<Mutex<HashMap<String, usize>>>);

impl Effects {
    /// Runs a step whose result is its name and how often it has run.
    pub(crate) async fn step(
        &self,
        context: &IdempotencyContext,
        name: &str,
    ) -> Result<String, StepFault> {
        let done = context.step(name, async |_| Ok::<_, StepFault>(self.run(name)));
        done.await.map_err(StepError::flatten)
    }

    pub(crate) fn run(&self, name: &str) -> String {
        let mut effects = self.0.lock().unwrap();
        let times = effects.entry(name.to_owned()).or_default();
        *times += 1;
        format!("{name} {times}")
    }

    #[track_caller]
    pub(crate) fn assert_once(&self, names: &[&str]) {
        let effects = self.0.lock().unwrap();
        let expected = names.iter().map(|name| ((*name).to_owned(), 1)).collect();
        assert_eq!(*effects, expected);
    }
}

/// A service that is given the context of each request, and the number of the execution.
pub(crate) fn shop<F, Fut>(
    handle: F,
) -> impl Service<
    Request<Full<Bytes>>,
    Response = Response<Full<Bytes>>,
    Error = Infallible,
    Future: Send + 'static,
> + Clone
+ Send
+ 'static
where
    F: Fn(IdempotencyContext, usize) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = Response<Full<Bytes>>> + Send + 'static,
{
    let runs = Runs::default();
    service_fn(move |request: Request<Full<Bytes>>| {
        let context = request.extensions().get::<IdempotencyContext>().cloned();
        let handled = handle(context.unwrap(), runs.begin());
        async move { Ok(handled.await) }
    })
}

pub(crate) fn with_steps(store: &Steered) -> IdempotencyLayer {
    with_policy(store, |options| options.steps(true))
}

fn unavailable() -> Response<Full<Bytes>> {
    answer(StatusCode::SERVICE_UNAVAILABLE, "later")
}

/// Charges. The first attempt is not available afterwards.
async fn charge(
    effects: Effects,
    context: IdempotencyContext,
    run: usize,
) -> Response<Full<Bytes>> {
    let charged = effects.step(&context, "charge").await.unwrap();
    if run == 1 {
        return unavailable();
    }
    answer(StatusCode::CREATED, charged)
}

/// Reserves, and charges. The first attempt is not available after the first step, the second one not
/// after the second step.
async fn reserve_and_charge(
    effects: Effects,
    context: IdempotencyContext,
    run: usize,
) -> Response<Full<Bytes>> {
    let reserved = effects.step(&context, "reserve").await.unwrap();
    if run == 1 {
        return unavailable();
    }
    let charged = effects.step(&context, "charge").await.unwrap();
    if run == 2 {
        return unavailable();
    }
    answer(StatusCode::CREATED, format!("{reserved}, {charged}"))
}

#[tokio::test(start_paused = true)]
async fn a_step_is_given_its_result_in_every_later_attempt() {
    let store = Steered::new();
    let effects = Effects::default();
    let shop = shop({
        let effects = effects.clone();
        move |context, run| reserve_and_charge(effects.clone(), context, run)
    });
    let app = with_steps(&store).layer(shop);
    for _ in 0..2 {
        assert_eq!(send(&app, post("k", "{}")).await.status, 503);
    }
    let first = send(&app, post("k", "{}")).await;
    first.assert_fresh("reserve 1, charge 1");
    send(&app, post("k", "{}")).await.assert_replays(&first);
    effects.assert_once(&["reserve", "charge"]);
    // One call for each step, and none for a step that is given its result.
    assert_eq!(store.calls(Op::RecordStep), 2);
}

/// How an attempt ends after its first step.
#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    Panics,
    ClientLeaves,
    Errs,
}

#[tokio::test(start_paused = true)]
async fn a_step_is_not_run_again_after_an_attempt_that_came_to_no_end() {
    for end in [End::Panics, End::ClientLeaves, End::Errs] {
        for store in [Steered::new(), Steered::unguarded()] {
            let effects = Effects::default();
            let runs = Runs::default();
            let service = service_fn({
                let (effects, runs) = (effects.clone(), runs.clone());
                move |request: Request<Full<Bytes>>| {
                    let context = request.extensions().get::<IdempotencyContext>().cloned();
                    let (effects, run) = (effects.clone(), runs.begin());
                    async move {
                        let context = context.unwrap();
                        let charged = effects.step(&context, "charge").await?;
                        match end {
                            _ if run > 1 => {}
                            End::Panics => panic!("as the test wants it"),
                            End::ClientLeaves => pending().await,
                            End::Errs => {
                                let fault = context.step("", async |_| Err::<(), _>(()));
                                fault.await.unwrap_err();
                                return Err(effects.step(&context, "charge").await.unwrap_err());
                            }
                        }
                        Ok(answer(StatusCode::CREATED, charged))
                    }
                }
            });
            let layer = with_policy(&store, |options| {
                options.steps(true).on_disconnect(OnDisconnect::Cancel)
            });
            let app = layer.layer(service);
            let first = tokio::spawn(app.clone().oneshot(post("k", "{}")));
            sleep(Duration::from_secs(1)).await;
            first.abort();
            let ended = first.await;
            assert!(!matches!(ended, Ok(Ok(_))), "{end:?}");
            sleep(Duration::from_secs(1)).await;
            let second = send(&app, post("k", "{}")).await;
            second.assert_fresh("charge 1");
            effects.assert_once(&["charge"]);
            assert_eq!(runs.count(), 2, "{end:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_owner_that_was_overtaken_records_no_step_and_can_tell() {
    let store = Steered::unguarded();
    store.make(Op::Renew, Fault::Stalls);
    let (effects, gate) = (Effects::default(), Gate::closed());
    let told = Arc::new(Mutex::new(Vec::new()));
    let shop = shop({
        let (effects, gate, told) = (effects.clone(), gate.clone(), told.clone());
        move |context, run| {
            let (effects, gate, told) = (effects.clone(), gate.clone(), told.clone());
            async move {
                effects.step(&context, "reserve").await.unwrap();
                if run == 1 {
                    let charged = context.step("charge", async |_| {
                        gate.pass().await;
                        Ok::<_, Infallible>("too late".to_owned())
                    });
                    let fault = charged.await.unwrap_err();
                    let fault = fault.fault().unwrap();
                    told.lock().unwrap().push((fault.kind(), fault.has_run()));
                    assert!(context.is_lost());
                    let fault = effects.step(&context, "ship").await.unwrap_err();
                    told.lock().unwrap().push((fault.kind(), fault.has_run()));
                    return answer(StatusCode::CREATED, "stale");
                }
                let charged = effects.step(&context, "charge").await.unwrap();
                answer(StatusCode::CREATED, charged)
            }
        }
    });
    let app = with_steps(&store).layer(shop);
    let stale = tokio::spawn(app.clone().oneshot(post("k", "{}")));
    gate.begun().await;
    sleep(LEASE * 2).await;
    let second = send(&app, post("k", "{}")).await;
    second.assert_fresh("charge 1");
    gate.open();
    let stale = stale.await.unwrap().unwrap();
    assert_eq!(stale.status(), 409);
    effects.assert_once(&["reserve", "charge"]);
    let lost = StepFaultKind::Lost;
    assert_eq!(*told.lock().unwrap(), [(lost, true), (lost, false)]);
    send(&app, post("k", "{}")).await.assert_replays(&second);
}

/// The result of a call can be lost on its way: the call is sent again.
#[tokio::test(start_paused = true)]
async fn a_step_whose_recording_was_not_answered_is_recorded_again() {
    for fault in [
        Fault::Fails(StoreErrorKind::NotSent),
        Fault::Fails(StoreErrorKind::Contention),
        Fault::AnswerLost(StoreErrorKind::Unknown),
        Fault::Stalls,
        Fault::AnswerStalls,
    ] {
        for heals in [true, false] {
            let store = Steered::new();
            store.make(Op::RecordStep, fault);
            let effects = Effects::default();
            let shop = shop({
                let effects = effects.clone();
                move |context, run| {
                    let effects = effects.clone();
                    async move {
                        match effects.step(&context, "charge").await {
                            Ok(_) if run == 1 => unavailable(),
                            Ok(charged) => answer(StatusCode::CREATED, charged),
                            Err(fault) => {
                                assert_eq!(fault.kind(), StepFaultKind::Store);
                                assert!(fault.has_run());
                                answer(StatusCode::BAD_GATEWAY, "no step")
                            }
                        }
                    }
                }
            });
            let app = with_steps(&store).layer(shop);
            let first = tokio::spawn(app.clone().oneshot(post("k", "{}")));
            sleep(Duration::from_millis(500)).await;
            if heals {
                store.heal(Op::RecordStep);
            }
            let status = if heals { 503 } else { 502 };
            let began = tokio::time::Instant::now();
            assert_eq!(first.await.unwrap().unwrap().status(), status, "{fault:?}");
            assert!(began.elapsed() < Duration::from_secs(2), "{fault:?}");
            store.heal(Op::RecordStep);
            let second = send(&app, post("k", "{}")).await;
            let kept = heals || matches!(fault, Fault::AnswerLost(_) | Fault::AnswerStalls);
            second.assert_fresh(if kept { "charge 1" } else { "charge 2" });
        }
    }
}

#[tokio::test(start_paused = true)]
async fn steps_of_several_names_run_at_once() {
    let store = Steered::new();
    let effects = Effects::default();
    let shop = shop({
        let effects = effects.clone();
        move |context, run| {
            let effects = effects.clone();
            async move {
                let step = |name| {
                    let (effects, context) = (effects.clone(), context.clone());
                    async move {
                        let done = context.step(name, async |_| {
                            sleep(Duration::from_secs(1)).await;
                            Ok::<_, StepFault>(effects.run(name))
                        });
                        done.await.unwrap()
                    }
                };
                let (one, other) = tokio::join!(step("pack"), step("mail"));
                if run == 1 {
                    return unavailable();
                }
                answer(StatusCode::CREATED, format!("{one}, {other}"))
            }
        }
    });
    let app = with_steps(&store).layer(shop);
    let began = tokio::time::Instant::now();
    assert_eq!(send(&app, post("k", "{}")).await.status, 503);
    assert!(began.elapsed() < Duration::from_secs(2));
    let second = send(&app, post("k", "{}")).await;
    second.assert_fresh("pack 1, mail 1");
}

#[tokio::test(start_paused = true)]
async fn a_step_that_fails_is_not_recorded_and_may_run_again_in_its_attempt() {
    let store = Steered::new();
    let shop = shop(|context, _| async move {
        for declined in [true, true, false] {
            let charged = context.step(
                "charge",
                async |_| {
                    if declined { Err("declined") } else { Ok(7) }
                },
            );
            match charged.await {
                Ok(charge) => return answer(StatusCode::CREATED, charge.to_string()),
                Err(StepError::Failed(error)) => assert_eq!(error, "declined"),
                Err(StepError::Fault(fault)) => panic!("{fault}"),
            }
        }
        unreachable!("the third charge succeeds")
    });
    let app = with_steps(&store).layer(shop);
    send(&app, post("k", "{}")).await.assert_fresh("7");
    assert_eq!(store.calls(Op::RecordStep), 1);
}

/// A tombstone lets in a request with another body, and a charge of the first body is nothing to
/// ship the second one for.
#[tokio::test(start_paused = true)]
async fn another_request_is_not_given_the_steps_of_the_first() {
    type Change = fn(RouteOptions) -> RouteOptions;
    let reject: Change = |options| options.steps(true);
    let replay: Change = |options| options.steps(true).on_mismatch(OnMismatch::Replay);
    for (change, refusal) in [(reject, Some("422 key-reused")), (replay, None)] {
        let store = Steered::new();
        let effects = Effects::default();
        let shop = shop({
            let effects = effects.clone();
            move |context, run| charge(effects.clone(), context, run)
        });
        let app = with_policy(&store, change).layer(shop);
        assert_eq!(send(&app, post("k", "42 EUR")).await.status, 503);
        let other = send(&app, post("k", "50 EUR")).await;
        match refusal {
            Some(refusal) => assert_eq!(other.refusal(), refusal),
            None => other.assert_fresh("charge 1"),
        }
        // The claim of the other request is given back.
        sleep(Duration::from_millis(100)).await;
        let same = send(&app, post("k", "42 EUR")).await;
        assert_eq!((same.status, same.text()), (201, "charge 1"));
        effects.assert_once(&["charge"]);
    }
}

/// Until the store has answered the release of the rejected request, the record has the fingerprint of
/// that request. The client of the right one must not be told to give up.
#[tokio::test(start_paused = true)]
async fn a_request_that_is_rejected_for_steps_is_in_nobodys_way() {
    let store = Steered::new();
    let effects = Effects::default();
    let shop = shop({
        let effects = effects.clone();
        move |context, run| charge(effects.clone(), context, run)
    });
    let app = with_steps(&store).layer(shop);
    assert_eq!(send(&app, post("k", "42 EUR")).await.status, 503);
    store.make(Op::Release, Fault::ArrivesLate(Duration::from_secs(1)));
    let other = send(&app, post("k", "50 EUR")).await;
    assert_eq!(other.refusal(), "422 key-reused");
    let same = send(&app, post("k", "42 EUR")).await;
    assert_eq!(same.refusal(), "409 in-flight");
    sleep(Duration::from_secs(2)).await;
    let same = send(&app, post("k", "42 EUR")).await;
    assert_eq!((same.status, same.text()), (201, "charge 1"));
    let other = send(&app, post("k", "50 EUR")).await;
    assert_eq!(other.refusal(), "422 key-reused");
    effects.assert_once(&["charge"]);
}

#[tokio::test(start_paused = true)]
async fn a_step_has_the_same_key_in_every_attempt() {
    let store = Steered::new();
    let keys = Arc::new(Mutex::new(Vec::new()));
    let shop = shop({
        let keys = keys.clone();
        move |context, _| {
            let keys = keys.clone();
            async move {
                let failed = context.step("charge", async |step| {
                    assert_eq!(step.key(), context.derive_key("charge"));
                    assert!(!format!("{step:?}").contains(step.key()));
                    keys.lock().unwrap().push(step.key().to_owned());
                    Err::<(), _>(())
                });
                failed.await.unwrap_err();
                unavailable()
            }
        }
    });
    let app = with_steps(&store).layer(shop);
    for _ in 0..3 {
        assert_eq!(send(&app, post("k", "{}")).await.status, 503);
    }
    let keys = keys.lock().unwrap();
    assert_eq!(keys.len(), 3);
    assert!(keys.iter().all(|key| *key == keys[0]), "{keys:?}");
}

/// While secrets are rotated the record of an earlier attempt has another id.
#[tokio::test(start_paused = true)]
async fn steps_come_along_while_secrets_are_rotated() {
    const OLD: &str = "an old secret of sixteen bytes or more";
    const NEW: &str = "a new secret of sixteen bytes or more";
    let store = Steered::new();
    let effects = Effects::default();
    let shop = shop({
        let effects = effects.clone();
        move |context, run| reserve_and_charge(effects.clone(), context, run)
    });
    let app = |secrets: &[&str]| {
        let layer = builder(&store).secrets(secrets.iter().copied());
        let layer = layer.defaults(|options| options.steps(true)).build();
        layer.unwrap().layer(shop.clone())
    };
    let before = app(&[OLD]);
    assert_eq!(send(&before, post("k", "{}")).await.status, 503);
    let rotating = app(&[NEW, OLD]);
    store.make(Op::Release, Fault::ArrivesLate(Duration::from_secs(1)));
    let other = send(&rotating, post("k", "other")).await;
    assert_eq!(other.refusal(), "422 key-reused");
    let same = send(&rotating, post("k", "{}")).await;
    assert_eq!(same.refusal(), "409 in-flight");
    sleep(Duration::from_secs(5)).await;
    store.heal(Op::Release);
    assert_eq!(send(&rotating, post("k", "{}")).await.status, 503);
    let third = send(&rotating, post("k", "{}")).await;
    third.assert_fresh("reserve 1, charge 1");
    effects.assert_once(&["reserve", "charge"]);
}

#[cfg(feature = "encryption")]
#[tokio::test(start_paused = true)]
async fn results_are_encrypted_and_what_is_not_decrypted_is_no_result() {
    use tower_idempotency::store::Encryption;

    let store = Steered::new();
    let effects = Effects::default();
    let shop = shop({
        let effects = effects.clone();
        move |context, run| {
            let effects = effects.clone();
            async move {
                match effects.step(&context, "charge").await {
                    Ok(charged) if run > 1 => answer(StatusCode::CREATED, charged),
                    Ok(_) => unavailable(),
                    Err(fault) => {
                        assert_eq!(fault.kind(), StepFaultKind::Unreadable);
                        assert!(!fault.has_run());
                        answer(StatusCode::BAD_GATEWAY, "unreadable")
                    }
                }
            }
        }
    });
    let app = |encryption| {
        let layer = builder(&store).secrets(["a secret of sixteen bytes or more"]);
        let layer = layer.defaults(|options| options.steps(true));
        let layer = match encryption {
            Some(encryption) => layer.encryption(encryption),
            None => layer,
        };
        layer.build().unwrap().layer(shop.clone())
    };
    let encrypting = app(Some(Encryption::xchacha20_poly1305()));
    assert_eq!(send(&encrypting, post("k", "{}")).await.status, 503);
    let [kept] = &store.steps()[..] else { panic!() };
    assert_eq!(kept.name, "charge");
    let readable = kept.result.windows(6).any(|part| part == b"charge");
    assert!(!readable);
    let plain = app(None);
    assert_eq!(send(&plain, post("k", "{}")).await.status, 502);
    let resumed = send(&encrypting, post("k", "{}")).await;
    resumed.assert_fresh("charge 1");
}
