//! This is the contract of an API for virtual machines, disks and invoices.

use http::Method;

use crate::api::is_problem as is_error;
use crate::api::{Api, REPLAYED, Request};
use crate::upstream::Reply;

const MACHINES: &str = "/api/public/v1/vms";

contract! { "vmarea.toml":
    a_retry_gets_the_same_status_and_body,
    every_method_that_changes_something_is_protected,
    get_and_head_are_not,
    a_key_is_1_to_255_printable_characters_as_they_are,
    neither_bodies_nor_routes_are_compared,
    a_key_belongs_to_an_api_key,
    a_concurrent_request_is_a_conflict,
    every_answer_below_500_is_kept,
    an_invoice_as_pdf_is_made_again,
    an_answer_is_kept_for_24_hours_from_the_original,
    without_a_store_requests_go_through,
    the_rest_of_the_server_is_left_alone,
}

fn create(api: &Api, key: &str) -> Request {
    api.post(MACHINES)
        .header("x-api-key", "vm_live_alice")
        .header("idempotency-key", key)
        .json(r#"{"plan":"s-2","region":"ams"}"#)
}

async fn a_retry_gets_the_same_status_and_body(api: &Api) {
    let first = create(api, "retry").executes().await;
    create(api, "retry").replays(&first, REPLAYED).await;
    create(api, "retry")
        .without("idempotency-key")
        .executes_twice()
        .await;
}

async fn every_method_that_changes_something_is_protected(api: &Api) {
    for method in [Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
        let path = "/api/public/v1/vms/17";
        let request = || {
            api.request(method.clone(), path)
                .header("x-api-key", "vm_live_alice")
                .header("idempotency-key", method.as_str())
        };
        let first = request().executes().await;
        request().replays(&first, REPLAYED).await;
    }
}

async fn get_and_head_are_not(api: &Api) {
    create(api, "get").executes().await;
    for method in [Method::GET, Method::HEAD] {
        let request = api
            .request(method, MACHINES)
            .header("x-api-key", "vm_live_alice")
            .header("idempotency-key", "get");
        request.executes_twice().await;
    }
}

async fn a_key_is_1_to_255_printable_characters_as_they_are(api: &Api) {
    let longest = "k".repeat(255);
    for key in [
        "k",
        "\"k\"",
        "a key, of: {all} ~kinds~!",
        "\"no end",
        &longest,
    ] {
        let first = create(api, key).executes().await;
        create(api, key).replays(&first, REPLAYED).await;
    }
    create(api, &"k".repeat(256))
        .refused(400)
        .await
        .is("key-too-long", is_error);
    for key in ["", "schlüssel", "a\tb"] {
        create(api, key)
            .refused(400)
            .await
            .is("key-invalid", is_error);
    }
    let two = create(api, "one").header("idempotency-key", "two");
    two.refused(400).await.is("key-invalid", is_error);
}

async fn neither_bodies_nor_routes_are_compared(api: &Api) {
    let first = create(api, "compared").executes().await;
    create(api, "compared")
        .json("{}")
        .replays(&first, REPLAYED)
        .await;
    create(api, "compared")
        .to("/api/public/v1/disks?size=1")
        .replays(&first, REPLAYED)
        .await;
    let delete = api
        .request(Method::DELETE, "/api/public/v1/vms/17")
        .header("x-api-key", "vm_live_alice")
        .header("idempotency-key", "compared");
    delete.replays(&first, REPLAYED).await;
}

async fn a_key_belongs_to_an_api_key(api: &Api) {
    let first = create(api, "belongs").executes().await;
    let bob = || {
        create(api, "belongs")
            .without("x-api-key")
            .header("x-api-key", "vm_live_bob")
    };
    let his = bob().executes().await;
    bob().replays(&his, REPLAYED).await;
    create(api, "belongs").replays(&first, REPLAYED).await;
    let nobody = create(api, "belongs").without("x-api-key");
    nobody.refused(400).await.is("scope-missing", is_error);
}

async fn a_concurrent_request_is_a_conflict(api: &Api) {
    let running = create(api, "concurrent").begins().await;
    for other in [
        create(api, "concurrent"),
        create(api, "concurrent").json("{}"),
    ] {
        let conflict = other.refused(409).await;
        conflict.is("in-flight", is_error);
        assert_eq!(conflict.header("retry-after"), Some("1"));
    }
    let first = running.ends().await;
    create(api, "concurrent").replays(&first, REPLAYED).await;
}

async fn every_answer_below_500_is_kept(api: &Api) {
    for status in [
        200, 202, 204, 301, 304, 400, 401, 403, 404, 408, 409, 422, 425, 429, 499,
    ] {
        let key = format!("kept-{status}");
        let reply = Reply::status(status);
        let empty = status == 204 || status == 304;
        api.answers_next(if empty { reply.body("") } else { reply });
        let first = create(api, &key).executes().await;
        assert_eq!(first.status(), status);
        create(api, &key).replays(&first, REPLAYED).await;
    }
    for status in [500, 502, 503, 504, 599] {
        let key = format!("not-kept-{status}");
        api.answers_next(Reply::status(status));
        assert_eq!(create(api, &key).executes().await.status(), status);
        assert_eq!(create(api, &key).executes().await.status(), 201);
    }
}

async fn an_invoice_as_pdf_is_made_again(api: &Api) {
    let invoice = |key| create(api, key).to("/api/public/v1/invoices/7/render");
    for content_type in ["application/pdf", "Application/PDF; version=1.7"] {
        let pdf = Reply::status(200)
            .header("content-type", content_type)
            .body("%PDF-1.7");
        api.answers_next(pdf.clone());
        assert_eq!(invoice("pdf").executes().await.text(), "%PDF-1.7");
        api.answers_next(pdf);
        assert_eq!(invoice("pdf").executes().await.text(), "%PDF-1.7");
    }
    let as_json = invoice("pdf").executes().await;
    invoice("pdf").replays(&as_json, REPLAYED).await;
}

async fn an_answer_is_kept_for_24_hours_from_the_original(api: &Api) {
    api.keeps_answers_for(24).await;
    // A replay does not extend the retention.
    let short = api
        .file()
        .replace("[idempotency]", "[idempotency]\nretention = \"300ms\"");
    create(&Api::start(&short).await, "original").lapses().await;
}

async fn without_a_store_requests_go_through(api: &Api) {
    let api = Api::start_without_store(api.file()).await;
    for _ in 0..2 {
        let before = api.executions();
        let answer = create(&api, "no-store").send().await;
        assert_eq!(api.executions(), before + 1);
        assert_eq!(answer.status(), 201);
        assert_eq!(answer.header("idempotency-status"), Some("unprotected"));
        assert_eq!(answer.header("idempotency-replayed"), None);
    }
    // An invalid key is rejected even without a store.
    create(&api, "")
        .refused(400)
        .await
        .is("key-invalid", is_error);
}

async fn the_rest_of_the_server_is_left_alone(api: &Api) {
    create(api, "rest")
        .to("/api/internal/v1/vms")
        .executes_twice()
        .await;
    let first = create(api, "rest")
        .to("/api/public/v1/vms/17/disks")
        .executes()
        .await;
    create(api, "rest")
        .to("/api/public/v1/vms/17/disks")
        .replays(&first, REPLAYED)
        .await;
}
