//! A retry gets what gRPC considers to be the response: messages, metadata and
//! status.

use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::service::{InterceptorLayer, Routes};
use tonic::{Code, Status};
use tower_idempotency::{IdempotencyLayer, MemoryStore, scope};

use crate::client::{Client, Listed, ask, is_replay, order};
use crate::shop::{Note, ResponseHead, Shop, Stack, serve, serve_router};
use crate::support::{Runs, protected};

#[derive(Clone)]
struct Account(String);

fn layer() -> IdempotencyLayer {
    protected(&MemoryStore::new())
}

async fn answering(
    runs: &Runs,
    script: impl Fn(usize) -> ResponseHead + Send + Sync + 'static,
) -> Client {
    serve(layer(), Shop::answering(runs, script)).await
}

fn notes<const N: usize>(texts: [&str; N]) -> Vec<Result<Note, Status>> {
    texts.map(|text| Ok(Note::new(text))).into()
}

fn refused(code: Code, run: usize) -> Status {
    let metadata = MetadataMap::from_headers(http::HeaderMap::from_iter([(
        http::HeaderName::from_static("x-run"),
        run.into(),
    )]));
    Status::with_details_and_metadata(code, "für Elise", vec![1, 2, 255].into(), metadata)
}

/// Checks that `retry`, without its mark as a replay, has the metadata of `first`.
#[track_caller]
fn assert_replays_metadata(retry: &MetadataMap, first: &MetadataMap) {
    assert!(!is_replay(first), "{first:?}");
    assert!(is_replay(retry), "{retry:?}");
    let recorded = |metadata: &MetadataMap| {
        let mut headers = metadata.clone().into_headers();
        for own in ["idempotency-replayed", "date", "content-length"] {
            headers.remove(own);
        }
        headers
    };
    assert_eq!(recorded(retry), recorded(first));
}

#[tokio::test]
async fn a_unary_call_replays_its_message_and_its_metadata_in_both_stacks() {
    for stack in Stack::ALL {
        let runs = Runs::default();
        let client = stack.serve(layer(), Shop::new(&runs)).await;
        let first = client.pay(order("k")).await.unwrap();
        assert_eq!(first.metadata().get("x-run").unwrap(), "1", "{stack:?}");
        let retry = client.pay(order("k")).await.unwrap();
        assert_eq!(retry.get_ref(), &Note::new("run 1"), "{stack:?}");
        assert_eq!(retry.get_ref(), first.get_ref());
        assert_replays_metadata(retry.metadata(), first.metadata());
        assert_eq!(retry.metadata().get_all("x-note").iter().count(), 2);
        let trace = retry.metadata().get_bin("x-trace-bin").unwrap();
        assert_eq!(trace.to_bytes().unwrap().as_ref(), [0, 255, 7]);
        // The status of a unary call is in its trailers, and also in the metadata.
        assert_eq!(retry.metadata().get("grpc-status").unwrap(), "0");
        assert_eq!(runs.count(), 1, "{stack:?}");
        let other = client.pay(order("other")).await.unwrap();
        assert_eq!(other.get_ref(), &Note::new("run 2"), "{stack:?}");
        assert!(!is_replay(other.metadata()));
    }
}

#[tokio::test]
async fn a_call_without_a_key_executes_each_time() {
    let runs = Runs::default();
    let client = serve(layer(), Shop::new(&runs)).await;
    for run in 1..=2 {
        let mut asked = order("k");
        asked.metadata_mut().remove("idempotency-key");
        let paid = client.pay(asked).await.unwrap();
        assert_eq!(paid.get_ref(), &Note::new(format!("run {run}")));
        assert!(!is_replay(paid.metadata()));
    }
}

#[tokio::test]
async fn a_streamed_answer_replays_with_all_its_messages_and_its_trailers_in_both_stacks() {
    for stack in Stack::ALL {
        let runs = Runs::default();
        let shop = Shop::answering(&runs, |_| Ok(notes(["one", "", "three"])));
        let client = stack.serve(layer(), shop).await;
        let first = client.list(order("k")).await;
        let retry = client.list(order("k")).await;
        for listed in [&first, &retry] {
            assert_eq!(listed.messages, ["one", "", "three"].map(Note::new));
            assert_eq!(listed.status.code(), Code::Ok);
            assert_eq!(listed.status.metadata().get("grpc-status").unwrap(), "0");
        }
        assert_replays_metadata(&retry.metadata.unwrap(), &first.metadata.unwrap());
        assert_eq!(runs.count(), 1, "{stack:?}");
    }
}

#[tokio::test]
async fn a_streamed_answer_without_a_message_replays() {
    let runs = Runs::default();
    let client = answering(&runs, |_| Ok(Vec::new())).await;
    for _ in 0..2 {
        let Listed {
            metadata, status, ..
        } = client.list(order("k")).await;
        assert_eq!(metadata.unwrap().get("x-run").unwrap(), "1");
        assert_eq!(status.metadata().get("grpc-status").unwrap(), "0");
    }
    assert_eq!(runs.count(), 1);
}

