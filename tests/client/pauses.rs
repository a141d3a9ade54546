//! When the client sends a request again, and when it gives up. All tests run
//! in paused time.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use http::{Request, Response};
use proptest::prelude::*;
use tokio::time::Instant;
use tower::retry::backoff::ExponentialBackoffMaker;
use tower::retry::budget::TpsBudget;
use tower::{Layer, Service, ServiceExt};
use tower_idempotency::client::{ClientLayer, ErrorKind, FullJitter};

use crate::scripted::{
    Answered, AnyBody, Server, Step, at_once, header, post, refusal, refused, status,
};

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// The pauses between attempts.
fn pauses(server: &Server) -> Vec<Duration> {
    let seen = server.seen();
    let pairs = seen.iter().zip(&seen[1..]);
    pairs.map(|(one, next)| next.at - one.at).collect()
}

/// A timer may be late by this much.
const TICK: Duration = millis(1);

fn is_about(own: Duration, wanted: Duration) -> bool {
    own >= wanted && own <= wanted + TICK
}

async fn failing(times: usize, layer: ClientLayer) -> (Server, Answered) {
    let server = Server::that((0..times).map(|_| Step::Fail(refused())));
    let answered = server.ask_with(layer, post("k")).await;
    (server, answered)
}

#[tokio::test(start_paused = true)]
async fn pauses_are_random_from_nothing_up_to_a_bound_that_doubles_to_its_cap() {
    const ROUNDS: usize = 300;
    let bounds = [100, 200, 400, 800, 1000, 1000].map(millis);
    let mut all = vec![Vec::new(); bounds.len()];
    for _ in 0..ROUNDS {
        let layer = ClientLayer::builder()
            .backoff(FullJitter::new(millis(100), seconds(1)))
            .build()
            .unwrap();
        let (server, answered) = failing(bounds.len(), layer).await;
        answered.unwrap();
        for (pause, all) in pauses(&server).into_iter().zip(&mut all) {
            all.push(pause);
        }
    }
    for (bound, pauses) in bounds.into_iter().zip(all) {
        assert_eq!(pauses.len(), ROUNDS);
        assert!(pauses.iter().all(|pause| *pause <= bound + TICK));
        // The pauses are spread over the whole range, so each quarter of it has
        // its share. The chance that a quarter has less than half of its share
        // is one in many millions.
        for quarter in 0..4 {
            let range = bound * quarter / 4..bound * (quarter + 1) / 4 + TICK;
            let share = pauses.iter().filter(|pause| range.contains(pause)).count();
            assert!(share > ROUNDS / 8, "{share} of {ROUNDS} in {range:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn towers_own_backoff_will_do() {
    let rng = tower::util::rng::HasherRng::new();
    let maker = ExponentialBackoffMaker::new(millis(100), seconds(1), 0.0, rng).unwrap();
    let layer = ClientLayer::builder().backoff(maker).build().unwrap();
    for _ in 0..2 {
        let (server, answered) = failing(5, layer.clone()).await;
        answered.unwrap();
        let wanted = [100, 200, 400, 800, 1000].map(millis);
        let pauses = pauses(&server);
        assert_eq!(pauses.len(), wanted.len());
        for (pause, wanted) in pauses.into_iter().zip(wanted) {
            assert!(is_about(pause, wanted), "{pause:?}, not {wanted:?}");
        }
    }
}

/// The one pause after a 503 with these headers.
async fn pause_after(fields: &[(&'static str, &str)], layer: ClientLayer) -> Duration {
    let response = fields.iter().fold(status(503), |response, (name, value)| {
        header(response, name, value)
    });
    let server = Server::that([Step::Answer(response)]);
    server.ask_with(layer, post("k")).await.unwrap();
    pauses(&server)[0]
}

#[tokio::test(start_paused = true)]
async fn retry_after_is_obeyed_in_seconds_and_dates_up_to_a_cap() {
    const SHOWN: &str = "Sun, 01 Mar 2026 02:00:00 GMT";
    for (fields, wanted) in [
        (&[("retry-after", "7")][..], 7),
        (&[("retry-after", " 7 ")], 7),
        (&[("retry-after", "0")], 0),
        (&[("retry-after", "60")], 60),
        (&[("retry-after", "61")], 60),
        (&[("retry-after", "86400")], 60),
        (&[("retry-after", "99999999999999999999999999")], 60),
        // A date is compared with the server's own clock.
        (
            &[
                ("retry-after", "Sun, 01 Mar 2026 02:00:42 GMT"),
                ("date", SHOWN),
            ],
            42,
        ),
        (
            &[
                ("retry-after", "Sunday, 01-Mar-26 02:00:42 GMT"),
                ("date", SHOWN),
            ],
            42,
        ),
        (
            &[
                ("retry-after", "Sun, 01 Mar 2026 03:00:00 GMT"),
                ("date", SHOWN),
            ],
            60,
        ),
        (
            &[
                ("retry-after", "Sun, 01 Mar 2026 01:00:00 GMT"),
                ("date", SHOWN),
            ],
            0,
        ),
        (
            &[
                ("retry-after", "Sun, 01 Mar 2026 03:00:00 GMT"),
                ("date", "today"),
            ],
            0,
        ),
        // These values mean nothing, so they ask for no pause.
        (&[("retry-after", "")], 0),
        (&[("retry-after", "-1")], 0),
        (&[("retry-after", "1.5")], 0),
        (&[("retry-after", "7s")], 0),
        (&[("retry-after", "soon")], 0),
        (&[("retry-after", "2026-03-01T02:00:42Z")], 0),
    ] {
        let pause = pause_after(fields, at_once().build().unwrap()).await;
        assert!(
            is_about(pause, seconds(wanted)),
            "{pause:?} after {fields:?}"
        );
    }
    let layer = at_once().max_retry_after(seconds(3)).build().unwrap();
    let pause = pause_after(&[("retry-after", "7")], layer).await;
    assert!(is_about(pause, seconds(3)));
}

#[tokio::test(start_paused = true)]
async fn a_date_without_the_servers_clock_is_taken_by_our_own() {
    let soon = httpdate::fmt_http_date(SystemTime::now() + seconds(30));
    let pause = pause_after(&[("retry-after", &soon)], at_once().build().unwrap()).await;
    // Dates are cut to whole seconds, and the test may be slow.
    assert!(
        pause > seconds(20) && pause <= seconds(30) + TICK,
        "{pause:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn the_longer_of_backoff_and_retry_after_counts() {
    let rng = tower::util::rng::HasherRng::new();
    let maker = ExponentialBackoffMaker::new(seconds(5), seconds(5), 0.0, rng).unwrap();
    let layer = ClientLayer::builder().backoff(maker).build().unwrap();
    for (after, wanted) in [("2", 5), ("9", 9)] {
        let pause = pause_after(&[("retry-after", after)], layer.clone()).await;
        assert!(is_about(pause, seconds(wanted)));
    }
}

#[tokio::test(start_paused = true)]
async fn no_more_attempts_are_made_than_allowed() {
    for allowed in [1, 2, 7] {
        let layer = at_once().attempts(allowed).build().unwrap();
        let (server, answered) = failing(100, layer).await;
        let error = answered.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::OutOfAttempts);
        assert_eq!((server.count(), error.attempts().len()), (allowed, allowed));
    }
    // The default number of attempts, which the default deadline does not
    // always allow.
    let layer = ClientLayer::builder().deadline(seconds(3600));
    let (server, _) = failing(100, layer.build().unwrap()).await;
    assert_eq!(server.count(), 16);
}

#[tokio::test(start_paused = true)]
async fn an_attempt_has_its_time_with_its_body() {
    let layer = at_once().attempt_timeout(seconds(3)).build().unwrap();
    let slow = http_body_util::StreamBody::new(tokio_stream::pending());
    let slow = status(201).map(|_| http_body_util::BodyExt::boxed(slow));
    let server = Server::that([
        Step::Hang,
        Step::Answer(slow),
        Step::Late(millis(2999), status(200)),
    ]);
    let answered = server.ask_with(layer, post("k")).await.unwrap();
    for pause in pauses(&server) {
        assert!(is_about(pause, seconds(3)), "{pause:?}");
    }
    assert_eq!((server.count(), answered.status().as_u16()), (3, 200));
}

#[tokio::test(start_paused = true)]
async fn no_attempt_begins_after_the_deadline_and_none_goes_on() {
    let began = Instant::now();
    let layer = at_once()
        .attempt_timeout(seconds(10))
        .deadline(seconds(25))
        .build()
        .unwrap();
    let server = Server::that((0..9).map(|_| Step::Hang));
    let error = server.ask_with(layer, post("k")).await.unwrap_err();
    assert!(is_about(began.elapsed(), seconds(25)));
    assert_eq!(error.kind(), ErrorKind::OutOfTime);
    let attempts: Vec<_> = error.attempts().iter().map(ToString::to_string).collect();
    for (attempt, took) in attempts.iter().zip(["10.0s", "10.0s", "5.0s"]) {
        let ends = format!(" timed out after {took} (deadline has elapsed)");
        assert!(attempt.ends_with(&ends), "{attempt}");
    }
    assert_eq!(attempts.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn the_first_attempt_ends_at_the_deadline_too() {
    let began = Instant::now();
    let layer = at_once().deadline(seconds(4)).build().unwrap();
    let server = Server::that([Step::Hang]);
    let error = server.ask_with(layer, post("k")).await.unwrap_err();
    assert!(is_about(began.elapsed(), seconds(4)));
    assert_eq!(error.kind(), ErrorKind::OutOfTime);
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_an_attempt_that_would_be_too_late() {
    let began = Instant::now();
    let layer = at_once().deadline(seconds(30)).build().unwrap();
    let server = Server::that([Step::Answer(header(status(503), "retry-after", "30"))]);
    let error = server.ask_with(layer, post("k")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfTime);
    assert!(began.elapsed() <= TICK);
}

#[tokio::test(start_paused = true)]
async fn one_layer_serves_many_requests_each_from_its_own_beginning() {
    let layer = ClientLayer::builder()
        .backoff(FullJitter::new(Duration::ZERO, Duration::ZERO))
        .attempts(3)
        .deadline(seconds(10))
        .build()
        .unwrap();
    let script = (0..15).map(|attempt| match attempt % 3 {
        2 => Step::Answer(status(200)),
        _ => Step::Fail(refused()),
    });
    let server = Server::that(script);
    let mut client = layer.layer(server.clone());
    for _ in 0..5 {
        let answered = client.ready().await.unwrap().call(post("k")).await;
        assert_eq!(answered.unwrap().status(), 200);
        tokio::time::sleep(seconds(9)).await;
    }
    assert_eq!(server.count(), 15);
}

#[tokio::test(start_paused = true)]
async fn an_operation_that_lost_its_owner_is_outlasted() {
    // The lease of a server that died lapses after 30 s. Until then each
    // request is rejected as in flight.
    struct Leased(Instant);

    impl Service<Request<http_body_util::Full<bytes::Bytes>>> for Leased {
        type Response = Response<AnyBody>;
        type Error = std::convert::Infallible;
        type Future = std::future::Ready<Result<Self::Response, Self::Error>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: Request<http_body_util::Full<bytes::Bytes>>) -> Self::Future {
            let in_flight = || header(refusal(409, "in-flight", "same-key"), "retry-after", "1");
            let is_held = self.0.elapsed() < seconds(30);
            std::future::ready(Ok(if is_held { in_flight() } else { status(201) }))
        }
    }

    impl Clone for Leased {
        fn clone(&self) -> Self {
            Self(self.0)
        }
    }

    for _ in 0..20 {
        let client = ClientLayer::default().layer(Leased(Instant::now()));
        let answered = client.oneshot(post("k")).await;
        assert_eq!(answered.unwrap().status(), 201);
    }
}

#[tokio::test(start_paused = true)]
async fn retries_stop_where_the_budget_ends_and_go_on_when_it_is_filled() {
    // The budget has no reserve: each request that succeeds pays for one retry.
    let budget = TpsBudget::new(seconds(60), 0, 1.0);
    let layer = at_once().budget(budget).build().unwrap();
    let (server, answered) = failing(1, layer.clone()).await;
    let error = answered.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfBudget);
    assert_eq!((server.count(), error.attempts().len()), (1, 1));

    let (_, settled) = failing(0, layer.clone()).await;
    settled.unwrap();
    let (server, answered) = failing(1, layer.clone()).await;
    answered.unwrap();
    assert_eq!(server.count(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_service_that_does_not_get_ready_is_one_that_does_not_answer_in_time() {
    #[derive(Clone)]
    struct NeverReady;

    impl Service<Request<http_body_util::Full<bytes::Bytes>>> for NeverReady {
        type Response = Response<AnyBody>;
        type Error = std::convert::Infallible;
        type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
            Poll::Pending
        }

        fn call(&mut self, _: Request<http_body_util::Full<bytes::Bytes>>) -> Self::Future {
            unreachable!("it is never ready")
        }
    }

    let began = Instant::now();
    let layer = at_once().deadline(seconds(15)).build().unwrap();
    let client = layer.layer(NeverReady);
    let error = client.oneshot(post("k")).await.unwrap_err();
    assert!(is_about(began.elapsed(), seconds(15)));
    assert_eq!(error.kind(), ErrorKind::OutOfTime);
}

/// The kind of an attempt's result, how late it comes, and its `Retry-After`.
fn any_step() -> impl Strategy<Value = (u8, u64, u64)> {
    (0..4_u8, 0..8_000_u64, 0..20_u64)
}

proptest! {
    #[test]
    fn whatever_comes_back_the_deadline_and_the_attempts_are_kept(
        steps in prop::collection::vec(any_step(), 0..12),
        deadline in 1..20_000_u64,
        attempts in 1..8_usize,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let script = steps.into_iter().map(|(kind, late, after)| match kind {
                0 => Step::Fail(refused()),
                1 => Step::Hang,
                2 => Step::Late(millis(late), status(503)),
                _ => {
                    let response = header(status(409), "retry-after", &after.to_string());
                    Step::Late(millis(late), response)
                }
            });
            let server = Server::that(script);
            let layer = ClientLayer::builder()
                .attempt_timeout(seconds(4))
                .deadline(millis(deadline))
                .attempts(attempts)
                .build()
                .unwrap();
            let began = Instant::now();
            let answered = server.ask_with(layer, post("k")).await;
            assert!(began.elapsed() <= millis(deadline) + TICK);
            assert!(server.count() <= attempts);
            let told = match &answered {
                Ok(response) => {
                    assert_eq!(response.status(), 200);
                    let received = response.extensions();
                    let received = received.get::<tower_idempotency::client::Received>();
                    received.unwrap().attempts().len()
                }
                Err(error) => error.attempts().len(),
            };
            assert_eq!(told, server.count());
        });
    }
}
