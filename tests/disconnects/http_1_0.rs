//! Clients of HTTP/1.0, which has no chunks: a body without a length ends where
//! the connection ends.

use http::HeaderValue;
use http::header::CONTENT_LENGTH;

use crate::app::{app, created, handler, layer, settled};
use crate::client::retry;
use crate::gated::Gated;
use crate::server::Server;
use crate::support::Runs;
use crate::support::body::{Script, Step};
use crate::support::store::{Op, Steered};
use crate::wire::Wire;

fn script() -> Script {
    let data = |of| Step::Data(vec![of; 50_000].into());
    Script::new([data(b'1'), Step::Yield, data(b'2'), Step::Yield])
}

const ASK: &str = "POST /payments HTTP/1.0\r\nidempotency-key: k\r\ncontent-length: 5\r\n\r\n7 EUR";

#[tokio::test]
async fn an_answer_of_any_length_comes_with_it_and_so_does_its_replay() {
    for announced in [false, true] {
        let (store, runs) = (Steered::new(), Runs::default());
        let layer = layer(&store, |options| options);
        let service = handler(&runs, move |_| {
            let mut answer = created(script());
            if announced {
                let length = HeaderValue::from(100_000);
                answer.headers_mut().insert(CONTENT_LENGTH, length);
            }
            std::future::ready(answer)
        });
        let server = Server::start(app(&layer, service)).await;
        let mut answers = Vec::new();
        for replayed in [false, true] {
            let mut wire = Wire::connect(server.address).await;
            wire.say(ASK).await;
            let answer = wire.answer().await.unwrap();
            assert_eq!(answer.header("content-length"), Some("100000"));
            assert_eq!(answer.header("transfer-encoding"), None);
            assert_eq!((answer.is_replay(), answer.body.len()), (replayed, 100_000));
            answers.push(answer);
        }
        answers[1].assert_replays(&answers[0]);
        // The retry over HTTP/1.1 is the same operation.
        retry(server.address, "k").await.assert_replays(&answers[0]);
        assert_eq!(runs.count(), 1);
    }
}

#[tokio::test]
async fn a_client_that_leaves_while_its_answer_is_collected_gets_it_from_a_retry() {
    let (store, runs) = (Gated::at(Op::Complete), Runs::default());
    let layer = layer(&store, |options| options);
    let service = handler(&runs, async |_| created(script()));
    let server = Server::start(app(&layer, service)).await;
    let mut wire = Wire::connect(server.address).await;
    wire.say(ASK).await;
    store.met().await;
    drop(wire);
    server.over().await;
    store.open();
    settled(&layer).await;
    let mut wire = Wire::connect(server.address).await;
    wire.say(ASK).await;
    let answer = wire.answer().await.unwrap();
    assert_eq!(answer.header("content-length"), Some("100000"));
    assert_eq!((answer.is_replay(), runs.count()), (true, 1));
}
