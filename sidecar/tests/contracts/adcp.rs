//! This is the contract of the Ad Context Protocol, versions 3.1 and 3.2, over MCP:
//! `docs/building/by-layer/L1/security.mdx`, "Idempotency" (the numbers below are its rules), and
//! `docs/building/operating/transport-errors.mdx`, in <https://github.com/adcontextprotocol/adcp>.

use serde_json::{Value, json};

use crate::api::{Api, Request};
use crate::refusals::Refused;
use crate::upstream::Reply;

contract! { "adcp.toml":
    a_replay_is_the_first_response_and_says_so,
    what_changes_from_attempt_to_attempt_is_not_compared,
    everything_else_is_compared,
    a_second_call_waits_for_the_first,
    a_key_has_at_least_16_characters,
    a_call_without_a_key_is_passed_on,
    a_key_belongs_to_an_agent,
    a_task_that_failed_runs_again,
    a_response_that_was_not_kept_has_expired,
    other_messages_are_left_alone,
    without_a_store_calls_are_refused,
    what_the_sidecar_refuses_is_a_transport_error,
    an_answer_is_kept_for_24_hours,
}

/// Whether a refusal is an error of a task if it is about the key ("Tool-Level Errors"), else one of
/// the transport ("Transport-Level Errors"): to the call with the id 1 or to none.
fn is_error(refused: &Refused) -> bool {
    let id = &refused.body["id"];
    let is_known = *id == 1 && refused.status == 200 || *id == Value::Null;
    let (code, recovery) = match &*refused.code {
        "key-invalid" | "key-too-short" => ("INVALID_REQUEST", "correctable"),
        "key-reused" => ("IDEMPOTENCY_CONFLICT", "correctable"),
        "in-flight" => ("IDEMPOTENCY_IN_FLIGHT", "transient"),
        "response-unavailable" => ("IDEMPOTENCY_EXPIRED", "correctable"),
        _ => ("SERVICE_UNAVAILABLE", "transient"),
    };
    let of_task = code != "SERVICE_UNAVAILABLE";
    let message = refused.sentence(if of_task {
        "/result/structuredContent/adcp_error/message"
    } else {
        "/error/message"
    });
    let mut error = json!({ "code": code, "message": message, "recovery": recovery });
    if code == "IDEMPOTENCY_IN_FLIGHT" {
        error["retry_after"] = json!(1);
    }
    let expected = if of_task {
        json!({ "jsonrpc": "2.0", "id": id, "result": {
            "isError": true,
            "content": [{ "type": "text", "text": message }],
            "structuredContent": { "status": "failed", "adcp_error": error },
        }})
    } else {
        let data = json!({ "adcp_error": error });
        let error = json!({ "code": -32027, "message": message, "data": data });
        json!({ "jsonrpc": "2.0", "id": id, "error": error })
    };
    refused.content_type == "application/json" && refused.body == expected && is_known
}

/// The arguments of `create_media_buy` in the protocol's compliance tests.
fn media_buy(key: &str) -> Value {
    json!({
        "idempotency_key": key,
        "account": { "brand": { "domain": "acmeoutdoor.example" }, "operator": "pinnacle-agency.example" },
        "brand": { "domain": "acmeoutdoor.example" },
        "start_time": "asap",
        "end_time": "2099-07-31T23:59:59Z",
        "packages": [{ "product_id": "test-product", "budget": 5000, "pricing_option_id": "test-pricing" }],
        "push_notification_config": {
            "url": "https://buyer.example/hook",
            "authentication": { "schemes": ["HMAC-SHA256"], "credentials": "secret-1" },
        },
        "governance_context": "token-1",
        "context": { "correlation_id": "initial" },
        "ext": {},
    })
}

fn call(api: &Api, id: &Value, arguments: &Value) -> Request {
    let params = json!({ "name": "create_media_buy", "arguments": arguments });
    message(api, id, "tools/call", &params)
}

fn message(api: &Api, id: &Value, method: &str, params: &Value) -> Request {
    let message = json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params });
    api.post("/mcp")
        .header("authorization", "Bearer pinnacle-1")
        .header("accept", "application/json, text/event-stream")
        .json(message.to_string())
}

fn buy(api: &Api, key: &str) -> Request {
    call(api, &json!(1), &media_buy(key))
}

/// A key of 16 characters.
fn key(name: &str) -> String {
    format!("{name:.>16}")
}

