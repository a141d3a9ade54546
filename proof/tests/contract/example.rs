//! This test requests the documents of the example `openapi`.

use axum::body::Body;
use axum::http::{Method, Request};
use serde_json::Value;

use crate::openapi::assert_valid;
use crate::support::{Seen, send};

#[expect(dead_code, reason = "it has a `main` of its own")]
#[path = "../../examples/openapi.rs"]
mod openapi_example;

async fn ask(request: Request<Body>) -> Seen {
    send(&openapi_example::app().unwrap(), request).await
}

async fn get(path: &str) -> Seen {
    ask(Request::get(path).body(Body::empty()).unwrap()).await
}

#[tokio::test]
async fn its_document_has_what_the_handlers_say_and_what_the_layer_says() {
    let document: Value = serde_json::from_slice(&get("/openapi.json").await.body).unwrap();
    assert_valid(&document, "the example");
    assert_eq!(document["info"]["title"], "Orders");

    let orders = &document["paths"]["/orders"]["post"];
    assert_eq!(orders["summary"], "Places an order.");
    assert_eq!(orders["responses"]["201"]["description"], "Placed.");
    assert_eq!(orders["parameters"][0]["name"], "Idempotency-Key");
    assert_eq!(orders["parameters"][0]["required"], true);
    let conflict = &orders["responses"]["409"]["content"]["application/problem+json"];
    assert_eq!(conflict["examples"]["in-flight"]["value"]["status"], 409);
    assert_eq!(
        conflict["schema"]["$ref"],
        "#/components/schemas/IdempotencyProblem"
    );
    assert!(document["components"]["schemas"]["IdempotencyProblem"].is_object());

    let capture = &document["paths"]["/orders/{id}/capture"]["post"];
    let names: Vec<_> = capture["parameters"]
        .as_array()
        .unwrap()
        .iter()
        .map(|parameter| parameter["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["id", "Idempotency-Key"]);
    assert_eq!(capture["parameters"][1]["schema"]["format"], "uuid");
    // The description by the handler has precedence over that of the layer.
    let conflict = &capture["responses"]["409"]["description"];
    assert_eq!(conflict, "Captured before, or cancelled.");

    let profile = &document["paths"]["/profile"]["patch"];
    let key = profile["parameters"][0]["$ref"].as_str().unwrap();
    let key = document.pointer(key.trim_start_matches('#')).unwrap();
    assert_eq!(key["name"], "Idempotency-Key");
    for response in profile["responses"].as_object().unwrap().values() {
        if let Some(reference) = response["$ref"].as_str() {
            let found = document.pointer(reference.trim_start_matches('#'));
            assert!(found.is_some(), "{reference}");
        }
    }
}

#[tokio::test]
async fn its_refusals_link_to_the_contract_that_it_serves() {
    let order = Request::post("/orders").header("x-api-key", "alice");
    let refused = ask(order.body(Body::empty()).unwrap()).await;
    assert_eq!(refused.refusal(), "400 key-required");
    let link = refused.header("link").unwrap();
    let url = link.split(['<', '>']).nth(1).unwrap();
    let page = get(url.strip_prefix("http://127.0.0.1:3000").unwrap()).await;
    assert_eq!(
        page.header("content-type"),
        Some("text/markdown; charset=utf-8")
    );
    assert!(
        page.text().contains("| `/orders` | POST | required |"),
        "{page:?}"
    );
    let changed = Request::builder().method(Method::POST).uri("/idempotency");
    assert_eq!(ask(changed.body(Body::empty()).unwrap()).await.status, 405);
}
