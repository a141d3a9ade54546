//! This is the contract of the Universal Commerce Protocol, REST binding, editions 2026-01-23 and
//! later: `docs/specification/checkout-rest.md`, "Specific Header Requirements", and
//! `docs/specification/signatures.md`, "Replay Protection", in
//! <https://github.com/Universal-Commerce-Protocol/ucp>.

use http::Method;
use serde_json::json;

use crate::api::{Api, NO_MARK, Request};
use crate::refusals::Refused;
use crate::upstream::Reply;

const CHECKOUTS: &str = "/checkout-sessions";
const COMPLETE: &str = "/checkout-sessions/chk_1/complete";
/// Every operation that the binding's `rest.openapi.json` has a key for.
const OPERATIONS: [(Method, &str); 7] = [
    (Method::POST, CHECKOUTS),
    (Method::PUT, "/checkout-sessions/chk_1"),
    (Method::POST, COMPLETE),
    (Method::POST, "/checkout-sessions/chk_1/cancel"),
    (Method::POST, "/carts"),
    (Method::PUT, "/carts/cart_1"),
    (Method::POST, "/carts/cart_1/cancel"),
];

contract! { "ucp.toml":
    a_duplicate_gets_the_cached_response,
    an_operation_that_changes_state_needs_a_key,
    a_key_has_at_least_128_bits,
    a_key_belongs_to_a_platform_and_an_operation,
    another_body_is_a_409,
    a_request_in_flight_is_to_be_sent_again_with_its_key,
    a_response_that_is_too_large_is_no_409,
    what_only_reads_is_left_alone,
    without_a_store_requests_are_refused,
    an_answer_is_kept_for_48_hours,
}

/// Whether a refusal has the form of this protocol's errors ("Error Responses").
fn is_error(refused: &Refused) -> bool {
    let content = refused.sentence("/content");
    let error = json!({ "code": refused.code, "content": content });
    refused.content_type == "application/json" && refused.body == error
}

/// A key of 22 characters.
fn key(name: &str) -> String {
    format!("{name:0>22}")
}

fn complete(api: &Api, name: &str) -> Request {
    operation(api, &Method::POST, COMPLETE, name)
}

fn operation(api: &Api, method: &Method, path: &str, name: &str) -> Request {
    api.request(method.clone(), path)
        .header("authorization", "Bearer platform-1")
        .header(
            "ucp-agent",
            "profile=\"https://platform.example/.well-known/ucp\"",
        )
        .header("idempotency-key", &key(name))
        .json(
            r#"{"payment":{"instruments":[{"id":"pi_1","handler_id":"handler_1","type":"card"}]}}"#,
        )
}

