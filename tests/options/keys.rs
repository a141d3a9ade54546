//! The options `header`, `key_syntax`, `key_length` and `key_format`.

use tower::Layer;
use tower_idempotency::MemoryStore;
use tower_idempotency::options::{KeyFormat, KeySyntax, Require};

use crate::support::{Runs, counting, post, send, with, with_policy, without};

#[tokio::test]
async fn the_key_is_read_from_the_header_that_was_named() {
    let runs = Runs::default();
    let layer = with_policy(&MemoryStore::new(), |options| {
        options.header("X-Request-Key").require(Require::Required)
    });
    let app = layer.layer(counting(&runs));
    let ask = || {
        let request = without(post("", "{}"), "idempotency-key");
        with(request, "x-request-key", "k")
    };
    let first = send(&app, ask()).await;
    send(&app, ask()).await.assert_replays(&first);
    let refused = send(&app, post("k", "{}")).await;
    assert_eq!(refused.refusal(), "400 key-required");
    assert!(refused.text().contains("the header X-Request-Key"));
    assert_eq!(runs.count(), 1);
}

#[tokio::test]
async fn of_several_headers_the_first_that_is_present_wins() {
    let runs = Runs::default();
    let layer = with_policy(&MemoryStore::new(), |options| {
        options.headers(["idempotency-key", "x-request-key"])
    });
    let app = layer.layer(counting(&runs));
    let second = |key| {
        with(
            without(post("", "{}"), "idempotency-key"),
            "x-request-key",
            key,
        )
    };
    let both = |first, other| with(post(first, "{}"), "x-request-key", other);

    let a = send(&app, post("a", "{}")).await;
    let b = send(&app, second("b")).await;
    a.assert_fresh("run 1");
    b.assert_fresh("run 2");
    send(&app, both("a", "b")).await.assert_replays(&a);
    send(&app, both("b", "a")).await.assert_replays(&b);
    send(&app, second("a")).await.assert_replays(&a);
    // The first header decides even if it is malformed: to use the second
    // header instead would be a guess.
    let refused = send(&app, both("\"a", "b")).await;
    assert_eq!(refused.refusal(), "400 key-invalid");
    // A header that does not decide is not read.
    send(&app, both("a", "\"b")).await.assert_replays(&a);
    assert_eq!(runs.count(), 2);
}

#[tokio::test]
async fn syntax_says_what_of_the_header_is_the_key() {
    // The results for `k` and then for `"k"`: run 1, run 2 (if it is another
    // key), a replay of run 1, or a rejection.
    for (syntax, bare, quoted) in [
        (KeySyntax::Lenient, "run 1", "replay of run 1"),
        (KeySyntax::Strict, "key-invalid", "run 1"),
        (KeySyntax::Raw, "run 1", "run 2"),
    ] {
        let runs = Runs::default();
        let layer = with_policy(&MemoryStore::new(), |options| options.key_syntax(syntax));
        let app = layer.layer(counting(&runs));
        for (key, expected) in [("k", bare), ("\"k\"", quoted)] {
            let seen = send(&app, post(key, "{}")).await;
            let got = match (seen.status, seen.is_replay()) {
                (400, _) => seen.refusal().replace("400 ", ""),
                (_, true) => format!("replay of {}", seen.text()),
                (_, false) => seen.text().to_owned(),
            };
            assert_eq!(got, expected, "{key} under {syntax:?}");
        }
    }
}

/// RFC 8941, 3.1.2 and RFC 9651, 3.1.2: parameters that the recipient does not know are ignored. A
/// value whose parameters can't be parsed is none (4.2).
#[tokio::test]
async fn parameters_of_a_quoted_key_are_ignored_if_they_can_be_parsed() {
    for syntax in [KeySyntax::Strict, KeySyntax::Lenient] {
        let layer = with_policy(&MemoryStore::new(), |options| options.key_syntax(syntax));
        let app = layer.layer(counting(&Runs::default()));
        let first = send(&app, post("\"k\"", "{}")).await;
        first.assert_fresh("run 1");
        for same in ["\"k\";v=1", " \"k\"; v=1;w;x=\"a;b\" ", "\"k\";e=?0;d=@-1"] {
            send(&app, post(same, "{}")).await.assert_replays(&first);
        }
        for malformed in [
            "\"k\" ;v=1",
            "\"k\";",
            "\"k\";V=1",
            "\"k\";v=",
            "\"k\";v=1 w",
            "\"k\" \"l\"",
            "\"k\"k",
        ] {
            let seen = send(&app, post(malformed, "{}")).await;
            assert_eq!(seen.refusal(), "400 key-invalid", "{malformed}");
        }
    }
}

