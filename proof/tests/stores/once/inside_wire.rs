//! What a claim in the handler's transaction costs, and what becomes of it if the connection breaks.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tower::BoxError;
use tower_idempotency::IdempotencyLayer;
use tower_idempotency::exactly_once::CommitErrorKind;

use super::super::wire::Cut;
use super::inside::{layer_of, layer_with};
use super::lost_commits::{kind_of, shop};
use super::shop::*;
use super::{KILL, WHO, address, options_at, pool_with};

/// What sqlx sends when a connection goes back to its pool: `Sync` of PostgreSQL, `COM_PING` of MySQL.
const PINGS: [&[u8]; 2] = [b"S\0\0\0\x04", b"\x01\0\0\0\x0e"];

/// Counts how often a client speaks after the server has spoken.
async fn counting(trips: Arc<AtomicU64>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let mut server = TcpStream::connect(address()).await.unwrap();
            let trips = Arc::clone(&trips);
            tokio::spawn(async move {
                let (mut asks, mut answers) = (vec![0; 1 << 16], vec![0; 1 << 16]);
                let mut server_spoke = true;
                loop {
                    tokio::select! {
                        read = client.read(&mut asks) => {
                            let Ok(length @ 1..) = read else { return };
                            let counts = server_spoke && !PINGS.contains(&&asks[..length]);
                            trips.fetch_add(u64::from(counts), Ordering::SeqCst);
                            server_spoke = false;
                            server.write_all(&asks[..length]).await.unwrap();
                        }
                        read = server.read(&mut answers) => {
                            let Ok(length @ 1..) = read else { return };
                            server_spoke = true;
                            client.write_all(&answers[..length]).await.unwrap();
                        }
                    }
                }
            });
        }
    });
    port
}

#[tokio::test]
async fn an_operation_takes_three_round_trips_more_than_its_handler_and_a_replay_one() {
    let trips = Arc::new(AtomicU64::new(0));
    let port = counting(Arc::clone(&trips)).await;
    let options = pool_with(options_at(port)).options().clone();
    let options = options.max_connections(1).test_before_acquire(false);
    let shop = Shop::on(options.connect_lazy_with(options_at(port))).await;
    let till = shop.till_inside(&layer_of(&shop));
    let bare = async || {
        let mut transaction = shop.begin().await;
        shop.write(&mut transaction).await.unwrap();
        transaction.commit().await.unwrap();
    };
    // In the first round the connection prepares its statements.
    for (round, key) in ["a", "b"].into_iter().enumerate() {
        trips.store(0, Ordering::SeqCst);
        bare().await;
        let of_bare = trips.swap(0, Ordering::SeqCst);
        assert_eq!(ask(&till, key).await.0, 201);
        let of_operation = trips.swap(0, Ordering::SeqCst);
        assert_eq!(ask(&till, key).await.0, 201);
        let of_replay = trips.swap(0, Ordering::SeqCst);
        if round > 0 {
            assert_eq!((of_bare, of_operation, of_replay), (3, 3 + 3, 1));
        }
    }
}

/// The handlers pay, and respond with the kind of the error.
fn telling(shop: &Arc<Shop>, layer: &IdempotencyLayer) -> Till {
    let shop = Arc::clone(shop);
    till(layer, move |request| {
        let shop = Arc::clone(&shop);
        async move {
            let paid = shop.pay_inside(&claim(&request)).await;
            Ok::<_, BoxError>(paid.unwrap_or_else(|error| kind_of(&error)))
        }
    })
}

#[tokio::test]
async fn a_commit_whose_answer_was_lost_is_found() {
    let (shop, wire) = shop().await;
    let till = telling(&shop, &layer_of(&shop));
    wire.cut(Cut::AfterIt);
    assert_eq!(ask(&till, "k").await, got(201, "paid 1"));
    assert!(wire.was_cut());
    assert_eq!(ask(&till, "k").await, got(201, "paid 1"));
    assert_eq!(shop.entries().await, 1);
}

#[tokio::test]
async fn a_commit_that_never_arrived_leaves_nothing_and_a_retry_runs_at_once() {
    let (shop, wire) = shop().await;
    let till = telling(&shop, &layer_of(&shop));
    wire.cut(Cut::BeforeIt);
    assert_eq!(ask(&till, "k").await, got(503, "Retry"));
    assert_eq!(shop.entries().await, 0);
    assert_eq!(ask(&till, "k").await, got(201, "paid 2"));
    assert_eq!(shop.entries().await, 1);
}

/// The server still has the transaction open, and nobody can know whether the `COMMIT` is on its
/// way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_in_doubt_is_in_flight_until_its_transaction_has_ended() {
    for (cut, paid) in [(Cut::Late, "paid 1"), (Cut::Silently, "paid 2")] {
        let (shop, wire) = shop().await;
        let layer = shop.builder().store_timeout(Duration::from_millis(300));
        let layer = layer.defaults(super::inside::inside).build().unwrap();
        let till = telling(&shop, &layer);
        wire.cut(cut);
        assert_refused(&ask(&till, "k").await, 409, "in-flight");
        assert_eq!(layer.counts().in_doubt, 1);
        assert_refused(&ask(&till, "k").await, 409, "in-flight");
        assert_eq!(shop.entries().await, 0);
        wire.mend();
        let mended = Instant::now();
        until(async || ask(&till, "k").await.0 == 201).await;
        // There is no lease that would have to lapse.
        assert!(mended.elapsed() < Duration::from_secs(5));
        assert_eq!(ask(&till, "k").await, got(201, paid));
        assert_eq!(shop.entries().await, 1);
    }
}

#[tokio::test]
async fn a_connection_that_is_killed_before_its_commit_leaves_nothing() {
    let shop = Shop::open().await;
    let till = {
        let shop = Arc::clone(&shop);
        till(&layer_with(&shop, |options| options), move |request| {
            let shop = Arc::clone(&shop);
            async move {
                let claim = claim(&request);
                let mut transaction = claim.begin(&shop.handlers).await?;
                shop.write(&mut transaction).await?;
                let who = sqlx::query_scalar(WHO).fetch_one(&mut *transaction);
                let who: i64 = who.await?;
                shop.run(&KILL.replace("{id}", &who.to_string())).await;
                let error = claim.commit(transaction, shop.paid()).await.unwrap_err();
                assert_eq!(error.kind(), CommitErrorKind::Retry, "{error:?}");
                shop.pay_inside(&claim).await
            }
        })
    };
    assert_eq!(ask(&till, "k").await, got(201, "paid 2"));
    assert_eq!(shop.entries().await, 1);
}