/// There is no message, so the status is in the headers.
#[tokio::test]
async fn a_settled_status_in_headers_alone_replays_with_message_details_and_metadata() {
    let runs = Runs::default();
    let client = answering(&runs, |run| Err(refused(Code::NotFound, run))).await;
    let first = client.pay(order("k")).await.unwrap_err();
    let retry = client.pay(order("k")).await.unwrap_err();
    for status in [&first, &retry] {
        assert_eq!(status.code(), Code::NotFound);
        assert_eq!(status.message(), "für Elise");
        assert_eq!(status.details(), [1, 2, 255]);
        assert_eq!(status.metadata().get("x-run").unwrap(), "1");
    }
    assert_replays_metadata(retry.metadata(), first.metadata());
    let streamed = client.list(order("streamed")).await;
    assert_eq!(streamed.status.metadata().get("x-run").unwrap(), "2");
    let retry = client.list(order("streamed")).await;
    assert!(retry.metadata.is_none(), "in headers alone, as it was");
    assert_replays_metadata(retry.status.metadata(), streamed.status.metadata());
    assert_eq!(runs.count(), 2);
}

#[tokio::test]
async fn a_settled_status_after_messages_replays_with_them() {
    let runs = Runs::default();
    let client = answering(&runs, |run| {
        let mut answer = notes(["one", "two"]);
        answer.push(Err(refused(Code::NotFound, run)));
        Ok(answer)
    })
    .await;
    let first = client.list(order("k")).await;
    let retry = client.list(order("k")).await;
    for listed in [&first, &retry] {
        assert_eq!(listed.messages, ["one", "two"].map(Note::new));
        assert_eq!(listed.status.code(), Code::NotFound);
        assert_eq!(listed.status.message(), "für Elise");
        assert_eq!(listed.status.details(), [1, 2, 255]);
        assert_eq!(listed.status.metadata().get("x-run").unwrap(), "1");
    }
    assert_replays_metadata(&retry.metadata.unwrap(), &first.metadata.unwrap());
    assert_eq!(runs.count(), 1);
}

/// The second response is settled and therefore recorded.
#[tokio::test]
async fn after_a_transient_status_in_headers_alone_a_retry_executes() {
    let runs = Runs::default();
    let client = answering(&runs, |run| match run {
        1 => Err(refused(Code::Unavailable, run)),
        _ => Ok(notes(["paid"])),
    })
    .await;
    let first = client.pay(order("k")).await.unwrap_err();
    assert_eq!(first.code(), Code::Unavailable);
    assert!(!is_replay(first.metadata()));
    let second = client.pay(order("k")).await.unwrap();
    assert_eq!(second.get_ref(), &Note::new("paid"));
    assert!(!is_replay(second.metadata()));
    assert!(is_replay(client.pay(order("k")).await.unwrap().metadata()));
    assert_eq!(runs.count(), 2);
}

#[tokio::test]
async fn after_a_transient_status_behind_messages_a_retry_executes() {
    let runs = Runs::default();
    let client = answering(&runs, |run| {
        let mut answer = notes(["one"]);
        if run == 1 {
            answer.push(Err(refused(Code::Unavailable, run)));
        }
        Ok(answer)
    })
    .await;
    let first = client.list(order("k")).await;
    assert_eq!(first.messages, [Note::new("one")]);
    assert_eq!(first.status.code(), Code::Unavailable);
    let second = client.list(order("k")).await;
    assert_eq!(second.status.code(), Code::Ok);
    assert!(!is_replay(&second.metadata.unwrap()));
    let third = client.list(order("k")).await;
    assert!(is_replay(&third.metadata.unwrap()));
    assert_eq!(runs.count(), 2);
}

/// An interceptor of a single service (`with_interceptor`) would run inside the
/// layer, which is too late.
#[tokio::test]
async fn an_interceptor_further_out_says_whose_a_key_is() {
    let authenticate = |mut call: tonic::Request<()>| {
        let Some(token) = call.metadata().get("authorization") else {
            return Err(Status::unauthenticated("who is it?"));
        };
        let account = Account(token.to_str().unwrap().to_owned());
        call.extensions_mut().insert(account);
        Ok(call)
    };
    let caller = scope::extension("account", |account: &Account| account.0.clone());
    let runs = Runs::default();
    let app = Routes::new(Shop::new(&runs))
        .into_axum_router()
        .layer(IdempotencyLayer::new(MemoryStore::new(), caller).unwrap())
        .layer(InterceptorLayer::new(authenticate));
    let client = serve_router(app).await;
    let refused = client.pay(order("k")).await.unwrap_err();
    assert_eq!(refused.message(), "who is it?");
    for (token, run, replay) in [
        ("alice", "run 1", false),
        ("bob", "run 2", false),
        ("alice", "run 1", true),
        ("bob", "run 2", true),
    ] {
        let mut asked = order("k");
        let token = MetadataValue::from_static(token);
        asked.metadata_mut().insert("authorization", token);
        let paid = client.pay(asked).await.unwrap();
        assert_eq!(paid.get_ref(), &Note::new(run));
        assert_eq!(is_replay(paid.metadata()), replay);
    }
    assert_eq!(runs.count(), 2);
}

/// Only the message belongs to the fingerprint; metadata does not.
#[tokio::test]
async fn a_retry_may_have_another_deadline_and_other_metadata() {
    let runs = Runs::default();
    let client = serve(layer(), Shop::new(&runs)).await;
    client.pay(order("k")).await.unwrap();
    let mut retry = ask("\"k\"", Note::new("one book"));
    retry.set_timeout(std::time::Duration::from_secs(19));
    let attempt = MetadataValue::from_static("1");
    retry
        .metadata_mut()
        .insert("grpc-previous-rpc-attempts", attempt);
    let retry = client.pay(retry).await.unwrap();
    assert!(is_replay(retry.metadata()));
    assert_eq!(runs.count(), 1);
}
