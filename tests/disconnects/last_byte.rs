//! The last byte of a recorded response leaves after its record is stored (G3).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderValue;
use http::header::CONTENT_LENGTH;
use tokio::time::timeout;
use tower_idempotency::store::StoreErrorKind;
use tower_idempotency::{IdempotencyLayer, scope};

use crate::app::{MOMENT, Sent, app, created, handler, layer, never, settled, text};
use crate::client::{Client, Leaves, WAYS, retry};
use crate::gated::Gated;
use crate::server::Server;
use crate::support::Runs;
use crate::support::body::{Script, Step};
use crate::support::store::{Fault, Op, Steered};
use crate::wire::Part;

/// Four frames of this length are more than the layer collects before the head
/// leaves.
const FRAME: usize = 20_000;

/// How a response of four frames announces its length, which decides how much
/// of it leaves before its record is stored.
#[derive(Clone, Copy, Debug)]
enum Shape {
    /// The response announces no length: all four frames leave, but not the end
    /// of the body.
    Unknown,
    /// Only the header announces the length, so hyper stops polling at the last
    /// byte: all frames but the last one leave.
    Header,
    /// As with `Header`, but the body is still pending for some polls after its
    /// last byte.
    HeaderThenMore,
}

const SHAPES: [Shape; 3] = [Shape::Unknown, Shape::Header, Shape::HeaderThenMore];

impl Shape {
    fn answer(self) -> http::Response<Sent> {
        let frame = |of| Step::Data(Bytes::from(vec![of; FRAME]));
        let mut body = Script::new([frame(b'1'), Step::Yield, frame(b'2'), frame(b'3')])
            .then(Step::Yield)
            .then(frame(b'4'));
        if let Shape::HeaderThenMore = self {
            body = body.then(Step::Yield).then(Step::Yield);
        }
        let mut answer = created(body);
        if let Shape::Header | Shape::HeaderThenMore = self {
            let length = HeaderValue::from(4 * FRAME);
            answer.headers_mut().insert(CONTENT_LENGTH, length);
        }
        answer
    }

    fn early(self) -> usize {
        match self {
            Shape::Unknown => 4 * FRAME,
            Shape::Header | Shape::HeaderThenMore => 3 * FRAME,
        }
    }
}

/// A server whose first response waits for its record to be stored, and a
/// client that has read all that left before.
async fn held_up(way: Leaves, shape: Shape) -> (Server, IdempotencyLayer, Gated, Client) {
    let (store, runs) = (Gated::at(Op::Complete), Runs::default());
    let layer = layer(&store, |options| options);
    let service = handler(&runs, move |run| {
        assert_eq!(run, 1);
        std::future::ready(shape.answer())
    });
    let server = Server::start(app(&layer, service)).await;
    let mut client = Client::connect(server.address, way).await;
    client.ask("k").await;
    assert_eq!(client.head().await.unwrap().0, 201);
    let early = client.data(shape.early()).await;
    assert_eq!(early.first(), Some(&b'1'));
    store.met().await;
    (server, layer, store, client)
}

#[tokio::test]
async fn the_end_of_an_answer_arrives_once_its_record_is_stored() {
    for shape in SHAPES {
        for way in [Leaves::Closing, Leaves::Http2Resetting] {
            let (server, _, store, mut client) = held_up(way, shape).await;
            if let Ok(more) = timeout(MOMENT, client.part()).await {
                never((shape, way, more));
            }
            let left = (server.sent(), server.whole());
            assert_eq!(left, (shape.early(), 0), "{shape:?}, {way:?}");
            let early = retry(server.address, "k").await;
            assert_eq!(early.refusal(), "409 in-flight");
            store.open();
            let (last, _) = client.rest().await.expect("it has an end");
            assert_eq!(last.len(), 4 * FRAME - shape.early());
            let late = retry(server.address, "k").await;
            assert!(late.is_replay());
            assert_eq!(late.body.len(), 4 * FRAME);
        }
    }
}

