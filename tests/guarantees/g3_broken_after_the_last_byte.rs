//! G3: if a client takes a response for complete, its retry gets the same
//! response.

use http_body_util::BodyExt;
use tower::{Layer, ServiceExt};
use tower_idempotency::MemoryStore;

use crate::support::{Runs, handler, post, protected, send};
use crate::written::{Announced, End, Part, Written};

/// A server that knows the length stops at the last byte, and never sees the
/// error after it.
#[tokio::test(start_paused = true)]
async fn an_answer_that_breaks_off_after_its_last_byte_is_not_delivered_whole() {
    for length in [5, 100_000] {
        for announced in [Announced::ByHeader(0), Announced::ByHint(0)] {
            let parts = [Part::Data(length), Part::Wait(1000)];
            let written = Written::new(announced, parts).ending(End::Broken);
            let app = protected(&MemoryStore::new())
                .layer(handler(&Runs::default(), move |_, _| written.response()));
            let first = app.clone().oneshot(post("k", "{}")).await.unwrap();
            let mut body = first.into_body();
            let mut got = 0;
            while let Some(Ok(frame)) = body.frame().await {
                got += frame.into_data().map_or(0, |data| data.len());
            }
            let retry = send(&app, post("k", "{}")).await;
            assert_eq!(retry.refusal(), "409 response-unavailable");
            assert!(got < length, "{got} of {length} bytes, {announced:?}");
        }
    }
}
