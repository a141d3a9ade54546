//! What became of a `COMMIT` whose result is not known (G7).

use std::time::Duration;

use tracing::warn;

use crate::error::cause;
use crate::runtime::deadline::Deadline;
use crate::runtime::sleep;
use crate::store::Lease;
use crate::store::sql::transaction::{TransactionFate, TransactionalStore};

const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(250);

/// Looks at the record until the transaction has certainly ended. The `COMMIT` may
/// still be on its way to the database, so an unchanged record says nothing while its
/// row is locked. Returns `UnderWay` if the end can't be found out within `limit`. `claimed` is whether
/// the transaction has made the claim too.
pub(crate) async fn find_out(
    store: &dyn TransactionalStore,
    lease: &Lease,
    claimed: bool,
    limit: Duration,
) -> TransactionFate {
    warn!(
        ?lease,
        "a COMMIT was not answered, looking for what became of it"
    );
    let looking = async {
        let mut pause = FIRST_PAUSE;
        loop {
            let fate = if claimed {
                store.fate_of_claimed(lease)
            } else {
                store.fate(lease)
            };
            match fate.await {
                Ok(TransactionFate::UnderWay) => {}
                Ok(fate) => return fate,
                Err(error) => {
                    let error = cause(&error);
                    warn!(?lease, error, "the record can't be looked at, trying again");
                }
            }
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    };
    let found = Deadline::new(limit, looking).await;
    found.unwrap_or(TransactionFate::UnderWay)
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use tokio::time::Instant;

    use super::*;
    use crate::record::{FencingToken, Fingerprint, RecordId, ScopeDigest};
    use crate::runtime::Mutex;
    use crate::store::sql::transaction::BoxFuture;
    use crate::store::{Claim, StoreError, StoreErrorKind};

    /// Says of each look in turn what it finds, and when each look came. The last word
    /// stands for all looks after it.
    struct Database {
        finds: Vec<Result<TransactionFate, StoreErrorKind>>,
        looks: Mutex<Vec<Instant>>,
    }

    impl TransactionalStore for Database {
        fn fate<'a>(&'a self, _: &'a Lease) -> BoxFuture<'a, Result<TransactionFate, StoreError>> {
            let mut looks = self.looks.lock();
            let found = self.finds[looks.len().min(self.finds.len() - 1)];
            looks.push(Instant::now());
            let found = found.map_err(|kind| StoreError::new(kind, "the connection broke"));
            Box::pin(async move { found })
        }

        fn fate_of_claimed<'a>(
            &'a self,
            lease: &'a Lease,
        ) -> BoxFuture<'a, Result<TransactionFate, StoreError>> {
            self.fate(lease)
        }

        fn claims_nothing_within(&self) -> Option<&'static str> {
            None
        }

        fn loses_commits(&self) -> Option<&'static str> {
            None
        }

        fn wake<'a>(&'a self, _: &'a RecordId) -> BoxFuture<'a, Result<(), StoreError>> {
            unreachable!("nobody waits")
        }
    }

    /// What was found within three seconds, and the milliseconds between the looks.
    async fn found(
        finds: Vec<Result<TransactionFate, StoreErrorKind>>,
    ) -> (TransactionFate, Vec<u128>) {
        let database = Database {
            finds,
            looks: Mutex::new(Vec::new()),
        };
        let id = RecordId::from_bytes([1; 32]);
        let (scope, asked) = (ScopeDigest::from_bytes([2; 32]), [3; 32]);
        let claim = Claim::new(id, scope, Fingerprint::from_bytes(asked));
        let lease = Lease::new(&claim, FencingToken::new(1).unwrap(), 1);
        let found = find_out(&database, &lease, false, Duration::from_secs(3)).await;
        let looks = database.looks.lock();
        let pauses = looks.windows(2).map(|pair| (pair[1] - pair[0]).as_millis());
        (found, pauses.collect())
    }

    #[tokio::test(start_paused = true)]
    async fn the_record_is_looked_at_less_and_less_often_until_it_says_what_happened() {
        for fate in [
            TransactionFate::Committed,
            TransactionFate::RolledBack,
            TransactionFate::Overtaken,
            TransactionFate::Absent,
        ] {
            assert_eq!(found(vec![Ok(fate)]).await, (fate, vec![]));
            let mut finds = vec![Ok(TransactionFate::UnderWay); 8];
            finds[3] = Err(StoreErrorKind::Unknown);
            finds.push(Ok(fate));
            let pauses = vec![5, 10, 20, 40, 80, 160, 250, 250];
            assert_eq!(found(finds).await, (fate, pauses));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_found_out_in_time_is_under_way() {
        let began = Instant::now();
        for never in [Ok(TransactionFate::UnderWay), Err(StoreErrorKind::Unknown)] {
            assert_eq!(found(vec![never]).await.0, TransactionFate::UnderWay);
        }
        assert_eq!(began.elapsed(), Duration::from_secs(6));
    }
}
