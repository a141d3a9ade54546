//! G9: the handler does not run, nothing is stored, and the rejection says what
//! to change.

use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Request};
use tokio::time::sleep;
use tower::{Layer, ServiceExt};
use tower_idempotency::options::{KeyFormat, OnLapsedLease, Require};
use tower_idempotency::rejection::RejectionCode;
use tower_idempotency::store::StoreErrorKind;
use tower_idempotency::store::WhenFull;
use tower_idempotency::{MemoryStore, RouteOptions};

use crate::support::body::{Script, Step};
use crate::support::store::{Fault, Op, Steered};
use crate::support::{
    API_KEY, Gate, Runs, Seen, counting, created, handler, held_back, post, post_with, protected,
    quiet, send, with, with_policy, without,
};

/// The whole problem document for a code, with this detail.
pub(crate) fn problem(
    code: RejectionCode,
    status: u16,
    retry: &str,
    title: &str,
    detail: &str,
) -> String {
    format!(
        r#"{{"code":"{code}","detail":"{detail}","retry":"{retry}","source":"idempotency","status":{status},"title":"{title}","type":"about:blank"}}"#
    )
}

fn whole() -> Script {
    Script::frames([r#"{"amount":1}"#])
}

fn changed(options: RouteOptions) -> RouteOptions {
    options
        .require(Require::Required)
        .key_length(4..=8)
        .max_request_body(16)
}

/// A wrong request, and the text of its rejection. The test compares each byte,
/// since clients match on the text.
type Wrong = (Request<Script>, RejectionCode, String);

fn keyed(key: &str) -> Request<Script> {
    post_with(key, whole())
}

fn wrong_keys() -> Vec<Wrong> {
    let mut twice = keyed("k-01");
    twice
        .headers_mut()
        .append("idempotency-key", HeaderValue::from_static("k-01"));
    let empty = "is empty; send a value that is unique to this operation.";
    let invalid = [
        (keyed(""), empty),
        (keyed("\"\""), empty),
        (twice, "was sent more than once; send it once."),
        (keyed("\"k-01"), "has no closing quotation mark."),
        (
            keyed("\"k-01\" k-02"),
            "has characters after the closing quotation mark.",
        ),
        (
            keyed("\"k-01\";a="),
            "has parameters that are not those of RFC 8941.",
        ),
        (
            keyed("k-01, k-02"),
            "has a comma, as two keys that were joined have: send one key, and between \
             quotation marks if a comma is a part of it.",
        ),
        (
            keyed("\"k\\01\""),
            "has a backslash that escapes neither a quotation mark nor a backslash.",
        ),
        (keyed("clé-01"), "must be printable ASCII."),
    ];
    let invalid = invalid.map(|(request, detail)| {
        (
            request,
            RejectionCode::KeyInvalid,
            "Idempotency key invalid",
            format!("Idempotency-Key {detail}"),
        )
    });
    let others = [
        (
            without(keyed("k-01"), "idempotency-key"),
            RejectionCode::KeyRequired,
            "Idempotency key required",
            "This operation needs the header Idempotency-Key: 4 to 8 printable ASCII characters, \
             unique to the operation and the same on every retry of it."
                .to_owned(),
        ),
        (
            keyed("k-1"),
            RejectionCode::KeyTooShort,
            "Idempotency key too short",
            "Idempotency-Key must be at least 4 characters.".to_owned(),
        ),
        (
            keyed("k-0123456"),
            RejectionCode::KeyTooLong,
            "Idempotency key too long",
            "Idempotency-Key must be at most 8 characters.".to_owned(),
        ),
    ];
    let all = invalid.into_iter().chain(others);
    all.map(|(request, code, title, detail)| {
        (request, code, problem(code, 400, "new-key", title, &detail))
    })
    .collect()
}

fn wrong_requests() -> Vec<Wrong> {
    let rows = [
        (
            without(keyed("k-01"), API_KEY),
            RejectionCode::ScopeMissing,
            (400, "never", "Caller unknown"),
            "An idempotency key belongs to a caller, and this request does not say who its caller \
             is. Authenticate it as this API documents.",
        ),
        (
            post_with("k-01", Script::frames(["0123456789", "0123456"])),
            RejectionCode::BodyTooLarge,
            (413, "never", "Request body too large"),
            "A request with an idempotency key may have a body of at most 16 bytes here.",
        ),
        (
            post_with("k-01", Script::frames(["{"]).then(Step::Never)),
            RejectionCode::BodyTimeout,
            (408, "same-key", "Request body too slow"),
            "The request's body took too long to arrive. Nothing was executed.",
        ),
        (
            post_with("k-01", Script::frames(["{"]).then(Step::Fail("reset"))),
            RejectionCode::BodyUnreadable,
            (400, "same-key", "Request body unreadable"),
            "The request's body broke off before its end. Nothing was executed.",
        ),
    ];
    rows.into_iter()
        .map(|(request, code, (status, retry, title), detail)| {
            (request, code, problem(code, status, retry, title, detail))
        })
        .collect()
}

#[track_caller]
pub(crate) fn assert_refused(seen: &Seen, code: RejectionCode, body: &str) {
    assert_eq!(seen.text(), body);
    assert_eq!(seen.status, code.default_status().as_u16());
    assert_eq!(
        seen.header("content-type"),
        Some("application/problem+json")
    );
    assert_eq!(seen.header("cache-control"), Some("no-store"));
    assert_eq!(seen.header("link"), None);
    let waits = matches!(
        code,
        RejectionCode::InFlight | RejectionCode::StoreUnavailable | RejectionCode::OverCapacity
    );
    assert_eq!(seen.header("retry-after"), waits.then_some("1"));
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_wrong_is_told_how_and_neither_runs_nor_is_stored() {
    let (store, runs) = (Steered::new(), Runs::default());
    let app = with_policy(&store, changed).layer(counting::<Script>(&runs));
    for (request, code, body) in wrong_keys().into_iter().chain(wrong_requests()) {
        assert_refused(&send(&app, request).await, code, &body);
        quiet().await;
        assert_eq!((runs.count(), store.calls(Op::Claim)), (0, 0), "{code}");
        assert!(store.memory.is_empty(), "{code}");
    }
    // The rejections left nothing behind under the key.
    let right = send(&app, post_with("k-01", whole())).await;
    right.assert_fresh("run 1");
}

#[tokio::test(start_paused = true)]
async fn what_a_record_or_the_store_stands_against_is_told_too() {
    let one_sealed = |options: RouteOptions| {
        options
            .max_recorded_body(4)
            .on_lapsed_lease(OnLapsedLease::Refuse)
    };
    let (store, runs, gate) = (Steered::unguarded(), Runs::default(), Gate::closed());
    let layer = with_policy(&store, one_sealed);
    let app = layer.layer(held_back(&runs, &gate));
    let first = tokio::spawn(app.clone().oneshot(post("k", "{}")));
    gate.begun().await;

    let seen = send(&app, post("k", "{}")).await;
    let in_flight = problem(
        RejectionCode::InFlight,
        409,
        "same-key",
        "Request still in flight",
        "The first request with this key is still being executed. Send the same request again in \
         a moment to get its answer.",
    );
    assert_refused(&seen, RejectionCode::InFlight, &in_flight);

    let seen = send(&app, post("k", "[]")).await;
    let reused = problem(
        RejectionCode::KeyReused,
        422,
        "new-key",
        "Idempotency key reused",
        "This idempotency key was used for another request: its method, target, headers or body \
         differ. Use a new key for a new operation.",
    );
    assert_refused(&seen, RejectionCode::KeyReused, &reused);

    store.make(Op::Renew, Fault::Stalls);
    sleep(Duration::from_secs(60)).await;
    let seen = send(&app, post("k", "{}")).await;
    let unknown = problem(
        RejectionCode::OutcomeUnknown,
        409,
        "same-key",
        "Outcome unknown",
        "The first request with this key ended without a known outcome. It was not executed \
         again; it will be once someone has resolved it.",
    );
    assert_refused(&seen, RejectionCode::OutcomeUnknown, &unknown);

    gate.open();
    assert_eq!(Seen::whole(first.await.unwrap().unwrap()).await.status, 201);
    let seen = send(&app, post("k", "{}")).await;
    let unavailable = problem(
        RejectionCode::ResponseUnavailable,
        409,
        "never",
        "Response unavailable",
        "The operation is done and was not executed again, but its answer was not kept.",
    );
    assert_refused(&seen, RejectionCode::ResponseUnavailable, &unavailable);

    store.make(Op::Claim, Fault::Fails(StoreErrorKind::Unreadable));
    let seen = send(&app, post("k", "{}")).await;
    let unavailable = problem(
        RejectionCode::StoreUnavailable,
        503,
        "same-key",
        "Idempotency store unavailable",
        "Whether this operation was executed before can't be told right now. Nothing was \
         executed; send the same request again in a moment.",
    );
    assert_refused(&seen, RejectionCode::StoreUnavailable, &unavailable);
    assert_eq!(runs.count(), 1);
}

#[tokio::test]
async fn a_store_without_room_is_over_capacity() {
    let store = MemoryStore::builder()
        .max_records(1)
        .when_full(WhenFull::Refuse)
        .build()
        .unwrap();
    let runs = Runs::default();
    let app = protected(&store).layer(counting(&runs));
    let first = send(&app, post("a", "{}")).await;
    let seen = send(&app, post("b", "{}")).await;
    let over = problem(
        RejectionCode::OverCapacity,
        503,
        "same-key",
        "Over capacity",
        "There is no room for another operation. Nothing was executed; send the same request \
         again in a moment.",
    );
    assert_refused(&seen, RejectionCode::OverCapacity, &over);
    send(&app, post("a", "{}")).await.assert_replays(&first);
    assert_eq!(runs.count(), 1);
}

#[tokio::test]
async fn every_byte_in_a_key_is_taken_if_it_is_printable_and_refused_if_not() {
    for byte in 0..=u8::MAX {
        let Ok(value) = HeaderValue::from_bytes(&[b'k', b'e', byte, b'y']) else {
            // No HTTP implementation accepts this byte in a header.
            assert!(byte < b' ' && byte != b'\t' || byte == 0x7f, "{byte:#x}");
            continue;
        };
        let (store, runs) = (MemoryStore::new(), Runs::default());
        let app = protected(&store).layer(counting(&runs));
        let seen = send(&app, with(post("", "{}"), "idempotency-key", &value)).await;
        // A comma joins two bare keys.
        if (b' '..=b'~').contains(&byte) && byte != b',' {
            seen.assert_fresh("run 1");
        } else {
            assert_eq!(seen.refusal(), "400 key-invalid", "{byte:#x}");
            assert_eq!(runs.count(), 0);
            assert!(store.is_empty());
        }
    }
}

#[tokio::test]
async fn a_key_has_up_to_255_characters() {
    let (store, runs) = (MemoryStore::new(), Runs::default());
    let app = protected(&store).layer(counting(&runs));
    let longest = "k".repeat(255);
    let first = send(&app, post(&longest, "{}")).await;
    first.assert_fresh("run 1");
    send(&app, post(&format!("\"{longest}\""), "{}"))
        .await
        .assert_replays(&first);
    for too_long in [
        "k".repeat(256),
        format!("\"{}\"", "k".repeat(256)),
        "k".repeat(8_000),
    ] {
        let seen = send(&app, post(&too_long, "{}")).await;
        assert_eq!(seen.refusal(), "400 key-too-long");
    }
    // This key has 255 characters, and each of them is escaped.
    let escaped = format!("\"{}\"", r#"\""#.repeat(255));
    send(&app, post(&escaped, "{}")).await.assert_fresh("run 2");
    assert_eq!((runs.count(), store.len()), (2, 2));
}

#[tokio::test]
async fn a_key_of_the_wrong_format_is_told_the_right_one() {
    let runs = Runs::default();
    let layer = with_policy(&MemoryStore::new(), |options| {
        options.key_format(KeyFormat::uuid())
    });
    let app = layer.layer(counting(&runs));
    let seen = send(&app, post("k", "{}")).await;
    assert_eq!(seen.refusal(), "400 key-invalid");
    assert!(
        seen.text().contains(
            "Idempotency-Key must be a UUID such as 2fd4e1c6-7a2d-48fc-a1ed-99a0b5c3c2f1."
        )
    );
    assert_eq!(runs.count(), 0);
}

#[tokio::test]
async fn a_rejection_is_for_this_request_and_no_other_is_harmed() {
    let runs = Runs::default();
    let app = protected(&MemoryStore::new()).layer(handler(&runs, |_, request: Request<Bytes>| {
        assert_eq!(request.headers()[CONTENT_TYPE], "application/json");
        created(request.into_body())
    }));
    let ask = |body: &'static str| with(post("k", body), "content-type", "application/json");
    let first = send(&app, ask("[1]")).await;
    let reused = send(&app, ask("[2]")).await;
    assert_eq!(reused.refusal(), "422 key-reused");
    send(&app, ask("[1]")).await.assert_replays(&first);
    assert_eq!(runs.count(), 1);
}
