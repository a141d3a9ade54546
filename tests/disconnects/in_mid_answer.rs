//! Clients that leave while their response is sent.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::HeaderValue;
use http::header::CONTENT_LENGTH;
use tower_idempotency::options::{OnDisconnect, OnOversize};

use crate::app::{app, channel, created, handler, layer, settled};
use crate::client::{Client, WAYS, retry};
use crate::server::Server;
use crate::support::Runs;
use crate::support::body::Script;
use crate::support::store::{Op, Steered};

/// The lengths that a response announces.
const LENGTHS: [Option<usize>; 2] = [None, Some(200_000)];
const HALF: usize = 100_000;

fn half(of: u8) -> Bytes {
    vec![of; HALF].into()
}

#[tokio::test]
async fn an_answer_whose_client_leaves_in_the_middle_is_recorded_whole() {
    for length in LENGTHS {
        for way in WAYS {
            let (store, runs) = (Steered::new(), Runs::default());
            let layer = layer(&store, |options| options);
            let (mut rest, body) = channel();
            let body = Arc::new(Mutex::new(Some(body)));
            let service = handler(&runs, move |_| {
                let mut answer = created(body.lock().unwrap().take().expect("it runs once"));
                if let Some(length) = length {
                    let length = HeaderValue::from(length);
                    answer.headers_mut().insert(CONTENT_LENGTH, length);
                }
                std::future::ready(answer)
            });
            let server = Server::start(app(&layer, service)).await;
            let mut client = Client::connect(server.address, way).await;
            client.ask("k").await;
            assert_eq!(client.head().await.unwrap().0, 201);
            rest.send_data(half(b'1')).await.unwrap();
            assert_eq!(client.data(HALF).await, half(b'1'));
            let gone = client.leave().await;
            server.over().await;
            let early = retry(server.address, "k").await;
            assert_eq!(early.refusal(), "409 in-flight", "{way:?}, {length:?}");

            rest.send_data(half(b'2')).await.unwrap();
            drop(rest);
            settled(&layer).await;
            let late = retry(server.address, "k").await;
            assert!(late.is_replay(), "{way:?}, {length:?}");
            assert_eq!(late.body, [half(b'1'), half(b'2')].concat());
            assert_eq!((runs.count(), server.whole()), (1, 2), "{way:?}");
            drop(gone);
        }
    }
}

#[tokio::test]
async fn an_answer_too_large_to_record_is_read_to_its_end_without_its_client() {
    for (oversize, expected) in [
        (OnOversize::Seal, "409 response-unavailable"),
        (OnOversize::Rerun, "201"),
    ] {
        for way in WAYS {
            let (store, runs) = (Steered::new(), Runs::default());
            let layer = layer(&store, |options| {
                options.max_recorded_body(HALF / 2).oversize(oversize)
            });
            let script = || Script::frames(vec![half(b'x'); 80]);
            let polls = Arc::new(Mutex::new(Vec::new()));
            let service = {
                let polls = Arc::clone(&polls);
                handler(&runs, move |_| {
                    let body = script();
                    polls.lock().unwrap().push(body.polls());
                    std::future::ready(created(body))
                })
            };
            let server = Server::start(app(&layer, service)).await;
            let mut client = Client::connect(server.address, way).await;
            client.ask("k").await;
            assert_eq!(client.head().await.unwrap().0, 201);
            let gone = client.leave().await;
            server.over().await;
            settled(&layer).await;
            assert_eq!(polls.lock().unwrap()[0](), 81, "{way:?}");
            let late = retry(server.address, "k").await;
            if late.status == 201 {
                assert_eq!((expected, late.body.len()), ("201", 80 * HALF));
                assert_eq!(runs.count(), 2, "{way:?}");
            } else {
                assert_eq!((late.refusal().as_str(), runs.count()), (expected, 1));
            }
            drop(gone);
        }
    }
}

/// The handler has responded, so its effect has happened.
#[tokio::test]
async fn under_cancel_an_answer_whose_client_leaves_in_the_middle_is_not_run_again() {
    for way in WAYS {
        let (store, runs) = (Steered::new(), Runs::default());
        let layer = layer(&store, |options| {
            options.on_disconnect(OnDisconnect::Cancel)
        });
        let (mut rest, body) = channel();
        let body = Arc::new(Mutex::new(Some(body)));
        let service = handler(&runs, move |_| {
            let body = body.lock().unwrap().take().expect("it runs once");
            std::future::ready(created(body))
        });
        let server = Server::start(app(&layer, service)).await;
        let mut client = Client::connect(server.address, way).await;
        client.ask("k").await;
        assert_eq!(client.head().await.unwrap().0, 201);
        rest.send_data(half(b'1')).await.unwrap();
        assert_eq!(client.data(HALF).await, half(b'1'));
        let gone = client.leave().await;
        server.over().await;
        // Nobody reads the rest of the body.
        settled(&layer).await;
        assert!(rest.send_data(half(b'2')).await.is_err());
        let late = retry(server.address, "k").await;
        assert_eq!(late.refusal(), "409 response-unavailable", "{way:?}");
        assert_eq!((runs.count(), store.calls(Op::Complete)), (1, 1));
        drop(gone);
    }
}