/// The envelope and the task's own members are siblings (`mcp-guide.mdx`, "MCP Response Format").
fn result(id: &Value, correlation_id: &str) -> Value {
    json!({ "jsonrpc": "2.0", "id": id, "result": {
        "structuredContent": {
            "status": "completed",
            "context": { "correlation_id": correlation_id },
            "media_buy_id": "mb_01HW7J8K9P0Q1R2S3T4U5V6W7X",
            "packages": [],
        },
        "content": [{ "type": "text", "text": "Created." }],
    }})
}

fn replayed(id: &Value, correlation_id: &str) -> Value {
    let mut result = result(id, correlation_id);
    result["result"]["structuredContent"]["replayed"] = json!(true);
    result
}

fn answers(api: &Api, message: &Value) {
    api.answers_next(Reply::status(200).body(message.to_string()));
}

/// Rules 2 and 4: a replay is the first response, with `replayed: true`, and the `context` of the
/// request that gets it.
async fn a_replay_is_the_first_response_and_says_so(api: &Api) {
    let arguments = media_buy(&key("replay"));
    answers(api, &result(&json!(1), "initial"));
    let first = call(api, &json!(1), &arguments).executes().await;
    let structured = first.json()["result"]["structuredContent"].clone();
    assert_eq!(structured["replayed"], Value::Null);
    for (id, correlation_id) in [(json!(1), "initial"), (json!("b"), "replay")] {
        let mut again = arguments.clone();
        again["context"]["correlation_id"] = json!(correlation_id);
        let again = call(api, &id, &again);
        again
            .replays_json(&first, &replayed(&id, correlation_id))
            .await;
    }
}

async fn what_changes_from_attempt_to_attempt_is_not_compared(api: &Api) {
    answers(api, &result(&json!(1), "initial"));
    let first = buy(api, &key("same")).executes().await;
    for (pointer, value) in [
        ("/context/correlation_id", "another"),
        ("/governance_context", "token-2"),
        (
            "/push_notification_config/authentication/credentials",
            "secret-2",
        ),
    ] {
        let mut again = media_buy(&key("same"));
        *again.pointer_mut(pointer).unwrap() = json!(value);
        let correlation_id = again["context"]["correlation_id"].clone();
        let expected = replayed(&json!(1), correlation_id.as_str().unwrap());
        call(api, &json!(1), &again)
            .replays_json(&first, &expected)
            .await;
    }
    let arguments = media_buy(&key("same"));
    let meta = json!({ "progressToken": "t-1" });
    let params = json!({ "name": "create_media_buy", "arguments": arguments, "_meta": meta });
    let again = message(api, &json!(1), "tools/call", &params);
    again
        .replays_json(&first, &replayed(&json!(1), "initial"))
        .await;
}

/// Rule 5, and "Payload equivalence".
async fn everything_else_is_compared(api: &Api) {
    buy(api, &key("other")).executes().await;
    for (pointer, value) in [
        ("/packages/0/budget", json!(5001)),
        ("/ext", json!({ "trace": 1 })),
        ("/push_notification_config/url", json!("https://other")),
        ("/brand", Value::Null),
    ] {
        let mut other = media_buy(&key("other"));
        *other.pointer_mut(pointer).unwrap() = value;
        let refused = call(api, &json!(1), &other).refused(200).await;
        refused.is("key-reused", is_error);
    }
    let arguments = media_buy(&key("other"));
    let params = json!({ "name": "update_media_buy", "arguments": arguments });
    let other = message(api, &json!(1), "tools/call", &params);
    other.refused(200).await.is("key-reused", is_error);
}

/// Rule 9, "Wait-and-replay"; a call with another payload does not wait.
async fn a_second_call_waits_for_the_first(api: &Api) {
    answers(api, &result(&json!(1), "initial"));
    let running = buy(api, &key("waits")).begins().await;
    let mut other = media_buy(&key("waits"));
    other["end_time"] = json!("2099-09-30T23:59:59Z");
    let refused = call(api, &json!(1), &other).refused(200).await;
    refused.is("key-reused", is_error);
    let second = tokio::spawn(buy(api, &key("waits")).send());
    let first = running.ends().await;
    let second = second.await.unwrap();
    assert_eq!(first.json(), result(&json!(1), "initial"));
    assert_eq!(second.json(), replayed(&json!(1), "initial"));

    let hasty = Api::start(&api.file().replace("\"20s\"", "\"100ms\"")).await;
    let running = buy(&hasty, &key("waits")).begins().await;
    let in_vain = buy(&hasty, &key("waits")).refused(200).await;
    in_vain.is("in-flight", is_error);
    running.ends().await;

    let api = Api::start(&format!("contract = \"/contract\"\n{}", api.file())).await;
    let asked = api.request(http::Method::GET, "/contract?format=json");
    let endpoint = asked.send().await.json()["endpoints"][0].clone();
    assert_eq!(endpoint["on_in_flight"]["wait"], 20);
}

