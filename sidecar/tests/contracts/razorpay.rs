//! This is the contract of a bank for payouts:
//! <https://razorpay.com/docs/api/x/payout-idempotency/>.

use http::Method;
use serde_json::json;

use crate::api::{Answer, Api, NO_MARK, Request, is_sentence};
use crate::refusals::Refused;
use crate::upstream::Reply;

contract! { "razorpay.toml":
    a_payout_is_made_once,
    a_payout_needs_a_key,
    a_key_has_4_to_36_characters,
    another_body_is_a_bad_request,
    a_concurrent_request_is_a_conflict,
    a_key_belongs_to_an_api_key,
    a_payout_that_failed_is_tried_again,
    other_endpoints_need_no_key,
    a_key_is_kept_for_7_days,
}

/// Whether a refusal has the form of this vendor's errors.
fn is_error(refused: &Refused) -> bool {
    let description = refused.sentence("/error/description");
    let error = match &*refused.code {
        "key-required" | "key-too-short" | "key-too-long" | "key-reused" => {
            json!({ "code": "BAD_REQUEST_ERROR", "description": description })
        }
        code => json!({ "code": "SERVER_ERROR", "description": description, "reason": code }),
    };
    refused.content_type == "application/json" && refused.body == json!({ "error": error })
}

fn payout(api: &Api, key: &str) -> Request {
    api.post("/v1/payouts")
        .header("authorization", "Basic cnpwX3Rlc3Q6cw==")
        .header("x-payout-idempotency", key)
        .json(r#"{"account_number":"7878780080316316","amount":1000000,"currency":"INR"}"#)
}

fn is_bad_request(answer: &Answer) {
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(answer.json()["error"]["code"], "BAD_REQUEST_ERROR");
    is_sentence(&answer.json()["error"]["description"]);
}

async fn a_payout_is_made_once(api: &Api) {
    let first = payout(api, "payout one_2-3").executes().await;
    payout(api, "payout one_2-3").replays(&first, NO_MARK).await;
}

async fn a_payout_needs_a_key(api: &Api) {
    let without = || payout(api, "").without("x-payout-idempotency");
    is_bad_request(&without().refused(400).await);
    is_bad_request(
        &without()
            .header("idempotency-key", "a-key")
            .refused(400)
            .await,
    );
}

async fn a_key_has_4_to_36_characters(api: &Api) {
    for key in ["abcd", "53cda91c-8f81-4e77-bbb9-7388f4ac6bf4"] {
        let first = payout(api, key).executes().await;
        payout(api, key).replays(&first, NO_MARK).await;
    }
    payout(api, "abc")
        .refused(400)
        .await
        .is("key-too-short", is_error);
    payout(api, &"k".repeat(37))
        .refused(400)
        .await
        .is("key-too-long", is_error);
}

async fn another_body_is_a_bad_request(api: &Api) {
    let first = payout(api, "other").executes().await;
    is_bad_request(
        &payout(api, "other")
            .json(r#"{"amount":1}"#)
            .refused(400)
            .await,
    );
    payout(api, "other").replays(&first, NO_MARK).await;
}

async fn a_concurrent_request_is_a_conflict(api: &Api) {
    let running = payout(api, "concurrent").begins().await;
    payout(api, "concurrent")
        .refused(409)
        .await
        .is("in-flight", is_error);
    let first = running.ends().await;
    payout(api, "concurrent").replays(&first, NO_MARK).await;
}

async fn a_key_belongs_to_an_api_key(api: &Api) {
    let first = payout(api, "belongs").executes().await;
    let other = payout(api, "belongs").without("authorization");
    other
        .header("authorization", "Basic cnpwX2xpdmU6cw==")
        .executes()
        .await;
    payout(api, "belongs").replays(&first, NO_MARK).await;
}

async fn a_payout_that_failed_is_tried_again(api: &Api) {
    api.answers_next(Reply::status(502));
    assert_eq!(payout(api, "failed").executes().await.status(), 502);
    payout(api, "failed").executes().await;
}

async fn other_endpoints_need_no_key(api: &Api) {
    payout(api, "others")
        .to("/v1/contacts")
        .executes_twice()
        .await;
    payout(api, "")
        .to("/v1/contacts")
        .without("x-payout-idempotency")
        .executes_twice()
        .await;
    api.request(Method::PATCH, "/v1/payouts")
        .executes_twice()
        .await;
}

async fn a_key_is_kept_for_7_days(api: &Api) {
    api.keeps_answers_for(168).await;
}
