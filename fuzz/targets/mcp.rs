//! On a route with the preset `mcp`, messages, answers and replays are what `serde_json` reads in them.
//!
//! The input is the id of a call, its progress token or nothing, one line each, and behind them a
//! message: it is sent to the server, comes back from it, and is recorded.

#![no_main]

use std::cell::RefCell;
use std::time::SystemTime;

use bytes::Bytes;
use fuzz::json::{Event, NoTree, Tree, events, field};
use http::{HeaderValue, Request, Response, StatusCode};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use tower_idempotency::options::{KeyFormat, McpTools, OnMismatch, Require};
use tower_idempotency::store::{Completion, Outcome};
use tower_idempotency::{IdempotencyLayer, scope};

const KEY: &str = "/params/arguments/meta/idempotency-key";

thread_local! {
    static READ: RefCell<Option<String>> = const { RefCell::new(None) };
    static ROUTE: Route = Route::new();
}

struct Route {
    store: fuzz::OneRecord,
    layer: IdempotencyLayer,
}

/// What became of a message to the server.
#[derive(Debug, PartialEq)]
enum Sent {
    Passed,
    Keyed(String),
    Rejected(&'static str),
}

impl Route {
    fn new() -> Self {
        let format = KeyFormat::custom("any", |key| {
            READ.set(Some(key.to_owned()));
            true
        });
        let store = fuzz::OneRecord::default();
        let layer = IdempotencyLayer::builder(store.clone(), scope::shared())
            .defaults(|options| {
                let options = options.mcp().mcp_tools(McpTools::only(["pay"]));
                let options = options.on_mismatch(OnMismatch::Replay).key_format(format);
                options.require(Require::Required)
            })
            .build()
            .expect("options that work");
        Self { store, layer }
    }

    fn call(&self, body: &[u8], answer: Response<Bytes>) -> Response<Bytes> {
        let request = Request::post("/").header("content-type", "application/json");
        let body = Bytes::copy_from_slice(body);
        let request = request.body(body).expect("a request");
        fuzz::call(&self.layer, request, answer)
    }

