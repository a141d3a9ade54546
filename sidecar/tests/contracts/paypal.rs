//! This is the contract of a wallet for orders and payments:
//! <https://developer.paypal.com/api/rest/reference/idempotency/>,
//! <https://developer.paypal.com/docs/api/orders/v2/>.

use http::Method;
use serde_json::json;

use crate::api::{Api, NO_MARK, Request};
use crate::refusals::Refused;
use crate::upstream::Reply;

contract! { "paypal.toml":
    a_created_order_comes_again_as_200,
    a_key_has_1_to_108_characters,
    another_request_is_refused,
    a_simultaneous_request_is_a_conflict,
    a_key_belongs_to_an_account_whatever_its_token,
    what_failed_is_tried_again,
    only_posts_have_keys,
    an_answer_is_kept_for_6_hours,
}

/// Whether a refusal has the form of this vendor's errors.
fn is_error(refused: &Refused) -> bool {
    let (message, id) = (refused.sentence("/message"), refused.id("/debug_id"));
    let error = json!({ "name": refused.code, "message": message, "debug_id": id, "details": [] });
    refused.content_type == "application/json" && refused.body == error
}

fn order(api: &Api, key: &str) -> Request {
    api.post("/v2/checkout/orders")
        .header("authorization", "Bearer alice-token-1")
        .header("paypal-request-id", key)
        .json(r#"{"intent":"CAPTURE","purchase_units":[]}"#)
}

async fn a_created_order_comes_again_as_200(api: &Api) {
    let first = order(api, "created").executes().await;
    assert_eq!(first.status(), 201);
    let as_200 = first.with_status(200);
    order(api, "created").replays(&as_200, NO_MARK).await;
    for status in [200, 202, 422] {
        let key = format!("status-{status}");
        api.answers_next(Reply::status(status));
        let first = order(api, &key).executes().await;
        order(api, &key).replays(&first, NO_MARK).await;
    }
    order(api, "created")
        .without("paypal-request-id")
        .executes_twice()
        .await;
}

async fn a_key_has_1_to_108_characters(api: &Api) {
    for key in [
        "1",
        "123e4567-e89b-12d3-a456-426655440010",
        &"k".repeat(108),
    ] {
        let first = order(api, key).executes().await;
        order(api, key)
            .replays(&first.with_status(200), NO_MARK)
            .await;
    }
    order(api, &"k".repeat(109))
        .refused(400)
        .await
        .is("key-too-long", is_error);
}

async fn another_request_is_refused(api: &Api) {
    order(api, "other").executes().await;
    for other in [
        order(api, "other").json("{}"),
        order(api, "other").to("/v1/billing/plans"),
    ] {
        other.refused(422).await.is("key-reused", is_error);
    }
}

async fn a_simultaneous_request_is_a_conflict(api: &Api) {
    let running = order(api, "simultaneous").begins().await;
    order(api, "simultaneous")
        .refused(409)
        .await
        .is("in-flight", is_error);
    let first = running.ends().await;
    order(api, "simultaneous")
        .replays(&first.with_status(200), NO_MARK)
        .await;
}

async fn a_key_belongs_to_an_account_whatever_its_token(api: &Api) {
    let with = |token: &str| {
        let anybody = order(api, "belongs").without("authorization");
        anybody.header("authorization", token)
    };
    let first = with("Bearer alice-token-1").executes().await;
    with("Bearer alice-token-2")
        .replays(&first.with_status(200), NO_MARK)
        .await;
    with("Bearer bob-token-1").executes().await;
}

async fn what_failed_is_tried_again(api: &Api) {
    for status in [401, 429, 500, 503] {
        let key = format!("failed-{status}");
        api.answers_next(Reply::status(status));
        assert_eq!(order(api, &key).executes().await.status(), status);
        assert_eq!(order(api, &key).executes().await.status(), 201);
    }
}

async fn only_posts_have_keys(api: &Api) {
    order(api, "posts").executes().await;
    for method in [Method::GET, Method::PATCH, Method::DELETE] {
        let other = api
            .request(method, "/v2/checkout/orders")
            .header("authorization", "Bearer alice-token-1")
            .header("paypal-request-id", "posts");
        other.executes_twice().await;
    }
}

async fn an_answer_is_kept_for_6_hours(api: &Api) {
    api.keeps_answers_for(6).await;
}
