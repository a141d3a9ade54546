//! A key is read as the crate `sfv` reads an item of structured fields (RFC 9651).

#![no_main]

use std::cell::RefCell;

use http::{HeaderValue, Request};
use libfuzzer_sys::fuzz_target;
use sfv::{Item, Parser};
use tower_idempotency::options::{KeyFormat, KeySyntax};
use tower_idempotency::{IdempotencyLayer, scope};

thread_local! {
    static ACCEPTED: RefCell<Option<String>> = const { RefCell::new(None) };
    static LAYERS: [IdempotencyLayer; 3] =
        [KeySyntax::Strict, KeySyntax::Lenient, KeySyntax::Raw].map(layer);
}

fn layer(syntax: KeySyntax) -> IdempotencyLayer {
    let format = KeyFormat::custom("any", |key| {
        ACCEPTED.set(Some(key.to_owned()));
        true
    });
    IdempotencyLayer::builder(fuzz::OneRecord::default(), scope::shared())
        .defaults(|options| {
            let options = options.key_syntax(syntax).key_length(1..=255);
            options.key_format(format)
        })
        .build()
        .expect("options that work")
}

/// The key that the layer reads; `None` if it rejects the value.
fn read(syntax: usize, value: &HeaderValue) -> Option<String> {
    let request = Request::post("/").header("idempotency-key", value);
    let (head, ()) = request.body(()).expect("a request").into_parts();
    ACCEPTED.set(None);
    assert!(LAYERS.with(|layers| layers[syntax].protects(&head)));
    ACCEPTED.take()
}

fn is_key(key: &str) -> bool {
    (1..=255).contains(&key.len()) && key.bytes().all(|byte| matches!(byte, b' '..=b'~'))
}

fuzz_target!(|data: &[u8]| {
    let Ok(value) = HeaderValue::from_bytes(data) else {
        return;
    };
    // White space around a field's value is none of its own (RFC 9110, 5.5).
    let trimmed = data.trim_ascii();
    let string = Parser::new(trimmed).parse::<Item>().ok().and_then(|item| {
        let string = item.bare_item.as_string()?;
        Some(string.as_str().to_owned())
    });
    let string = string.filter(|key| is_key(key));
    assert_eq!(read(0, &value), string, "strict");

    let text = std::str::from_utf8(trimmed)
        .ok()
        .filter(|text| is_key(text));
    let raw = text.map(str::to_owned);
    assert_eq!(read(2, &value), raw, "raw");

    let lenient = if trimmed.starts_with(b"\"") {
        string
    } else {
        raw.filter(|text| !text.contains(','))
    };
    assert_eq!(read(1, &value), lenient, "lenient");
});
