//! How often an operation makes the server wait for its disk.

use super::inside::layer_of;
use super::shop::*;
use super::{SYNCS, SYNCS_ALONE, quiet, synced};

/// On a database of its own, because its log is one for all.
#[tokio::test]
async fn an_operation_that_claims_in_its_transaction_syncs_as_often_as_its_handler_and_a_replay_never()
 {
    const TIMES: i64 = 60;
    let (pool, _server) = quiet().await;
    let shop = Shop::on(pool).await;
    let inside = shop.till_inside(&layer_of(&shop));
    let old = shop.till(&shop.builder().build().unwrap());
    let mut taken = Vec::new();
    for which in 0..5 {
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
                2 => assert_eq!(ask(&old, &key).await.0, 201),
                3 => assert_replayed(&inside, &format!("1-{number}")).await,
                _ => assert_replayed(&old, &format!("2-{number}")).await,
            }
        }
        taken.push(synced(&shop).await - before);
    }
    let [bare, inside, old, replays @ ..] = &taken[..] else {
        unreachable!()
    };
    println!("syncs of {TIMES} operations, bare, inside and old, and of replays: {taken:?}");
    // The server syncs now and then by itself, and a commit that comes then need not.
    let (fewer, more) = if SYNCS_ALONE { (0, 0) } else { (6, TIMES / 2) };
    let once = TIMES * SYNCS - fewer..=TIMES * SYNCS + more;
    assert!(once.contains(bare), "{taken:?}");
    assert!(once.contains(inside), "{taken:?}");
    let twice = 2 * once.start()..=2 * once.end();
    assert!(twice.contains(old), "{taken:?}");
    for replayed in replays {
        assert!(*replayed <= more, "{taken:?}");
    }
}

async fn assert_replayed(till: &Till, key: &str) {
    let replayed = send(till, key).await;
    assert_eq!(replayed.headers()["idempotency-replayed"], "true");
    assert_eq!(replayed.status(), 201);
}
