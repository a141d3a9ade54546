//! A record keeps as many bytes as it counts: the memory store's limit holds for
//! what the process keeps.

use std::sync::{Arc, Weak};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response};
use tokio::task::yield_now;
use tower::Layer;
use tower_idempotency::MemoryStore;
use tower_idempotency::store::RecordState;

use crate::support::body::{Script, Step};
use crate::support::{Runs, by_operator, handler, post, send, with_policy};

/// A large buffer, as a connection reads into, and a way to see whether it is still
/// there.
struct ReadBuffer {
    bytes: Bytes,
    alive: Weak<()>,
}

impl ReadBuffer {
    fn new() -> Self {
        struct Buffer(
            Vec<u8>,
            #[expect(dead_code, reason = "it is there")] Arc<()>,
        );
        impl AsRef<[u8]> for Buffer {
            fn as_ref(&self) -> &[u8] {
                &self.0
            }
        }
        let alive = Arc::new(());
        Self {
            alive: Arc::downgrade(&alive),
            bytes: Bytes::from_owner(Buffer(vec![b'x'; 1 << 20], alive)),
        }
    }

    /// A part of the buffer, as a field's value.
    fn value(&self) -> HeaderValue {
        HeaderValue::from_maybe_shared(self.bytes.slice(..30)).unwrap()
    }

    fn is_gone(&self) -> bool {
        self.alive.strong_count() == 0
    }
}

fn has(name: &'static str, value: HeaderValue) -> HeaderMap {
    HeaderMap::from_iter([(http::HeaderName::from_static(name), value)])
}

#[tokio::test]
async fn a_record_keeps_no_buffer_that_its_response_was_cut_out_of() {
    type Cut = fn(&ReadBuffer) -> Response<Script>;
    let cuts: [(&str, Cut); 6] = [
        ("a small body", |buffer| {
            Response::new(Script::frames([buffer.bytes.slice(9..99)]))
        }),
        ("a large body", |buffer| {
            Response::new(Script::frames([buffer.bytes.slice(9..66_009)]))
        }),
        ("a large body that announces its length", |buffer| {
            let body = Script::frames([buffer.bytes.slice(9..66_009)]);
            Response::new(body.announcing(66_000))
        }),
        ("a large body that is sent while it is read", |buffer| {
            let data = Step::Data(buffer.bytes.slice(9..66_009));
            Response::new(Script::new([Step::Yield, data, Step::Yield]))
        }),
        ("a header", |buffer| {
            let mut response = Response::new(Script::new([]));
            response.headers_mut().insert("x-a", buffer.value());
            response
        }),
        ("a trailer", |buffer| {
            let trailers = has("x-a", buffer.value());
            Response::new(Script::new([Step::Trailers(trailers)]))
        }),
    ];
    for (what, cut) in cuts {
        let buffer = Arc::new(std::sync::Mutex::new(ReadBuffer::new()));
        let app = {
            let buffer = Arc::clone(&buffer);
            let cut = move |_, _| cut(&buffer.lock().unwrap());
            with_policy(&MemoryStore::new(), |options| options)
                .layer(handler(&Runs::default(), cut))
        };
        let first = send(&app, post("k", "{}")).await;
        send(&app, post("k", "{}")).await.assert_replays(&first);
        drop(first);
        buffer.lock().unwrap().bytes = Bytes::new();
        yield_now().await;
        assert!(buffer.lock().unwrap().is_gone(), "{what}");
    }
}

#[tokio::test]
async fn a_recorded_body_has_no_room_to_spare() {
    type Body = fn() -> Script;
    let bodies: [(&str, Body); 4] = [
        ("in frames", || Script::repeated(vec![b'x'; 10_000], 9)),
        ("in small frames", || Script::repeated(vec![b'x'; 100], 41)),
        ("sent while it is read", || {
            Script::repeated(vec![b'x'; 10_000], 9).then(Step::Yield)
        }),
        ("whole, in a vector that was to grow", || {
            let mut data = Vec::with_capacity(1 << 20);
            data.resize(70_000, b'x');
            Script::frames([data])
        }),
    ];
    for (what, body) in bodies {
        let layer = with_policy(&MemoryStore::new(), |options| options);
        let records = layer.clone();
        let app = layer.layer(handler(&Runs::default(), move |_, _| Response::new(body())));
        drop(send(&app, post("k", "{}")).await);
        let (parts, _) = post("k", "{}").into_parts();
        let id = records.records().id_of(&parts).unwrap();
        let found = records.records().look_up(&id).await.unwrap().unwrap();
        let RecordState::Completed { completion, .. } = found.state else {
            panic!("{what}: {found:?}");
        };
        // Nobody else holds the body then, and a vector shows its room.
        records.records().forget(&id, &by_operator()).await.unwrap();
        let body = Arc::try_unwrap(completion).unwrap().body;
        assert!(body.is_unique(), "{what}");
        let (length, room) = (body.len(), Vec::from(body).capacity());
        assert!(room <= length + length / 10, "{what}: {room} for {length}");
    }
}