/// The schemas of all tasks have `^[A-Za-z0-9_.:-]{16,255}$`.
async fn a_key_has_at_least_16_characters(api: &Api) {
    for key in [&key("a"), "550e8400-e29b-41d4-a716-446655440000"] {
        answers(api, &result(&json!(1), "initial"));
        let first = buy(api, key).executes().await;
        let expected = replayed(&json!(1), "initial");
        buy(api, key).replays_json(&first, &expected).await;
    }
    let short = buy(api, &key("b")[1..]).refused(200).await;
    short.is("key-too-short", is_error);
    let mut number = media_buy("");
    number["idempotency_key"] = json!(1);
    let refused = call(api, &json!(1), &number).refused(200).await;
    refused.is("key-invalid", is_error);
}

async fn a_call_without_a_key_is_passed_on(api: &Api) {
    let mut keyless = media_buy("");
    keyless.as_object_mut().unwrap().remove("idempotency_key");
    call(api, &json!(1), &keyless).executes_twice().await;
}

async fn a_key_belongs_to_an_agent(api: &Api) {
    answers(api, &result(&json!(1), "initial"));
    let first = buy(api, &key("belongs")).executes().await;
    let with = |token: &str| {
        buy(api, &key("belongs"))
            .without("authorization")
            .header("authorization", token)
    };
    let expected = replayed(&json!(1), "initial");
    with("Bearer pinnacle-2")
        .replays_json(&first, &expected)
        .await;
    with("Bearer other-1").executes().await;
    let before = api.executions();
    let denied = with("Bearer unknown").send().await;
    assert_eq!((denied.status(), api.executions()), (401, before));
}

/// Rule 3: a failure is an error of JSON-RPC ("Transport-Level Errors") or of the task ("Tool-Level
/// Errors").
async fn a_task_that_failed_runs_again(api: &Api) {
    let error = |code: i32| json!({ "code": code, "message": "" });
    let adcp_error =
        json!({ "code": "POLICY_VIOLATION", "message": "", "recovery": "correctable" });
    let structured = json!({ "status": "failed", "adcp_error": adcp_error });
    let content = json!([{ "type": "text", "text": "Not allowed." }]);
    for (name, member, value) in [
        ("failed-1", "error", error(-32603)),
        ("failed-2", "error", error(-32029)),
        (
            "failed-3",
            "result",
            json!({ "isError": true, "content": content }),
        ),
        (
            "failed-4",
            "result",
            json!({ "structuredContent": structured, "content": content }),
        ),
    ] {
        let failed = json!({ "jsonrpc": "2.0", "id": 1, (member): value });
        answers(api, &failed);
        buy(api, &key(name)).executes().await;
        answers(api, &result(&json!(1), "initial"));
        buy(api, &key(name)).executes().await;
    }
}

/// Rule 6: a seller that can't return the first response must not run the task again.
async fn a_response_that_was_not_kept_has_expired(api: &Api) {
    let large = vec![b' '; (1 << 20) + 1];
    api.answers_next(Reply::status(200).body(large));
    buy(api, &key("large")).executes().await;
    let refused = buy(api, &key("large")).refused(200).await;
    refused.is("response-unavailable", is_error);
}

async fn other_messages_are_left_alone(api: &Api) {
    for method in ["tools/list", "tasks/get", "initialize"] {
        let params = json!({ "arguments": { "idempotency_key": key("rest") } });
        message(api, &json!(1), method, &params)
            .executes_twice()
            .await;
    }
    let elsewhere = buy(api, &key("rest")).to("/elsewhere");
    let keyed = elsewhere.header("idempotency-key", &key("rest"));
    keyed.executes_twice().await;
}

async fn without_a_store_calls_are_refused(api: &Api) {
    let api = Api::start_without_store(api.file()).await;
    let refused = buy(&api, &key("no-store")).refused(200).await;
    refused.is("store-unavailable", is_error);
}

async fn what_the_sidecar_refuses_is_a_transport_error(api: &Api) {
    let api = Api::start_without_upstream(api.file()).await;
    let refused = api.request(http::Method::GET, "/mcp").refused(502).await;
    refused.is("upstream-unreachable", is_error);
}

async fn an_answer_is_kept_for_24_hours(api: &Api) {
    api.keeps_answers_for(24).await;
}