/// RFC 9110, 5.3: a proxy may join two field lines with a comma.
#[tokio::test]
async fn two_keys_that_a_proxy_joined_are_no_key() {
    for syntax in [KeySyntax::Lenient, KeySyntax::Strict, KeySyntax::Raw] {
        let layer = with_policy(&MemoryStore::new(), |options| options.key_syntax(syntax));
        let app = layer.layer(counting(&Runs::default()));
        for joined in [
            "k1, k2",
            "k1,k2",
            "\"k1\", \"k2\"",
            "\"k1\", k2",
            "k1, \"k2\"",
            "k1,",
            ",",
        ] {
            let seen = send(&app, post(joined, "{}")).await;
            if syntax == KeySyntax::Raw {
                assert_eq!(seen.status, 201, "{joined}");
            } else {
                assert_eq!(seen.refusal(), "400 key-invalid", "{syntax:?} {joined}");
            }
        }
        let quoted = send(&app, post("\"one, and the same\"", "{}")).await;
        assert_eq!(quoted.status, 201);
        // A bare key has no parameters: its semicolons are its own.
        if syntax == KeySyntax::Lenient {
            let bare = send(&app, post("k;v=1", "{}")).await;
            send(&app, post("\"k;v=1\"", "{}"))
                .await
                .assert_replays(&bare);
        }
    }
}

#[tokio::test]
async fn length_is_that_of_the_decoded_key() {
    let layer = with_policy(&MemoryStore::new(), |options| options.key_length(3..=5));
    let app = layer.layer(counting(&Runs::default()));
    for (key, expected) in [
        ("ab", Some("400 key-too-short")),
        ("\"ab\"", Some("400 key-too-short")),
        ("\"a\\\"\"", Some("400 key-too-short")),
        ("abc", None),
        ("\"abcde\"", None),
        ("\"\\\\\\\\\\\\\\\\\\\\\"", None),
        ("abcdef", Some("400 key-too-long")),
    ] {
        let seen = send(&app, post(key, "{}")).await;
        let got = (seen.status != 201).then(|| seen.refusal());
        assert_eq!(got.as_deref(), expected, "{key}");
    }
}

#[tokio::test]
async fn format_is_what_the_application_says() {
    let format = KeyFormat::custom("an order number such as ord_1234", |key: &str| {
        key.strip_prefix("ord_")
            .is_some_and(|number| number.parse::<u32>().is_ok())
    });
    let layer = with_policy(&MemoryStore::new(), |options| options.key_format(format));
    let app = layer.layer(counting(&Runs::default()));
    assert_eq!(send(&app, post("ord_7", "{}")).await.status, 201);
    // The function receives the key, not the text of the header.
    assert_eq!(send(&app, post("\"ord_8\"", "{}")).await.status, 201);
    let refused = send(&app, post("order 7", "{}")).await;
    assert_eq!(refused.refusal(), "400 key-invalid");
    assert!(
        refused
            .text()
            .contains("must be an order number such as ord_1234.")
    );

    let layer = with_policy(&MemoryStore::new(), |options| {
        options.key_format(KeyFormat::uuid())
    });
    let app = layer.layer(counting(&Runs::default()));
    let uuid = "2fd4e1c6-7a2d-48fc-A1ED-99a0b5c3c2f1";
    assert_eq!(send(&app, post(uuid, "{}")).await.status, 201);
    assert_eq!(send(&app, post(&uuid[1..], "{}")).await.status, 400);
}
