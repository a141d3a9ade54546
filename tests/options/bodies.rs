//! The options `max_request_body`, `body_timeout`, `max_buffered_bytes`,
//! `max_recorded_body` and `oversize`.

use std::convert::Infallible;
use std::future::pending;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, Version};
use http_body_util::{BodyExt, Full};
use tokio::task::yield_now;
use tokio::time::{Instant, timeout};
use tower::{Layer, ServiceExt, service_fn};
use tower_idempotency::options::{OnDisconnect, OnInFlight, OnOversize};
use tower_idempotency::{IdempotencyContext, MemoryStore, RequestTrailers};

use crate::support::body::{Script, Step};
use crate::support::{
    Gate, Runs, Seen, builder, by, counting, created, handler, held_back, post, post_with, quiet,
    send, to, with_policy,
};

#[tokio::test]
async fn the_largest_request_body_is_up_to_the_route() {
    let layer = builder(&MemoryStore::new())
        .defaults(|options| options.max_request_body(10))
        .route("/uploads", |options| options.max_request_body(20))
        .build()
        .unwrap();
    let app = layer.layer(counting(&Runs::default()));
    for (target, limit) in [("/payments", 10), ("/uploads", 20)] {
        let ask = |len| to(target, post(&format!("{target} {len}"), vec![b'x'; len]));
        assert_eq!(send(&app, ask(limit)).await.status, 201);
        let refused = send(&app, ask(limit + 1)).await;
        assert_eq!(refused.refusal(), "413 body-too-large");
        assert!(refused.text().contains(&format!("at most {limit} bytes")));
    }
}

#[tokio::test]
async fn a_route_that_takes_no_body_takes_an_empty_one_that_announces_no_length() {
    let app = with_policy(&MemoryStore::new(), |options| options.max_request_body(0))
        .layer(counting::<Script>(&Runs::default()));
    let empty = send(&app, post_with("empty", Script::new([]))).await;
    assert_eq!(empty.status, 201);
    let refused = send(&app, post_with("one", Script::frames(["x"]))).await;
    assert_eq!(refused.refusal(), "413 body-too-large");
}

#[tokio::test]
async fn by_default_a_request_body_may_have_a_mebibyte() {
    let app = with_policy(&MemoryStore::new(), |options| options).layer(counting(&Runs::default()));
    let at = send(&app, post("at", vec![b'x'; 1 << 20])).await;
    assert_eq!(at.status, 201);
    let above = send(&app, post("above", vec![b'x'; (1 << 20) + 1])).await;
    assert_eq!(above.refusal(), "413 body-too-large");
}

#[tokio::test(start_paused = true)]
async fn the_time_for_a_request_body_is_up_to_the_route() {
    let layer = builder(&MemoryStore::new())
        .defaults(|options| options.body_timeout(Duration::from_secs(5)))
        .route("/uploads", |options| {
            options.body_timeout(Duration::from_secs(60))
        })
        .build()
        .unwrap();
    let app = layer.layer(counting::<Script>(&Runs::default()));
    for (target, limit) in [("/payments", 5), ("/uploads", 60)] {
        let ask = |body| to(target, post_with(target, body));
        let late = Script::new([Step::Wait(Duration::from_secs(limit + 1))]);
        let sent = Instant::now();
        let refused = send(&app, ask(late)).await;
        assert_eq!(refused.refusal(), "408 body-timeout");
        assert_eq!(sent.elapsed(), Duration::from_secs(limit));
        let in_time = Script::new([Step::Wait(Duration::from_secs(limit - 1))]);
        assert_eq!(send(&app, ask(in_time)).await.status, 201);
    }
}

#[tokio::test(start_paused = true)]
async fn all_bodies_together_may_have_as_much_as_max_buffered() {
    let layer = builder(&MemoryStore::new())
        .max_buffered_bytes(10)
        .max_buffered_bytes_per_caller(10)
        .defaults(|options| options.max_request_body(10))
        .build()
        .unwrap();
    let app = layer.layer(counting::<Script>(&Runs::default()));
    let upload = Script::frames(["0123"]).then(Step::Wait(Duration::from_secs(5)));
    let upload = tokio::spawn({
        let app = app.clone();
        async move { send(&app, post_with("upload", upload)).await }
    });
    quiet().await;
    for (body, expected) in [("012345", None), ("0123456", Some("503 over-capacity"))] {
        let seen = send(&app, post_with(body, Script::frames([body]))).await;
        let got = (seen.status != 201).then(|| seen.refusal());
        assert_eq!(got.as_deref(), expected, "{body}");
    }
    assert_eq!(upload.await.unwrap().status, 201);
    let all = send(&app, post_with("all", Script::frames(["0123456789"]))).await;
    assert_eq!(all.status, 201);
}

