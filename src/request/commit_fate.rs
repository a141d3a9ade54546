//! What became of a `COMMIT` whose result is not known (G7).

use std::time::Duration;

use tracing::warn;

use crate::error::cause;
use crate::request::operation::Operation;
use crate::runtime::deadline::Deadline;
use crate::runtime::sleep;
use crate::store::sql::transaction::{TransactionFate, TransactionalStore};

const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(250);

/// Looks at the record until the transaction has certainly ended. The `COMMIT` may
/// still be on its way to the database, so an unchanged record says nothing while its
/// row is locked. Returns `UnderWay` if the end can't be found out within
/// `store_timeout`.
pub(crate) async fn find_out(
    operation: &Operation,
    store: &dyn TransactionalStore,
) -> TransactionFate {
    let lease = operation.lease();
    warn!(
        ?lease,
        "a COMMIT was not answered, looking for what became of it"
    );
    let looking = async {
        let mut pause = FIRST_PAUSE;
        loop {
            match store.fate(lease).await {
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
    let found = Deadline::new(operation.core.leases.store.timeout(), looking).await;
    found.unwrap_or(TransactionFate::UnderWay)
}
