//! These tests measure what an operation costs.

use std::collections::BTreeMap;

use tower_idempotency::store::{
    Claimed, ForgetMode, Ownership, RecordState, RecordedStep, Release, Store,
};

use super::own_server::OwnServer;
use super::{acquire, claim, paid};

/// Returns how often each command was called since the last look, by clients or by
/// their scripts.
fn calls(server: &OwnServer) -> BTreeMap<String, u64> {
    let stats = server.run("INFO commandstats");
    let calls = stats.lines().filter_map(|line| {
        let (name, rest) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
        let number = rest.split(',').next()?.parse().ok()?;
        Some((name.to_owned(), number))
    });
    let mut calls: BTreeMap<_, _> = calls.collect();
    calls.remove("info");
    calls.remove("config|resetstat");
    server.run("CONFIG RESETSTAT");
    calls
}

/// Returns the calls of commands that only clients send, and that no script of the
/// store calls.
fn requests(server: &OwnServer) -> Vec<(String, u64)> {
    let of_scripts = [
        "time",
        "hmget",
        "exists",
        "hset",
        "hdel",
        "pexpireat",
        "persist",
        "del",
        "publish",
    ];
    let calls = calls(server).into_iter();
    calls
        .filter(|(name, _)| !of_scripts.contains(&name.as_str()))
        .collect()
}

#[tokio::test]
async fn every_operation_is_one_request() {
    let server = OwnServer::start(&[]);
    let store = server.open().await;
    // The server knows every script from here on.
    let warm = claim();
    let lease = acquire(&store, &warm).await;
    store.renew(&lease).await.unwrap();
    let step = RecordedStep::new("charge", "1");
    store.record_step(&lease, &step).await.unwrap();
    store
        .release(&warm.id, &warm.nonce, Release::MayRunAgain)
        .await
        .unwrap();
    store
        .complete(&acquire(&store, &warm).await, &paid())
        .await
        .unwrap();
    store.look_up(&warm.id).await.unwrap();
    store
        .forget(&warm.id, ForgetMode::UnlessAlive)
        .await
        .unwrap();

    let one = vec![("evalsha".to_owned(), 1)];
    requests(&server);
    let claimed = claim();
    let lease = acquire(&store, &claimed).await;
    assert_eq!(requests(&server), one, "claim");
    acquire(&store, &claimed).await;
    assert_eq!(requests(&server), one, "claim again");
    store.renew(&lease).await.unwrap();
    assert_eq!(requests(&server), one, "renew");
    store.record_step(&lease, &step).await.unwrap();
    assert_eq!(requests(&server), one, "record a step");
    store
        .release(&claimed.id, &claimed.nonce, Release::OutcomeUnknown)
        .await
        .unwrap();
    assert_eq!(requests(&server), one, "unknown");
    store
        .release(&claimed.id, &claimed.nonce, Release::MayRunAgain)
        .await
        .unwrap();
    assert_eq!(requests(&server), one, "release");
    let lease = acquire(&store, &claimed).await;
    assert_eq!(requests(&server), one, "claim of what was released");
    assert_eq!(lease.steps, [step]);
    assert_eq!(
        store.complete(&lease, &paid()).await.unwrap(),
        Ownership::Held
    );
    assert_eq!(requests(&server), one, "complete");
    store.claim(&claim_of(&lease)).await.unwrap();
    assert_eq!(requests(&server), one, "replay");
    store.look_up(&claimed.id).await.unwrap();
    assert_eq!(requests(&server), one, "look-up");
    store
        .forget(&claimed.id, ForgetMode::UnlessAlive)
        .await
        .unwrap();
    assert_eq!(requests(&server), one, "forget");
}

/// Returns another claim for the same record.
fn claim_of(lease: &tower_idempotency::store::Lease) -> tower_idempotency::store::Claim {
    let mut another = claim();
    another.id = lease.claim.id;
    another
}

#[tokio::test]
async fn a_claim_that_finds_something_writes_nothing() {
    let server = OwnServer::start(&["--appendonly", "yes"]);
    let store = server.open().await;
    let lease = acquire(&store, &claim()).await;
    let changes = || {
        let info = server.run("INFO persistence");
        let line = |name: &str| {
            let found = info.lines().find(|line| line.starts_with(name));
            found.unwrap().to_owned()
        };
        [
            line("rdb_changes_since_last_save"),
            line("aof_current_size"),
        ]
    };
    let names = |calls: BTreeMap<String, u64>| calls.into_keys().collect::<Vec<_>>();

    let before = changes();
    calls(&server);
    for _ in 0..10 {
        assert!(matches!(
            store.claim(&claim_of(&lease)).await,
            Ok(Claimed::Found(_))
        ));
    }
    assert_eq!(
        names(calls(&server)),
        ["evalsha", "exists", "hmget", "time"]
    );
    assert_eq!(changes(), before, "in flight");

    store.complete(&lease, &paid()).await.unwrap();
    assert_ne!(changes(), before);
    let before = changes();
    calls(&server);
    for _ in 0..10 {
        let Ok(Claimed::Found(found)) = store.claim(&claim_of(&lease)).await else {
            panic!("it ran again");
        };
        assert!(matches!(found.state, RecordState::Completed { .. }));
    }
    assert_eq!(names(calls(&server)), ["evalsha", "exists", "hmget"]);
    assert_eq!(changes(), before, "completed");
}

/// The script of each of these looks at the record once.
#[tokio::test]
async fn a_first_request_and_its_replay_call_no_command_twice() {
    let server = OwnServer::start(&[]);
    let store = server.open().await;
    store
        .complete(&acquire(&store, &claim()).await, &paid())
        .await
        .unwrap();
    let once = |names: &[&str]| {
        let names = names.iter().map(|name| ((*name).to_owned(), 1));
        names.collect::<BTreeMap<_, _>>()
    };

    calls(&server);
    let lease = acquire(&store, &claim()).await;
    let claims = ["evalsha", "exists", "hset", "pexpireat", "time"];
    assert_eq!(calls(&server), once(&claims), "claim");
    store.complete(&lease, &paid()).await.unwrap();
    let completes = [
        "evalsha",
        "hdel",
        "hmget",
        "hset",
        "pexpireat",
        "publish",
        "time",
    ];
    assert_eq!(calls(&server), once(&completes), "complete");
    store.claim(&claim_of(&lease)).await.unwrap();
    let replays = ["evalsha", "exists", "hmget"];
    assert_eq!(calls(&server), once(&replays), "replay");
}

#[tokio::test]
async fn scripts_that_the_server_forgot_are_sent_again() {
    let server = OwnServer::start(&[]);
    let store = server.open().await;
    let lease = acquire(&store, &claim()).await;
    server.run("SCRIPT FLUSH");
    assert_eq!(store.renew(&lease).await.unwrap(), Ownership::Held);
    server.run("SCRIPT FLUSH");
    assert_eq!(
        store.complete(&lease, &paid()).await.unwrap(),
        Ownership::Held
    );
    server.run("SCRIPT FLUSH");
    calls(&server);
    let found = store.claim(&claim_of(&lease)).await.unwrap();
    assert!(matches!(found, Claimed::Found(_)));
    let calls = calls(&server);
    assert_eq!((calls["evalsha"], calls["eval"]), (1, 1));
}
