//! This test checks the contract as Markdown.

use tower_idempotency::options::Require;
use tower_idempotency::{IdempotencyLayer, MemoryStore, scope};

use crate::layers::{api_key, full};

/// `UPDATE_CONTRACT=1 cargo test --test contract` writes the page anew; read the
/// changes afterwards.
#[test]
fn a_full_configuration_is_this_page() {
    let page = full().contract().markdown();
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/contract/full.md");
    if std::env::var_os("UPDATE_CONTRACT").is_some() {
        std::fs::write(path, &page).unwrap();
    }
    let golden = std::fs::read_to_string(path).unwrap();
    assert!(page == golden, "the page is now:\n{page}");
}

#[test]
fn a_layer_without_any_protected_route_says_so() {
    let layer = IdempotencyLayer::builder(MemoryStore::new(), scope::shared())
        .defaults(|options| options.require(Require::Ignored))
        .build()
        .unwrap();
    assert_eq!(
        layer.contract().markdown(),
        "# Idempotency\n\nThis API takes no idempotency keys: every request is executed.\n"
    );
}

#[test]
fn limits_are_those_that_are_configured() {
    let layer = api_key()
        .max_in_flight_operations(64)
        .max_in_flight_per_caller(8)
        .max_unsent_bytes(32 << 20)
        .send_timeout(std::time::Duration::from_secs(20))
        .build()
        .unwrap();
    let contract = layer.contract();
    let page = contract.markdown();
    assert!(
        page.contains("| operations at a time | 64 | 8 | `over-capacity` |"),
        "{page}"
    );
    assert!(
        page.contains("together | 32 MiB | seven times what is free | `over-capacity`;"),
        "{page}"
    );
    assert!(page.contains("for 20 seconds is disconnected"), "{page}");
    let limits = &contract.json()["limits"];
    assert_eq!(limits["max_in_flight_per_caller"], 8);
    assert_eq!(limits["max_unsent_bytes"], 32 << 20);
    assert!(limits["max_unsent_bytes_per_caller"].is_null());
    assert_eq!(limits["send_timeout"], 20);
    let openapi = contract.openapi();
    assert!(
        openapi["info"]["description"]
            .as_str()
            .unwrap()
            .contains("## Limits")
    );
    // Where all callers are one, there are no shares.
    let layer = IdempotencyLayer::new(MemoryStore::new(), scope::shared()).unwrap();
    let contract = layer.contract();
    assert!(
        contract
            .markdown()
            .contains("| operations at a time | 10000 | `over-capacity` |")
    );
    assert!(
        contract.json()["limits"]
            .get("max_unsent_bytes_per_caller")
            .is_none()
    );
}

#[test]
fn what_holds_everywhere_is_said_once() {
    let layer = api_key()
        .route("POST /orders", |options| options.require(Require::Required))
        .build()
        .unwrap();
    let page = layer.contract().markdown();
    assert_eq!(page.matches("Responses are kept for 24 hours").count(), 1);
    assert_eq!(page.matches("\n**On ").count(), 2, "{page}");
    assert!(page.contains("\n**On `POST /orders`:** Every request needs a key. "));
    assert!(page.contains("\n**On every other endpoint:** A request without a key is executed "));
}
