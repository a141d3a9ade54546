//! Pages of a list, while what they had is forgotten: as whoever works through a list does.

use std::collections::BTreeSet;
use std::num::NonZeroU16;

use tower_idempotency::store::{ForgetMode, ListQuery};

use super::*;

/// A step of `SCAN` reaches further once the keys that it named are gone. A page that had ended
/// within that step would have hidden those that come in their place.
#[tokio::test]
async fn to_forget_each_page_hides_no_record_of_the_next_ones() {
    let server = OwnServer::start(&[]);
    let store = server.open().await;
    for size in [100, 7] {
        let mut left = BTreeSet::new();
        for _ in 0..700 {
            let claim = claim();
            acquire(&store, &claim).await;
            left.insert(claim.id);
        }
        let mut query = ListQuery::new().limit(NonZeroU16::new(size).unwrap());
        loop {
            let page = store.list(&query).await.unwrap();
            assert!(page.records.len() <= usize::from(size));
            for record in page.records {
                left.remove(&record.id);
                store.forget(&record.id, ForgetMode::Forced).await.unwrap();
            }
            let Some(next) = page.next else { break };
            query = query.cursor(next);
        }
        assert_eq!(left.len(), 0, "in pages of {size}");
    }
}
