//! The servers of the stores crash, lose their connections, freeze or refuse to
//! write, while requests go on. Each test has a server of its own.
//!
//! None of these may follow: a request that hangs, an operation that was recorded
//! and runs again (G2), two responses for one key (G3), a layer that has to be
//! restarted, tasks or connections that accumulate.

#[path = "../support/servers.rs"]
mod servers;

mod admin;
mod cluster_failover;
mod failover;
mod full_or_read_only;
mod observed;
mod redis_without_aof;
mod six_nodes;
mod slow_to_connect;
mod traffic;

use std::ops::AsyncFn;
use std::time::{Duration, Instant};

use servers::Server;
use tokio::time::sleep;
use traffic::{LEASE, STORE_TIMEOUT, Traffic, connect};

/// With this setting Redis has written to disk whatever it has confirmed.
const DURABLE: &[&str] = &["appendfsync always"];

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_crashes_comes_back_with_every_record() {
    weather("redis", DURABLE, crash).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postgres_that_crashes_comes_back_with_every_record() {
    weather("postgres", &[], crash).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_to_redis_that_are_cut_are_made_again() {
    weather("redis", DURABLE, cut).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_to_postgres_that_are_cut_are_made_again() {
    weather("postgres", &[], cut).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_freezes_holds_no_request_longer_than_its_deadlines() {
    let _server = weather("redis", DURABLE, freeze).await;
    nothing_lingers().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postgres_that_freezes_holds_no_request_longer_than_its_deadlines() {
    let _server = weather("postgres", &[], freeze).await;
    nothing_lingers().await;
}

/// The server is down for a second, twice.
async fn crash(server: &Server) {
    for _ in 0..2 {
        server.kill();
        sleep(Duration::from_secs(1)).await;
        server.restart();
        sleep(Duration::from_secs(1)).await;
    }
}

/// Connections are cut at any moment of a request.
async fn cut(server: &Server) {
    for _ in 0..15 {
        admin::cut_connections(server).await;
        sleep(Duration::from_millis(130)).await;
    }
}

/// The server is frozen for longer than the layer waits for the store, twice.
async fn freeze(server: &Server) {
    for _ in 0..2 {
        server.freeze();
        sleep(2 * STORE_TIMEOUT).await;
        server.thaw();
        sleep(Duration::from_secs(1)).await;
    }
}

/// Runs traffic before, during and after a fault. The fault ends with the server as
/// it was before.
async fn weather(kind: &'static str, settings: &[&str], fault: impl AsyncFn(&Server)) -> Server {
    let server = Server::start(kind, settings);
    let (first, second) = (connect(server.url()).await, connect(server.url()).await);
    let traffic = Traffic::start(first, second);
    traffic.is_calm(Duration::from_secs(30)).await;
    let connections = admin::connections(&server).await;

    fault(&server).await;
    let back = Instant::now();
    traffic.is_calm(Duration::from_secs(45)).await;
    let recovered = back.elapsed();
    let connections_after = admin::connections(&server).await;

    let seen = traffic.stop().await;
    println!(
        "{kind}: {seen}, calm again after {:.1} s; connections {connections} -> {connections_after}",
        recovered.as_secs_f64(),
    );
    assert!(seen.turned_away > 0, "nothing happened to the traffic");
    assert_eq!(seen.violations, Vec::<String>::new());
    // The pools of the two services open at most this many connections.
    assert!(connections_after <= 20 + 1, "{connections_after}");
    server
}

/// If the layer does not know whether a claim arrived, the layer releases the claim
/// in the background, again and again for the length of its lease. After that no
/// task may be left.
async fn nothing_lingers() {
    let alive = || {
        tokio::runtime::Handle::current()
            .metrics()
            .num_alive_tasks()
    };
    let (before, asked) = (alive(), Instant::now());
    while alive() > 20 {
        let waited = asked.elapsed();
        assert!(
            waited < LEASE + Duration::from_secs(10),
            "{before} tasks, {} left",
            alive()
        );
        sleep(Duration::from_millis(100)).await;
    }
    println!(
        "of {before} tasks {} are left after {:.1?}",
        alive(),
        asked.elapsed()
    );
}
