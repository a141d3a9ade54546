//! This is the contract of Adyen:
//! <https://docs.adyen.com/development-resources/api-idempotency>.

use http::Method;
use serde_json::json;

use crate::api::{Api, NO_MARK, Request};
use crate::refusals::Refused;
use crate::upstream::Reply;

contract! { "adyen.toml":
    a_retry_gets_the_first_answer_and_its_key,
    a_key_has_up_to_64_characters,
    a_key_belongs_to_the_company_account,
    a_transient_error_is_not_kept,
    a_request_in_progress_is_error_704,
    another_request_is_error_704,
    without_a_store_the_answer_is_error_703,
    only_posts_have_keys,
    an_answer_is_kept_for_7_days,
}

/// Whether a refusal has the form of this vendor's errors.
fn is_error(refused: &Refused) -> bool {
    let (code, message, kind) = match &*refused.code {
        "key-reused" | "in-flight" => (
            "704",
            "request already processed or in progress",
            "validation",
        ),
        "store-unavailable" => (
            "703",
            "required resource temporarily unavailable",
            "internal",
        ),
        code => (code, refused.sentence("/message"), "internal"),
    };
    let error = json!({ "status": refused.status, "errorCode": code, "message": message, "errorType": kind });
    refused.content_type == "application/json" && refused.body == error
}

fn pay(api: &Api, key: &str) -> Request {
    api.post("/v72/payments")
        .header("x-api-key", "acme-1")
        .header("idempotency-key", key)
        .json(r#"{"amount":{"value":1000,"currency":"EUR"},"reference":"r-1"}"#)
}

async fn a_retry_gets_the_first_answer_and_its_key(api: &Api) {
    let first = pay(api, "retry").executes().await;
    assert_eq!(first.header("idempotency-key"), Some("retry"));
    pay(api, "retry").replays(&first, NO_MARK).await;
    pay(api, "retry")
        .without("idempotency-key")
        .executes_twice()
        .await;
}

async fn a_key_has_up_to_64_characters(api: &Api) {
    let longest = "k".repeat(64);
    for key in ["k", "7d2f2b3e-9f3a-4f5b-a6a0-0f6a5f0e0b55", &longest] {
        let first = pay(api, key).executes().await;
        pay(api, key).replays(&first, NO_MARK).await;
    }
    pay(api, &"k".repeat(65))
        .refused(400)
        .await
        .is("key-too-long", is_error);
}

async fn a_key_belongs_to_the_company_account(api: &Api) {
    let first = pay(api, "belongs").executes().await;
    let with = |credential: &str| {
        pay(api, "belongs")
            .without("x-api-key")
            .header("x-api-key", credential)
    };
    with("acme-2").replays(&first, NO_MARK).await;
    with("globex-1").executes().await;
    // The authorizer decides which account a request belongs to, not the client.
    with("initech-1")
        .header("x-company-account", "acme")
        .executes()
        .await;
    let before = api.executions();
    assert_eq!(with("unknown").send().await.status(), 401);
    assert_eq!(api.executions(), before);
    pay(api, "belongs").replays(&first, NO_MARK).await;
}

async fn a_transient_error_is_not_kept(api: &Api) {
    for status in [200, 422] {
        let key = format!("transient-{status}");
        api.answers_next(Reply::status(status).header("transient-error", "true"));
        let failed = pay(api, &key).executes().await;
        assert_eq!(failed.header("transient-error"), Some("true"));
        let first = pay(api, &key).executes().await;
        pay(api, &key).replays(&first, NO_MARK).await;
    }
    api.answers_next(Reply::status(422).header("transient-error", "false"));
    let refused = pay(api, "not-transient").executes().await;
    pay(api, "not-transient").replays(&refused, NO_MARK).await;
}

async fn a_request_in_progress_is_error_704(api: &Api) {
    let running = pay(api, "in-progress").begins().await;
    let refused = pay(api, "in-progress").refused(409).await;
    assert_eq!(refused.header("content-type"), Some("application/json"));
    assert_eq!(
        refused.text(),
        r#"{"status":409,"errorCode":"704","message":"request already processed or in progress","errorType":"validation"}"#
    );
    let first = running.ends().await;
    pay(api, "in-progress").replays(&first, NO_MARK).await;
}

async fn another_request_is_error_704(api: &Api) {
    pay(api, "other").executes().await;
    for other in [
        pay(api, "other").json("{}"),
        pay(api, "other").to("/v72/payments/1/refunds"),
    ] {
        let refused = other.refused(422).await;
        assert_eq!(refused.header("content-type"), Some("application/json"));
        assert_eq!(
            refused.text(),
            r#"{"status":422,"errorCode":"704","message":"request already processed or in progress","errorType":"validation"}"#
        );
    }
}

async fn without_a_store_the_answer_is_error_703(api: &Api) {
    let api = Api::start_without_store(api.file()).await;
    let refused = pay(&api, "no-store").refused(503).await;
    assert_eq!(refused.header("content-type"), Some("application/json"));
    assert_eq!(
        refused.text(),
        r#"{"status":503,"errorCode":"703","message":"required resource temporarily unavailable","errorType":"internal"}"#
    );
    assert_eq!(refused.header("retry-after"), Some("1"));
    pay(&api, "no-store")
        .without("idempotency-key")
        .executes_twice()
        .await;
}

async fn only_posts_have_keys(api: &Api) {
    for method in [Method::GET, Method::PUT, Method::PATCH, Method::DELETE] {
        let other = api
            .request(method, "/v72/payments")
            .header("x-api-key", "acme-1")
            .header("idempotency-key", "posts");
        other.executes_twice().await;
    }
}

async fn an_answer_is_kept_for_7_days(api: &Api) {
    api.keeps_answers_for(168).await;
}
