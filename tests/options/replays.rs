//! The options `replayed_header`, `created_at_header`, `expires_at_header`,
//! `echo_key` and `replay_status`.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::header::CONTENT_TYPE;
use http::{Response, StatusCode};
use jiff::Timestamp;
use tower::Layer;
use tower_idempotency::options::{KeySyntax, OnOversize};
use tower_idempotency::recording::Recording;
use tower_idempotency::store::StoreErrorKind;
use tower_idempotency::store::{
    Claim, Claimed, Lease, Outcome, Ownership, Record, RecordState, Release, Store, StoreError,
};
use tower_idempotency::store::{Completion, FencingToken, Nonce, RecordId};
use tower_idempotency::{MemoryStore, RouteOptions};

use crate::support::body::{Script, Step};
use crate::support::store::{Fault, Op, Steered};
use crate::support::{
    Runs, Seen, answer, counting, created, handler, post, send, with, with_policy, without,
};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

async fn first_and_retry(change: impl FnOnce(RouteOptions) -> RouteOptions) -> (Seen, Seen) {
    let app = with_policy(&MemoryStore::new(), change).layer(counting(&Runs::default()));
    let first = send(&app, post("k", "{}")).await;
    let retry = send(&app, post("k", "{}")).await;
    assert_eq!((first.text(), retry.text()), ("run 1", "run 1"));
    (first, retry)
}

#[tokio::test]
async fn replays_are_marked_with_a_header_of_any_name_or_none() {
    let (first, retry) = first_and_retry(|options| options).await;
    assert_eq!(first.header("idempotency-replayed"), None);
    assert_eq!(retry.header("idempotency-replayed"), Some("true"));

    let (first, retry) = first_and_retry(|options| options.replayed_header("X-Replayed")).await;
    assert_eq!(first.header("x-replayed"), None);
    assert_eq!(retry.header("x-replayed"), Some("true"));
    assert_eq!(retry.header("idempotency-replayed"), None);

    let (_, retry) = first_and_retry(|options| options.replayed_header(None)).await;
    assert!(retry.headers.is_empty(), "{:?}", retry.headers);
}

/// A service behind this layer may have an idempotency layer of its own, whose
/// replays carry the same header.
#[tokio::test]
async fn a_mark_that_the_handler_sends_does_not_stand_twice() {
    let app = with_policy(&MemoryStore::new(), |options| options).layer(handler(
        &Runs::default(),
        |_, _| {
            let mut response = created("done");
            let headers = response.headers_mut();
            headers.insert("idempotency-replayed", "false".parse().unwrap());
            response
        },
    ));
    let first = send(&app, post("k", "{}")).await;
    assert_eq!(first.header("idempotency-replayed"), Some("false"));
    let retry = send(&app, post("k", "{}")).await;
    assert_eq!(retry.header("idempotency-replayed"), Some("true"));
}

fn time(seen: &Seen, name: &str) -> Timestamp {
    let text = seen.header(name).unwrap_or_else(|| panic!("no {name}"));
    assert!(text.ends_with('Z') && !text.contains('.'), "{text}");
    text.parse().unwrap()
}

fn with_times(options: RouteOptions) -> RouteOptions {
    options
        .created_at_header("X-Created-At")
        .expires_at_header("X-Expires-At")
}

#[tokio::test]
async fn times_are_off_unless_asked_for() {
    let (first, retry) = first_and_retry(|options| options).await;
    assert!(first.headers.is_empty(), "{:?}", first.headers);
    assert_eq!(retry.headers.len(), 1);
}

#[tokio::test]
async fn times_are_the_same_on_the_first_answer_and_on_replays() {
    let before = Timestamp::now();
    let (first, retry) = first_and_retry(|options| with_times(options).retention(DAY * 7)).await;
    for name in ["x-created-at", "x-expires-at"] {
        assert_eq!(time(&first, name), time(&retry, name));
    }
    let created = time(&first, "x-created-at");
    let second = jiff::SignedDuration::from_secs(1);
    assert!(before - second <= created && created <= Timestamp::now() + second);
    let kept = time(&first, "x-expires-at").duration_since(created);
    assert!((kept - jiff::SignedDuration::from_hours(7 * 24)).abs() <= second);
}

