//! How often an operation makes the server wait for its disk.

use super::inside::layer_of;
use super::shop::*;
use super::{SYNCS, quiet, synced};

/// On a database of its own, because its log is one for all.
#[tokio::test]
async fn an_operation_that_claims_in_its_transaction_syncs_as_often_as_its_handler() {
    const TIMES: i64 = 60;
    let (pool, _server) = quiet().await;
    let shop = Shop::on(pool).await;
    let inside = shop.till_inside(&layer_of(&shop));
    let old = shop.till(&shop.builder().build().unwrap());
    let mut taken = Vec::new();
    for which in 0..3 {
        let before = synced(&shop).await;
        for number in 0..TIMES {
            let key = format!("{which}-{number}");
            match which {
                0 => {
                    let mut transaction = shop.begin().await;
                    shop.write(&mut transaction).await.unwrap();
                    transaction.commit().await.unwrap();
                }
                1 => assert_eq!(ask(&inside, &key).await.0, 201),
                _ => assert_eq!(ask(&old, &key).await.0, 201),
            }
        }
        taken.push(synced(&shop).await - before);
    }
    let [bare, inside, old] = taken[..] else {
        unreachable!()
    };
    println!("syncs of {TIMES} operations, bare, inside and old: {taken:?}");
    // The server syncs now and then by itself, and a commit that comes then need not.
    let once = TIMES * SYNCS - 6..TIMES * SYNCS + TIMES / 2;
    assert!(once.contains(&bare), "{taken:?}");
    assert!(once.contains(&inside), "{taken:?}");
    assert!(old >= 2 * TIMES * SYNCS - 12, "{taken:?}");
}
