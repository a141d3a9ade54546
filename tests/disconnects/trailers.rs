//! Trailers of streamed responses.

use http::HeaderValue;
use http::header::TRAILER;
use tokio::time::timeout;

use crate::app::{MOMENT, Sent, app, created, handler, layer, never};
use crate::client::{Client, Leaves};
use crate::gated::Gated;
use crate::server::Server;
use crate::support::Runs;
use crate::support::body::{Script, Step};
use crate::support::store::Op;
use crate::wire::Wire;

fn answer() -> http::Response<Sent> {
    let body = Script::new([Step::Data("seven ".into()), Step::Yield])
        .then(Step::Data("euros".into()))
        .then(Step::Yield)
        .and_trailer("x-checksum", "abc");
    let mut answer = created(body);
    let names = HeaderValue::from_static("x-checksum");
    answer.headers_mut().insert(TRAILER, names);
    answer
}

#[tokio::test]
async fn trailers_arrive_in_chunks_once_the_record_is_stored() {
    for wanted in [true, false] {
        let (store, runs) = (Gated::at(Op::Complete), Runs::default());
        let layer = layer(&store, |options| options);
        let service = handler(&runs, async |_| answer());
        let server = Server::start(app(&layer, service)).await;
        let te = if wanted { "te: trailers\r\n" } else { "" };
        let ask = format!(
            "POST /payments HTTP/1.1\r\nhost: a\r\nidempotency-key: k\r\n{te}\
             content-length: 5\r\n\r\n7 EUR"
        );
        for replayed in [false, true] {
            let mut wire = Wire::connect(server.address).await;
            wire.say(&ask).await;
            if !replayed {
                // The head and the data leave before the record is stored, but
                // not the end of the body.
                store.met().await;
                assert_eq!(server.whole(), 0);
            }
            store.open();
            let answer = wire.answer().await.unwrap();
            assert_eq!(
                (answer.is_replay(), answer.text()),
                (replayed, "seven euros")
            );
            assert_eq!(answer.header("trailer"), Some("x-checksum"));
            let checksum = answer.trailers.map(|fields| fields["x-checksum"].clone());
            assert_eq!(checksum.is_some(), wanted, "replayed: {replayed}");
            assert!(checksum.is_none_or(|checksum| checksum == "abc"));
        }
        assert_eq!(runs.count(), 1);
    }
}

#[tokio::test]
async fn trailers_arrive_over_http_2_once_the_record_is_stored() {
    let (store, runs) = (Gated::at(Op::Complete), Runs::default());
    let layer = layer(&store, |options| options);
    let service = handler(&runs, async |_| answer());
    let server = Server::start(app(&layer, service)).await;
    for replayed in [false, true] {
        let mut client = Client::connect(server.address, Leaves::Http2Closing).await;
        client.ask("k").await;
        let (_, headers) = client.head().await.unwrap();
        assert_eq!(headers.contains_key("idempotency-replayed"), replayed);
        assert_eq!(client.data(11).await, b"seven euros");
        if !replayed {
            store.met().await;
            if let Ok(more) = timeout(MOMENT, client.part()).await {
                never(more);
            }
            store.open();
        }
        let (_, trailers) = client.rest().await.unwrap();
        assert_eq!(trailers.unwrap()["x-checksum"], "abc");
    }
    assert_eq!(runs.count(), 1);
}
