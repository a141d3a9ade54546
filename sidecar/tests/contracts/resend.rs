//! This is the contract of Resend:
//! <https://resend.com/docs/dashboard/emails/idempotency-keys>.

use serde_json::json;

use crate::api::{Api, NO_MARK, Request};
use crate::refusals::Refused;
use crate::upstream::Reply;

contract! { "resend.toml":
    an_email_is_sent_once,
    a_key_has_1_to_256_characters,
    another_payload_is_an_invalid_idempotent_request,
    a_concurrent_request_is_told_so,
    an_email_that_was_not_sent_is_tried_again,
    a_key_belongs_to_an_api_key,
    other_endpoints_are_left_alone,
    a_key_is_kept_for_24_hours,
}

/// Whether a refusal has the form of this vendor's errors.
fn is_error(refused: &Refused) -> bool {
    let name = match &*refused.code {
        "key-invalid" | "key-too-long" => "invalid_idempotency_key",
        "key-reused" => "invalid_idempotent_request",
        "in-flight" => "concurrent_idempotent_requests",
        _ => "application_error",
    };
    let message = refused.sentence("/message");
    let error = json!({ "statusCode": refused.status, "name": name, "message": message });
    refused.content_type == "application/json" && refused.body == error
}

fn email(api: &Api, key: &str) -> Request {
    api.post("/emails")
        .header("authorization", "Bearer re_alice")
        .header("idempotency-key", key)
        .json(r#"{"from":"a@example.com","to":["b@example.com"],"subject":"hello"}"#)
}

async fn an_email_is_sent_once(api: &Api) {
    for path in ["/emails", "/emails/batch"] {
        let key = format!("welcome-user/123456789{path}");
        api.answers_next(Reply::status(200));
        let first = email(api, &key).to(path).executes().await;
        email(api, &key).to(path).replays(&first, NO_MARK).await;
        email(api, &key)
            .to(path)
            .without("idempotency-key")
            .executes_twice()
            .await;
    }
}

async fn a_key_has_1_to_256_characters(api: &Api) {
    let longest = "k".repeat(256);
    for key in ["k", "\"k\"", &longest] {
        let first = email(api, key).executes().await;
        email(api, key).replays(&first, NO_MARK).await;
    }
    for key in ["", &"k".repeat(257)] {
        let code = if key.is_empty() {
            "key-invalid"
        } else {
            "key-too-long"
        };
        email(api, key).refused(400).await.is(code, is_error);
    }
}

async fn another_payload_is_an_invalid_idempotent_request(api: &Api) {
    let first = email(api, "other").executes().await;
    for other in [
        email(api, "other").json("{}"),
        email(api, "other").to("/emails/batch"),
    ] {
        other.refused(409).await.is("key-reused", is_error);
    }
    email(api, "other").replays(&first, NO_MARK).await;
}

async fn a_concurrent_request_is_told_so(api: &Api) {
    let running = email(api, "concurrent").begins().await;
    let refused = email(api, "concurrent").refused(409).await;
    refused.is("in-flight", is_error);
    let first = running.ends().await;
    email(api, "concurrent").replays(&first, NO_MARK).await;
}

async fn an_email_that_was_not_sent_is_tried_again(api: &Api) {
    for status in [403, 422, 429, 500] {
        let key = format!("not-sent-{status}");
        api.answers_next(Reply::status(status));
        assert_eq!(email(api, &key).executes().await.status(), status);
        assert_eq!(email(api, &key).executes().await.status(), 201);
    }
}

async fn a_key_belongs_to_an_api_key(api: &Api) {
    let first = email(api, "belongs").executes().await;
    let bob = email(api, "belongs").without("authorization");
    bob.header("authorization", "Bearer re_bob")
        .executes()
        .await;
    email(api, "belongs").replays(&first, NO_MARK).await;
    let nobody = email(api, "belongs").without("authorization");
    nobody.refused(400).await.is("scope-missing", is_error);
}

async fn other_endpoints_are_left_alone(api: &Api) {
    email(api, "others").to("/domains").executes_twice().await;
    email(api, "others")
        .to("/emails/1/cancel")
        .executes_twice()
        .await;
}

async fn a_key_is_kept_for_24_hours(api: &Api) {
    api.keeps_answers_for(24).await;
}
