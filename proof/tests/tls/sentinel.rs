//! A primary whose sentinels lead the store to the next one.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use http::StatusCode;
use tokio::time::{sleep, timeout};
use tower_idempotency::store::{
    AnyStore, Claim, Claimed, Completion, Nonce, Outcome, Ownership, RecordState, Store,
};

use crate::certificates::Authority;
use crate::redis::{ask, port, start, tls_address, tls_settings};
use crate::servers::Server;
use crate::{PASSWORD, claim, refuses, works};

/// Within this time the store must serve again after a failover.
const BOUND: Duration = Duration::from_secs(15);

/// Starts a sentinel that takes a primary for dead after half a second.
fn sentinel(port: u16, settings: &[&str]) -> Server {
    let monitor = format!("sentinel monitor orders 127.0.0.1 {port} 2");
    let own = [
        &*monitor,
        "sentinel down-after-milliseconds orders 500",
        "sentinel failover-timeout orders 3000",
    ];
    Server::start("redis-sentinel", &[settings, &own].concat())
}

fn address(server: &Server) -> String {
    format!("127.0.0.1:{}", port(server))
}

/// Waits until the sentinels know the replica and each other.
async fn agreed(sentinels: &[Server]) {
    let begun = Instant::now();
    for sentinel in sentinels {
        loop {
            let known = ask(sentinel, &["INFO", "sentinel"]).await;
            if known.contains(&format!("slaves=1,sentinels={}", sentinels.len())) {
                break;
            }
            assert!(begun.elapsed() < BOUND, "{known}");
            sleep(Duration::from_millis(50)).await;
        }
    }
}

async fn completed(store: &AnyStore, body: &'static str) -> Claim {
    let claim = claim();
    let Claimed::Acquired(lease) = store.claim(&claim).await.unwrap() else {
        panic!("a new record is there already");
    };
    let paid = Completion::new(StatusCode::CREATED, body, SystemTime::now());
    let outcome = Outcome::Completed(Arc::new(paid));
    assert_eq!(
        store.complete(&lease, &outcome).await.unwrap(),
        Ownership::Held
    );
    claim
}

/// Checks that a waiter at one store is woken by a completion at the other.
pub(crate) async fn wakes(waits: &AnyStore, completes: &AnyStore) {
    let claim = claim();
    let Claimed::Acquired(lease) = completes.claim(&claim).await.unwrap() else {
        panic!("a new record is there already");
    };
    let subscription = waits.subscribe(&claim.id).await.unwrap();
    let paid = Completion::new(StatusCode::CREATED, "paid", SystemTime::now());
    let outcome = Outcome::Completed(Arc::new(paid));
    completes.complete(&lease, &outcome).await.unwrap();
    timeout(BOUND, subscription)
        .await
        .expect("the waiter is woken");
}

async fn is_replayed(store: &AnyStore, claim: &Claim, body: &str) {
    let mut retry = claim.clone();
    retry.nonce = Nonce::random();
    let found = store.claim(&retry).await.unwrap();
    let Claimed::Found(record) = found else {
        panic!("the record of {body} is lost");
    };
    let RecordState::Completed { completion, .. } = record.state else {
        panic!("{record:?}");
    };
    assert_eq!(&completion.body[..], body.as_bytes());
}

#[tokio::test(flavor = "multi_thread")]
async fn sentinels_lead_the_store_to_the_next_primary_without_a_lost_record() {
    let primary = Server::start("redis", &["repl-diskless-sync-delay 0"]);
    let replica = primary.replica();
    let sentinels = [(); 3].map(|()| sentinel(port(&primary), &[]));
    agreed(&sentinels).await;
    let hosts = sentinels.each_ref().map(address).join(",");
    let url = format!("redis+sentinel://{hosts}/orders");
    let unknown = ["No such master", "sentinel monitor"];
    refuses(&format!("redis+sentinel://{hosts}/order"), &unknown).await;
    let store = works(&url).await;
    let other = works(&url).await;
    wakes(&store, &other).await;
    let before = completed(&store, "before").await;
    // What has reached the replica is what a failover keeps.
    assert_eq!(ask(&primary, &["WAIT", "1", "5000"]).await, "1");

    primary.kill();
    follows(&store, &before).await;
    is_replayed(&store, &before, "before").await;
    let after = completed(&store, "after").await;
    assert!(
        ask(&replica, &["INFO", "replication"])
            .await
            .contains("role:master")
    );

    let at_once = ["CONFIG", "SET", "repl-diskless-sync-delay", "0"];
    ask(&replica, &at_once).await;
    // The old primary comes back, and becomes a replica. A store that begins now finds the new
    // one, with a sentinel that is gone.
    primary.restart();
    sentinels[0].kill();
    let late = works(&url).await;
    is_replayed(&late, &after, "after").await;
    follows(&other, &after).await;
    wakes(&other, &late).await;

    // The primary hangs. It keeps its connections, and takes itself for the primary afterwards.
    assert_eq!(ask(&replica, &["WAIT", "1", "15000"]).await, "1");
    replica.freeze();
    follows(&other, &after).await;
    let last = completed(&other, "last").await;
    // A store that has not followed yet would ask the old primary again.
    follows(&late, &last).await;
    replica.thaw();
    is_replayed(&other, &last, "last").await;
    is_replayed(&late, &last, "last").await;
}

/// Waits until the store reads the record again.
async fn follows(store: &AnyStore, claim: &Claim) {
    let begun = Instant::now();
    let patience = Duration::from_secs(1);
    while !matches!(timeout(patience, store.look_up(&claim.id)).await, Ok(Ok(_))) {
        assert!(begun.elapsed() < BOUND, "the store has not followed");
        sleep(Duration::from_millis(50)).await;
    }
    println!("followed after {:.2?}", begun.elapsed());
}

#[tokio::test]
async fn sentinels_and_their_primary_are_reached_over_tls_with_credentials() {
    let ca = Authority::new();
    let issued = ca.issue("server");
    let own = ["tls-replication yes", "tls-auth-clients no"];
    let (primary, _) = start(&ca, &issued, &own);
    let primary_port = port(&primary) + 10_000;
    let settings = tls_settings(&ca, &issued);
    let mut settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    settings.extend(own);
    let sentinel = sentinel(primary_port, &settings);
    ask(&primary, &["CONFIG", "SET", "requirepass", PASSWORD]).await;
    let user = format!(">{PASSWORD}");
    ask(
        &sentinel,
        &[
            "ACL",
            "SETUSER",
            "app",
            "on",
            &user,
            "+auth",
            "+hello",
            "+sentinel|master",
        ],
    )
    .await;
    ask(&sentinel, &["ACL", "SETUSER", "default", "off"]).await;
    let host = tls_address(&sentinel);
    let url = |credentials: &str, ca: &Authority| {
        format!(
            "rediss+sentinel://:{PASSWORD}@{host}/orders/2?ssl-ca={}{credentials}",
            ca.file()
        )
    };
    let credentials = format!("&sentinel_user=app&sentinel_pass={PASSWORD}");
    let store = works(&url(&credentials, &ca)).await;
    wakes(&store, &store).await;
    refuses(&url("", &ca), &["NOAUTH"]).await;
    let unknown = ["UnknownIssuer", "`ssl-ca`"];
    refuses(&url(&credentials, &Authority::new()), &unknown).await;
}
