//! This is the contract of the Universal Commerce Protocol, MCP binding, editions 2026-01-23 and
//! later: `docs/specification/checkout-mcp.md`, "Request Metadata" and "Message Signing", and
//! `docs/specification/signatures.md`, "Replay Protection", in
//! <https://github.com/Universal-Commerce-Protocol/ucp>. The edition 2026-01-11 has the key
//! elsewhere, in `params.idempotency_key`, and calls no tools.

use serde_json::{Value, json};

use crate::api::{Api, Request};
use crate::refusals::Refused;
use crate::upstream::Reply;

const KEY: &str = "550e8400-e29b-41d4-a716-446655440000";

contract! { "ucp-mcp.toml":
    a_call_that_is_sent_again_gets_the_first_result,
    a_key_in_the_header_is_the_same_key,
    a_call_without_a_key_is_passed_on,
    a_key_has_at_least_128_bits,
    a_key_belongs_to_a_platform,
    other_arguments_and_another_tool_are_refused,
    a_call_in_flight_is_refused,
    a_call_that_the_server_failed_runs_again,
    what_only_reads_is_left_alone,
    without_a_store_calls_are_refused,
    what_the_sidecar_refuses_is_an_error_of_json_rpc,
    an_answer_is_kept_for_48_hours,
}

/// Whether a refusal is an error of JSON-RPC with the protocol's code ("Error Codes"), to the call
/// with the id 1 or to none.
fn is_error(refused: &Refused) -> bool {
    let mut data = json!({ "code": refused.code });
    if refused.code == "in-flight" {
        data["retry_after"] = json!(1);
    }
    let message = refused.sentence("/error/message");
    let error = json!({ "code": -32000, "message": message, "data": data });
    let id = &refused.body["id"];
    let expected = json!({ "jsonrpc": "2.0", "id": id, "error": error });
    let has_its_status = match &*refused.code {
        "key-reused" => refused.status == 409,
        "in-flight" => refused.status == 503,
        _ => *id == Value::Null || refused.status == 200,
    };
    let is_known = *id == 1 || *id == Value::Null;
    refused.content_type == "application/json"
        && refused.body == expected
        && is_known
        && has_its_status
}

/// The call of a tool under this JSON-RPC id, with the arguments of the specification's example.
fn call(api: &Api, id: &Value, tool: &str, key: Option<&str>) -> Request {
    let mut meta = json!({ "ucp-agent": { "profile": "https://platform.example/profile.json" } });
    if let Some(key) = key {
        meta["idempotency-key"] = json!(key);
    }
    let arguments = json!({
        "meta": meta,
        "id": "checkout_abc123",
        "checkout": { "payment": { "instruments": [{ "id": "pi_1", "type": "card" }] } },
    });
    let params = json!({ "name": tool, "arguments": arguments });
    message(api, id, "tools/call", &params)
}

fn message(api: &Api, id: &Value, method: &str, params: &Value) -> Request {
    let message = json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params });
    api.post("/ucp/mcp")
        .header("authorization", "Bearer platform-1")
        .header("accept", "application/json, text/event-stream")
        .json(message.to_string())
}

fn complete(api: &Api, id: u32, name: &str) -> Request {
    call(api, &json!(id), "complete_checkout", Some(&long(name)))
}

/// A key of 22 characters.
fn long(name: &str) -> String {
    format!("{name:0>22}")
}

/// The result of a call, without and with an order.
fn result(id: &Value) -> Value {
    json!({ "jsonrpc": "2.0", "id": id, "result": {
        "structuredContent": {
            "ucp": { "version": "2026-04-08", "status": "success" },
            "id": "checkout_abc123",
            "status": "completed",
            "order": { "id": "order_1" },
        },
        "content": [{ "type": "text", "text": "{\"id\":\"checkout_abc123\"}" }],
    }})
}

fn answers(api: &Api, message: &Value) {
    api.answers_next(Reply::status(200).body(message.to_string()));
}

async fn a_call_that_is_sent_again_gets_the_first_result(api: &Api) {
    for tool in [
        "create_checkout",
        "update_checkout",
        "complete_checkout",
        "cancel_checkout",
        "create_cart",
        "update_cart",
        "cancel_cart",
    ] {
        let key = long(&format!("again_{tool}"));
        let call = |id: &Value| call(api, id, tool, Some(&key));
        answers(api, &result(&json!(1)));
        let first = call(&json!(1)).executes().await;
        for id in [json!(1), json!(2), json!("b")] {
            call(&id).replays_json(&first, &result(&id)).await;
        }
    }
}

