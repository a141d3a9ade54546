//! This is the contract of the Agentic Commerce Protocol, edition 2026-04-17:
//! `rfcs/rfc.agentic_checkout.md`, "Idempotency, Retries & Concurrency", and
//! `rfcs/rfc.delegate_payment.md`, "Idempotency & Retries", in
//! <https://github.com/agentic-commerce-protocol/agentic-commerce-protocol>.

use http::Method;
use serde_json::json;

use crate::api::{Api, Request};
use crate::refusals::Refused;
use crate::upstream::Reply;

const REPLAYED: &[(&str, &str)] = &[("idempotent-replayed", "true")];
const SESSIONS: &str = "/checkout_sessions";
const COMPLETE: &str = "/checkout_sessions/csn_1/complete";
/// Every endpoint that takes a key.
const ENDPOINTS: [&str; 8] = [
    SESSIONS,
    "/checkout_sessions/csn_1",
    COMPLETE,
    "/checkout_sessions/csn_1/cancel",
    "/carts",
    "/carts/cart_1",
    "/carts/cart_1/cancel",
    "/agentic_commerce/delegate_payment",
];

contract! { "acp.toml":
    a_retry_gets_the_original_response_and_the_key,
    a_key_is_required_on_every_post,
    a_key_is_an_opaque_string_of_up_to_255_characters,
    a_key_belongs_to_an_identity_and_an_endpoint,
    bodies_that_mean_the_same_are_one_request,
    another_body_is_a_conflict,
    a_request_in_flight_is_a_conflict_too,
    a_5xx_is_not_kept,
    the_rest_of_the_api_is_left_alone,
    without_a_store_the_service_is_unavailable,
    an_answer_is_kept_for_24_hours,
}

/// Whether a refusal has the flat form of this protocol's errors ("Error Shape").
fn is_error(refused: &Refused) -> bool {
    let sentence = refused.sentence("/message");
    let (kind, code, message) = match &*refused.code {
        "key-required" => (
            "invalid_request",
            "idempotency_key_required",
            "Idempotency-Key header is required",
        ),
        "key-reused" => (
            "invalid_request",
            "idempotency_conflict",
            "Idempotency-Key has already been used with a different request body",
        ),
        "in-flight" => (
            "invalid_request",
            "idempotency_in_flight",
            "A request with this Idempotency-Key is currently being processed",
        ),
        code @ ("key-invalid" | "key-too-long") => ("invalid_request", code, sentence),
        code => ("service_unavailable", code, sentence),
    };
    let error = json!({ "type": kind, "code": code, "message": message });
    refused.content_type == "application/json" && refused.body == error
}

/// Completes a session, with the body of the specification's example.
fn complete(api: &Api, key: &str) -> Request {
    api.post(COMPLETE)
        .header("authorization", "Bearer platform-1")
        .header("api-version", "2026-04-17")
        .header("idempotency-key", key)
        .json(
            r#"{"buyer":{"first_name":"John","last_name":"Smith","email":"johnsmith@mail.com"},"payment_data":{"token":"spt_123","provider":"stripe","amount":2000,"note":null}}"#,
        )
}

