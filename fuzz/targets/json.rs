//! Equal JSON documents have equal fingerprints, and other documents have others.
//!
//! The input is a document, a JSON pointer and another document, one line each.

#![no_main]

use bytes::Bytes;
use http::{Request, Response};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use serde_json_canonicalizer::to_vec as canonical;
use tower_idempotency::options::{FingerprintBody, JsonFingerprint};
use tower_idempotency::store::Fingerprint;
use tower_idempotency::{IdempotencyLayer, scope};

struct Digests(fuzz::OneRecord, IdempotencyLayer);

impl Digests {
    fn new(body: FingerprintBody) -> Self {
        let store = fuzz::OneRecord::default();
        let layer = IdempotencyLayer::builder(store.clone(), scope::shared());
        let layer = layer.defaults(|options| options.fingerprint_body(body));
        Self(store, layer.build().expect("options that work"))
    }

    fn of(&self, body: &[u8]) -> Fingerprint {
        let request = Request::post("/").header("idempotency-key", "k");
        let request = request.header("content-type", "application/json");
        let request = request
            .body(Bytes::copy_from_slice(body))
            .expect("a request");
        fuzz::call(&self.1, request, Response::default());
        self.0.take_claim().expect("a claim").fingerprint
    }
}

thread_local! {
    static JSON: Digests = Digests::new(FingerprintBody::Json(JsonFingerprint::new()));
    static BYTES: Digests = Digests::new(FingerprintBody::Bytes);
}

fn json(body: &[u8]) -> Fingerprint {
    JSON.with(|digests| digests.of(body))
}

/// Whether the bytes are compared, because the document is not strict or has a number that a double
/// may not tell from another.
fn is_compared_by_bytes(body: &[u8]) -> bool {
    json(body) == BYTES.with(|digests| digests.of(body))
}

/// Whether all numbers are far from the limits of doubles and have at most 15 digits.
fn is_exact(value: &Value) -> bool {
    match value {
        Value::Number(number) => {
            let double = number.as_f64().unwrap_or(f64::NAN);
            let text = format!("{double:e}");
            let digits = text.split('e').next().unwrap_or_default();
            let digits = digits.bytes().filter(u8::is_ascii_digit).count();
            let same = number
                .as_i64()
                .is_none_or(|whole| whole.unsigned_abs() < 1 << 49)
                && number.as_u64().is_none_or(|whole| whole < 1 << 49);
            same && digits <= 15 && (double == 0.0 || (1e-280..1e280).contains(&double.abs()))
        }
        Value::Array(elements) => elements.iter().all(is_exact),
        Value::Object(members) => members.iter().all(|(name, value)| {
            // A name that `serde_json` keeps for itself.
            !name.starts_with("$serde_json") && is_exact(value)
        }),
        Value::Null | Value::Bool(_) | Value::String(_) => true,
    }
}

/// Another spelling: white space, members from the last to the first, every letter as an escape.
fn respelled(value: &Value, text: &mut String) {
    let join = |text: &mut String, parts: Vec<String>, [open, close]: [&str; 2]| {
        *text += open;
        *text += &parts.join("\n,\t");
        *text += close;
    };
    let own = |value: &Value| {
        let mut text = String::new();
        respelled(value, &mut text);
        text
    };
    let string = |value: &str| {
        let escapes = value.encode_utf16().map(|unit| format!("\\u{unit:04x}"));
        format!("\"{}\"", escapes.collect::<String>())
    };
    match value {
        Value::Array(elements) => join(text, elements.iter().map(own).collect(), ["[ ", " ]"]),
        Value::Object(members) => {
            let members = members.iter().rev();
            let members = members.map(|(name, value)| format!("{} : {}", string(name), own(value)));
            join(text, members.collect(), ["{ ", "\r\n}"]);
        }
        Value::String(value) => *text += &string(value),
        other => *text += &other.to_string(),
    }
}