/// The responses to a request and to its retry, if a response has 10 bytes and
/// up to `limit` bytes are recorded. The number is how often the handler ran.
async fn first_and_retry(limit: usize, oversize: OnOversize, frames: usize) -> (Seen, Seen, usize) {
    let runs = Runs::default();
    let layer = with_policy(&MemoryStore::new(), |options| {
        options.max_recorded_body(limit).oversize(oversize)
    });
    let app = layer.layer(handler(&runs, move |_, _| {
        let parts = "0123456789".as_bytes().chunks(10 / frames);
        Response::new(Script::frames(parts.map(<[u8]>::to_vec)).and_trailer("end", "true"))
    }));
    let first = send(&app, post("k", "{}")).await;
    assert_eq!(first.trailers.as_ref().unwrap()["end"], "true");
    let retry = send(&app, post("k", "{}")).await;
    (first, retry, runs.count())
}

#[tokio::test]
async fn an_answer_up_to_the_limit_is_recorded_and_a_larger_one_is_delivered_all_the_same() {
    for frames in [1, 2, 10] {
        for oversize in [OnOversize::Seal, OnOversize::Rerun] {
            let (first, retry, runs) = first_and_retry(10, oversize, frames).await;
            retry.assert_replays(&first);
            assert_eq!(runs, 1);
        }
        for limit in [9, 5, 0] {
            let (first, retry, runs) = first_and_retry(limit, OnOversize::Seal, frames).await;
            first.assert_fresh("0123456789");
            assert_eq!(retry.refusal(), "409 response-unavailable");
            assert_eq!(runs, 1);

            let (first, retry, runs) = first_and_retry(limit, OnOversize::Rerun, frames).await;
            first.assert_fresh("0123456789");
            retry.assert_fresh("0123456789");
            assert_eq!(runs, 2);
        }
    }
}

/// With `rerun` a response that is too large to record ends its operation when
/// it is delivered to the end.
#[tokio::test]
async fn while_a_large_answer_is_being_delivered_its_operation_is_in_flight() {
    let layer = with_policy(&MemoryStore::new(), |options| {
        options.max_recorded_body(1).oversize(OnOversize::Rerun)
    });
    let app = layer.layer(handler(&Runs::default(), |run, _| {
        created(format!("run {run}"))
    }));
    let first = app.clone().oneshot(post("k", "{}")).await.unwrap();
    let retry = send(&app, post("k", "{}")).await;
    assert_eq!(retry.refusal(), "409 in-flight");
    let first = first.into_body().collect().await.unwrap();
    assert_eq!(first.to_bytes(), "run 1");
    send(&app, post("k", "{}")).await.assert_fresh("run 2");
    // A response that is not read to its end ends its operation when it is
    // dropped.
    let left = app.clone().oneshot(post("other", "{}")).await.unwrap();
    drop(left);
    yield_now().await;
    send(&app, post("other", "{}")).await.assert_fresh("run 4");
}

#[tokio::test]
async fn the_service_gets_the_whole_request_its_trailers_and_a_context() {
    let layer = with_policy(&MemoryStore::new(), |options| options);
    let app = layer.layer(handler(&Runs::default(), |_, request: Request<_>| {
        let extensions = request.extensions();
        let trailers = &extensions.get::<RequestTrailers>().unwrap().0;
        let context = extensions.get::<IdempotencyContext>().unwrap();
        let seen = format!(
            "{} {} {:?} {:?} {:?} {trailers:?} {} {} {:?}",
            request.method(),
            request.uri(),
            request.version(),
            request.headers(),
            extensions.get::<u64>(),
            context.key(),
            context.attempt(),
            request.body(),
        );
        created(seen)
    }));
    let body = Script::frames(["the ", "whole"]).and_trailer("checksum", "abc");
    let mut request = to("/payments?x=1", post_with("\"k\\\"\"", body));
    *request.version_mut() = Version::HTTP_2;
    request.extensions_mut().insert(7_u64);
    let seen = send(&app, request).await;
    assert_eq!(
        seen.text(),
        concat!(
            r#"POST /payments?x=1 HTTP/2.0 "#,
            r#"{"x-api-key": "alice", "idempotency-key": "\"k\\"\""} "#,
            r#"Some(7) {"checksum": "abc"} k" 1 b"the whole""#,
        )
    );
}

