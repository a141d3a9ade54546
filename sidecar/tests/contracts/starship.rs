//! This is the contract of Starship Rewards: orders and payouts of partners and of
//! the partners' clients.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::json;
use tokio::time::{sleep, timeout};

use crate::api::{Answer, Api, REPLAYED, Request};
use crate::refusals::Refused;
use crate::upstream::Reply;

const ENDPOINTS: [&str; 5] = [
    "/api/v1/orders",
    "/api/v1/payouts",
    "/client/api/orders",
    "/client/api/payouts",
    "/client/api/cart/checkout",
];
const ORDERS: &str = ENDPOINTS[0];

contract! { "starship.toml":
    a_retry_gets_the_first_answer_with_all_marks,
    a_key_is_required_where_money_moves,
    no_spelling_of_a_path_gets_around_it,
    a_key_has_8_to_256_characters,
    another_body_is_refused_with_the_exact_answer,
    one_key_serves_two_endpoints,
    a_key_belongs_to_a_client,
    a_retry_of_a_running_order_gets_its_answer,
    a_retry_that_waited_in_vain_is_told_to_come_again,
    an_order_that_failed_is_tried_again,
    other_endpoints_are_left_alone,
    an_answer_is_kept_for_24_hours,
    the_time_of_creation_is_that_of_the_first_answer,
}

/// Whether a refusal has the form of this vendor's errors.
fn is_error(refused: &Refused) -> bool {
    let error = match &*refused.code {
        "key-required" => json!({ "error": {
            "code": "IDEMPOTENCY_KEY_REQUIRED",
            "message": "Idempotency-Key header is required for this operation",
            "details": "Include a unique Idempotency-Key header (8-256 characters)",
        }}),
        "key-too-short" => json!({ "error": {
            "code": "IDEMPOTENCY_KEY_TOO_SHORT",
            "message": "Idempotency-Key must be at least 8 characters",
        }}),
        "key-reused" => json!({
            "error": "IdempotencyKeyReused",
            "code": "E_IDEMPOTENCY_KEY_REUSED",
            "message": "Idempotency-Key has already been used with a different request body",
        }),
        code => json!({ "error": { "code": code, "message": refused.sentence("/error/message") }}),
    };
    refused.content_type == "application/json" && refused.body == error
}

