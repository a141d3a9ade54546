//! A body of the application's own for rejections is JSON whatever is filled in, or refused when the
//! layer is built.
//!
//! The input is a content type, a request id and the body, one line each.

#![no_main]

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use tower_idempotency::{IdempotencyLayer, scope};

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let mut lines = text.splitn(3, '\n');
    let [content_type, id, body] = std::array::from_fn(|_| lines.next().unwrap_or_default());
    let layer = IdempotencyLayer::builder(fuzz::OneRecord::default(), scope::shared())
        .docs_url(format!("https://docs/{id}"))
        .default_rejection_body(content_type, body)
        .build();
    let Ok(layer) = layer else {
        return;
    };
    let Ok(id) = HeaderValue::from_str(id) else {
        return;
    };
    let request = Request::post("/")
        .header("idempotency-key", "k")
        .header("x-request-id", &id);
    let request = request.body(Bytes::new()).expect("a request");
    let response = fuzz::call(&layer, request, Response::default());
    assert_ne!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["content-type"], content_type);
    let sent = std::str::from_utf8(response.body()).expect("UTF-8");
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    let essence = essence.to_ascii_lowercase();
    if essence.ends_with("/json") || essence.ends_with("+json") {
        // What is filled in closes no string and adds no member.
        let known = ["code", "title", "detail", "retry", "docs_url", "request_id"];
        let plain = known.iter().fold(body.to_owned(), |body, name| {
            body.replace(&format!("{{{name}}}"), "x")
        });
        let plain = plain.replace("{status}", response.status().as_str());
        let plain = match serde_json::from_str::<Value>(&plain) {
            // The number is JSON all the same.
            Err(error) if error.to_string().starts_with("number out of range") => return,
            plain => plain.expect("JSON"),
        };
        let filled: Value = serde_json::from_str(sent).expect("JSON");
        assert!(is_alike(&filled, &plain), "{filled} of {body}");
    } else if !body.contains('<') {
        assert!(!sent.contains('<'), "{sent}");
    }
});

/// Whether two documents differ in strings and numbers alone.
fn is_alike(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len()
                && one
                    .iter()
                    .zip(other)
                    .all(|(one, other)| is_alike(one, other))
        }
        // Two names may be the same name in one of the two.
        (Value::Object(_), Value::Object(_))
        | (Value::String(_), Value::String(_))
        | (Value::Number(_), Value::Number(_)) => true,
        (one, other) => one == other,
    }
}
