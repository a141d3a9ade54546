//! This is the contract of the IETF draft; the file allows nothing else.

use http::Method;

use crate::api::is_problem as is_error;
use crate::api::{Answer, Api, REPLAYED, Request, is_sentence};
use crate::upstream::Reply;

const KEY: &str = "\"8e03978e-40d5-43dd-bc93-6894a57f9324\"";

contract! { "ietf.toml":
    a_retry_gets_the_first_answer,
    a_key_is_required,
    a_key_is_a_string_of_structured_fields,
    another_request_with_the_key_is_unprocessable,
    a_concurrent_request_is_a_conflict,
    a_key_belongs_to_who_is_authorized,
    put_and_delete_need_no_key,
    an_error_that_may_pass_is_not_kept,
}

fn pay(api: &Api, key: &str) -> Request {
    api.post("/payments")
        .header("authorization", "Bearer alice")
        .header("idempotency-key", key)
        .json(r#"{"amount":4200}"#)
}

/// Checks that the response is a problem document with a link to its explanation.
fn is_linked_problem(answer: &Answer, code: &str) {
    answer.is(code, is_error);
    assert_eq!(
        answer.json()["type"],
        "https://developer.example.com/idempotency"
    );
    assert!(answer.json()["title"].is_string());
    is_sentence(&answer.json()["detail"]);
    let link = "<https://developer.example.com/idempotency>; rel=\"describedby\"";
    assert_eq!(answer.header("link"), Some(link));
}

async fn a_retry_gets_the_first_answer(api: &Api) {
    let first = pay(api, KEY).executes().await;
    pay(api, KEY).replays(&first, REPLAYED).await;
    let patch = || {
        api.request(Method::PATCH, "/payments/1")
            .header("authorization", "Bearer alice")
            .header("idempotency-key", "\"patch\"")
    };
    let first = patch().executes().await;
    patch().replays(&first, REPLAYED).await;
}

async fn a_key_is_required(api: &Api) {
    for request in [pay(api, ""), pay(api, "").to("/anything/else")] {
        let refused = request.without("idempotency-key").refused(400).await;
        is_linked_problem(&refused, "key-required");
    }
}

async fn a_key_is_a_string_of_structured_fields(api: &Api) {
    let escaped = r#""a \"key\" with \\""#;
    for key in ["\"k\"", "  \"spaces around\"  ", escaped] {
        let first = pay(api, key).executes().await;
        pay(api, key).replays(&first, REPLAYED).await;
    }
    let wrong = [
        "8e03978e-40d5-43dd-bc93-6894a57f9324", // a token
        "42",
        "?1",
        ":YQ==:",
        "'k'",
        "\"k",
        "k\"",
        "\"k\"; A=1",
        "\"k\", \"l\"",
        "\"a\\b\"",
        "\"\"",
        "",
    ];
    for key in wrong {
        let refused = pay(api, key).refused(400).await;
        is_linked_problem(&refused, "key-invalid");
    }
    let two = pay(api, "\"one\"").header("idempotency-key", "\"two\"");
    is_linked_problem(&two.refused(400).await, "key-invalid");
}

async fn another_request_with_the_key_is_unprocessable(api: &Api) {
    let first = pay(api, "\"reused\"").executes().await;
    let others = [
        pay(api, "\"reused\"").json(r#"{"amount":42}"#),
        pay(api, "\"reused\"").to("/refunds"),
        pay(api, "\"reused\"").to("/payments?capture=1"),
    ];
    for other in others {
        is_linked_problem(&other.refused(422).await, "key-reused");
    }
    pay(api, "\"reused\"").replays(&first, REPLAYED).await;
}

async fn a_concurrent_request_is_a_conflict(api: &Api) {
    let running = pay(api, "\"concurrent\"").begins().await;
    let conflict = pay(api, "\"concurrent\"").refused(409).await;
    is_linked_problem(&conflict, "in-flight");
    assert_eq!(conflict.header("retry-after"), Some("1"));
    let first = running.ends().await;
    pay(api, "\"concurrent\"").replays(&first, REPLAYED).await;
}

async fn a_key_belongs_to_who_is_authorized(api: &Api) {
    let first = pay(api, "\"belongs\"").executes().await;
    pay(api, "\"belongs\"")
        .without("authorization")
        .header("authorization", "Bearer bob")
        .executes()
        .await;
    pay(api, "\"belongs\"").replays(&first, REPLAYED).await;
    let nobody = pay(api, "\"belongs\"").without("authorization");
    is_linked_problem(&nobody.refused(400).await, "scope-missing");
}

async fn put_and_delete_need_no_key(api: &Api) {
    for method in [Method::GET, Method::PUT, Method::DELETE] {
        api.request(method, "/payments/1").executes_twice().await;
    }
}

async fn an_error_that_may_pass_is_not_kept(api: &Api) {
    api.answers_next(Reply::status(503));
    assert_eq!(pay(api, "\"passes\"").executes().await.status(), 503);
    let first = pay(api, "\"passes\"").executes().await;
    pay(api, "\"passes\"").replays(&first, REPLAYED).await;
}
