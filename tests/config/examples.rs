//! The published examples are read, and mean what they say.

use tower_idempotency::MemoryStore;
use tower_idempotency::config::Config;

/// Cargo sets this variable for every test.
pub(crate) fn example() -> String {
    include_str!("example.toml").replace("IDEMPOTENCY_SECRET", "CARGO_PKG_DESCRIPTION")
}

#[test]
fn the_example_is_read() {
    let config = Config::from_toml(&example()).unwrap();
    assert_eq!(config.store(), Some("memory:"));
    config.builder(MemoryStore::new()).unwrap().build().unwrap();
}
