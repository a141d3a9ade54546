//! G9: bodies that are too large, too slow or too many at once are rejected,
//! and hold no memory afterwards.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http_body::{Body, Frame, SizeHint};
use http_body_util::Limited;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tower::Layer;
use tower_idempotency::rejection::RejectionCode;
use tower_idempotency::{MemoryStore, RequestBody};

use crate::g9_bad_input_is_refused::{assert_refused, problem};
use crate::support::body::{Script, Step};
use crate::support::store::{Op, Steered};
use crate::support::{Runs, builder, counting, post_with, protected, quiet, send, with_policy};

#[tokio::test(start_paused = true)]
async fn a_slow_body_is_refused_when_its_time_is_over() {
    let (store, runs) = (Steered::new(), Runs::default());
    let app = protected(&store).layer(counting::<Script>(&runs));
    let drips = |pause| {
        let drip = || [Step::Wait(pause), Step::Data("x".into())];
        Script::new((0..10).flat_map(|_| drip()))
    };
    let sent = Instant::now();
    let slow = send(&app, post_with("k", drips(Duration::from_secs(4)))).await;
    assert_eq!(slow.refusal(), "408 body-timeout");
    assert_eq!(sent.elapsed(), Duration::from_secs(30));
    assert_eq!((runs.count(), store.calls(Op::Claim)), (0, 0));
    let patient = send(&app, post_with("k", drips(Duration::from_millis(2_900)))).await;
    patient.assert_fresh("run 1");
}

#[tokio::test]
async fn an_endless_body_is_read_no_further_than_its_limit() {
    let (store, runs) = (Steered::new(), Runs::default());
    let layer = with_policy(&store, |options| options.max_request_body(1000));
    let app = layer.layer(counting::<Script>(&runs));
    let endless = Script::endless(vec![b'x'; 100]);
    let polls = endless.polls();
    let seen = send(&app, post_with("k", endless)).await;
    assert_eq!(seen.refusal(), "413 body-too-large");
    assert_eq!(polls(), 11);
    assert_eq!((runs.count(), store.calls(Op::Claim)), (0, 0));
    let full = Script::frames(vec![vec![b'x'; 100]; 10]);
    send(&app, post_with("k", full)).await.assert_fresh("run 1");
}

#[tokio::test]
async fn a_body_that_announces_too_much_is_not_read() {
    let runs = Runs::default();
    let layer = with_policy(&MemoryStore::new(), |options| {
        options.max_request_body(1000)
    });
    let app = layer.layer(counting::<Script>(&runs));
    let body = Script::endless("x");
    let polls = body.polls();
    let mut request = post_with("k", body);
    request.headers_mut().insert(CONTENT_LENGTH, 1001.into());
    let seen = send(&app, request).await;
    assert_eq!(seen.refusal(), "413 body-too-large");
    assert_eq!((polls(), runs.count()), (0, 0));
}

#[tokio::test]
async fn a_body_that_a_layer_outside_limits_is_too_large_too() {
    let runs = Runs::default();
    let app = protected(&MemoryStore::new()).layer(counting::<RequestBody<Limited<Script>>>(&runs));
    let limited = Limited::new(Script::endless("0123456789"), 100);
    let seen = send(&app, post_with("k", RequestBody::new(limited))).await;
    assert_eq!(seen.refusal(), "413 body-too-large");
    assert_eq!(runs.count(), 0);
}

/// A body that says how long it is, as hyper's bodies do with `Content-Length`.
struct Promised(Script, u64);

impl Body for Promised {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Pin::new(&mut self.0).poll_frame(cx)
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.1)
    }
}

/// hyper ends the body without an error if a client of HTTP/2 resets its stream with `NO_ERROR`.
#[tokio::test]
async fn a_body_that_ends_before_the_length_it_promised_is_not_executed() {
    let (store, runs) = (Steered::new(), Runs::default());
    let app = protected(&store).layer(counting::<RequestBody<Promised>>(&runs));
    let half = || Script::frames(["half"]);
    let short = RequestBody::new(Promised(half(), 8));
    let seen = send(&app, post_with("k", short)).await;
    assert_eq!(seen.refusal(), "400 body-unreadable");
    assert_eq!((runs.count(), store.calls(Op::Claim)), (0, 0));
    let whole = RequestBody::new(Promised(half(), 4));
    send(&app, post_with("k", whole))
        .await
        .assert_fresh("run 1");
}

/// How an upload continues after its first part.
type End = fn(Script) -> Script;

/// Each upload releases its share of the limit, however it ends: a body that
/// needs the whole limit can be read afterwards.
#[tokio::test(start_paused = true)]
async fn uploads_at_once_share_a_limit_and_give_their_room_back() {
    const ROOM: usize = 1000;
    let (store, runs) = (Steered::new(), Runs::default());
    let layer = builder(&store)
        .max_buffered_bytes(ROOM)
        .max_buffered_bytes_per_caller(ROOM)
        .defaults(|options| options.max_request_body(ROOM))
        .build()
        .unwrap();
    let app = layer.layer(counting::<Script>(&runs));
    let part = || Bytes::from(vec![b'x'; 400]);
    let full = || Script::frames([vec![b'x'; ROOM]]);
    let ends: [(End, &str); 4] = [
        (|body| body.then(Step::Never), "408 body-timeout"),
        (
            |body| {
                body.then(Step::Wait(Duration::from_secs(5)))
                    .then(Step::Fail("reset"))
            },
            "400 body-unreadable",
        ),
        (
            |body| body.then(Step::Wait(Duration::from_secs(5))),
            "whole",
        ),
        (|body| body.then(Step::Never), "left"),
    ];
    for (round, (end, expected)) in ends.into_iter().enumerate() {
        let mut uploads = JoinSet::new();
        for upload in 0..2 {
            let request = post_with(&format!("{round} {upload}"), end(Script::frames([part()])));
            let call = {
                let app = app.clone();
                async move { send(&app, request).await }
            };
            uploads.spawn(async move {
                if expected == "left" {
                    timeout(Duration::from_secs(5), call).await.ok()
                } else {
                    Some(call.await)
                }
            });
        }
        quiet().await;
        let claims = store.calls(Op::Claim);
        for third in [Script::frames([part()]), full(), Script::endless("x")] {
            let seen = send(&app, post_with("third", third)).await;
            let over = problem(
                RejectionCode::OverCapacity,
                503,
                "same-key",
                "Over capacity",
                "The service is full: too many bytes of requests are being received or handled. Nothing was executed; send \
                 the same request again in a moment.",
            );
            assert_refused(&seen, RejectionCode::OverCapacity, &over);
        }
        assert_eq!(store.calls(Op::Claim), claims);
        // The limit still has room for small bodies.
        let little = Script::frames([vec![b'x'; ROOM - 800]]);
        let little = send(&app, post_with(&format!("{round} little"), little)).await;
        assert_eq!(little.status, 201);

        while let Some(ended) = uploads.join_next().await {
            match ended.unwrap() {
                None => assert_eq!(expected, "left"),
                Some(seen) if seen.status == 201 => assert_eq!(expected, "whole"),
                Some(seen) => assert_eq!(seen.refusal(), expected),
            }
        }
        let seen = send(&app, post_with(&format!("{round} full"), full())).await;
        assert_eq!(seen.status, 201, "after {expected}: {seen:?}");
    }
    assert_eq!(store.stats().in_flight, 0);
}
