//! G3 for responses without a body: a server drops the body without reading it.

use std::time::Duration;

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio::time::{Instant, sleep};
use tower::{Layer, ServiceExt};
use tower_idempotency::RequestBody;
use tower_idempotency::options::OnDisconnect;

use crate::support::body::{Script, Step};
use crate::support::store::{Fault, Op, Steered};
use crate::support::{Runs, handler, in_time, post, protected, with_policy};

const SECOND: Duration = Duration::from_secs(1);

/// A response whose body is empty, which is known only after a second.
fn answer(status: StatusCode) -> Response<Script> {
    let mut response = Response::new(Script::new([Step::Wait(SECOND)]));
    *response.status_mut() = status;
    response
}

/// In an earlier version the head left before the record was stored, like the
/// head of a stream.
#[tokio::test(start_paused = true)]
async fn an_answer_without_a_body_is_recorded_before_its_head_leaves() {
    for status in [StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED] {
        let (store, runs) = (Steered::new(), Runs::default());
        store.make(Op::Complete, Fault::Late(SECOND));
        let app = protected(&store).layer(handler(&runs, move |_, _| answer(status)));
        let asked = Instant::now();
        let first = app.clone().oneshot(post("k", "{}")).await.unwrap();
        assert_eq!(asked.elapsed(), SECOND * 2);
        assert_eq!((first.status(), store.stats().completed), (status, 1));
        let retry = app.clone().oneshot(post("k", "{}")).await.unwrap();
        assert_eq!(retry.status(), status);
        assert_eq!(retry.headers()["idempotency-replayed"], "true");
        assert_eq!(runs.count(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_without_a_body_that_could_not_be_recorded_says_so_in_its_head() {
    let store = Steered::new();
    store.make(Op::Complete, Fault::Stalls);
    let app = protected(&store).layer(handler(&Runs::default(), |_, _| {
        answer(StatusCode::NO_CONTENT)
    }));
    let first = app.oneshot(post("k", "{}")).await.unwrap();
    assert_eq!(first.headers()["idempotency-status"], "unrecorded");
}

const ASK: &[u8] = b"POST /payments HTTP/1.1\r\nhost: a\r\nidempotency-key: k\r\n\
                     x-api-key: alice\r\ncontent-length: 0\r\n\r\n";

/// hyper drops the body of a 204 without reading it. An earlier version
/// concluded that the client had left, and rejected the retry.
#[tokio::test(start_paused = true)]
async fn a_server_that_drops_the_body_of_a_204_is_no_client_that_left() {
    for on_disconnect in [OnDisconnect::Finish, OnDisconnect::Cancel] {
        let (store, runs) = (Steered::new(), Runs::default());
        let layer = with_policy(&store, |options| options.on_disconnect(on_disconnect));
        let app = layer.layer(handler(&runs, |_, _| answer(StatusCode::NO_CONTENT)));
        let service = hyper::service::service_fn(move |request: Request<Incoming>| {
            app.clone().oneshot(request.map(RequestBody::new))
        });
        let (mut client, server) = duplex(1 << 16);
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(server), service));
        for replayed in [false, true, true] {
            client.write_all(ASK).await.unwrap();
            let mut head = vec![0; 4096];
            let length = in_time(client.read(&mut head)).await.unwrap();
            let head = String::from_utf8_lossy(&head[..length]);
            assert!(head.starts_with("HTTP/1.1 204"), "{head}");
            assert_eq!(head.contains("idempotency-replayed: true"), replayed);
            assert_eq!(store.stats().completed, 1);
            sleep(SECOND * 5).await;
        }
        assert_eq!(runs.count(), 1);
    }
}
