//! This is the contract of Worldpay, WPG:
//! <https://developer.worldpay.com/docs/wpg/idempotency/>,
//! <https://developer.worldpay.com/docs/wpg/troubleshoot/idempotencyerrors/>.

use http::Method;

use crate::api::{Api, NO_MARK, Request};
use crate::refusals::Refused;
use crate::upstream::Reply;

const KEY: &str = "2fd4e1c6-7a2d-48fc-a1ed-99a0b5c3c2f";

contract! { "worldpay.toml":
    an_existing_key_gets_the_original_response,
    a_key_is_a_uuid,
    a_request_in_progress_is_error_9,
    a_key_belongs_to_a_merchant,
    what_failed_is_processed_again,
    without_a_store_requests_are_processed,
    only_posts_have_keys,
    an_answer_is_kept_for_the_agreed_time,
}

/// Whether a refusal has the form of this vendor's errors.
fn is_error(refused: &Refused) -> bool {
    let expected = match &*refused.code {
        "key-invalid" => error("9", "Invalid idempotency-key"),
        "in-flight" => error("9", "Request in progress"),
        code => error("1", code),
    };
    refused.content_type == "text/xml" && refused.body == expected
}

/// Returns an order; `digit` makes its key differ from other keys.
fn order(api: &Api, digit: u8) -> Request {
    api.post("/jsp/merchant/xml/paymentService.jsp")
        .header("authorization", "Basic bWVyY2hhbnQtMTpw")
        .header("idempotency-key", &format!("{KEY}{digit:x}"))
        .header("content-type", "text/xml")
}

fn error(number: &str, message: &str) -> String {
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><paymentService version=\"1.4\"><reply>\
         <error code=\"{number}\"><![CDATA[{message}]]></error></reply></paymentService>"
    )
}

async fn an_existing_key_gets_the_original_response(api: &Api) {
    let xml = Reply::status(200)
        .header("content-type", "text/xml")
        .body("<reply>1</reply>");
    api.answers_next(xml);
    let first = order(api, 0).executes().await;
    order(api, 0).replays(&first, NO_MARK).await;
    order(api, 0)
        .json("another order")
        .replays(&first, NO_MARK)
        .await;
    order(api, 0)
        .without("idempotency-key")
        .executes_twice()
        .await;
}

async fn a_key_is_a_uuid(api: &Api) {
    for key in [
        "k",
        KEY,
        "2fd4e1c67a2d48fca1ed99a0b5c3c2f1",
        "{2fd4e1c6-7a2d-48fc-a1ed-99a0b5c3c2f1}",
    ] {
        let wrong = order(api, 1)
            .without("idempotency-key")
            .header("idempotency-key", key);
        let refused = wrong.refused(400).await;
        assert_eq!(refused.header("content-type"), Some("text/xml"));
        assert_eq!(refused.text(), error("9", "Invalid idempotency-key"));
    }
}

async fn a_request_in_progress_is_error_9(api: &Api) {
    let running = order(api, 2).begins().await;
    let refused = order(api, 2).refused(409).await;
    assert_eq!(refused.header("content-type"), Some("text/xml"));
    assert_eq!(refused.text(), error("9", "Request in progress"));
    let first = running.ends().await;
    order(api, 2).replays(&first, NO_MARK).await;
}

async fn a_key_belongs_to_a_merchant(api: &Api) {
    let first = order(api, 3).executes().await;
    let other = order(api, 3).without("authorization");
    other
        .header("authorization", "Basic bWVyY2hhbnQtMjpw")
        .executes()
        .await;
    order(api, 3).replays(&first, NO_MARK).await;
    let nobody = order(api, 3).without("authorization");
    nobody.refused(400).await.is("scope-missing", is_error);
}

async fn what_failed_is_processed_again(api: &Api) {
    api.answers_next(Reply::status(500));
    assert_eq!(order(api, 4).executes().await.status(), 500);
    order(api, 4).executes().await;
}

async fn without_a_store_requests_are_processed(api: &Api) {
    let api = Api::start_without_store(api.file()).await;
    for _ in 0..2 {
        let before = api.executions();
        let answer = order(&api, 5).send().await;
        assert_eq!(api.executions(), before + 1);
        assert_eq!(answer.status(), 201);
        assert_eq!(answer.header("idempotency-status"), Some("unprotected"));
    }
}

async fn only_posts_have_keys(api: &Api) {
    order(api, 6).executes().await;
    let patch = api
        .request(Method::PATCH, "/jsp/merchant/xml/paymentService.jsp")
        .header("authorization", "Basic bWVyY2hhbnQtMTpw")
        .header("idempotency-key", &format!("{KEY}6"));
    patch.executes_twice().await;
}

async fn an_answer_is_kept_for_the_agreed_time(api: &Api) {
    api.keeps_answers_for(720).await;
}