async fn a_retry_gets_the_original_response_and_the_key(api: &Api) {
    for path in ENDPOINTS {
        let request = || complete(api, &format!("retry-{path}")).to(path);
        let reply = Reply::status(200);
        api.answers_next(reply.body(r#"{"id":"csn_1","status":"completed"}"#));
        let first = request().executes().await;
        let key = format!("retry-{path}");
        assert_eq!(first.header("idempotency-key"), Some(&*key));
        assert_eq!(first.header("idempotent-replayed"), None);
        request().replays(&first, REPLAYED).await;
    }
}

async fn a_key_is_required_on_every_post(api: &Api) {
    for path in ENDPOINTS {
        complete(api, "")
            .without("idempotency-key")
            .to(path)
            .refused(400)
            .await
            .is("key-required", is_error);
    }
}

async fn a_key_is_an_opaque_string_of_up_to_255_characters(api: &Api) {
    let longest = "k".repeat(255);
    for key in ["k", "550e8400-e29b-41d4-a716-446655440000", &longest] {
        let first = complete(api, key).executes().await;
        complete(api, key).replays(&first, REPLAYED).await;
    }
    let too_long = complete(api, &"k".repeat(256)).refused(400).await;
    too_long.is("key-too-long", is_error);
    let empty = complete(api, "").refused(400).await;
    empty.is("key-invalid", is_error);
}

async fn a_key_belongs_to_an_identity_and_an_endpoint(api: &Api) {
    let first = complete(api, "belongs").executes().await;
    let other = complete(api, "belongs")
        .without("authorization")
        .header("authorization", "Bearer platform-2");
    other.executes().await;
    for path in [
        SESSIONS,
        "/checkout_sessions/csn_1/cancel",
        "/checkout_sessions/csn_2/complete",
    ] {
        let elsewhere = || complete(api, "belongs").to(path);
        let own = elsewhere().executes().await;
        elsewhere().replays(&own, REPLAYED).await;
    }
    complete(api, "belongs").replays(&first, REPLAYED).await;
}

/// "Request Equivalence": only the body is compared, as JSON.
async fn bodies_that_mean_the_same_are_one_request(api: &Api) {
    let first = complete(api, "equal").executes().await;
    let reordered = complete(api, "equal").json(
        r#"{ "payment_data": {"note": null, "amount": 2000.0, "provider": "stripe", "token": "spt_123"},
             "buyer": {"email": "johnsmith@mail.com", "last_name": "Smith", "first_name": "John"} }"#,
    );
    reordered.replays(&first, REPLAYED).await;
    let in_utf8 = complete(api, "equal")
        .without("content-type")
        .header("content-type", "application/json; charset=utf-8");
    in_utf8.replays(&first, REPLAYED).await;
    let with_query = complete(api, "equal").to(&format!("{COMPLETE}?attempt=2"));
    with_query.replays(&first, REPLAYED).await;

    let list = || complete(api, "list").json(r#"{"items":[{"id":"a"},{"id":"b"}]}"#);
    list().executes().await;
    let reversed = list().json(r#"{"items":[{"id":"b"},{"id":"a"}]}"#);
    reversed.refused(422).await.is("key-reused", is_error);
}

async fn another_body_is_a_conflict(api: &Api) {
    let first = complete(api, "body").executes().await;
    // `null` clears a member, and its absence leaves the member as it is.
    let absent = complete(api, "body").json(
        r#"{"buyer":{"first_name":"John","last_name":"Smith","email":"johnsmith@mail.com"},"payment_data":{"token":"spt_123","provider":"stripe","amount":2000}}"#,
    );
    // A member of an extension is compared like any other ("Extension Fields").
    let extended = complete(api, "body").json(
        r#"{"buyer":{"first_name":"John","last_name":"Smith","email":"johnsmith@mail.com"},"payment_data":{"token":"spt_123","provider":"stripe","amount":2000,"note":null},"discounts":{"codes":["SAVE10"]}}"#,
    );
    for other in [absent, extended, complete(api, "body").json("{}")] {
        other.refused(422).await.is("key-reused", is_error);
    }
    complete(api, "body").replays(&first, REPLAYED).await;
}

async fn a_request_in_flight_is_a_conflict_too(api: &Api) {
    let running = complete(api, "flight").begins().await;
    let refused = complete(api, "flight").refused(409).await;
    refused.is("in-flight", is_error);
    assert_eq!(refused.header("retry-after"), Some("1"));
    let other = complete(api, "flight").json("{}").refused(422).await;
    other.is("key-reused", is_error);
    let first = running.ends().await;
    complete(api, "flight").replays(&first, REPLAYED).await;
}

async fn a_5xx_is_not_kept(api: &Api) {
    for status in [500, 502, 503, 504] {
        let key = format!("failed-{status}");
        api.answers_next(Reply::status(status));
        let failed = complete(api, &key).executes().await;
        assert_eq!(failed.status(), status);
        let first = complete(api, &key).executes().await;
        complete(api, &key).replays(&first, REPLAYED).await;
    }
    // The protocol excepts no other status: the original response comes with its own.
    for status in [400, 404, 405, 409, 422] {
        let key = format!("refused-{status}");
        api.answers_next(Reply::status(status));
        let first = complete(api, &key).executes().await;
        complete(api, &key).replays(&first, REPLAYED).await;
    }
}

async fn the_rest_of_the_api_is_left_alone(api: &Api) {
    let rest = [
        (Method::GET, "/checkout_sessions/csn_1"),
        (Method::GET, "/carts/cart_1"),
        // Of these endpoints the edition asks nothing, or another status for a conflict.
        (Method::POST, "/feeds"),
        (Method::PATCH, "/feeds/feed_1/products"),
        (Method::POST, "/delegate_authentication"),
    ];
    for (method, path) in rest {
        let request = || api.request(method.clone(), path);
        let keyed = request()
            .header("authorization", "Bearer platform-1")
            .header("idempotency-key", "rest");
        keyed.executes_twice().await;
        request().executes_twice().await;
    }
}

async fn without_a_store_the_service_is_unavailable(api: &Api) {
    let api = Api::start_without_store(api.file()).await;
    let refused = complete(&api, "no-store").refused(503).await;
    refused.is("store-unavailable", is_error);
}

async fn an_answer_is_kept_for_24_hours(api: &Api) {
    api.keeps_answers_for(24).await;
}