/// A body whose request waits, or whose handler runs, counts against `max_buffered_bytes` as much
/// as a body that is being read.
#[tokio::test(start_paused = true)]
async fn requests_that_run_and_wait_keep_their_part_of_max_buffered_bytes() {
    let (runs, gate) = (Runs::default(), Gate::closed());
    let wait = Duration::from_secs(60);
    let layer = builder(&MemoryStore::new())
        .max_buffered_bytes(20)
        .max_buffered_bytes_per_caller(20)
        .defaults(|options| options.max_request_body(10))
        .defaults(move |options| options.on_in_flight(OnInFlight::Wait(wait)))
        .build()
        .unwrap();
    let app = layer.layer(held_back(&runs, &gate));
    let ask = |key: &'static str, body: &'static str| {
        let app = app.clone();
        tokio::spawn(async move { send(&app, post(key, body)).await })
    };
    let first = ask("k", "01234567");
    gate.begun().await;
    let waiter = ask("k", "01234567");
    quiet().await;
    let refused = ask("other", "01234").await.unwrap();
    assert_eq!(refused.refusal(), "503 over-capacity");
    gate.open();
    let (first, waiter) = (first.await.unwrap(), waiter.await.unwrap());
    waiter.assert_replays(&first);
    let other = ask("other", "0123");
    gate.open();
    assert_eq!(other.await.unwrap().status, 201);
}

/// The share of a caller shrinks as others send bodies. A body that has its room is read to its end
/// all the same, and a request without a body needs none.
#[tokio::test(start_paused = true)]
async fn a_caller_whose_share_has_shrunk_keeps_its_room_and_needs_none_for_an_empty_body() {
    let layer = builder(&MemoryStore::new())
        .max_buffered_bytes(100)
        .defaults(|options| options.max_request_body(60))
        .build()
        .unwrap();
    let app = layer.layer(counting::<Script>(&Runs::default()));
    let upload = |seconds, length: usize| {
        Script::frames([vec![b'x'; 1]])
            .then(Step::Wait(Duration::from_secs(seconds)))
            .then(Step::Data(vec![b'x'; length - 1].into()))
            .announcing(length as u64)
    };
    let ask = |caller: &str, request| {
        let (app, request) = (app.clone(), by(caller, request));
        tokio::spawn(async move { send(&app, request).await })
    };
    let early = ask("alice", post_with("early", upload(5, 60)));
    quiet().await;
    let other = ask("bob", post_with("other", upload(10, 35)));
    quiet().await;
    let refused = ask("alice", post_with("more", upload(1, 1))).await.unwrap();
    assert_eq!(refused.refusal(), "503 over-capacity");
    assert!(refused.text().contains("share"), "{}", refused.text());
    let empty = ask("alice", post_with("empty", Script::new([])));
    assert_eq!(empty.await.unwrap().status, 201);
    assert_eq!(early.await.unwrap().status, 201);
    assert_eq!(other.await.unwrap().status, 201);
}

/// A handler that is cancelled may have given its context to a task that lives on.
#[tokio::test(start_paused = true)]
async fn an_operation_that_is_cancelled_gives_the_room_of_its_body_back() {
    let kept = Arc::<Mutex<Vec<IdempotencyContext>>>::default();
    let layer = builder(&MemoryStore::new())
        .max_buffered_bytes(10)
        .max_buffered_bytes_per_caller(10)
        .defaults(|options| options.max_request_body(10))
        .defaults(|options| options.on_disconnect(OnDisconnect::Cancel))
        .build()
        .unwrap();
    let keeps = Arc::clone(&kept);
    let app = layer.layer(service_fn(move |request: Request<Full<Bytes>>| {
        let context = request.extensions().get::<IdempotencyContext>().cloned();
        let mut kept = keeps.lock().unwrap();
        kept.push(context.unwrap());
        let is_first = kept.len() == 1;
        async move {
            if is_first {
                pending::<()>().await;
            }
            Ok::<_, Infallible>(created("done"))
        }
    }));
    let leaves = timeout(
        Duration::from_secs(1),
        send(&app, post("first", "0123456789")),
    )
    .await;
    assert!(leaves.is_err());
    assert_eq!(send(&app, post("next", "0123456789")).await.status, 201);
    assert_eq!(kept.lock().unwrap().len(), 2);
}