async fn a_duplicate_gets_the_cached_response(api: &Api) {
    for (method, path) in OPERATIONS {
        let request = || operation(api, &method, path, &format!("{}-a", path.len()));
        // The signature of the first response fits the replay too: the same bytes, under the
        // same status.
        let signed = Reply::status(200)
            .header("content-digest", "sha-256=:X48E9qOokqqr:")
            .header("signature-input", "sig1=(\"@status\" \"content-digest\")")
            .header("signature", "sig1=:6G4i8TS6oUkG:")
            .body(r#"{"ucp":{"version":"2026-04-08"},"id":"chk_1","status":"completed"}"#);
        api.answers_next(signed);
        let first = request().executes().await;
        request().replays(&first, NO_MARK).await;
    }
}

/// `rest.openapi.json` requires the header on each of these.
async fn an_operation_that_changes_state_needs_a_key(api: &Api) {
    for (method, path) in OPERATIONS {
        operation(api, &method, path, "")
            .without("idempotency-key")
            .refused(400)
            .await
            .is("key-required", is_error);
    }
}

async fn a_key_has_at_least_128_bits(api: &Api) {
    let with = |key: &str| {
        complete(api, "")
            .without("idempotency-key")
            .header("idempotency-key", key)
    };
    for key in [
        "550e8400-e29b-41d4-a716-446655440000",
        "a1B2c3D4e5F6g7H8i9J0kL",
    ] {
        let first = with(key).executes().await;
        with(key).replays(&first, NO_MARK).await;
    }
    let short = with("a1B2c3D4e5F6g7H8i9J0k").refused(400).await;
    short.is("key-too-short", is_error);
}

async fn a_key_belongs_to_a_platform_and_an_operation(api: &Api) {
    let first = complete(api, "belongs").executes().await;
    let with = |token: &str| {
        complete(api, "belongs")
            .without("authorization")
            .header("authorization", token)
    };
    with("Bearer platform-2").replays(&first, NO_MARK).await;
    with("Bearer other-1").executes().await;
    let before = api.executions();
    let denied = with("Bearer unknown").send().await;
    assert_eq!((denied.status(), api.executions()), (401, before));
    for path in [CHECKOUTS, "/checkout-sessions/chk_2/complete"] {
        let elsewhere = || complete(api, "belongs").to(path);
        let own = elsewhere().executes().await;
        elsewhere().replays(&own, NO_MARK).await;
    }
}

/// The payload is the bytes of the body, and nothing else.
async fn another_body_is_a_409(api: &Api) {
    let first = complete(api, "body").executes().await;
    for other in [
        "{}",
        // The same JSON is another payload: digests of the bytes are compared.
        r#"{"payment": {"instruments":[{"id":"pi_1","handler_id":"handler_1","type":"card"}]}}"#,
    ] {
        let refused = complete(api, "body").json(other).refused(409).await;
        refused.is("key-reused", is_error);
    }
    let traced = complete(api, "body").header("request-id", "b7a4c1d2-0001-4000-8000-000000000002");
    traced.replays(&first, NO_MARK).await;
    let in_utf8 = complete(api, "body")
        .without("content-type")
        .header("content-type", "application/json; charset=utf-8")
        .to(&format!("{COMPLETE}?attempt=2"));
    in_utf8.replays(&first, NO_MARK).await;
}

async fn a_request_in_flight_is_to_be_sent_again_with_its_key(api: &Api) {
    let running = complete(api, "flight").begins().await;
    let refused = complete(api, "flight").refused(503).await;
    refused.is("in-flight", is_error);
    assert_eq!(refused.header("retry-after"), Some("1"));
    let other = complete(api, "flight").json("{}").refused(409).await;
    other.is("key-reused", is_error);
    let first = running.ends().await;
    complete(api, "flight").replays(&first, NO_MARK).await;
}

async fn a_response_that_is_too_large_is_no_409(api: &Api) {
    let large = vec![b' '; (1 << 20) + 1];
    api.answers_next(Reply::status(200).body(large));
    complete(api, "large").executes().await;
    let refused = complete(api, "large").refused(500).await;
    refused.is("response-unavailable", is_error);
}

async fn what_only_reads_is_left_alone(api: &Api) {
    for (method, path) in [
        (Method::GET, "/checkout-sessions/chk_1"),
        (Method::GET, "/carts/cart_1"),
        (Method::GET, "/orders/order_1"),
        (Method::POST, "/catalog/search"),
        (Method::POST, "/catalog/lookup"),
        (Method::POST, "/catalog/product"),
    ] {
        operation(api, &method, path, "reads")
            .executes_twice()
            .await;
        let keyless = operation(api, &method, path, "").without("idempotency-key");
        keyless.executes_twice().await;
    }
}

/// "On storage failure: fail closed (reject request with 503)".
async fn without_a_store_requests_are_refused(api: &Api) {
    let api = Api::start_without_store(api.file()).await;
    let refused = complete(&api, "no-store").refused(503).await;
    refused.is("store-unavailable", is_error);
}

async fn an_answer_is_kept_for_48_hours(api: &Api) {
    api.keeps_answers_for(48).await;
}
