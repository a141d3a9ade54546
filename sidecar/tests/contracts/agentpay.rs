//! This is the contract of an API for metering and settlement between agents.
//! Clients come with API keys and without.

use serde_json::json;
use std::fs;

use crate::api::{Answer, Api, REPLAYED, Request, is_sentence};
use crate::refusals::Refused;
use crate::sidecar::{Directory, SECRET};
use crate::upstream::Reply;

const USAGE: &str = "/api/v1/usage";
const BULK: &str = "/api/v1/usage/bulk";
const SETTLE: &str = "/api/v1/settle";
const ACME: &str = "agent-key-of-acme";
const GLOBEX: &str = "agent-key-of-globex";

contract! { "agentpay.toml":
    status_and_body_come_again_verbatim,
    another_body_is_an_idempotency_conflict,
    another_route_is_an_idempotency_conflict,
    no_answer_crosses_tenants,
    a_key_that_nobody_knows_is_told_by_its_address,
    a_concurrent_request_is_told_to_wait,
    without_a_key_requests_pass_through,
    the_answers_of_the_api_keep_their_shape,
    the_oldest_answers_go_when_there_are_too_many,
    an_answer_is_kept_for_its_time,
    the_store_and_the_log_hold_keys_only_as_digests,
}

/// Whether a refusal has the form of this vendor's errors.
fn is_error(refused: &Refused) -> bool {
    let code = match &*refused.code {
        "key-reused" => "idempotency_conflict",
        code => code,
    };
    let (message, id) = (
        refused.sentence("/error/message"),
        refused.id("/error/requestId"),
    );
    let error = json!({ "error": { "code": code, "message": message, "requestId": id } });
    refused.content_type == "application/json" && refused.body == error
}

