//! Some responses ask for the same request again, and say nothing of an operation.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use crate::support::{File, Message, Running, Upstream, answer, post};

/// Sends an order as an HTTP client does: it follows redirects, repeats without
/// `Expect` what is refused with 417, and repeats on another connection what is
/// refused with 421 (RFC 9110, 15.4.8, 15.4.9, 15.5.18 and 15.5.20).
async fn order(sidecar: &Running, path: &str, key: &str) -> Message {
    let mut path = path.to_owned();
    let mut expects = true;
    for _ in 0..5 {
        let mut request = post(&path, key, "{\"book\":1}");
        if expects {
            request = request.replacen("\r\n", "\r\nExpect: 100-continue\r\n", 1);
        }
        let mut client = sidecar.client().await;
        client.send(&request).await;
        let mut got = client.answer().await;
        if got.status() == 100 {
            got = client.answer().await;
        }
        match got.status() {
            307 | 308 => got.field("location").unwrap().clone_into(&mut path),
            417 => expects = false,
            421 => {}
            _ => return got,
        }
    }
    panic!("the sidecar asks for the same request again and again");
}

/// An upstream that asks once for each order again, and responds 201 to the second
/// request.
async fn asking_again(status: &'static str, location: &'static str) -> Upstream {
    let asked = Arc::<Mutex<HashMap<String, u32>>>::default();
    Upstream::start(move |request| {
        let key = request.field("idempotency-key").unwrap().to_owned();
        let mut asked = asked.lock().unwrap();
        let number = asked.entry(key).or_default();
        *number += 1;
        match *number {
            1 if location.is_empty() => answer(status, "", ""),
            1 => answer(status, &format!("Location: {location}\r\n"), ""),
            number => answer("201 Created", "", &format!("request {number}")),
        }
    })
    .await
}

#[tokio::test]
async fn a_client_that_does_what_the_answer_asks_for_has_its_order_executed_once() {
    for (status, location) in [
        ("307 Temporary Redirect", "/orders/"),
        ("308 Permanent Redirect", "/orders/"),
        ("307 Temporary Redirect", "/v2/orders"),
        ("308 Permanent Redirect", "/v2/orders"),
        ("417 Expectation Failed", ""),
        ("421 Misdirected Request", ""),
    ] {
        let upstream = asking_again(status, location).await;
        let sidecar = File::new(upstream.address).start().await;
        let first = order(&sidecar, "/orders", "k").await;
        let what = format!("{status} {location}");
        assert_eq!(
            (first.status(), first.text()),
            (201, "request 2"),
            "{what}: {first:?}"
        );
        assert_eq!(first.field("idempotency-replayed"), None, "{what}");

        let path = if location.is_empty() {
            "/orders"
        } else {
            location
        };
        let retry = order(&sidecar, path, "k").await;
        assert_eq!((retry.status(), retry.text()), (201, "request 2"), "{what}");
        assert_eq!(retry.field("idempotency-replayed"), Some("true"), "{what}");
        assert_eq!(upstream.seen().len(), 2, "{what}");
    }
}

/// A client sends something else after these responses, or nothing: they say what
/// became of the operation.
#[tokio::test]
async fn a_redirect_to_another_request_is_an_outcome() {
    for status in ["301 Moved Permanently", "302 Found", "303 See Other"] {
        let upstream = asking_again(status, "/orders/7").await;
        let sidecar = File::new(upstream.address).start().await;
        let first = order(&sidecar, "/orders", "k").await;
        let retry = order(&sidecar, "/orders", "k").await;
        assert_eq!(retry.status(), first.status());
        assert_eq!(retry.field("location"), Some("/orders/7"));
        assert_eq!(retry.field("idempotency-replayed"), Some("true"));
        assert_eq!(upstream.seen().len(), 1, "{status}");
    }
}
