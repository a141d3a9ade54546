//! A completion at rest comes back as it was, or not at all: plain as `EncodedCompletion`, and
//! encrypted by the layer.
//!
//! The input is an instruction of two bytes that changes what is at rest, then a response's status
//! and headers, a blank line and the body; or a Binary HTTP message.

#![no_main]

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response, StatusCode};
use libfuzzer_sys::fuzz_target;
use sha2::{Digest, Sha256};
use tower_idempotency::store::{Completion, EncodedCompletion, Encryption, Outcome};
use tower_idempotency::{IdempotencyLayer, scope};

/// Reads a response's text: `201`, then `name: value` lines, a blank line, the body.
fn completion(text: &[u8]) -> Option<Completion> {
    let (head, body) = match text.windows(2).position(|pair| pair == b"\n\n") {
        Some(end) => (&text[..end], &text[end + 2..]),
        None => (text, &b""[..]),
    };
    let mut lines = head.split(|byte| *byte == b'\n');
    let status = StatusCode::from_bytes(lines.next()?).ok()?;
    let when = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    let mut completion = Completion::new(status, Bytes::copy_from_slice(body), when);
    for line in lines {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let name = HeaderName::from_bytes(&line[..colon]).ok()?;
        let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii()).ok()?;
        // A header of requests, whose lines are joined when they are read.
        if name == http::header::COOKIE {
            continue;
        }
        match line.first() {
            Some(b'T') => completion
                .trailers
                .get_or_insert_default()
                .append(name, value),
            _ => completion.headers.append(name, value),
        };
    }
    Some(completion)
}

fn is_same(one: &Completion, other: &Completion) -> bool {
    one.status == other.status
        && one.headers == other.headers
        && one.body == other.body
        && one.trailers == other.trailers
        && one.began_at == other.began_at
        && one.retention == other.retention
}

/// Changes one byte, cuts the end off, or adds a byte; `false` if nothing changed.
fn spoil(bytes: &mut Vec<u8>, how: [u8; 2]) -> bool {
    let [what, place] = how;
    let at = usize::from(place) * bytes.len().max(1) / 256;
    match what % 4 {
        0 => return false,
        1 if what > 3 && at < bytes.len() => bytes[at] ^= what & !3,
        2 if at < bytes.len() => bytes.truncate(at),
        3 => bytes.push(what),
        _ => return false,
    }
    true
}

fn encoded(completion: &Completion, how: [u8; 2]) {
    let kept = EncodedCompletion::of(completion);
    assert_eq!(
        kept.is_some(),
        (200..600).contains(&completion.status.as_u16())
    );
    let Some(mut kept) = kept else {
        return;
    };
    let read = kept.completion().expect("what was encoded");
    assert!(is_same(&read, completion));
    if spoil(&mut kept.answer, how) {
        assert!(kept.completion().is_err());
    }
}

/// Bytes that another program wrote, with the right checksum.
fn message(answer: &[u8], how: [u8; 2]) {
    let mut kept = EncodedCompletion::of(&Completion::new(StatusCode::OK, "", UNIX_EPOCH));
    let kept = kept.as_mut().expect("a final status");
    kept.answer = answer.to_vec();
    kept.length = answer.len() as u64;
    kept.checksum = Sha256::digest(answer).into();
    kept.status = 200 + u16::from(how[0]);
    kept.began_at = i64::from(how[1]) << 55;
    let Ok(read) = kept.completion() else {
        return;
    };
    let again = EncodedCompletion::of(&read).expect("what was read");
    assert!(is_same(
        &again.completion().expect("what was encoded"),
        &read
    ));
}

fn encrypted(completion: &Completion, how: [u8; 2]) {
    thread_local! {
        static LAYER: (fuzz::OneRecord, IdempotencyLayer) = {
            let store = fuzz::OneRecord::default();
            let layer = IdempotencyLayer::builder(store.clone(), scope::shared())
                .secrets(["a secret for tests, 32 bytes long"])
                .encryption(Encryption::xchacha20_poly1305())
                .build()
                .expect("options that work");
            (store, layer)
        };
    }
    LAYER.with(|(store, layer)| {
        let request = || {
            let request = Request::post("/").header("idempotency-key", "k");
            request.body(Bytes::new()).expect("a request")
        };
        let mut answer = Response::new(completion.body.clone());
        *answer.status_mut() = completion.status;
        *answer.headers_mut() = completion.headers.clone();
        store.executes();
        store.take_outcome();
        fuzz::call(layer, request(), answer);
        let Some((lease, Outcome::Completed(kept))) = store.take_outcome() else {
            return;
        };
        let mut spoiled = Completion::clone(&kept);
        let mut envelope = spoiled.body.to_vec();
        let is_spoiled = spoil(&mut envelope, how);
        spoiled.body = envelope.into();
        store.finds(fuzz::record(&lease, Outcome::Completed(Arc::new(spoiled))));
        let again = fuzz::call(layer, request(), Response::default());
        if is_spoiled {
            assert_eq!(again.status(), StatusCode::SERVICE_UNAVAILABLE);
        } else {
            assert_eq!(again.status(), completion.status);
            assert_eq!(again.body(), &completion.body);
            assert!(again.headers().contains_key("idempotency-replayed"));
        }
    });
}

fuzz_target!(|data: &[u8]| {
    let Some((how, data)) = data.split_first_chunk::<2>() else {
        return;
    };
    message(data, *how);
    if let Some(completion) = completion(data) {
        encoded(&completion, *how);
        encrypted(&completion, *how);
    }
});
