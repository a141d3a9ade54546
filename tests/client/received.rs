//! What a response from this crate's own layer tells the client about itself.

use std::convert::Infallible;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::Full;
use tower::{Layer, ServiceExt, service_fn};
use tower_idempotency::client::{ClientLayer, Received};
use tower_idempotency::options::OnStoreError;
use tower_idempotency::store::StoreErrorKind;
use tower_idempotency::{IdempotencyLayer, scope};

use crate::scripted::{Server, Step, header, post, status};
use crate::support::store::{Fault, Op, Steered};

fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
    let fields = fields.iter();
    fields
        .map(|(name, value)| (http::HeaderName::from_static(name), value.parse().unwrap()))
        .collect()
}

#[test]
fn marks_are_read_and_anything_else_is_not_taken_for_one() {
    let nothing = Received::of(&HeaderMap::new());
    assert!(!nothing.is_replay() && nothing.made_at().is_none());
    assert!(nothing.kept_until().is_none() && nothing.problem().is_none());
    assert!(!nothing.is_unrecorded() && !nothing.is_unprotected());

    assert!(Received::of(&headers(&[("idempotency-replayed", "true")])).is_replay());
    for other in ["false", "", "1", "true, true"] {
        assert!(!Received::of(&headers(&[("idempotency-replayed", other)])).is_replay());
    }
    for (value, marks) in [
        ("unrecorded", (true, false)),
        ("unprotected", (false, true)),
        ("whatever", (false, false)),
    ] {
        let received = Received::of(&headers(&[("idempotency-status", value)]));
        assert_eq!(
            (received.is_unrecorded(), received.is_unprotected()),
            marks,
            "{value}"
        );
    }
}

/// The `Received` that the client adds to a response with these headers.
async fn received(retries: &ClientLayer, fields: &[(&'static str, &str)]) -> Received {
    let mut response = status(200);
    response.headers_mut().extend(headers(fields));
    let server = Server::that([Step::Answer(response)]);
    let response = server.ask_with(retries.clone(), post("k")).await.unwrap();
    response.extensions().get::<Received>().unwrap().clone()
}

#[tokio::test]
async fn times_are_read_under_the_names_that_the_api_gave_them() {
    let retries = ClientLayer::builder()
        .replayed_header("X-Again")
        .created_at_header("X-Made")
        .expires_at_header("X-Kept")
        .build()
        .unwrap();
    let marks = [
        ("x-again", "true"),
        ("x-made", "2026-03-01T02:13:05Z"),
        ("x-kept", "2026-03-02T03:13:05+01:00"),
    ];
    let all = received(&retries, &marks).await;
    assert!(all.is_replay());
    let made = SystemTime::UNIX_EPOCH + Duration::from_secs(1_772_331_185);
    assert_eq!(all.made_at(), Some(made));
    let day = Duration::from_secs(24 * 60 * 60);
    assert_eq!(all.kept_until(), Some(made + day));
    for wrong in [
        "",
        "yesterday",
        "1772331185",
        "2026-03-01",
        "2026-13-01T00:00:00Z",
    ] {
        let none = received(&retries, &[("x-made", wrong), ("x-kept", wrong)]).await;
        assert_eq!((none.made_at(), none.kept_until()), (None, None));
    }
    // This server sends no header that marks replays.
    let retries = ClientLayer::builder()
        .replayed_header(None)
        .build()
        .unwrap();
    let unmarked = received(&retries, &[("idempotency-replayed", "true")]).await;
    assert!(!unmarked.is_replay());
}

#[tokio::test(start_paused = true)]
async fn a_replay_under_another_name_is_settled_too() {
    let retries = ClientLayer::builder().replayed_header("x-again").build();
    let server = Server::that([Step::Answer(header(status(503), "x-again", "true"))]);
    let answered = server.ask_with(retries.unwrap(), post("k")).await.unwrap();
    assert_eq!(answered.status(), 503);
}

/// Sends a request through the client and through this crate's layer to a shop.
async fn ask(layer: &IdempotencyLayer) -> Received {
    let shop = service_fn(async |_: Request<Full<Bytes>>| {
        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from("made"))))
    });
    let retries = ClientLayer::builder()
        .created_at_header("x-made")
        .expires_at_header("x-kept")
        .build()
        .unwrap();
    let client = retries.layer(layer.layer(shop));
    let answered = client.oneshot(post("k")).await.unwrap();
    answered.extensions().get::<Received>().unwrap().clone()
}

fn layer(store: Steered) -> IdempotencyLayer {
    IdempotencyLayer::builder(store, scope::shared())
        .defaults(|options| {
            options
                .created_at_header("x-made")
                .expires_at_header("x-kept")
                .on_store_error(OnStoreError::RunUnprotected)
        })
        .build()
        .unwrap()
}

#[tokio::test]
async fn a_replay_says_when_the_original_was_made_and_until_when_it_is_kept() {
    let layer = layer(Steered::new());
    let began = SystemTime::now();
    let first = ask(&layer).await;
    let second = ask(&layer).await;
    assert_eq!((first.is_replay(), second.is_replay()), (false, true));
    assert!(!first.is_unrecorded() && !first.is_unprotected());
    let made = first.made_at().unwrap();
    assert_eq!(second.made_at(), Some(made));
    // The layer's times are cut to whole seconds.
    assert!(made + Duration::from_secs(1) >= began && made <= SystemTime::now());
    let kept = second.kept_until().unwrap().duration_since(made).unwrap();
    let day = Duration::from_secs(24 * 60 * 60);
    assert!(
        kept >= day && kept < day + Duration::from_secs(60),
        "{kept:?}"
    );
}

#[tokio::test]
async fn an_answer_without_its_record_says_so() {
    let store = Steered::new();
    store.make(Op::Complete, Fault::Fails(StoreErrorKind::NotSent));
    let received = ask(&layer(store)).await;
    assert!(received.is_unrecorded() && !received.is_unprotected());
    assert_eq!(received.attempts().len(), 1);
}

#[tokio::test]
async fn an_answer_without_protection_says_so() {
    let store = Steered::new();
    store.make(Op::Claim, Fault::Fails(StoreErrorKind::NotSent));
    let received = ask(&layer(store)).await;
    assert!(received.is_unprotected() && !received.is_unrecorded());
}
