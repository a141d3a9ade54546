//! This is the contract of a hosting provider: clients order virtual machines and
//! other products.

use http::Method;
use serde_json::json;

use crate::api::{Api, REPLAYED, Request, is_sentence};
use crate::refusals::Refused;
use crate::upstream::Reply;

const MACHINES: &str = "/api/vps/v1/virtual-machines";
const ORDERS: &str = "/api/billing/v1/orders";
const DOCS: &str = "<https://api.example.com/idempotency>; rel=\"describedby\"";

contract! { "hostinger.toml":
    the_same_key_and_body_return_the_original_order,
    a_changed_body_is_a_clear_conflict,
    the_key_of_one_endpoint_is_a_conflict_on_the_other,
    a_key_belongs_to_an_api_token,
    a_retry_while_the_order_runs_is_told_so,
    an_order_that_failed_is_tried_again,
    without_a_key_each_request_is_an_order,
    other_endpoints_are_left_alone,
    what_clients_have_to_know_is_published,
}

/// Whether a refusal has the form of this vendor's errors.
fn is_error(refused: &Refused) -> bool {
    let (message, id) = (refused.sentence("/message"), refused.id("/correlation_id"));
    let error = json!({ "message": message, "correlation_id": id });
    refused.content_type == "application/json" && refused.body == error
}

fn order(api: &Api, path: &str, key: &str) -> Request {
    api.post(path)
        .header("authorization", "Bearer token-of-alice")
        .header("idempotency-key", key)
        .json(r#"{"item_id":"vps-kvm2-usd-1m","coupons":[]}"#)
}

async fn the_same_key_and_body_return_the_original_order(api: &Api) {
    for path in [MACHINES, ORDERS] {
        let key = format!("original-{path}");
        let first = order(api, path, &key).executes().await;
        assert_eq!(first.status(), 201);
        for _ in 0..3 {
            order(api, path, &key).replays(&first, REPLAYED).await;
        }
    }
}

async fn a_changed_body_is_a_clear_conflict(api: &Api) {
    for path in [MACHINES, ORDERS] {
        let key = format!("changed-{path}");
        order(api, path, &key).executes().await;
        let changed = order(api, path, &key)
            .json(r#"{"item_id":"vps-kvm8-usd-1m","coupons":[]}"#)
            .header("x-request-id", "26a91bd9-f8c8-4a83-9df9-83e23d696fe3");
        let conflict = changed.refused(409).await;
        assert_eq!(conflict.header("content-type"), Some("application/json"));
        let body = conflict.json();
        assert_eq!(body.as_object().unwrap().len(), 2, "{body}");
        is_sentence(&body["message"]);
        assert_eq!(
            body["correlation_id"],
            "26a91bd9-f8c8-4a83-9df9-83e23d696fe3"
        );
        assert_eq!(
            conflict.header("x-request-id"),
            body["correlation_id"].as_str()
        );
        assert_eq!(conflict.header("link"), Some(DOCS));
    }
}

async fn the_key_of_one_endpoint_is_a_conflict_on_the_other(api: &Api) {
    order(api, MACHINES, "two-endpoints").executes().await;
    order(api, ORDERS, "two-endpoints").refused(409).await;
}

async fn a_key_belongs_to_an_api_token(api: &Api) {
    let first = order(api, ORDERS, "belongs").executes().await;
    let bob = || {
        order(api, ORDERS, "belongs")
            .without("authorization")
            .header("authorization", "Bearer token-of-bob")
    };
    let his = bob().executes().await;
    order(api, ORDERS, "belongs")
        .replays(&first, REPLAYED)
        .await;
    bob().replays(&his, REPLAYED).await;

    let nobody = order(api, ORDERS, "belongs").without("authorization");
    nobody.refused(400).await.is("scope-missing", is_error);
}

async fn a_retry_while_the_order_runs_is_told_so(api: &Api) {
    let running = order(api, MACHINES, "running").begins().await;
    let retry = order(api, MACHINES, "running").refused(409).await;
    retry.is("in-flight", is_error);
    assert_eq!(retry.header("retry-after"), Some("1"));
    assert_eq!(retry.header("link"), Some(DOCS));
    let changed = order(api, MACHINES, "running")
        .json("{}")
        .refused(409)
        .await;
    assert!(changed.json()["correlation_id"].is_string());
    let first = running.ends().await;
    order(api, MACHINES, "running")
        .replays(&first, REPLAYED)
        .await;
}

async fn an_order_that_failed_is_tried_again(api: &Api) {
    for status in [500, 502, 503, 401, 429] {
        let key = format!("failed-{status}");
        api.answers_next(Reply::status(status));
        let failed = order(api, ORDERS, &key).executes().await;
        assert_eq!(failed.status(), status);
        assert_eq!(order(api, ORDERS, &key).executes().await.status(), 201);
    }
    // A final rejection by the API is recorded and replayed.
    api.answers_next(Reply::status(422));
    let refused = order(api, ORDERS, "refused").executes().await;
    order(api, ORDERS, "refused")
        .replays(&refused, REPLAYED)
        .await;
}

async fn without_a_key_each_request_is_an_order(api: &Api) {
    for path in [MACHINES, ORDERS] {
        order(api, path, "")
            .without("idempotency-key")
            .executes_twice()
            .await;
        order(api, path, "")
            .refused(400)
            .await
            .is("key-invalid", is_error);
    }
}

async fn other_endpoints_are_left_alone(api: &Api) {
    order(api, "/api/vps/v1/virtual-machines/1/restart", "others")
        .executes_twice()
        .await;
    order(api, "/api/billing/v1/subscriptions", "others")
        .executes_twice()
        .await;
}

async fn what_clients_have_to_know_is_published(api: &Api) {
    let read = |format: &str| {
        let path = format!("/idempotency?format={format}");
        api.request(Method::GET, &path).send()
    };
    let json = read("json").await.json();
    let endpoints = json["endpoints"].as_array().unwrap();
    for path in [MACHINES, ORDERS] {
        let endpoint = endpoints
            .iter()
            .find(|endpoint| endpoint["path"] == path)
            .unwrap();
        assert_eq!(endpoint["methods"], serde_json::json!(["POST"]));
        assert_eq!(endpoint["require"], "optional");
        assert_eq!(endpoint["retention"], 48 * 3600);
        assert_eq!(endpoint["on_in_flight"], "reject");
        assert!(
            endpoint["scope"]
                .as_str()
                .unwrap()
                .to_lowercase()
                .contains("authorization")
        );
    }
    // The page says the same in words for people.
    let page = read("markdown").await;
    let says = |what: &str| assert!(page.text().contains(what), "{what}:\n{}", page.text());
    says(MACHINES);
    says(ORDERS);
    says("Responses are kept for 2 days");
    says("A key belongs to");
    says("While the first request runs, the same request");
    says("A different request with a used key gets 409 `key-reused`");
}
