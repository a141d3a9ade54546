//! Some calls stream their request; the layer must ignore the routes of these
//! calls.

use std::time::Duration;

use tokio::sync::mpsc::{self, Sender};
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};
use tower_idempotency::options::Require;
use tower_idempotency::{IdempotencyLayer, MemoryStore, RouteOptions};

use crate::client::{ask, is_replay, next, soon};
use crate::shop::{Note, Shop, Stack, serve};
use crate::support::{Runs, builder, with_policy};

fn ignoring_streams() -> IdempotencyLayer {
    let ignored = |options: RouteOptions| options.require(Require::Ignored);
    builder(&MemoryStore::new())
        .defaults(|options| options.require(Require::Required))
        .route("/shop.Shop/Upload", ignored)
        .route("/shop.Shop/Chat", ignored)
        .build()
        .unwrap()
}

/// Returns a stream that the test feeds and ends.
fn fed() -> (Sender<Note>, impl Stream<Item = Note> + Send + 'static) {
    let (feed, notes) = mpsc::channel(1);
    (feed, ReceiverStream::new(notes))
}

async fn feed(to: &Sender<Note>, text: &str) {
    soon(to.send(Note::new(text))).await.unwrap();
}

fn code_of(refused: &Status) -> (Code, &str) {
    let code = refused.metadata().get("idempotency-code").unwrap();
    (refused.code(), code.to_str().unwrap())
}

#[tokio::test]
async fn an_ignored_client_stream_passes_through_in_both_stacks() {
    for stack in Stack::ALL {
        let runs = Runs::default();
        let client = stack.serve(ignoring_streams(), Shop::new(&runs)).await;
        for run in 1..=2 {
            let notes = tokio_stream::iter(["a", "b", "c"].map(Note::new));
            let answer = client.upload(ask("k", notes)).await.unwrap();
            assert_eq!(
                answer.get_ref().text,
                format!("run {run}: a b c"),
                "{stack:?}"
            );
            assert!(!is_replay(answer.metadata()));
        }
    }
}

/// No message waits for the next message, in either direction.
#[tokio::test]
async fn an_ignored_call_of_two_streams_is_a_conversation_in_both_stacks() {
    for stack in Stack::ALL {
        let client = stack
            .serve(ignoring_streams(), Shop::new(&Runs::default()))
            .await;
        let (say, notes) = fed();
        let mut heard = client.chat(ask("k", notes)).await.unwrap();
        for text in ["first", "second"] {
            feed(&say, text).await;
            assert_eq!(
                next(&mut heard).await.unwrap().unwrap().text,
                text,
                "{stack:?}"
            );
        }
        drop(say);
        assert!(next(&mut heard).await.is_none());
    }
}

#[tokio::test]
async fn a_forgotten_stream_that_stays_open_exceeds_its_deadline_and_runs_nothing() {
    let runs = Runs::default();
    let layer = with_policy(&MemoryStore::new(), |p| {
        p.body_timeout(Duration::from_millis(20))
    });
    let client = serve(layer, Shop::new(&runs)).await;
    let (say, notes) = fed();
    feed(&say, "first").await;
    let refused = client.upload(ask("k", notes)).await.unwrap_err();
    assert_eq!(code_of(&refused), (Code::DeadlineExceeded, "body-timeout"));
    let (say, notes) = fed();
    feed(&say, "first").await;
    let refused = client.chat(ask("k", notes)).await.err().unwrap();
    assert_eq!(code_of(&refused), (Code::DeadlineExceeded, "body-timeout"));
    assert_eq!(runs.count(), 0);
}

#[tokio::test]
async fn a_forgotten_stream_that_is_too_long_is_out_of_range_and_runs_nothing() {
    let runs = Runs::default();
    let layer = with_policy(&MemoryStore::new(), |p| p.max_request_body(1000));
    let client = serve(layer, Shop::new(&runs)).await;
    let (say, notes) = fed();
    let endless =
        tokio::spawn(async move { while say.send(Note::new("x".repeat(99))).await.is_ok() {} });
    let refused = client.upload(ask("k", notes)).await.unwrap_err();
    assert_eq!(code_of(&refused), (Code::OutOfRange, "body-too-large"));
    assert_eq!(runs.count(), 0);
    // The client stops sending once the call is rejected.
    soon(endless).await.unwrap();
}

#[tokio::test]
async fn a_short_stream_that_ends_is_an_operation_like_any_other() {
    let runs = Runs::default();
    let client = serve(with_policy(&MemoryStore::new(), |p| p), Shop::new(&runs)).await;
    let notes = || tokio_stream::iter(["a", "b"].map(Note::new));
    let first = client.upload(ask("k", notes())).await.unwrap();
    assert_eq!(first.get_ref().text, "run 1: a b");
    let retry = client.upload(ask("k", notes())).await.unwrap();
    assert_eq!(retry.get_ref(), first.get_ref());
    assert!(is_replay(retry.metadata()));
    assert_eq!(runs.count(), 1);
}
