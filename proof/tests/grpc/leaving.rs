//! Clients leave before the response, or because their deadline passes.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use http_body_util::BodyExt;
use tokio::sync::Semaphore;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::{Code, Status};
use tower_idempotency::MemoryStore;

use crate::client::{Client, is_replay, order, soon};
use crate::shop::{Note, Shop, serve_router, serve_with};
use crate::support::{Gate, Runs, protected};

/// `Done` tells when the server has finished a call: the server has sent the
/// response, or has noticed that the client is gone.
#[derive(Clone)]
struct Done(Arc<Semaphore>);

impl Done {
    fn new() -> Self {
        Self(Arc::new(Semaphore::new(0)))
    }

    async fn with_one_more(&self) {
        soon(self.0.acquire()).await.unwrap().forget();
    }

    fn in_the_end(&self) -> InTheEnd {
        InTheEnd(self.clone())
    }
}

struct InTheEnd(Done);

impl Drop for InTheEnd {
    fn drop(&mut self) {
        self.0.0.add_permits(1);
    }
}

/// Starts a server that tells when it has finished a call.
async fn watched(done: &Done, shop: Shop) -> Client {
    let done = done.clone();
    let watch = from_fn(move |request: Request, next: Next| {
        let end = done.in_the_end();
        async move {
            next.run(request).await.map(|body| {
                Body::new(body.map_frame(move |frame| {
                    let _until = &end;
                    frame
                }))
            })
        }
    });
    let layer = protected(&MemoryStore::new());
    let routes = Routes::new(shop).into_axum_router();
    serve_router(routes.layer(layer).layer(watch)).await
}

#[tokio::test]
async fn a_unary_call_that_its_client_drops_is_answered_by_a_retry() {
    let (runs, gate, done) = (Runs::default(), Gate::closed(), Done::new());
    let client = watched(&done, Shop::new(&runs).behind(&gate)).await;
    let call = tokio::spawn({
        let client = client.clone();
        async move { client.pay(order("k")).await }
    });
    gate.begun().await;
    call.abort();
    done.with_one_more().await;
    let early = client.pay(order("k")).await.unwrap_err();
    assert_eq!(early.code(), Code::Aborted, "{early:?}");
    gate.open();
    let retry = client.pay_in_the_end(|| order("k")).await.unwrap();
    assert_eq!(retry.get_ref(), &Note::new("run 1"));
    assert!(is_replay(retry.metadata()));
    assert_eq!(runs.count(), 1);
}

#[tokio::test]
async fn a_streamed_answer_that_its_client_drops_is_whole_for_a_retry() {
    let (runs, gate, done) = (Runs::default(), Gate::closed(), Done::new());
    let shop = Shop::answering(&runs, |_| {
        Ok(["one", "two", "three"]
            .map(|text| Ok(Note::new(text)))
            .into())
    });
    let client = watched(&done, shop.behind(&gate)).await;
    let call = tokio::spawn({
        let client = client.clone();
        async move { client.list(order("k")).await }
    });
    // The first message has been sent by now.
    gate.begun().await;
    call.abort();
    done.with_one_more().await;
    gate.open();
    let retry = loop {
        let listed = client.list(order("k")).await;
        if listed.status.code() != Code::Aborted {
            break listed;
        }
    };
    assert_eq!(retry.messages, ["one", "two", "three"].map(Note::new));
    assert_eq!(retry.status.metadata().get("grpc-status").unwrap(), "0");
    assert!(is_replay(&retry.metadata.unwrap()));
    assert_eq!(runs.count(), 1);
}

/// Holds the handler back, and lets time pass until the call has failed.
async fn past_its_deadline(client: &Client, gate: &Gate, asked: tonic::Request<Note>) -> Status {
    let call = tokio::spawn({
        let client = client.clone();
        async move { client.pay(asked).await }
    });
    gate.begun().await;
    // No other task can run, so the paused clock moves to the next timer.
    tokio::time::pause();
    let status = call.await.unwrap().unwrap_err();
    tokio::time::resume();
    status
}

async fn an_operation_outlives_a_deadline(server: Server, asked: tonic::Request<Note>) {
    let (runs, gate) = (Runs::default(), Gate::closed());
    let shop = Shop::new(&runs).behind(&gate);
    let client = serve_with(server, protected(&MemoryStore::new()), shop).await;
    let status = past_its_deadline(&client, &gate, asked).await;
    // tonic reports an expired deadline with this code.
    assert_eq!(status.code(), Code::Cancelled, "{status:?}");
    assert_eq!(status.message(), "Timeout expired");
    let early = client.pay(order("k")).await.unwrap_err();
    assert_eq!(early.code(), Code::Aborted, "{early:?}");
    gate.open();
    let retry = client.pay_in_the_end(|| order("k")).await.unwrap();
    assert_eq!(retry.get_ref(), &Note::new("run 1"));
    assert!(is_replay(retry.metadata()));
    assert_eq!(runs.count(), 1);
}

#[tokio::test]
async fn an_operation_outlives_its_clients_deadline() {
    let mut asked = order("k");
    asked.set_timeout(Duration::from_secs(5));
    an_operation_outlives_a_deadline(Server::builder(), asked).await;
}

#[tokio::test]
async fn an_operation_outlives_its_servers_deadline() {
    let server = Server::builder().timeout(Duration::from_secs(5));
    an_operation_outlives_a_deadline(server, order("k")).await;
}
