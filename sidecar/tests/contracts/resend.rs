//! This is the contract of Resend:
//! <https://resend.com/docs/dashboard/emails/idempotency-keys>.

use crate::api::{Answer, Api, NO_MARK, Request, is_sentence};
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

fn email(api: &Api, key: &str) -> Request {
    api.post("/emails")
        .header("authorization", "Bearer re_alice")
        .header("idempotency-key", key)
        .json(r#"{"from":"a@example.com","to":["b@example.com"],"subject":"hello"}"#)
}

fn is_error(answer: &Answer, name: &str) {
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let body = answer.json();
    assert_eq!(body.as_object().unwrap().len(), 3, "{body}");
    assert_eq!(body["name"], name);
    assert_eq!(body["statusCode"], answer.status());
    is_sentence(&body["message"]);
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
        is_error(
            &email(api, key).refused(400).await,
            "invalid_idempotency_key",
        );
    }
}

async fn another_payload_is_an_invalid_idempotent_request(api: &Api) {
    let first = email(api, "other").executes().await;
    for other in [
        email(api, "other").json("{}"),
        email(api, "other").to("/emails/batch"),
    ] {
        is_error(&other.refused(409).await, "invalid_idempotent_request");
    }
    email(api, "other").replays(&first, NO_MARK).await;
}

async fn a_concurrent_request_is_told_so(api: &Api) {
    let running = email(api, "concurrent").begins().await;
    let refused = email(api, "concurrent").refused(409).await;
    is_error(&refused, "concurrent_idempotent_requests");
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