fn check_one(body: &[u8]) -> Option<Value> {
    let Ok(value) = serde_json::from_slice::<Value>(body) else {
        assert!(is_compared_by_bytes(body), "no JSON");
        return None;
    };
    let Ok(form) = canonical(&value) else {
        return None;
    };
    let by_bytes = is_compared_by_bytes(body);
    if !by_bytes {
        assert_eq!(json(body), json(&form), "a document and its canonical form");
        assert!(!is_compared_by_bytes(&form));
        let again: Value = serde_json::from_slice(&form).expect("canonical JSON");
        assert_eq!(canonical(&again).expect("canonical JSON"), form);
    }
    if is_exact(&value) {
        let mut other = String::new();
        respelled(&value, &mut other);
        assert_eq!(json(other.as_bytes()), json(&form), "{other}");
        let pretty = serde_json::to_string_pretty(&value).expect("JSON");
        assert_eq!(json(pretty.as_bytes()), json(&form));
        assert!(!is_compared_by_bytes(&form), "a number that was not exact");
    }
    (!by_bytes).then_some(value)
}

/// What `exclude` leaves out does not count, and what `include` does not name neither.
fn check_pointer(pointer: &str, document: &Value, other: &Value) {
    let with = |pointed: JsonFingerprint| Digests::new(FingerprintBody::Json(pointed));
    if !pointer.is_empty() && !pointer.starts_with('/') {
        let wrong = IdempotencyLayer::builder(fuzz::OneRecord::default(), scope::shared());
        let body = FingerprintBody::Json(JsonFingerprint::new().exclude(pointer));
        let built = wrong
            .defaults(|options| options.fingerprint_body(body))
            .build();
        assert!(built.is_err());
        return;
    }
    let excluded = with(JsonFingerprint::new().exclude(pointer));
    let included = with(JsonFingerprint::new().include(pointer));
    let mut changed = document.clone();
    let bytes = |value: &Value| serde_json::to_vec(value).expect("JSON");
    let Some(place) = changed.pointer_mut(pointer) else {
        // Nothing is left out, and nothing is compared but the bytes.
        let both = [&excluded, &included].map(|digests| digests.of(&bytes(document)));
        let whole = [
            json(&bytes(document)),
            BYTES.with(|digests| digests.of(&bytes(document))),
        ];
        assert!(whole.contains(&both[0]));
        assert_eq!(both[1], whole[1]);
        return;
    };
    let before = std::mem::replace(place, other.clone());
    let digests = |digests: &Digests| [digests.of(&bytes(document)), digests.of(&bytes(&changed))];
    let [one, two] = digests(&excluded);
    // Where nothing else is left, the bytes are compared.
    let bytes_of = |value: &Value| BYTES.with(|digests| digests.of(&bytes(value)));
    let falls_back = one == bytes_of(document) || two == bytes_of(&changed);
    assert!(one == two || falls_back, "`exclude` compares what it names");
    let [one, two] = digests(&included);
    if one == two {
        let forms = [&before, other].map(|value| canonical(value).expect("JSON"));
        assert_eq!(
            forms[0], forms[1],
            "`include` does not compare what it names"
        );
    }
}

fuzz_target!(|data: &[u8]| {
    let mut lines = data.splitn(3, |byte| *byte == b'\n');
    let [one, pointer, two] = std::array::from_fn(|_| lines.next().unwrap_or_default());
    let (Some(first), Some(second)) = (check_one(one), check_one(two)) else {
        if one != two {
            assert_ne!(
                json(one),
                json(two),
                "two bodies, of which one is compared by its bytes"
            );
        }
        return;
    };
    let forms = [&first, &second].map(|value| canonical(value).expect("JSON"));
    assert_eq!(json(one) == json(two), forms[0] == forms[1]);
    if let Ok(pointer) = std::str::from_utf8(pointer) {
        check_pointer(pointer, &first, &second);
    }
});
