//! These tests check the warnings about a server that loses records.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use http::StatusCode;
use tower_idempotency::RedisStore;
use tower_idempotency::store::{Completion, Outcome, Ownership, Store, StoreErrorKind};
use tracing_subscriber::fmt::MakeWriter;

use super::own_server::OwnServer;
use super::{acquire, claim, paid};

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Log;

    fn make_writer(&'a self) -> Log {
        self.clone()
    }
}

/// Returns what is logged while a store is opened.
async fn said(url: &str) -> String {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_writer(log.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    RedisStore::connect(url).await.unwrap();
    let bytes = log.0.lock().unwrap().clone();
    String::from_utf8(bytes).unwrap()
}

#[tokio::test]
async fn a_server_that_keeps_records_is_not_warned_of() {
    let server = OwnServer::start(&["--appendonly", "yes"]);
    assert_eq!(said(&server.url()).await, "");
}

/// `proto-max-bulk-len` is the longest string that the server takes; beyond it the server closes
/// the connection.
#[tokio::test]
async fn what_the_server_takes_at_most_is_known_when_the_store_is_opened() {
    for (options, most) in [
        (&["--appendonly", "yes"][..], 512 << 20),
        (
            &["--appendonly", "yes", "--proto-max-bulk-len", "1mb"],
            1 << 20,
        ),
    ] {
        let server = OwnServer::start(options);
        let store = RedisStore::connect(&server.url()).await.unwrap();
        assert_eq!(store.largest_completion(), Some(most));
        let lease = acquire(&store, &claim()).await;
        if most == 1 << 20 {
            let body = vec![b'x'; most + 1];
            let completion = Completion::new(StatusCode::OK, body, SystemTime::now());
            let outcome = Outcome::Completed(completion.into());
            store.complete(&lease, &outcome).await.unwrap_err();
        }
        // The server ends a connection that sends too much, and the next call may be the one that
        // finds out.
        let held = match store.complete(&lease, &paid()).await {
            Err(error) if most == 1 << 20 && error.kind() == StoreErrorKind::Unknown => {
                store.complete(&lease, &paid()).await
            }
            held => held,
        };
        let held = held.unwrap();
        assert_eq!(held, Ownership::Held);
    }
}

#[tokio::test]
async fn every_setting_that_loses_records_is_warned_of() {
    for (options, warning) in [
        (&["--appendonly", "no"][..], "`appendonly` is `no`"),
        (
            &["--appendonly", "yes", "--appendfsync", "no"],
            "`appendfsync` is `no`",
        ),
        (
            &["--appendonly", "yes", "--maxmemory-policy", "allkeys-lru"],
            "`maxmemory-policy` is `allkeys-lru`",
        ),
        (
            &["--appendonly", "yes", "--maxmemory-policy", "volatile-ttl"],
            "`maxmemory-policy` is `volatile-ttl`",
        ),
    ] {
        let server = OwnServer::start(options);
        for url in [server.url(), format!("{}?protocol=resp2", server.url())] {
            let said = said(&url).await;
            assert!(said.contains("WARN") && said.contains(warning), "{said}");
            assert_eq!(said.lines().count(), 1, "{said}");
        }
    }
}

#[tokio::test]
async fn settings_that_may_not_be_read_are_said_to_be_unknown() {
    let server = OwnServer::start(&["--appendonly", "no"]);
    server.run("ACL SETUSER managed on >pw ~* &* +@all -config");
    let said_managed = said(&format!("{}?user=managed&pass=pw", server.url())).await;
    assert!(
        said_managed.contains("does not answer CONFIG GET"),
        "{said_managed}"
    );
    // The store still warns of what INFO shows.
    assert!(
        said_managed.contains("`appendonly` is `no`"),
        "{said_managed}"
    );

    server.run("ACL SETUSER blind on >pw ~* &* +@all -info -config");
    let said_blind = said(&format!("{}?user=blind&pass=pw", server.url())).await;
    assert!(said_blind.contains("does not answer INFO"), "{said_blind}");
}

#[tokio::test]
async fn every_primary_of_a_cluster_is_looked_at() {
    // The test does not know how its cluster is set up. The nodes' own counts show
    // that the store asked each node.
    let url = crate::servers::url("TEST_REDIS_CLUSTER_URL");
    let asked = || async {
        let mut numbers = Vec::new();
        for node in url.split(',') {
            let client = ::redis::Client::open(node).unwrap();
            let mut node = client.get_multiplexed_async_connection().await.unwrap();
            let stats: String = ::redis::cmd("INFO")
                .arg("commandstats")
                .query_async(&mut node)
                .await
                .unwrap();
            let line = stats
                .lines()
                .find(|line| line.starts_with("cmdstat_config|get:"));
            let calls = line.map_or("0", |line| {
                line.split_once("calls=")
                    .unwrap()
                    .1
                    .split(',')
                    .next()
                    .unwrap()
            });
            numbers.push(calls.parse::<u64>().unwrap());
        }
        numbers
    };
    let before = asked().await;
    RedisStore::connect(&url).await.unwrap();
    let after = asked().await;
    assert!(
        before
            .iter()
            .zip(&after)
            .all(|(before, after)| before < after)
    );
}
