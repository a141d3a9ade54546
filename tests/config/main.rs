//! Options that are read from files.

#![cfg(all(feature = "config", feature = "memory", feature = "encryption"))]
#![allow(
    clippy::unchecked_time_subtraction,
    reason = "of lengths that stand here"
)]

#[path = "../support/mod.rs"]
mod support;

mod cases;
mod damaged;
mod effects;
mod effects_together;
mod environment;
mod examples;
mod wrong;

use tower_idempotency::IdempotencyLayer;
use tower_idempotency::config::Config;
use tower_idempotency::store::Store;

/// A layer built from the text of a file without errors.
fn layer(store: impl Store, text: &str) -> IdempotencyLayer {
    let config = Config::from_toml(text).unwrap_or_else(|error| panic!("{text}\n{error}"));
    config.builder(store).unwrap().build().unwrap()
}
