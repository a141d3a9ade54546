//! A key in a body, and the members that a replay sets, are where `serde_json` finds them, in JSON and
//! in each event of a stream. Nothing else of a replay changes.
//!
//! The input is a JSON pointer and the value that a retry has there, one line each, and behind them
//! what was recorded.

#![no_main]

use std::cell::RefCell;
use std::time::SystemTime;

use bytes::Bytes;
use fuzz::json::{Event, NoTree, Tree, events, steps};
use http::{HeaderValue, Request, Response, StatusCode};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use tower_idempotency::options::{KeyFormat, OnMismatch, ReplayedMember, Require, RouteOptions};
use tower_idempotency::store::{Completion, Outcome};
use tower_idempotency::{ConfigError, IdempotencyLayer, scope};

thread_local! {
    static KEY: RefCell<Option<String>> = const { RefCell::new(None) };
}

fn layer(
    store: &fuzz::OneRecord,
    options: impl FnOnce(RouteOptions) -> RouteOptions,
) -> Result<IdempotencyLayer, ConfigError> {
    IdempotencyLayer::builder(store.clone(), scope::shared())
        .defaults(|own| options(own.on_mismatch(OnMismatch::Replay)))
        .build()
}

fn json(body: &[u8]) -> Request<Bytes> {
    let request = Request::post("/").header("content-type", "application/json");
    request
        .body(Bytes::copy_from_slice(body))
        .expect("a request")
}

/// The key in a body is the string that `serde_json` finds there.
fn check_key(pointer: &str, body: &[u8]) {
    let format = KeyFormat::custom("any", |key| {
        KEY.set(Some(key.to_owned()));
        true
    });
    let built = layer(&fuzz::OneRecord::default(), |options| {
        let options = options.key_in_body([pointer]).key_format(format);
        options.require(Require::Required)
    });
    assert_eq!(built.is_ok(), steps(pointer).is_some(), "{pointer:?}");
    let Ok(layer) = built else { return };
    let tree = Tree::read(body);
    if tree == Err(NoTree::Unknown) {
        return;
    }
    let key = tree.as_ref().ok().and_then(|tree| tree.string(pointer));
    let key = key.filter(|key| {
        (1..=255).contains(&key.len()) && key.bytes().all(|byte| matches!(byte, b' '..=b'~'))
    });
    KEY.set(None);
    let response = fuzz::call(&layer, json(body), Response::default());
    assert_eq!(KEY.take().as_deref(), key);
    let expected = match key {
        Some(_) => StatusCode::SERVICE_UNAVAILABLE,
        None => StatusCode::BAD_REQUEST,
    };
    assert_eq!(response.status(), expected);
}

/// What a retry with the key of this record gets.
fn replay(layer: &IdempotencyLayer, retry: &[u8]) -> Bytes {
    let mut retry = json(retry);
    let key = HeaderValue::from_static("k");
    retry.headers_mut().insert("idempotency-key", key);
    let response = fuzz::call(layer, retry, Response::default());
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["idempotency-replayed"], "true");
    response.into_body()
}

fn finds(store: &fuzz::OneRecord, content_type: &'static str, body: &[u8]) {
    let body = Bytes::copy_from_slice(body);
    let mut recorded = Completion::new(StatusCode::OK, body, SystemTime::UNIX_EPOCH);
    let content_type = HeaderValue::from_static(content_type);
    recorded.headers.insert("content-type", content_type);
    store.finds(fuzz::any_record(Outcome::Completed(recorded.into())));
}

/// A member that is set, and how.
struct Change<'a> {
    pointer: &'a str,
    value: Tree,
    adds: bool,
}