/// A signed request has the key in a header ("Message Signing", since the edition 2026-04-08).
async fn a_key_in_the_header_is_the_same_key(api: &Api) {
    let both = |id: u32| complete(api, id, "header").header("idempotency-key", &long("header"));
    answers(api, &result(&json!(1)));
    let first = both(1).executes().await;
    complete(api, 2, "header")
        .replays_json(&first, &result(&json!(2)))
        .await;
    let differs = complete(api, 1, "header").header("idempotency-key", KEY);
    differs.refused(200).await.is("key-invalid", is_error);

    let signed = |id: u32| {
        let call = call(api, &json!(id), "complete_checkout", None);
        call.header("idempotency-key", KEY)
    };
    answers(api, &result(&json!(1)));
    let first = signed(1).executes().await;
    signed(2).replays_json(&first, &result(&json!(2))).await;
}

async fn a_call_without_a_key_is_passed_on(api: &Api) {
    for tool in ["create_checkout", "complete_checkout"] {
        call(api, &json!(1), tool, None).executes_twice().await;
    }
}

async fn a_key_has_at_least_128_bits(api: &Api) {
    let with = |key: &str| call(api, &json!(1), "cancel_checkout", Some(key));
    for key in [
        "660e8400-e29b-41d4-a716-446655440001",
        "a1B2c3D4e5F6g7H8i9J0kL",
    ] {
        answers(api, &result(&json!(1)));
        let first = with(key).executes().await;
        with(key).replays(&first, &[]).await;
    }
    let short = with("a1B2c3D4e5F6g7H8i9J0k").refused(200).await;
    short.is("key-too-short", is_error);
}

async fn a_key_belongs_to_a_platform(api: &Api) {
    answers(api, &result(&json!(1)));
    let first = complete(api, 1, "belongs").executes().await;
    let with = |token: &str| {
        complete(api, 1, "belongs")
            .without("authorization")
            .header("authorization", token)
    };
    with("Bearer platform-2").replays(&first, &[]).await;
    with("Bearer other-1").executes().await;
    let before = api.executions();
    let denied = with("Bearer unknown").send().await;
    assert_eq!((denied.status(), api.executions()), (401, before));
}

async fn other_arguments_and_another_tool_are_refused(api: &Api) {
    complete(api, 1, "other").executes().await;
    let other = call(api, &json!(1), "cancel_checkout", Some(&long("other")));
    other.refused(409).await.is("key-reused", is_error);
    let arguments = json!({ "meta": { "idempotency-key": long("other") }, "id": "checkout_2" });
    let params = json!({ "name": "complete_checkout", "arguments": arguments });
    let other = message(api, &json!(1), "tools/call", &params);
    other.refused(409).await.is("key-reused", is_error);
}

async fn a_call_in_flight_is_refused(api: &Api) {
    let running = complete(api, 1, "flight").begins().await;
    let refused = complete(api, 1, "flight").refused(503).await;
    refused.is("in-flight", is_error);
    assert_eq!(refused.header("retry-after"), Some("1"));
    running.ends().await;
}

async fn a_call_that_the_server_failed_runs_again(api: &Api) {
    for (name, code) in [("failed-1", -32603), ("failed-2", -32000)] {
        let failed = json!({ "jsonrpc": "2.0", "id": 1, "error": { "code": code, "message": "" } });
        answers(api, &failed);
        complete(api, 1, name).executes().await;
        answers(api, &result(&json!(1)));
        let first = complete(api, 1, name).executes().await;
        complete(api, 1, name).replays(&first, &[]).await;
    }
}

async fn what_only_reads_is_left_alone(api: &Api) {
    for tool in [
        "get_checkout",
        "get_cart",
        "get_order",
        "search_catalog",
        "lookup_catalog",
        "get_product",
    ] {
        let key = long("reads");
        call(api, &json!(1), tool, Some(&key))
            .executes_twice()
            .await;
    }
    message(api, &json!(1), "tools/list", &json!({}))
        .executes_twice()
        .await;
    let elsewhere = complete(api, 1, "elsewhere")
        .to("/elsewhere")
        .header("idempotency-key", &long("elsewhere"));
    elsewhere.executes_twice().await;
}

async fn without_a_store_calls_are_refused(api: &Api) {
    let api = Api::start_without_store(api.file()).await;
    let refused = complete(&api, 1, "no-store").refused(200).await;
    refused.is("store-unavailable", is_error);
}

async fn what_the_sidecar_refuses_is_an_error_of_json_rpc(api: &Api) {
    let api = Api::start_without_upstream(api.file()).await;
    let refused = api
        .request(http::Method::GET, "/ucp/mcp")
        .refused(502)
        .await;
    refused.is("upstream-unreachable", is_error);
}

async fn an_answer_is_kept_for_48_hours(api: &Api) {
    api.keeps_answers_for(48).await;
}
