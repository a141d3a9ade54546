//! In these tests requests wait for a record, and `NOTIFY` wakes them.

use std::time::{Duration, Instant};

use sqlx::postgres::{PgListener, PgPoolOptions};
use tokio::time::timeout;
use tower_idempotency::PostgresStore;
use tower_idempotency::store::{Claimed, ForgetMode, Outcome, RecordState, Release, Store};

use super::{Fresh, acquire, claim_of, connection, id, options, pool};

const SEALED: Outcome = Outcome::Sealed {
    retention: Duration::from_secs(60),
};

/// Returns how soon a waiter learns that the record was completed.
async fn woken_after(owner: &PostgresStore, waiting: &PostgresStore) -> Duration {
    let lease = acquire(owner, &claim_of(id())).await;
    let changed = waiting.subscribe(&lease.claim.id).await.unwrap();
    let sent = Instant::now();
    owner.complete(&lease, &SEALED).await.unwrap();
    changed.await;
    sent.elapsed()
}

/// Waits for a first notification. After that the store polls only once a second.
async fn hears(owner: &PostgresStore, waiting: &PostgresStore) {
    woken_after(owner, waiting).await;
}

fn median(mut of: Vec<Duration>) -> Duration {
    of.sort();
    of[of.len() / 2]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_is_woken_well_before_it_would_look_for_itself() {
    let fresh = Fresh::new().await;
    let (owner, waiting) = (fresh.store().await, fresh.store().await);
    hears(&owner, &waiting).await;
    let mut woken = Vec::new();
    for _ in 0..21 {
        woken.push(woken_after(&owner, &waiting).await);
    }
    let median = median(woken);
    println!("woken after {median:?}");
    assert!(median < Duration::from_millis(100), "{median:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listener_that_is_cut_off_comes_back() {
    let fresh = Fresh::new().await;
    let (owner, waiting) = (fresh.store().await, fresh.store().await);
    hears(&owner, &waiting).await;
    // A waiter that is subscribed when the connection is cut looks at the record at
    // once.
    let lease = acquire(&owner, &claim_of(id())).await;
    let changed = waiting.subscribe(&lease.claim.id).await.unwrap();
    let cut = fresh
        .count(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
             WHERE query LIKE '%{t}\\_wait(%' AND pid <> pg_backend_pid()",
        )
        .await;
    assert_eq!(cut, 1);
    let woken = timeout(Duration::from_millis(500), changed).await;
    assert!(woken.is_ok(), "it went on listening to nothing");
    // Until the store listens again, it polls.
    assert!(woken_after(&owner, &waiting).await < Duration::from_secs(1));
    let back = async {
        loop {
            let mut woken = Vec::new();
            for _ in 0..5 {
                woken.push(woken_after(&owner, &waiting).await);
            }
            if median(woken) < Duration::from_millis(100) {
                break;
            }
        }
    };
    timeout(Duration::from_secs(20), back)
        .await
        .expect("it stays deaf");
}

/// A waiter may register between the read of the waiters and the commit.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_completion_goes_unheard_by_who_came_while_it_was_stored() {
    let fresh = Fresh::new().await;
    let (owner, waiting) = (fresh.store().await, fresh.store().await);
    hears(&owner, &waiting).await;
    let mut slowest = Duration::ZERO;
    for round in 0..300 {
        let lease = acquire(&owner, &claim_of(id())).await;
        let claim = claim_of(lease.claim.id);
        let completing = {
            let owner = owner.clone();
            tokio::spawn(async move {
                owner.complete(&lease, &SEALED).await.unwrap();
                Instant::now()
            })
        };
        tokio::time::sleep(Duration::from_micros(round % 30 * 40)).await;
        let seen = loop {
            let changed = waiting.subscribe(&claim.id).await.unwrap();
            let Claimed::Found(record) = waiting.claim(&claim).await.unwrap() else {
                panic!()
            };
            if !matches!(record.state, RecordState::InFlight { .. }) {
                break Instant::now();
            }
            changed.await;
        };
        slowest = slowest.max(seen.saturating_duration_since(completing.await.unwrap()));
    }
    println!("the slowest saw it after {slowest:?}");
    assert!(slowest < Duration::from_millis(700), "{slowest:?}");
}

/// A notification takes a lock of the whole server at the commit, so the store
/// sends none without need.
#[tokio::test]
async fn nobody_is_notified_where_nobody_waits() {
    let fresh = Fresh::new().await;
    let (owner, waiting) = (fresh.store().await, fresh.store().await);
    let mut all = PgListener::connect_with(&pool()).await.unwrap();
    all.listen(&fresh.table).await.unwrap();
    for _ in 0..10 {
        let lease = acquire(&owner, &claim_of(id())).await;
        owner.complete(&lease, &SEALED).await.unwrap();
        let claim = acquire(&owner, &claim_of(id())).await.claim;
        owner
            .release(&claim.id, &claim.nonce, Release::MayRunAgain)
            .await
            .unwrap();
        owner
            .forget(&claim.id, ForgetMode::UnlessAlive)
            .await
            .unwrap();
    }
    let lease = acquire(&owner, &claim_of(id())).await;
    let changed = waiting.subscribe(&lease.claim.id).await.unwrap();
    assert_eq!(fresh.count("SELECT count(*) FROM {t}_waiters").await, 1);
    owner.complete(&lease, &SEALED).await.unwrap();
    changed.await;
    // No earlier notification was sent.
    assert_eq!(
        all.recv().await.unwrap().payload(),
        lease.claim.id.to_string()
    );
    assert_eq!(fresh.count("SELECT count(*) FROM {t}_waiters").await, 0);
}

/// The store cannot listen behind a pooler, or if no connection is left.
#[tokio::test]
async fn without_a_connection_to_listen_on_it_asks_now_and_then() {
    let fresh = Fresh::new().await;
    let owner = fresh.store().await;
    let role = super::fresh("r");
    fresh
        .run(&format!(
            "CREATE ROLE {role} LOGIN PASSWORD 'p' CONNECTION LIMIT 1;
             GRANT SELECT, INSERT, UPDATE, DELETE ON {{t}}, {{t}}_renewals, {{t}}_steps,
                 {{t}}_waiters TO {role}"
        ))
        .await;
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .connect_lazy_with(options().username(&role).password("p"));
    let waiting = fresh.store_on(pool.clone()).await;
    let woken = woken_after(&owner, &waiting).await;
    assert!(woken < Duration::from_secs(1), "{woken:?}");
    drop(waiting);
    pool.close().await;
    let gone = async {
        let mut server = connection().await;
        let drop = format!("DROP OWNED BY {role}; DROP ROLE {role}");
        while sqlx::raw_sql(sqlx::AssertSqlSafe(&*drop))
            .execute(&mut server)
            .await
            .is_err()
        {}
    };
    timeout(Duration::from_secs(5), gone).await.unwrap();
}

#[tokio::test]
async fn the_connection_ends_with_the_store() {
    let fresh = Fresh::new().await;
    let store = fresh.store().await;
    drop(store.subscribe(&id()).await.unwrap());
    let listening = "SELECT count(*) FROM pg_stat_activity
        WHERE query LIKE '%{t}\\_wait(%' AND pid <> pg_backend_pid()";
    assert_eq!(fresh.count(listening).await, 1);
    drop(store);
    let ended = async { while fresh.count(listening).await != 0 {} };
    timeout(Duration::from_secs(5), ended)
        .await
        .expect("it goes on");
}