fn report(api: &Api, key: &str) -> Request {
    api.post(USAGE)
        .header("x-api-key", ACME)
        .header("idempotency-key", key)
        .json(r#"{"agent":"a-1","units":12,"note":"\"quoted\""}"#)
}

fn by(request: Request, caller: &str) -> Request {
    request.without("x-api-key").header("x-api-key", caller)
}

fn keyless(request: Request) -> Request {
    request.without("x-api-key")
}

async fn status_and_body_come_again_verbatim(api: &Api) {
    for path in [USAGE, BULK, SETTLE] {
        let request = || report(api, &format!("verbatim-{path}")).to(path);
        let body = "{ \"b\": 1,\t\"a\" : 1.50, \"ü\": \"\\u00fc\" }\r\n";
        let reply = Reply::status(202).header("content-type", "application/json; charset=utf-8");
        api.answers_next(reply.body(body));
        let first = request().executes().await;
        assert_eq!((first.status(), first.text()), (202, body));
        request().replays(&first, REPLAYED).await;
    }
}

async fn another_body_is_an_idempotency_conflict(api: &Api) {
    let first = report(api, "body").executes().await;
    let other = || report(api, "body").json(r#"{"agent":"a-1","units":13}"#);
    let conflict = other().header("x-request-id", "req-42").refused(409).await;
    assert_eq!(conflict.header("content-type"), Some("application/json"));
    assert_eq!(conflict.header("x-request-id"), Some("req-42"));
    let error = &conflict.json()["error"];
    assert_eq!(conflict.json().as_object().unwrap().len(), 1);
    assert_eq!(error.as_object().unwrap().len(), 3);
    assert_eq!(error["code"], "idempotency_conflict");
    assert_eq!(error["requestId"], "req-42");
    is_sentence(&error["message"]);

    // Each request has an id, whether its client sent one or not.
    let one = other().refused(409).await;
    let two = other().refused(409).await;
    let id = one.header("x-request-id").unwrap();
    assert_eq!(one.json()["error"]["requestId"], id);
    assert_eq!(id.len(), 36, "a UUID");
    assert_ne!(two.header("x-request-id").unwrap(), id);
    report(api, "body").replays(&first, REPLAYED).await;
}

async fn another_route_is_an_idempotency_conflict(api: &Api) {
    let first = report(api, "route").executes().await;
    for path in [BULK, SETTLE] {
        let conflict = report(api, "route").to(path).refused(409).await;
        assert_eq!(conflict.json()["error"]["code"], "idempotency_conflict");
    }
    report(api, "route").replays(&first, REPLAYED).await;
}

async fn no_answer_crosses_tenants(api: &Api) {
    let acme = report(api, "tenants").executes().await;
    let globex = by(report(api, "tenants"), GLOBEX).executes().await;
    let nobody = keyless(report(api, "tenants")).executes().await;
    assert_ne!(acme.text(), globex.text());
    report(api, "tenants").replays(&acme, REPLAYED).await;
    by(report(api, "tenants"), GLOBEX)
        .replays(&globex, REPLAYED)
        .await;
    keyless(report(api, "tenants"))
        .replays(&nobody, REPLAYED)
        .await;
    // A tenant keeps its keys when its address changes.
    report(api, "tenants")
        .from("127.0.0.2")
        .replays(&acme, REPLAYED)
        .await;
    by(report(api, "tenants"), GLOBEX)
        .json("{}")
        .refused(409)
        .await;
}

async fn a_key_that_nobody_knows_is_told_by_its_address(api: &Api) {
    let first = by(report(api, "unknown"), "made up").executes().await;
    for same in [
        by(report(api, "unknown"), "another"),
        keyless(report(api, "unknown")),
    ] {
        same.replays(&first, REPLAYED).await;
    }
    let elsewhere = || keyless(report(api, "unknown")).from("127.0.0.2");
    let other = elsewhere().executes().await;
    elsewhere().replays(&other, REPLAYED).await;
    // An address that the client claims in a header does not count.
    let forged = elsewhere().header("x-forwarded-for", "127.0.0.1");
    forged.replays(&other, REPLAYED).await;
}

async fn a_concurrent_request_is_told_to_wait(api: &Api) {
    let running = report(api, "concurrent").begins().await;
    report(api, "concurrent")
        .refused(409)
        .await
        .is("in-flight", is_error);
    let conflict = report(api, "concurrent").json("{}").refused(409).await;
    assert_eq!(conflict.json()["error"]["code"], "idempotency_conflict");
    let first = running.ends().await;
    report(api, "concurrent").replays(&first, REPLAYED).await;
}

async fn without_a_key_requests_pass_through(api: &Api) {
    for path in [USAGE, BULK, SETTLE] {
        report(api, "")
            .to(path)
            .without("idempotency-key")
            .executes_twice()
            .await;
    }
    report(api, "passes")
        .to("/api/v1/agents")
        .executes_twice()
        .await;
}

async fn the_answers_of_the_api_keep_their_shape(api: &Api) {
    // `plain` is not protected, and `failed` below is not recorded; both look like
    // a recorded response.
    let plain = report(api, "").without("idempotency-key").executes().await;
    let first = report(api, "shape").executes().await;
    let names = Answer::header_names;
    assert_eq!(names(&plain), names(&first));
    api.answers_next(Reply::status(500).body(r#"{"error":{"code":"internal"}}"#));
    let failed = report(api, "fails").executes().await;
    assert_eq!(failed.text(), r#"{"error":{"code":"internal"}}"#);
    assert_eq!(names(&failed), names(&plain));
    report(api, "fails").executes().await;
}

async fn the_oldest_answers_go_when_there_are_too_many(api: &Api) {
    let few = api.file().replace("max_records=100000", "max_records=3");
    let api = &Api::start(&few).await;
    let mut firsts = Vec::new();
    for key in ["1", "2", "3", "4"] {
        firsts.push(report(api, key).executes().await);
    }
    for (key, first) in ["2", "3", "4"].into_iter().zip(&firsts[1..]) {
        report(api, key).replays(first, REPLAYED).await;
    }
    report(api, "1").executes().await;
}

async fn an_answer_is_kept_for_its_time(api: &Api) {
    api.keeps_answers_for(12).await;
    let short = api.file().replace("\"12h\"", "\"300ms\"");
    let api = &Api::start(&short).await;
    report(api, "time").lapses().await;
}

async fn the_store_and_the_log_hold_keys_only_as_digests(api: &Api) {
    let directory = Directory::fresh();
    let database = directory.path().join("records.db");
    let store = format!("store = \"sqlite:{}\"\n", database.display());
    let rest = api.file().lines().filter(|line| !line.starts_with("store"));
    let file = rest.fold(store, |file, line| file + line + "\n");
    let stored = |api: &Api| {
        let mut all = api.log().into_bytes();
        for file in fs::read_dir(directory.path()).unwrap() {
            all.extend(fs::read(file.unwrap().path()).unwrap());
        }
        all
    };
    let contains = |all: &[u8], text: &[u8]| all.windows(text.len()).any(|part| part == text);
    let key = "key-that-is-not-stored";
    let first = {
        let api = Api::start(&file).await;
        api.answers_next(Reply::status(201).body("an answer that is stored"));
        let first = report(&api, key).executes().await;
        report(&api, key).replays(&first, REPLAYED).await;
        keyless(report(&api, key)).executes().await;
        report(&api, key).json("{}").refused(409).await;
        let all = stored(&api);
        assert!(contains(&all, b"an answer that is stored"));
        for secret in [key, ACME, SECRET] {
            assert!(!contains(&all, secret.as_bytes()), "{secret} is there");
        }
        first
    };
    // A store with these digests is of no use without the secret.
    report(&Api::start(&file).await, key)
        .replays(&first, REPLAYED)
        .await;
    let other = file.replace(
        "env:IDEMPOTENCY_SECRET",
        "another secret than the one of the file",
    );
    report(&Api::start(&other).await, key).executes().await;
}
