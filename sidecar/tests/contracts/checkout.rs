//! This is the contract of Checkout.com:
//! <https://www.checkout.com/docs/payments/manage-payments/idempotency>.

use http::Method;
use serde_json::json;

use crate::api::{Api, NO_MARK, Request};
use crate::refusals::Refused;
use crate::upstream::Reply;

const ENDPOINTS: [&str; 8] = [
    "/payment-contexts",
    "/payments",
    "/payments/pay_1/authorizations",
    "/payments/pay_1/cancellations",
    "/payments/pay_1/captures",
    "/payments/pay_1/refunds",
    "/payments/pay_1/voids",
    "/transfers",
];

contract! { "checkout.toml":
    a_retry_gets_the_first_answer_on_each_endpoint,
    only_what_was_processed_is_kept,
    a_concurrent_request_is_one_too_many,
    another_request_is_refused,
    a_key_belongs_to_a_secret_key,
    other_endpoints_are_left_alone,
    an_answer_is_kept_for_24_hours,
}

/// Whether a refusal has the form of this vendor's errors.
fn is_error(refused: &Refused) -> bool {
    let id = refused.id("/request_id");
    let error =
        json!({ "request_id": id, "error_type": "request_invalid", "error_codes": [refused.code] });
    refused.content_type == "application/json" && refused.body == error
}

fn pay(api: &Api, key: &str) -> Request {
    api.post("/payments")
        .header("authorization", "sk_alice")
        .header("cko-idempotency-key", key)
        .json(r#"{"source":{"type":"token","token":"tok_1"},"amount":1000,"currency":"USD"}"#)
}

async fn a_retry_gets_the_first_answer_on_each_endpoint(api: &Api) {
    for path in ENDPOINTS {
        let request = || pay(api, &format!("retry-{path}")).to(path);
        let first = request().executes().await;
        request().replays(&first, NO_MARK).await;
        request()
            .without("cko-idempotency-key")
            .executes_twice()
            .await;
    }
}

async fn only_what_was_processed_is_kept(api: &Api) {
    for status in [200, 201, 202] {
        let key = format!("kept-{status}");
        api.answers_next(Reply::status(status));
        let first = pay(api, &key).executes().await;
        pay(api, &key).replays(&first, NO_MARK).await;
    }
    for status in [302, 400, 401, 404, 409, 422, 429, 500, 502] {
        let key = format!("not-kept-{status}");
        api.answers_next(Reply::status(status));
        assert_eq!(pay(api, &key).executes().await.status(), status);
        assert_eq!(pay(api, &key).executes().await.status(), 201);
    }
}

async fn a_concurrent_request_is_one_too_many(api: &Api) {
    let running = pay(api, "concurrent").begins().await;
    let refused = pay(api, "concurrent").refused(429).await;
    refused.is("in-flight", is_error);
    assert_eq!(refused.header("retry-after"), Some("30"));
    let first = running.ends().await;
    pay(api, "concurrent").replays(&first, NO_MARK).await;
}

async fn another_request_is_refused(api: &Api) {
    pay(api, "other").executes().await;
    for other in [
        pay(api, "other").json("{}"),
        pay(api, "other").to("/transfers"),
    ] {
        other.refused(422).await.is("key-reused", is_error);
    }
}

async fn a_key_belongs_to_a_secret_key(api: &Api) {
    let first = pay(api, "belongs").executes().await;
    let bob = pay(api, "belongs")
        .without("authorization")
        .header("authorization", "sk_bob");
    bob.executes().await;
    pay(api, "belongs").replays(&first, NO_MARK).await;
}

async fn other_endpoints_are_left_alone(api: &Api) {
    pay(api, "others").to("/customers").executes_twice().await;
    pay(api, "others")
        .to("/payments/pay_1/actions")
        .executes_twice()
        .await;
    let patch = api
        .request(Method::PATCH, "/payments")
        .header("authorization", "sk_alice")
        .header("cko-idempotency-key", "others");
    patch.executes_twice().await;
    // This API has another header, so `Idempotency-Key` is no key here.
    pay(api, "")
        .without("cko-idempotency-key")
        .header("idempotency-key", "others")
        .executes_twice()
        .await;
}

async fn an_answer_is_kept_for_24_hours(api: &Api) {
    api.keeps_answers_for(24).await;
}