fn order(api: &Api, key: &str) -> Request {
    api.post(ORDERS)
        .header("x-api-key", "partner-1")
        .header("idempotency-key", key)
        .json(r#"{"sku":"GIFT-50","quantity":2}"#)
}

fn created_at(answer: &Answer) -> Timestamp {
    let created = answer.header("idempotency-created-at");
    created
        .expect("when it was created")
        .parse()
        .expect("RFC 3339")
}

fn has_marks(answer: &Answer, key: &str) {
    assert_eq!(answer.header("idempotency-key"), Some(key));
    let created = created_at(answer);
    let age = Timestamp::now().duration_since(created);
    assert!(age.unsigned_abs() < Duration::from_mins(1), "{created}");
}

async fn a_retry_gets_the_first_answer_with_all_marks(api: &Api) {
    for path in ENDPOINTS {
        let key = format!("marks-of-{path}");
        let first = order(api, &key).to(path).executes().await;
        assert_eq!(first.status(), 201);
        has_marks(&first, &key);
        for _ in 0..2 {
            // The time of creation is that of the first response.
            let again = order(api, &key).to(path).replays(&first, REPLAYED).await;
            has_marks(&again, &key);
        }
    }
}

async fn a_key_is_required_where_money_moves(api: &Api) {
    for path in ENDPOINTS {
        let refused = order(api, "")
            .to(path)
            .without("idempotency-key")
            .refused(400)
            .await;
        assert_eq!(refused.header("content-type"), Some("application/json"));
        assert_eq!(
            refused.text(),
            r#"{"error":{"code":"IDEMPOTENCY_KEY_REQUIRED","message":"Idempotency-Key header is required for this operation","details":"Include a unique Idempotency-Key header (8-256 characters)"}}"#
        );
    }
}

async fn no_spelling_of_a_path_gets_around_it(api: &Api) {
    for path in [
        "/api/v1/%6frders",
        "/api/v1/orders/",
        "/api//v1/./orders",
        "/API/v1%2forders",
    ] {
        let bare = order(api, "").without("idempotency-key");
        bare.to(path).refused(400).await;
    }
}

async fn a_key_has_8_to_256_characters(api: &Api) {
    for key in ["12345678", &"k".repeat(256)] {
        let first = order(api, key).executes().await;
        order(api, key).replays(&first, REPLAYED).await;
    }
    for key in ["1", "1234567", "\"1234567\""] {
        let refused = order(api, key).refused(400).await;
        assert_eq!(refused.header("content-type"), Some("application/json"));
        assert_eq!(
            refused.text(),
            r#"{"error":{"code":"IDEMPOTENCY_KEY_TOO_SHORT","message":"Idempotency-Key must be at least 8 characters"}}"#
        );
    }
    order(api, &"k".repeat(257))
        .refused(400)
        .await
        .is("key-too-long", is_error);
}

async fn another_body_is_refused_with_the_exact_answer(api: &Api) {
    for path in ENDPOINTS {
        let key = format!("body-of-{path}");
        let first = order(api, &key).to(path).executes().await;
        let other = order(api, &key)
            .to(path)
            .json(r#"{"sku":"GIFT-50","quantity":3}"#);
        let refused = other.refused(422).await;
        assert_eq!(refused.header("content-type"), Some("application/json"));
        assert_eq!(
            refused.text(),
            r#"{"error":"IdempotencyKeyReused","code":"E_IDEMPOTENCY_KEY_REUSED","message":"Idempotency-Key has already been used with a different request body"}"#
        );
        order(api, &key).to(path).replays(&first, REPLAYED).await;
    }
}

async fn one_key_serves_two_endpoints(api: &Api) {
    let mut firsts = Vec::new();
    for path in ENDPOINTS {
        firsts.push(order(api, "one-for-all").to(path).executes().await);
    }
    for (path, first) in ENDPOINTS.into_iter().zip(&firsts) {
        order(api, "one-for-all")
            .to(path)
            .replays(first, REPLAYED)
            .await;
    }
}

async fn a_key_belongs_to_a_client(api: &Api) {
    let client = |name: &str| {
        order(api, "belongs-to")
            .to("/client/api/orders")
            .without("x-api-key")
            .header("authorization", name)
    };
    let one = client("Bearer one").executes().await;
    let two = client("Bearer two").executes().await;
    client("Bearer one").replays(&one, REPLAYED).await;
    client("Bearer two").replays(&two, REPLAYED).await;
    let partner = order(api, "belongs-to").executes().await;
    order(api, "belongs-to")
        .without("x-api-key")
        .header("x-api-key", "partner-2")
        .executes()
        .await;
    order(api, "belongs-to").replays(&partner, REPLAYED).await;
    let nobody = order(api, "belongs-to").without("x-api-key");
    nobody.refused(400).await.is("scope-missing", is_error);
}

async fn a_retry_of_a_running_order_gets_its_answer(api: &Api) {
    let running = order(api, "running-order").begins().await;
    let mut retry = tokio::spawn(order(api, "running-order").send());
    let early = timeout(Duration::from_millis(200), &mut retry).await;
    assert!(early.is_err(), "answered before the first: {early:?}");
    let changed = order(api, "running-order").json("{}").refused(422).await;
    assert!(changed.text().contains("E_IDEMPOTENCY_KEY_REUSED"));

    let before = api.executions();
    let first = running.ends().await;
    let again = retry.await.unwrap();
    assert_eq!(api.executions(), before + 1);
    assert_eq!(
        (again.status(), again.text()),
        (first.status(), first.text())
    );
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    has_marks(&again, "running-order");
}

async fn a_retry_that_waited_in_vain_is_told_to_come_again(api: &Api) {
    let hasty = api.file().replace("wait = \"20s\"", "wait = \"50ms\"");
    let api = &Api::start(&hasty).await;
    let running = order(api, "long-running").begins().await;
    let retry = order(api, "long-running").refused(503).await;
    retry.is("in-flight", is_error);
    assert_eq!(retry.header("retry-after"), Some("1"));
    running.ends().await;
}

async fn an_order_that_failed_is_tried_again(api: &Api) {
    api.answers_next(Reply::status(503));
    let failed = order(api, "failed-order").executes().await;
    assert_eq!(failed.status(), 503);
    has_marks(&failed, "failed-order");
    order(api, "failed-order").executes().await;
}

async fn other_endpoints_are_left_alone(api: &Api) {
    let other = || order(api, "other-endpoint").to("/client/api/cart/items");
    other().executes_twice().await;
    other().without("idempotency-key").executes_twice().await;
}

async fn an_answer_is_kept_for_24_hours(api: &Api) {
    api.keeps_answers_for(24).await;
}

async fn the_time_of_creation_is_that_of_the_first_answer(api: &Api) {
    let first = order(api, "time-of-creation").executes().await;
    // The time of creation has whole seconds, so the test waits for the next
    // second.
    while Timestamp::now().as_second() <= created_at(&first).as_second() {
        sleep(Duration::from_millis(20)).await;
    }
    order(api, "time-of-creation")
        .replays(&first, REPLAYED)
        .await;
}