/// The first response once said until when it was kept, which it never was.
#[tokio::test]
async fn a_response_for_which_the_memory_store_has_no_room_names_no_time_until_which_it_is_kept() {
    let store = MemoryStore::builder().max_bytes(4000).build().unwrap();
    let layer = with_policy(&store, with_times);
    let app = layer.layer(handler(&Runs::default(), |_, _| {
        Response::new(Script::frames([vec![b'x'; 5000]]))
    }));
    let first = send(&app, post("k", "{}")).await;
    assert_eq!((first.status, first.body.len()), (200, 5000));
    assert!(first.header("x-created-at").is_some());
    assert_eq!(first.header("x-expires-at"), None);
    let retry = send(&app, post("k", "{}")).await;
    assert_eq!(retry.refusal(), "409 response-unavailable");
    assert_eq!((store.stats().not_kept, store.stats().sealed), (1, 1));
}

/// A store that finds a completion from long ago for every claim.
#[derive(Clone)]
struct LongAgo(Completion);

impl Store for LongAgo {
    async fn claim(&self, claim: &Claim) -> Result<Claimed, StoreError> {
        let state = RecordState::Completed {
            fingerprint: claim.fingerprint,
            completion: Arc::new(self.0.clone()),
        };
        let token = FencingToken::new(1).unwrap();
        Ok(Claimed::Found(Record::new(token, 1, state)))
    }
    async fn renew(&self, _: &Lease) -> Result<Ownership, StoreError> {
        Ok(Ownership::Lost)
    }
    async fn complete(&self, _: &Lease, _: &Outcome) -> Result<Ownership, StoreError> {
        Ok(Ownership::Lost)
    }
    async fn release(&self, _: &RecordId, _: &Nonce, _: Release) -> Result<Ownership, StoreError> {
        Ok(Ownership::Lost)
    }
}

#[tokio::test]
async fn times_of_a_replay_are_those_of_its_record() {
    let epoch = SystemTime::UNIX_EPOCH;
    let mut completion = Completion::new(StatusCode::OK, "old", epoch);
    completion.completed_at = epoch + Duration::from_secs(60);
    completion.retention = Duration::from_secs(3600);
    let app = with_policy(&LongAgo(completion), |options| {
        with_times(options).retention(DAY)
    })
    .layer(counting(&Runs::default()));
    let replay = send(&app, post("k", "{}")).await;
    assert_eq!(replay.text(), "old");
    assert_eq!(
        replay.header("x-created-at"),
        Some("1970-01-01T00:00:00Z"),
        "when the execution began"
    );
    assert_eq!(
        replay.header("x-expires-at"),
        Some("1970-01-01T01:01:00Z"),
        "a retention after the completion"
    );
}

#[tokio::test]
async fn an_answer_that_is_not_kept_does_not_say_until_when() {
    type Change = fn(RouteOptions) -> RouteOptions;
    let rows: [(Change, StatusCode, Option<Recording>); 3] = [
        (with_times, StatusCode::SERVICE_UNAVAILABLE, None),
        (with_times, StatusCode::CREATED, Some(Recording::Skip)),
        (
            |options| {
                with_times(options)
                    .max_recorded_body(3)
                    .oversize(OnOversize::Rerun)
            },
            StatusCode::CREATED,
            None,
        ),
    ];
    for (change, status, word) in rows {
        let app = with_policy(&MemoryStore::new(), change).layer(handler(
            &Runs::default(),
            move |run, _| {
                let mut response = answer(status, format!("run {run}"));
                if let Some(word) = word {
                    response.extensions_mut().insert(word);
                }
                response
            },
        ));
        let first = send(&app, post("k", "{}")).await;
        assert!(first.header("x-created-at").is_some());
        tokio::task::yield_now().await;
        send(&app, post("k", "{}")).await.assert_fresh("run 2");
        assert_eq!(first.header("x-expires-at"), None, "{status} {word:?}");
    }
}

/// The record may be a seal in the end, or its body cut: when the head leaves, nobody
/// knows.
#[tokio::test]
async fn an_answer_that_is_sent_while_it_is_read_does_not_say_until_when() {
    let app =
        with_policy(&MemoryStore::new(), with_times).layer(handler(&Runs::default(), |_, _| {
            let steps = [
                Step::Data("in two ".into()),
                Step::Yield,
                Step::Data("parts".into()),
            ];
            Response::new(Script::new(steps))
        }));
    let first = send(&app, post("k", "{}")).await;
    let replay = send(&app, post("k", "{}")).await;
    replay.assert_replays(&first);
    assert_eq!(time(&first, "x-created-at"), time(&replay, "x-created-at"));
    assert_eq!(first.header("x-expires-at"), None);
    assert!(time(&replay, "x-expires-at") > Timestamp::now());
}

