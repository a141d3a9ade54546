//! Servers on real sockets, and clients that leave at every stage of a request.

#![cfg(feature = "memory")]

#[path = "../support/mod.rs"]
mod support;

mod app;
mod client;
mod gated;
mod server;
mod wire;

mod before_it_is_claimed;
mod cancelled;
mod held_leases;
mod http_1_0;
mod in_mid_answer;
mod last_byte;
mod limits;
mod panics;
mod reads_nothing;
mod shutdown;
mod timeouts;
mod trailers;
mod while_it_runs;

use std::future::Future;
use std::time::Duration;

/// Real sockets need a real clock: a step that takes this long hangs.
const LIMIT: Duration = Duration::from_secs(10);

async fn within<F: Future>(future: F) -> F::Output {
    let output = tokio::time::timeout(LIMIT, future).await;
    output.expect("it hangs")
}