#[tokio::test]
async fn a_client_that_leaves_before_the_last_byte_gets_it_from_a_retry() {
    for shape in SHAPES {
        for way in WAYS {
            let (server, layer, store, client) = held_up(way, shape).await;
            let gone = client.leave().await;
            server.over().await;
            assert_eq!(layer.drain(Duration::ZERO).await, 1, "{way:?}");
            store.open();
            settled(&layer).await;
            let late = retry(server.address, "k").await;
            assert!(late.is_replay(), "{shape:?}, {way:?}");
            assert_eq!(late.body.len(), 4 * FRAME);
            assert!(late.body.ends_with(b"4"));
            drop(gone);
        }
    }
}

/// Small responses of a known length are recorded before their head leaves.
#[tokio::test]
async fn a_client_that_leaves_before_the_head_gets_it_from_a_retry() {
    for way in WAYS {
        let (store, runs) = (Gated::at(Op::Complete), Runs::default());
        let layer = layer(&store, |options| options);
        let service = handler(&runs, async |run| text(format!("run {run}")));
        let server = Server::start(app(&layer, service)).await;
        let mut client = Client::connect(server.address, way).await;
        client.ask("k").await;
        store.met().await;
        let gone = client.leave().await;
        server.over().await;
        assert_eq!(layer.drain(Duration::ZERO).await, 1, "{way:?}");
        store.open();
        settled(&layer).await;
        let late = retry(server.address, "k").await;
        assert_eq!((late.is_replay(), late.text()), (true, "run 1"), "{way:?}");
        drop(gone);
    }
}

#[tokio::test]
async fn an_answer_that_was_not_recorded_in_time_is_cut_and_not_completed() {
    for shape in SHAPES {
        for way in [Leaves::Closing, Leaves::Http2Resetting] {
            let (store, runs) = (Steered::new(), Runs::default());
            let failure = Fault::Fails(StoreErrorKind::NotSent);
            store.make(Op::Complete, failure);
            let layer = IdempotencyLayer::builder(store.clone(), scope::shared())
                .store_timeout(Duration::from_millis(100))
                .build()
                .unwrap();
            let service = handler(&runs, move |_| std::future::ready(shape.answer()));
            let server = Server::start(app(&layer, service)).await;
            let mut client = Client::connect(server.address, way).await;
            client.ask("k").await;
            assert_eq!(client.head().await.unwrap().0, 201);
            client.data(shape.early()).await;
            let end = client.part().await;
            assert_eq!(end, Part::Cut, "{shape:?}, {way:?}");
            let early = retry(server.address, "k").await;
            assert_eq!(early.refusal(), "409 in-flight");
            store.heal(Op::Complete);
            settled(&layer).await;
            let late = retry(server.address, "k").await;
            assert!(late.is_replay());
            assert_eq!((late.body.len(), runs.count()), (4 * FRAME, 1));
        }
    }
}

/// A client that has read the whole body gets a replay at once, because the
/// record is stored by then. This holds on every connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_has_read_an_answer_to_its_end_gets_it_again_at_once() {
    for shape in SHAPES {
        let runs = Runs::default();
        let store = Steered::new();
        store.let_all(Fault::Yields);
        let layer = layer(&store, |options| options);
        let service = handler(&runs, move |_| std::future::ready(shape.answer()));
        let server = Arc::new(Server::start(app(&layer, service)).await);
        let clients = (0..12).map(|n| {
            let server = Arc::clone(&server);
            tokio::spawn(async move {
                let way = [Leaves::Closing, Leaves::Http2Closing][n % 2];
                let mut client = Client::connect(server.address, way).await;
                client.ask(&format!("key {n}")).await;
                let first = client.answer().await.unwrap();
                let again = retry(server.address, &format!("key {n}")).await;
                again.assert_replays(&first);
            })
        });
        for client in clients.collect::<Vec<_>>() {
            client.await.unwrap();
        }
        assert_eq!(runs.count(), 12);
    }
}