/// The text with these members set; `None` if it stays as it is.
fn expected(text: &[u8], changes: &[Change<'_>]) -> Result<Option<Tree>, NoTree> {
    let mut tree = match Tree::read(text) {
        Ok(tree) => tree,
        Err(NoTree::NotJson) => return Ok(None),
        Err(NoTree::Unknown) => return Err(NoTree::Unknown),
    };
    let has = |pointer| tree.member(pointer).is_some();
    let asks = has("/jsonrpc") && has("/method");
    for Change {
        pointer,
        value,
        adds,
    } in changes
    {
        if !(asks && *pointer == "/id") {
            tree.set(pointer, value, *adds);
        }
    }
    Ok(Some(tree))
}

fn check_json(recorded: &[u8], replayed: &[u8], changes: &[Change<'_>]) -> Result<(), NoTree> {
    match expected(recorded, changes)? {
        None => assert_eq!(recorded, replayed),
        Some(tree) => assert_eq!(Tree::read(replayed), Ok(tree)),
    }
    Ok(())
}

fn check_stream(recorded: &[u8], replayed: &[u8], changes: &[Change<'_>]) -> Result<(), NoTree> {
    let (before, after) = (events(recorded), events(replayed));
    assert_eq!(before.len(), after.len());
    for (before, after) in before.into_iter().zip(after) {
        if let (Some(before), Some(after)) = (&before.data, &after.data) {
            check_json(before, after, changes)?;
        }
        let without_data = |event: Event| (event.others, event.data.is_some(), event.ends);
        assert_eq!(without_data(before), without_data(after));
    }
    Ok(())
}

/// Whether one part of a text has become this value, and nothing else has changed.
fn is_one_edit(before: &[u8], after: &[u8], value: &[u8]) -> bool {
    before == after
        || (0..=before.len().min(after.len()))
            .take_while(|at| before[..*at] == after[..*at])
            .any(|at| {
                let rest = after[at..].strip_prefix(value);
                rest.is_some_and(|rest| before[at..].ends_with(rest))
            })
}

fn check_replays(pointer: &str, value: &[u8], recorded: &[u8]) -> Result<(), NoTree> {
    let store = fuzz::OneRecord::default();
    let constant: Option<Value> = serde_json::from_slice(value).ok();
    let retry = [b"{\"id\":", value, b"}"].concat();
    let read = Tree::read(&retry);
    if read == Err(NoTree::Unknown) {
        return Ok(());
    }
    let change = |pointer, value: &Tree, adds| Change {
        pointer,
        value: value.clone(),
        adds,
    };
    let of_request = layer(&store, |options| {
        options.replay_json(pointer, ReplayedMember::of_request("/id"))
    });
    let of_request = of_request.expect("a pointer that was accepted");
    let own = read.as_ref().ok().and_then(|retry| retry.member("/id"));
    let own: Vec<_> = own.iter().map(|own| change(pointer, own, false)).collect();
    finds(&store, "application/json", recorded);
    let replayed = replay(&of_request, &retry);
    check_json(recorded, &replayed, &own)?;
    let value = value.trim_ascii();
    if own.is_empty() || constant.is_some() {
        assert!(is_one_edit(recorded, &replayed, value));
    }
    finds(&store, "text/event-stream", recorded);
    check_stream(recorded, &replay(&of_request, &retry), &own)?;

    let Some(value) = constant else {
        return Ok(());
    };
    let tree = Tree::read(value.to_string().as_bytes())?;
    let both = layer(&store, |options| {
        let options = options.replay_json(pointer, ReplayedMember::constant(value));
        options.replay_json("/replayed", ReplayedMember::constant(true))
    });
    let is_inside = steps(pointer).is_some_and(|steps| steps[0] == "replayed");
    let Ok(both) = both else {
        assert!(is_inside);
        return Ok(());
    };
    let replayed = Tree::Scalar(true.into());
    let mut own = vec![
        change(pointer, &tree, true),
        change("/replayed", &replayed, true),
    ];
    if pointer == "/replayed" {
        own.remove(0);
    } else {
        assert!(!is_inside);
    }
    finds(&store, "application/json", recorded);
    check_json(recorded, &replay(&both, &retry), &own)?;
    finds(&store, "text/event-stream", recorded);
    check_stream(recorded, &replay(&both, &retry), &own)
}

fuzz_target!(|data: &[u8]| {
    let mut lines = data.splitn(3, |byte| *byte == b'\n');
    let [pointer, value, recorded] = std::array::from_fn(|_| lines.next().unwrap_or_default());
    let Ok(pointer) = std::str::from_utf8(pointer) else {
        return;
    };
    check_key(pointer, recorded);
    if steps(pointer).is_some() {
        // What `serde_json` can't read is not compared.
        let _ = check_replays(pointer, value, recorded);
    }
});
