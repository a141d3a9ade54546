//! This program serves the application of the benchmark `wire` behind other idempotency
//! layers. `wire --peers` builds and runs it.

use idempotent::memory::MemoryStore;
use idempotent::middleware::IdempotencyLayer;

#[path = "../../src/bin/wire/serving.rs"]
mod serving;

fn main() {
    serving::serve_until_input_ends(async || {
        serving::serve_axum("bare", serving::app()).await;
        let no_op = tower::layer::layer_fn(|inner| inner);
        serving::serve_axum("no-op", serving::app().layer(no_op)).await;
        let store = MemoryStore::builder().try_build().expect("a store");
        // The same caller as in the other servers; without a scope, a key belongs to everyone.
        let layer = IdempotencyLayer::new(store).scope(|parts| {
            let caller = parts.headers.get("x-api-key")?.to_str().ok()?;
            Some(caller.to_owned())
        });
        serving::serve_axum("idempotent", serving::app().layer(layer)).await;
    });
}
