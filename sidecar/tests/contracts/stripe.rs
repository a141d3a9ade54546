//! This is the contract of Stripe, API v1:
//! <https://docs.stripe.com/api/idempotent_requests>,
//! <https://docs.stripe.com/error-low-level>.

use http::Method;
use serde_json::json;

use crate::api::{Api, Request, is_sentence};
use crate::refusals::Refused;
use crate::upstream::Reply;

const REPLAYED: &[(&str, &str)] = &[("idempotent-replayed", "true")];

contract! { "stripe.toml":
    a_retry_gets_the_first_answer,
    a_key_has_up_to_255_characters,
    every_answer_is_kept_but_429,
    another_request_is_an_idempotency_error,
    a_concurrent_request_is_a_conflict,
    a_key_belongs_to_an_api_key,
    only_posts_have_keys,
    an_answer_is_kept_for_24_hours,
}

/// Whether a refusal has the form of this vendor's errors.
fn is_error(refused: &Refused) -> bool {
    let message = refused.sentence("/error/message");
    let error = match &*refused.code {
        "key-too-long" => json!({ "type": "invalid_request_error", "message": message }),
        "key-reused" => json!({ "type": "idempotency_error", "message": message }),
        "in-flight" => json!({
            "type": "idempotency_error", "code": "idempotency_key_in_use", "message": message,
        }),
        code => json!({ "type": "api_error", "code": code, "message": message }),
    };
    refused.content_type == "application/json" && refused.body == json!({ "error": error })
}

fn charge(api: &Api, key: &str) -> Request {
    api.post("/v1/charges")
        .header("authorization", "Basic c2tfdGVzdF9hbGljZTo=")
        .header("idempotency-key", key)
        .header("content-type", "application/x-www-form-urlencoded")
}

async fn a_retry_gets_the_first_answer(api: &Api) {
    let first = charge(api, "retry").executes().await;
    charge(api, "retry").replays(&first, REPLAYED).await;
    charge(api, "retry")
        .without("idempotency-key")
        .executes_twice()
        .await;
}

async fn a_key_has_up_to_255_characters(api: &Api) {
    let longest = "k".repeat(255);
    for key in ["k", "\"k\"", "KG5LxwFBepaKHyUD", &longest] {
        let first = charge(api, key).executes().await;
        charge(api, key).replays(&first, REPLAYED).await;
    }
    charge(api, &"k".repeat(256))
        .refused(400)
        .await
        .is("key-too-long", is_error);
    charge(api, "")
        .refused(400)
        .await
        .is("key-invalid", is_error);
}

async fn every_answer_is_kept_but_429(api: &Api) {
    for status in [200, 400, 401, 402, 403, 404, 409, 424, 500, 502, 503, 504] {
        let key = format!("kept-{status}");
        api.answers_next(Reply::status(status));
        let first = charge(api, &key).executes().await;
        assert_eq!(first.status(), status);
        charge(api, &key).replays(&first, REPLAYED).await;
    }
    api.answers_next(Reply::status(429));
    assert_eq!(charge(api, "limited").executes().await.status(), 429);
    let first = charge(api, "limited").executes().await;
    charge(api, "limited").replays(&first, REPLAYED).await;
}

async fn another_request_is_an_idempotency_error(api: &Api) {
    let first = charge(api, "other").executes().await;
    for other in [
        charge(api, "other").json("{}"),
        charge(api, "other").to("/v1/refunds"),
    ] {
        let refused = other.refused(400).await;
        assert_eq!(refused.header("content-type"), Some("application/json"));
        assert_eq!(refused.json()["error"]["type"], "idempotency_error");
        is_sentence(&refused.json()["error"]["message"]);
    }
    charge(api, "other").replays(&first, REPLAYED).await;
}

async fn a_concurrent_request_is_a_conflict(api: &Api) {
    let running = charge(api, "concurrent").begins().await;
    let conflict = charge(api, "concurrent").refused(409).await;
    assert_eq!(conflict.header("content-type"), Some("application/json"));
    assert_eq!(conflict.json()["error"]["type"], "idempotency_error");
    assert_eq!(conflict.json()["error"]["code"], "idempotency_key_in_use");
    is_sentence(&conflict.json()["error"]["message"]);
    let first = running.ends().await;
    charge(api, "concurrent").replays(&first, REPLAYED).await;
}

async fn a_key_belongs_to_an_api_key(api: &Api) {
    let first = charge(api, "belongs").executes().await;
    charge(api, "belongs")
        .without("authorization")
        .header("authorization", "Bearer sk_test_bob")
        .executes()
        .await;
    charge(api, "belongs").replays(&first, REPLAYED).await;
    let nobody = charge(api, "belongs").without("authorization");
    nobody.refused(401).await.is("scope-missing", is_error);
}

async fn only_posts_have_keys(api: &Api) {
    charge(api, "posts").executes().await;
    for method in [Method::GET, Method::DELETE, Method::PATCH] {
        let other = api
            .request(method, "/v1/charges")
            .header("authorization", "Basic c2tfdGVzdF9hbGljZTo=")
            .header("idempotency-key", "posts");
        other.executes_twice().await;
    }
}

async fn an_answer_is_kept_for_24_hours(api: &Api) {
    api.keeps_answers_for(24).await;
}
