//! These tests run handlers at every isolation level, beside the layer's own work
//! on the record.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use sqlx::Transaction;
use tower_idempotency::exactly_once::CommitError;

use super::shop::*;
use super::{Db, ISOLATIONS, READ_ONLY};

/// Returns a shop whose handlers' transactions have this isolation level.
pub(super) async fn at(level: &'static str) -> Arc<Shop> {
    let pool = super::pool().await;
    let options = pool.options().clone();
    let options = options.after_connect(move |connection, _| {
        Box::pin(async move {
            sqlx::raw_sql(level).execute(connection).await?;
            Ok(())
        })
    });
    let handlers = options.connect_lazy_with((*pool.connect_options()).clone());
    Shop::with(handlers, pool).await
}

async fn count(shop: &Shop, transaction: &mut Transaction<'_, Db>) -> i64 {
    let count = sqlx::query_scalar(shop.sql("SELECT count(*) FROM {ledger}"));
    count.fetch_one(&mut **transaction).await.unwrap()
}

#[tokio::test]
async fn renewals_go_on_beside_a_transaction_and_do_not_break_it() {
    for level in ISOLATIONS {
        let shop = at(level).await;
        let lease = Duration::from_millis(300);
        let layer = shop.builder().defaults(move |options| options.lease(lease));
        let layer = layer.build().unwrap();
        let till = {
            let shop = Arc::clone(&shop);
            till(&layer, move |request| {
                let shop = Arc::clone(&shop);
                async move {
                    let mut transaction = shop.begin().await;
                    // The transaction's snapshot is older than every renewal.
                    assert_eq!(count(&shop, &mut transaction).await, 0);
                    let mut seen = Vec::new();
                    while seen.len() < 3 {
                        seen.push(shop.number(super::RENEWED).await);
                        seen.dedup();
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                    shop.write(&mut transaction).await.unwrap();
                    claim(&request).commit(transaction, shop.paid()).await
                }
            })
        };
        assert_eq!(ask(&till, "k").await, got(201, "paid 1"), "{level}");
        assert_eq!(ask(&till, "k").await, got(201, "paid 1"), "{level}");
        assert_eq!(shop.entries().await, 1);
    }
}

/// The snapshot of the transaction is older than a step that is recorded on another connection.
#[tokio::test]
async fn a_step_beside_a_transaction_does_not_break_it() {
    for level in ISOLATIONS {
        let shop = at(level).await;
        let layer = shop.builder().defaults(|options| options.steps(true));
        let till = {
            let shop = Arc::clone(&shop);
            till(&layer.build().unwrap(), move |request| {
                let shop = Arc::clone(&shop);
                async move {
                    let mut transaction = shop.begin().await;
                    assert_eq!(count(&shop, &mut transaction).await, 0);
                    let claim = claim(&request);
                    let context = claim.context();
                    let charge = context.step("charge", async |_| Ok::<_, CommitError>(1));
                    assert_eq!(charge.await.unwrap(), 1);
                    shop.write(&mut transaction).await.unwrap();
                    claim.commit(transaction, shop.paid()).await
                }
            })
        };
        assert_eq!(ask(&till, "k").await, got(201, "paid 1"), "{level}");
        assert_eq!(ask(&till, "k").await, got(201, "paid 1"), "{level}");
        assert_eq!(shop.entries().await, 1);
    }
}

/// Each handler increases a sum that it has read. At REPEATABLE READ and above, one
/// of two concurrent transactions must fail, because both would write the same
/// number.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transact_runs_again_what_had_to_give_way() {
    let shop = at(ISOLATIONS[2]).await;
    shop.run("CREATE TABLE {ledger}_sum (total INT NOT NULL)")
        .await;
    shop.run("INSERT INTO {ledger}_sum VALUES (0)").await;
    let layer = shop.builder().build().unwrap();
    let till = {
        let shop = Arc::clone(&shop);
        till(&layer, move |request| {
            let shop = Arc::clone(&shop);
            async move {
                let work = |mut transaction: Transaction<'static, Db>| {
                    let shop = Arc::clone(&shop);
                    async move {
                        let total = shop.sql("SELECT total FROM {ledger}_sum");
                        let total = sqlx::query_scalar::<_, i32>(total);
                        let total = total.fetch_one(&mut *transaction).await?;
                        let sum = format!("UPDATE {{ledger}}_sum SET total = {}", total + 1);
                        let sum = sqlx::query(shop.sql(&sum));
                        sum.execute(&mut *transaction).await?;
                        shop.write(&mut transaction).await?;
                        Ok((transaction, shop.paid()))
                    }
                };
                let claim = claim(&request);
                claim
                    .transact::<_, _, CommitError>(&shop.handlers, work)
                    .await
            }
        })
    };
    let asking: Vec<_> = (0..8)
        .map(|number| {
            let till = till.clone();
            let key = number.to_string();
            // A client whose transaction failed too often sends its request again.
            tokio::spawn(async move { while ask_or_again(&till, &key).await != 201 {} })
        })
        .collect();
    for one in asking {
        one.await.unwrap();
    }
    assert_eq!(shop.entries().await, 8);
    assert_eq!(
        shop.number("SELECT count(*) FROM {ledger}_sum WHERE total = 8")
            .await,
        1
    );
}

/// A connection of the handlers' pool leads to a server that has become read-only.
#[tokio::test]
async fn transact_runs_again_what_met_a_read_only_server() {
    let pool = super::pool().await;
    let handlers = pool.options().clone().max_connections(2);
    let handlers = handlers.connect_lazy_with((*pool.connect_options()).clone());
    let shop = Shop::with(handlers, pool).await;
    let mut refuses = shop.handlers.acquire().await.unwrap();
    let works = shop.handlers.acquire().await.unwrap();
    sqlx::raw_sql(READ_ONLY)
        .execute(&mut *refuses)
        .await
        .unwrap();
    drop((refuses, works));

    let refused = Arc::new(AtomicU32::new(0));
    let layer = shop.builder().build().unwrap();
    let till = {
        let (shop, refused) = (Arc::clone(&shop), Arc::clone(&refused));
        till(&layer, move |request| {
            let (shop, refused) = (Arc::clone(&shop), Arc::clone(&refused));
            async move {
                let work = |mut transaction: Transaction<'static, Db>| {
                    let (shop, refused) = (Arc::clone(&shop), Arc::clone(&refused));
                    async move {
                        if let Err(error) = shop.write(&mut transaction).await {
                            refused.fetch_add(1, Ordering::Relaxed);
                            return Err(error.into());
                        }
                        Ok((transaction, shop.paid()))
                    }
                };
                let claim = claim(&request);
                claim
                    .transact::<_, _, CommitError>(&shop.handlers, work)
                    .await
            }
        })
    };
    for key in ["a", "b", "c", "d"] {
        assert_eq!(ask(&till, key).await.0, 201);
    }
    assert_eq!(shop.entries().await, 4);
    assert!(refused.load(Ordering::Relaxed) > 0, "nothing was refused");
}

async fn ask_or_again(till: &Till, key: &str) -> u16 {
    use tower::ServiceExt;
    match till.clone().oneshot(post(key)).await {
        Ok(response) => whole(response).await.0,
        Err(_) => 503,
    }
}
