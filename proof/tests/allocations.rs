//! How often a request allocates, beyond what the application without the layer
//! allocates. The counting allocator counts the whole process, so this program has one test.

use std::alloc::System;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::Router;
use axum::body::Body;
use axum::routing::post;
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body::Frame;
use http_body_util::BodyExt;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use tower::Service;
use tower::layer::layer_fn;
use tower_idempotency::{IdempotencyLayer, MemoryStore, scope};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const REQUESTS: usize = 101;

/// A body of 1 KiB that arrives a moment after its head, as behind a server of hyper.
struct LateBody {
    left: Option<Bytes>,
    is_late: bool,
}

impl http_body::Body for LateBody {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if std::mem::take(&mut self.is_late) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(self.left.take().map(|data| Ok(Frame::data(data))))
    }

    fn size_hint(&self) -> http_body::SizeHint {
        http_body::SizeHint::with_exact(self.left.as_ref().map_or(0, |data| data.len() as u64))
    }
}

/// The most allocations of each kind of request beyond those of the bare app, with a
/// body that is there at once and with one that is late; a request that is not protected
/// is compared with one behind a layer that does nothing. These are upper bounds of what is
/// measured: they only ever fall. The targets are 0, 10 and 6.
const MOST: [(&str, Key, [usize; 2]); 3] = [
    ("not protected", Key::None, [0, 0]),
    ("first", Key::New, [11, 13]),
    ("replay", Key::Same, [0, 2]),
];

/// Records in the store before anything is counted, so many that each of its parts has some.
const PARTS_FILLED: usize = 5000;

#[derive(Clone, Copy, PartialEq)]
enum Key {
    None,
    New,
    Same,
}

fn app() -> Router {
    let answer = Bytes::from(vec![b'y'; 256]);
    let pay = move |_body: Bytes| {
        let answer = answer.clone();
        async move { answer }
    };
    Router::new().route("/payments", post(pay))
}

fn request(key: Key, number: usize, is_late: bool) -> Request<Body> {
    let (name, value) = match key {
        Key::None => ("x-request-id", format!("{number:036}")),
        Key::New => ("idempotency-key", format!("{number:036}")),
        Key::Same => ("idempotency-key", format!("{:036}", 0)),
    };
    let body = LateBody {
        left: Some(Bytes::from(vec![b'x'; 1024])),
        is_late,
    };
    Request::post("/payments")
        .header("content-type", "application/json")
        .header("content-length", 1024)
        .header("x-api-key", "sk_live_0123456789abcdef")
        .header(name, value)
        .body(Body::new(body))
        .unwrap()
}

/// The median number of allocations of a request. A table that grows now and then does not count.
async fn allocations(app: &mut Router, key: Key, is_late: bool) -> usize {
    let mut counts = Vec::with_capacity(2 * REQUESTS);
    for number in 1..2 * REQUESTS {
        let request = request(key, number + 1000 * usize::from(is_late), is_late);
        let region = Region::new(ALLOCATOR);
        let response = app.call(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        let body = response.into_body().collect().await.unwrap().to_bytes();
        drop(body);
        let change = region.change();
        counts.push(change.allocations + change.reallocations);
    }
    // What is allocated once, at the first requests, does not count either.
    counts.drain(..REQUESTS);
    counts.sort_unstable();
    counts[counts.len() / 2]
}

#[tokio::test]
async fn a_request_allocates_no_more_than_it_may() {
    let mut bare = app().with_state(());
    let mut no_op = app().layer(layer_fn(|inner| inner)).with_state(());
    let layer = IdempotencyLayer::new(MemoryStore::new(), scope::header("x-api-key")).unwrap();
    let mut layered = app().layer(layer.for_axum()).with_state(());
    // Each part of the store allocates at its first records.
    for number in 0..PARTS_FILLED {
        let response = layered.call(request(Key::New, 10_000 + number, false));
        assert_eq!(response.await.unwrap().status(), StatusCode::OK);
    }
    let mut excess = Vec::new();
    for is_late in [false, true] {
        let bare = allocations(&mut bare, Key::None, is_late).await;
        let no_op = allocations(&mut no_op, Key::None, is_late).await;
        for (name, key, most) in MOST {
            let most = most[usize::from(is_late)];
            let without = if key == Key::None { no_op } else { bare };
            let count = allocations(&mut layered, key, is_late).await;
            let beyond = count.saturating_sub(without);
            println!("{name}, late body {is_late}: {count} allocations, {beyond} beyond {without}");
            if beyond > most {
                excess.push(format!(
                    "{name}, late body {is_late}: {beyond} instead of {most}"
                ));
            }
        }
    }
    assert!(excess.is_empty(), "{excess:#?}");
}
