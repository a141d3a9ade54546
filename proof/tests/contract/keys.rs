//! The schema of keys must agree with the keys that the layer accepts.

use axum::body::Body;
use http::Method;
use serde_json::{Value, json};
use tower_idempotency::IdempotencyLayer;
use tower_idempotency::options::{KeyFormat, KeySyntax};

use crate::layers::api_key;
use crate::openapi::validator;

/// The layer never rejects a key that fits the schema.
#[tokio::test]
async fn a_key_that_fits_the_schema_is_accepted() {
    let candidates = [
        "a",
        "abcd",
        "abcde",
        "abcdefgh",
        "abcdefghi",
        "abcdefghijk",
        "abc,def",
        "abc, def",
        ",abcd",
        "abcd,",
        "abc-def",
        "abc+def",
        "\"abc,def\"",
        "\"abcd\";v=1",
        " abcdef",
        "a b c",
        "\"",
        "\"a",
        "\"a\"",
        "\"abcd\"",
        "\"abcdefgh\"",
        "\"abcdefghi\"",
        "\"a\\bc\"",
        "\"a\\\\bc\"",
        "a\"bcd",
        "\"ab\"cd\"",
        "käse",
        "a\tbc",
        "2fd4e1c6-7a2d-48fc-A1ED-99a0b5c3c2f1",
        "\"2fd4e1c6-7a2d-48fc-a1ed-99a0b5c3c2f1\"",
        "017f22e2-79b0-7CC3-98c4-dc0c0c07398f",
        "\"017f22e2-79b0-7cc3-98c4-dc0c0c07398f\"",
        "017f22e2-79b0-7cc3-c8c4-dc0c0c07398f",
        "2fd4e1c67a2d48fca1ed99a0b5c3c2f1",
        "\"2fd4e1c6-7a2d-48fc-a1ed-99a0b5c3c2fg\"",
    ];
    for syntax in [KeySyntax::Lenient, KeySyntax::Strict, KeySyntax::Raw] {
        for (length, format) in [
            (4..=8, KeyFormat::any()),
            (1..=255, KeyFormat::uuid()),
            (1..=255, KeyFormat::uuid7()),
        ] {
            let layer = api_key()
                .route("POST /a", move |options| {
                    options
                        .key_syntax(syntax)
                        .key_length(length.clone())
                        .key_format(format)
                })
                .build()
                .unwrap();
            let document = layer.contract().openapi();
            let schema = &document["paths"]["/a"]["post"]["parameters"][0]["schema"];
            let schema = validator(&document, schema);
            let mut fitting = 0;
            for key in candidates {
                let accepted = accepts(&layer, key).await;
                if schema.is_valid(&json!(key)) {
                    assert!(accepted, "{syntax:?} {key}");
                    fitting += 1;
                }
            }
            assert!(fitting > 0, "{syntax:?}");
        }
    }
}

/// So it is with the schema of a body, which takes every body without a key too.
#[tokio::test]
async fn a_body_is_accepted_as_its_schema_says() {
    for (length, format) in [
        (2..=8, KeyFormat::any()),
        (1..=255, KeyFormat::uuid()),
        (1..=255, KeyFormat::uuid7()),
    ] {
        let layer = api_key().route("POST /a", move |options| {
            let options = options.key_in_body(["/meta/key"]).key_format(format);
            options.key_length(length)
        });
        let layer = layer.build().unwrap();
        let document = layer.contract().openapi();
        let body = &document["paths"]["/a"]["post"]["requestBody"];
        let schema = validator(&document, &body["content"]["application/json"]["schema"]);
        for key in [
            json!("abcd"),
            json!("a b, \"c"),
            json!(""),
            json!("a"),
            json!("abcdefghi"),
            json!("k\u{e4}se"),
            json!("a\tbc"),
            json!(7),
            json!(null),
            json!(["abcd"]),
            json!("2fd4e1c6-7a2d-48fc-A1ED-99a0b5c3c2f1"),
            json!("017f22e2-79b0-7cc3-98c4-dc0c0c07398f"),
            json!("017f22e2-79b0-7cc3-c8c4-dc0c0c07398f"),
            json!("\"2fd4e1c6-7a2d-48fc-a1ed-99a0b5c3c2f1\""),
        ] {
            let body = json!({ "meta": { "key": key } });
            assert_eq!(
                schema.is_valid(&body),
                in_body(&layer, &body).await,
                "{key}"
            );
        }
        let none = json!({ "amount": 1 });
        assert!(schema.is_valid(&none) && in_body(&layer, &none).await);
    }
}

async fn in_body(layer: &IdempotencyLayer, body: &Value) -> bool {
    let request = request().header("content-type", "application/json");
    answers(layer, request.body(body.to_string().into()).unwrap()).await
}

async fn accepts(layer: &IdempotencyLayer, key: &str) -> bool {
    let request = request().header("idempotency-key", key);
    answers(layer, request.body(Body::empty()).unwrap()).await
}

fn request() -> http::request::Builder {
    let request = http::Request::builder().method(Method::POST).uri("/a");
    request.header("x-api-key", "alice")
}

async fn answers(layer: &IdempotencyLayer, request: http::Request<Body>) -> bool {
    let app = axum::Router::new().route("/a", axum::routing::post(|| async { "done" }));
    let response = tower::ServiceExt::oneshot(app.layer(layer.clone()), request)
        .await
        .unwrap();
    response.status() == 200
}