    fn sent(&self, message: &[u8]) -> Sent {
        READ.set(None);
        let mut answer = Response::new(Bytes::new());
        *answer.status_mut() = StatusCode::ACCEPTED;
        let response = self.call(message, answer);
        if response.status() == StatusCode::ACCEPTED {
            return Sent::Passed;
        }
        let error: Value = serde_json::from_slice(response.body()).expect("a JSON-RPC error");
        match error["error"]["data"]["code"].as_str().expect("a code") {
            "over-capacity" => Sent::Keyed(READ.take().expect("a key")),
            "key-required" => Sent::Rejected("key-required"),
            _ => Sent::Rejected("key-invalid"),
        }
    }
}

/// Whether the text of a value is an id or a token that is taken.
fn is_tag(tree: &Tree) -> bool {
    match tree {
        Tree::Scalar(value) => value.is_string() || value.is_number(),
        Tree::Array(_) | Tree::Object(_) => false,
    }
}

/// What has to become of a message. `None` where `serde_json` can't say.
fn expected_of(message: &[u8]) -> Option<Sent> {
    const INVALID: Sent = Sent::Rejected("key-invalid");
    let tree = match Tree::read(message) {
        Ok(tree) => tree,
        Err(NoTree::NotJson) => return Some(INVALID),
        Err(NoTree::Unknown) => return None,
    };
    let Tree::Object(_) = tree else {
        return Some(INVALID);
    };
    match &tree.members("/method")[..] {
        [_] if tree.string("/method") == Some("tools/call") => {}
        [] | [_] => return Some(Sent::Passed),
        _ => return Some(INVALID),
    }
    match tree.string("/params/name") {
        None => return Some(INVALID),
        Some("pay") => {}
        Some(_) => return Some(Sent::Passed),
    }
    match tree.members("/id")[..] {
        [] => {}
        // Only its own text says whether it is too long.
        [id] if is_tag(id) && message.len() > 1024 => return None,
        [id] if is_tag(id) => {}
        _ => return Some(INVALID),
    }
    let Some(key) = tree.member(KEY) else {
        return Some(Sent::Rejected("key-required"));
    };
    let is_key = |key: &str| {
        (1..=255).contains(&key.len()) && key.bytes().all(|byte| matches!(byte, b' '..=b'~'))
    };
    Some(match key {
        Tree::Scalar(Value::String(key)) if is_key(key) => Sent::Keyed(key.clone()),
        _ => INVALID,
    })
}

/// The call of the tool under this id, with this token.
fn call(id: &str, token: &str) -> String {
    let meta = match token {
        "" => String::new(),
        token => format!(",\"_meta\":{{\"progressToken\":{token}}}"),
    };
    format!(
        "{{\"method\":\"tools/call\",\"id\":{id},\"params\":{{\"name\":\"pay\",\
         \"arguments\":{{\"meta\":{{\"idempotency-key\":\"k\"}}}}{meta}}}}}"
    )
}

fn answer(content_type: &'static str, body: &[u8]) -> Response<Bytes> {
    let mut response = Response::new(Bytes::copy_from_slice(body));
    let content_type = HeaderValue::from_static(content_type);
    response.headers_mut().insert("content-type", content_type);
    response
}

/// What an answer says: whether it is the last, or nothing.
fn says(text: &[u8]) -> Result<Option<bool>, NoTree> {
    let tree = match Tree::read(text) {
        Ok(tree) => tree,
        Err(NoTree::NotJson) => return Ok(None),
        Err(NoTree::Unknown) => return Err(NoTree::Unknown),
    };
    if tree.member("/error").is_some() {
        let failed = match tree.member("/error/code") {
            Some(Tree::Scalar(code)) => {
                let own = |code| code == -32603 || (-32099..=-32000).contains(&code);
                code.as_i64().is_some_and(own)
            }
            _ => false,
        };
        return Ok(Some(!failed));
    }
    let Some(_) = tree.member("/result") else {
        return Ok(None);
    };
    Ok(Some(
        tree.string("/result/resultType") != Some("input_required"),
    ))
}

#[derive(Debug, PartialEq)]
enum Kept {
    Whole,
    Sealed,
    Nothing,
}

/// What is kept of an answer.
fn kept(route: &Route, call: &str, answer: Response<Bytes>) -> Kept {
    route.store.executes();
    let body = answer.body().clone();
    let response = route.call(call.as_bytes(), answer);
    assert_eq!(response.body(), &body);
    match route.store.take_outcome() {
        Some((_, Outcome::Completed(recorded))) => {
            assert_eq!(recorded.body, body);
            Kept::Whole
        }
        Some((_, _)) => Kept::Sealed,
        None => Kept::Nothing,
    }
}

fn check_answers(route: &Route, call: &str, body: &[u8]) -> Result<(), NoTree> {
    let unfinished = says(body)? == Some(false);
    let expected = if unfinished {
        Kept::Nothing
    } else {
        Kept::Whole
    };
    let own = kept(route, call, answer("application/json", body));
    assert_eq!(own, expected);
    let mut answers = Vec::new();
    for event in events(body).iter().filter(|event| event.ends) {
        answers.extend(says(event.data.as_deref().unwrap_or_default())?);
    }
    let expected = match answers[..] {
        [true] => Kept::Whole,
        [false] => Kept::Nothing,
        _ => Kept::Sealed,
    };
    let own = kept(route, call, answer("text/event-stream", body));
    assert_eq!(own, expected, "{answers:?}");
    Ok(())
}

fn replay(route: &Route, call: &str, recorded: Response<Bytes>) -> Bytes {
    let (head, body) = recorded.into_parts();
    let mut recorded = Completion::new(StatusCode::OK, body, SystemTime::UNIX_EPOCH);
    recorded.headers = head.headers;
    route
        .store
        .finds(fuzz::any_record(Outcome::Completed(recorded.into())));
    let response = route.call(call.as_bytes(), Response::default());
    assert_eq!(response.headers()["idempotency-replayed"], "true");
    response.into_body()
}

/// A message of a stream with the id and the token of a retry; `None` if it is left out.
fn expected_event(event: &Event, id: &Tree, token: Option<&Tree>) -> Result<Option<Tree>, NoTree> {
    let mut tree = Tree::read(event.data.as_deref().unwrap_or_default())?;
    let has = |pointer| tree.member(pointer).is_some();
    if has("/id") && has("/method") {
        return Ok(None);
    }
    if has("/params/progressToken") {
        let Some(token) = token else { return Ok(None) };
        tree.set("/params/progressToken", token, false);
    }
    tree.set("/id", id, false);
    Ok(Some(tree))
}

fn check_replays(route: &Route, call: &str, body: &[u8]) -> Result<(), NoTree> {
    let asked = Tree::read(call.as_bytes()).expect("the call is JSON");
    let id = asked.member("/id").expect("an id");
    let token = asked.member("/params/_meta/progressToken");
    let token = token.filter(|token| is_tag(token));

    let replayed = replay(route, call, answer("application/json", body));
    match Tree::read(body) {
        Ok(mut tree) => {
            tree.set("/id", id, false);
            assert_eq!(Tree::read(&replayed), Ok(tree));
        }
        Err(NoTree::NotJson) => assert_eq!(&replayed, body),
        Err(NoTree::Unknown) => return Err(NoTree::Unknown),
    }

    let replayed = replay(route, call, answer("text/event-stream", body));
    let mut expected = Vec::new();
    for mut event in events(body) {
        event.others.retain(|line| field(line) != b"id");
        match expected_event(&event, id, token) {
            Ok(None) => {}
            Ok(Some(tree)) => expected.push((event, Some(tree))),
            Err(NoTree::NotJson) => expected.push((event, None)),
            Err(NoTree::Unknown) => return Err(NoTree::Unknown),
        }
    }
    expected.retain(|(event, _)| event.data.is_some() || !event.others.is_empty());
    let replayed = events(&replayed);
    assert_eq!(replayed.len(), expected.len());
    for (own, (event, tree)) in replayed.iter().zip(expected) {
        assert_eq!(own.others, event.others);
        match tree {
            Some(tree) => {
                let data = own.data.as_deref().unwrap_or_default();
                assert_eq!(Tree::read(data), Ok(tree));
            }
            None => assert_eq!(own.data, event.data),
        }
    }
    Ok(())
}

fuzz_target!(|data: &[u8]| {
    let mut lines = data.splitn(3, |byte| *byte == b'\n');
    let [id, token, message] = std::array::from_fn(|_| lines.next().unwrap_or_default());
    ROUTE.with(|route| {
        route.store.is_full();
        if let Some(expected) = expected_of(message) {
            assert_eq!(route.sent(message), expected);
        }
        let [Ok(id), Ok(token)] = [id, token].map(std::str::from_utf8) else {
            return;
        };
        let call = call(id, token);
        if !matches!(expected_of(call.as_bytes()), Some(Sent::Keyed(_))) {
            return;
        }
        let is_known = Tree::read(call.as_bytes()).is_ok_and(|call| call.member("/id").is_some());
        if is_known && id.len() <= 1024 && token.len() <= 1024 {
            // What `serde_json` can't read is not compared.
            let _ = check_answers(route, &call, message);
            let _ = check_replays(route, &call, message);
        }
    });
});
