//! This is the contract of Modern Treasury:
//! <https://docs.moderntreasury.com/reference/idempotent-requests>.

use http::Method;
use serde_json::json;

use crate::api::{Api, NO_MARK, Request};
use crate::refusals::Refused;
use crate::upstream::Reply;

contract! { "modern-treasury.toml":
    a_retry_gets_the_first_answer,
    another_route_or_body_gets_the_first_answer_too,
    only_what_succeeded_is_kept,
    a_concurrent_request_is_a_conflict,
    a_key_belongs_to_an_api_key,
    only_posts_have_keys,
    an_answer_is_kept_for_24_hours,
}

/// Whether a refusal has the form of this vendor's errors.
fn is_error(refused: &Refused) -> bool {
    let message = refused.sentence("/errors/message");
    let error = json!({ "errors": { "code": refused.code, "message": message } });
    refused.content_type == "application/json" && refused.body == error
}

fn order(api: &Api, key: &str) -> Request {
    api.post("/api/payment_orders")
        .header("authorization", "Basic b3JnLTE6a2V5LTE=")
        .header("idempotency-key", key)
        .json(r#"{"type":"ach","amount":100,"direction":"credit"}"#)
}

async fn a_retry_gets_the_first_answer(api: &Api) {
    let first = order(api, "retry").executes().await;
    order(api, "retry").replays(&first, NO_MARK).await;
    order(api, "retry")
        .without("idempotency-key")
        .executes_twice()
        .await;
}

async fn another_route_or_body_gets_the_first_answer_too(api: &Api) {
    let first = order(api, "other").executes().await;
    order(api, "other")
        .json(r#"{"amount":1}"#)
        .replays(&first, NO_MARK)
        .await;
    order(api, "other")
        .to("/api/counterparties")
        .replays(&first, NO_MARK)
        .await;
}

async fn only_what_succeeded_is_kept(api: &Api) {
    for status in [400, 404, 409, 422, 500, 503] {
        let key = format!("not-kept-{status}");
        api.answers_next(Reply::status(status));
        assert_eq!(order(api, &key).executes().await.status(), status);
        // The key is free again, for any request.
        let first = order(api, &key).json("{}").executes().await;
        order(api, &key).replays(&first, NO_MARK).await;
    }
}

async fn a_concurrent_request_is_a_conflict(api: &Api) {
    let running = order(api, "concurrent").begins().await;
    order(api, "concurrent")
        .refused(409)
        .await
        .is("in-flight", is_error);
    let elsewhere = order(api, "concurrent").to("/api/counterparties");
    elsewhere.refused(409).await.is("in-flight", is_error);
    let first = running.ends().await;
    order(api, "concurrent").replays(&first, NO_MARK).await;
}

async fn a_key_belongs_to_an_api_key(api: &Api) {
    let first = order(api, "belongs").executes().await;
    order(api, "belongs")
        .without("authorization")
        .header("authorization", "Basic b3JnLTE6a2V5LTI=")
        .executes()
        .await;
    order(api, "belongs").replays(&first, NO_MARK).await;
}

async fn only_posts_have_keys(api: &Api) {
    order(api, "posts").executes().await;
    for method in [Method::GET, Method::PATCH, Method::DELETE] {
        let other = api
            .request(method, "/api/payment_orders")
            .header("authorization", "Basic b3JnLTE6a2V5LTE=")
            .header("idempotency-key", "posts");
        other.executes_twice().await;
    }
}

async fn an_answer_is_kept_for_24_hours(api: &Api) {
    api.keeps_answers_for(24).await;
}
