//! The schema of keys must agree with the keys that the layer accepts.

use http::Method;
use serde_json::json;
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
        "2fd4e1c67a2d48fca1ed99a0b5c3c2f1",
        "\"2fd4e1c6-7a2d-48fc-a1ed-99a0b5c3c2fg\"",
    ];
    for syntax in [KeySyntax::Lenient, KeySyntax::Strict, KeySyntax::Raw] {
        for (length, format) in [(4..=8, KeyFormat::any()), (1..=255, KeyFormat::uuid())] {
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

async fn accepts(layer: &IdempotencyLayer, key: &str) -> bool {
    let request = http::Request::builder()
        .method(Method::POST)
        .uri("/a")
        .header("x-api-key", "alice")
        .header("idempotency-key", key)
        .body(axum::body::Body::empty())
        .unwrap();
    let app = axum::Router::new().route("/a", axum::routing::post(|| async { "done" }));
    let response = tower::ServiceExt::oneshot(app.layer(layer.clone()), request)
        .await
        .unwrap();
    response.status() == 200
}