/// A service behind the layer may set the same headers.
#[tokio::test]
async fn times_that_the_handler_sends_are_not_passed_on() {
    for status in [StatusCode::CREATED, StatusCode::SERVICE_UNAVAILABLE] {
        let app = with_policy(&MemoryStore::new(), with_times).layer(handler(
            &Runs::default(),
            move |_, _| {
                let mut response = answer(status, "done");
                for name in ["x-created-at", "x-expires-at"] {
                    let old = "1970-01-01T00:00:00Z".parse().unwrap();
                    response.headers_mut().insert(name, old);
                }
                response
            },
        ));
        for _ in 0..2 {
            let seen = send(&app, post("k", "{}")).await;
            let now = Timestamp::now();
            let minute = jiff::SignedDuration::from_mins(1);
            assert!(time(&seen, "x-created-at") > now - minute);
            match status {
                StatusCode::CREATED => assert!(time(&seen, "x-expires-at") > now),
                _ => assert_eq!(seen.header("x-expires-at"), None),
            }
        }
    }
}

/// The end of the retention is a year that RFC 3339 can't express, or a time
/// that no clock can represent.
#[tokio::test]
async fn an_end_that_cannot_be_written_down_is_said_neither_first_nor_later() {
    for retention in [DAY * 365 * 9000, Duration::MAX] {
        let (first, retry) =
            first_and_retry(|options| with_times(options).retention(retention)).await;
        assert_eq!(first.header("x-expires-at"), None);
        assert_eq!(retry.header("x-expires-at"), None, "{retention:?}");
    }
}

#[tokio::test]
async fn the_key_is_echoed_as_it_was_sent() {
    let layer = with_policy(&MemoryStore::new(), |options| {
        options
            .echo_key(true)
            .headers(["idempotency-key", "x-request-key"])
    });
    let app = layer.layer(counting(&Runs::default()));
    let first = send(&app, post("k", "{}")).await;
    assert_eq!(first.header("idempotency-key"), Some("k"));
    let quoted = send(&app, post("\"k\"", "{}")).await;
    quoted.assert_replays(&first);
    assert_eq!(quoted.header("idempotency-key"), Some("\"k\""));
    let other_header = with(
        without(post("", "{}"), "idempotency-key"),
        "x-request-key",
        "k",
    );
    let other = send(&app, other_header).await;
    other.assert_replays(&first);
    assert_eq!(other.header("x-request-key"), Some("k"));
    assert_eq!(other.header("idempotency-key"), None, "it is not recorded");

    let layer = with_policy(&MemoryStore::new(), |options| {
        options.key_syntax(KeySyntax::Raw)
    });
    let app = layer.layer(counting(&Runs::default()));
    let silent = send(&app, post("k", "{}")).await;
    assert_eq!(silent.header("idempotency-key"), None, "off by default");
}

#[tokio::test]
async fn statuses_of_replays_can_be_mapped() {
    let app = with_policy(&MemoryStore::new(), |options| {
        options
            .replay_status(StatusCode::CREATED, StatusCode::OK)
            .replay_status(StatusCode::NOT_FOUND, StatusCode::GONE)
    })
    .layer(handler(&Runs::default(), |_, request| {
        let status = request.headers()[CONTENT_TYPE].to_str().unwrap();
        answer(status.parse().unwrap(), "answer")
    }));
    for (first, replayed) in [(201, 200), (404, 410), (200, 200), (202, 202)] {
        let ask = || {
            with(
                post(&format!("{first}"), "{}"),
                "content-type",
                format!("{first}"),
            )
        };
        assert_eq!(send(&app, ask()).await.status, first);
        let replay = send(&app, ask()).await;
        assert_eq!((replay.status, replay.is_replay()), (replayed, true));
    }
}

/// A response that may not be recorded in the end does not say how long it is
/// kept.
#[tokio::test(start_paused = true)]
async fn an_answer_that_is_not_recorded_in_time_does_not_say_how_long_it_is_kept() {
    let store = Steered::new();
    let app = with_policy(&store, with_times).layer(counting(&Runs::default()));
    store.make(Op::Complete, Fault::Fails(StoreErrorKind::NotSent));
    let first = send(&app, post("k", "{}")).await;
    assert_eq!(first.lacks(), Some("unrecorded"));
    assert!(first.header("x-created-at").is_some());
    assert_eq!(first.header("x-expires-at"), None);
}
