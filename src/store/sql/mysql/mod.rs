//! Records in MySQL and MariaDB.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use sqlx::MySqlPool;

use self::calls::{Calls, outcome, record, removed, unreadable_format};
use self::errors::meaning;
use super::{DEFAULT_TABLE, PURGE_BATCH, PURGE_INTERVAL, Purging, Table, reach};
use crate::record::{Nonce, RecordId};
use crate::store::OnMismatch;
use crate::store::encoding::{EncodedCompletion, unreadable};
use crate::store::row::{micros, state};
use crate::store::{
    Claim, Claimed, Forgotten, Lease, OnLapsedLease, Outcome, Ownership, Record, RecordState,
    Release, Store, StoreError, Transactional,
};

mod calls;
mod checks;
mod errors;
mod migration;
mod transaction;

pub(super) use errors::gave_way;

/// What a claim says of a record whose row another transaction has locked: it
/// is in flight, and nobody knows for how long. A waiter looks again before.
const LOCKED_FOR: Duration = Duration::from_secs(1);

/// Records in MySQL or MariaDB, on the application's own pool.
///
/// A clone is another handle on the same table. What the store needs is made by
/// [`migrate`](MySqlStoreBuilder::migrate), or by `docs/sql/mysql.sql`:
/// a table of records, a table of renewals, and a stored procedure for each
/// operation, so that each is one round trip and one transaction. They are in
/// `docs/stores.md`, with what they need of the server, and what survives what.
///
/// Answers larger than the server's `max_allowed_packet` can't be stored.
///
/// ```no_run
/// use sqlx::MySqlPool;
/// use tower_idempotency::{IdempotencyLayer, MySqlStore, scope};
///
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// let pool = MySqlPool::connect("mysql://app:secret@localhost/shop").await?;
/// MySqlStore::builder(pool.clone()).migrate().await?;
/// let store = MySqlStore::open(pool).await?;
/// let idempotency = IdempotencyLayer::new(store, scope::header("x-api-key")?);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct MySqlStore {
    calls: Calls,
    table: Table,
    _purging: Arc<Purging>,
}

impl MySqlStore {
    /// The store in the table `idempotency_records`.
    ///
    /// # Errors
    /// As [`MySqlStoreBuilder::open`].
    pub async fn open(pool: MySqlPool) -> Result<Self, StoreError> {
        Self::builder(pool).open().await
    }

    /// A store with options of its own.
    #[must_use]
    pub fn builder(pool: MySqlPool) -> MySqlStoreBuilder {
        MySqlStoreBuilder {
            pool,
            table: DEFAULT_TABLE.to_owned(),
            purge_every: PURGE_INTERVAL,
        }
    }

    /// Removes up to 500 records past their end, and says how many. The store
    /// does this by itself; it is here for those who want it done now.
    ///
    /// # Errors
    /// If the database gave no answer. What it did not remove, the next one does.
    pub async fn purge(&self) -> Result<u64, StoreError> {
        purge(&self.calls).await
    }
}

async fn purge(calls: &Calls) -> Result<u64, StoreError> {
    let rows = calls
        .run(&calls.statements.purge, |call| call.bind(PURGE_BATCH))
        .await?;
    removed(&rows)
}

impl fmt::Debug for MySqlStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MySqlStore")
            .field("table", &self.table)
            .finish_non_exhaustive()
    }
}

/// Options of a [`MySqlStore`].
#[derive(Clone)]
pub struct MySqlStoreBuilder {
    pool: MySqlPool,
    table: String,
    purge_every: Duration,
}

impl MySqlStoreBuilder {
    /// The table's name (`idempotency_records`): letters, digits and
    /// underscores, 40 characters at most, after `database.` if it is not in
    /// that of the connection. The other table and the procedures begin with it.
    pub fn table(mut self, table: impl Into<String>) -> Self {
        self.table = table.into();
        self
    }

    /// How often, about, records past their end are removed (60 s). Every
    /// process that has the store open does it; they don't get in each other's way.
    pub fn purge_every(mut self, interval: Duration) -> Self {
        self.purge_every = interval;
        self
    }

    /// Makes the tables that are not there, and the procedures unless they are
    /// this version's: the text of `docs/sql/mysql.sql`. Any number of processes
    /// can do it at once, at each of their starts; the user needs the rights
    /// `CREATE`, `INDEX` and `CREATE ROUTINE`, and `ALTER ROUTINE` for procedures
    /// that another user made.
    ///
    /// # Errors
    /// If a right is missing, or another program's table has the name.
    pub async fn migrate(&self) -> Result<(), StoreError> {
        let table = Table::new(&self.table)?;
        reach(&self.pool, meaning).await?;
        migration::migrate(&self.pool, &table).await
    }

    /// Looks whether tables and procedures are there, of this version, and can
    /// be written, and warns in the log if the procedures are of another text than
    /// [`migrate`](Self::migrate) makes; starts the task that removes records past their end, on the
    /// runtime that it is called on. The task ends with the last clone of the store.
    ///
    /// # Errors
    /// With the cause and what to do about it, and never with a credential.
    pub async fn open(self) -> Result<MySqlStore, StoreError> {
        let table = Table::new(&self.table)?;
        reach(&self.pool, meaning).await?;
        checks::check(&self.pool, &table).await?;
        let calls = Calls::new(self.pool, &table);
        let purging = {
            let calls = calls.clone();
            Purging::every(self.purge_every, move || {
                let calls = calls.clone();
                async move { purge(&calls).await }
            })
        };
        Ok(MySqlStore {
            calls,
            table,
            _purging: Arc::new(purging),
        })
    }
}

impl fmt::Debug for MySqlStoreBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MySqlStoreBuilder")
            .field("table", &self.table)
            .field("purge_every", &self.purge_every)
            .finish_non_exhaustive()
    }
}

impl Store for MySqlStore {
    async fn claim(&self, claim: &Claim) -> Result<Claimed, StoreError> {
        let stays = claim.on_lapsed_lease == OnLapsedLease::Refuse;
        let takes_over = claim.by_hand || !stays;
        let any_fingerprint = claim.on_mismatch == OnMismatch::Replay;
        let rows = self
            .calls
            .run(&self.calls.statements.claim, |call| {
                call.bind(&claim.id.as_bytes()[..])
                    .bind(&claim.nonce.as_bytes()[..])
                    .bind(&claim.fingerprint.as_bytes()[..])
                    .bind(micros(claim.lease))
                    .bind(micros(claim.retention))
                    .bind(stays)
                    .bind(takes_over)
                    .bind(any_fingerprint)
            })
            .await?;
        let row = rows.first().ok_or_else(|| unreadable("no answer"))?;
        match outcome(row)? {
            0 => record(row).map(Claimed::Found),
            1 => {
                let (token, attempt) = calls::token_and_attempt(row)?;
                Ok(Claimed::Acquired(Lease::new(claim, token, attempt)))
            }
            // Its next fingerprint is not known yet, and a mismatch would tell
            // the client never to retry.
            2 => {
                let (token, attempt) = calls::token_and_attempt(row)?;
                let state = RecordState::InFlight {
                    fingerprint: claim.fingerprint,
                    lapses_in: LOCKED_FOR,
                };
                Ok(Claimed::Found(Record::new(token, attempt, state)))
            }
            other => Err(unreadable(format!("the procedure answered {other}"))),
        }
    }

    async fn renew(&self, lease: &Lease) -> Result<Ownership, StoreError> {
        let rows = self
            .calls
            .run(&self.calls.statements.renew, |call| {
                call.bind(&lease.claim.id.as_bytes()[..])
                    .bind(&lease.claim.nonce.as_bytes()[..])
                    .bind(micros(lease.claim.lease))
            })
            .await?;
        calls::tenure(&rows)
    }

    async fn complete(&self, lease: &Lease, outcome: &Outcome) -> Result<Ownership, StoreError> {
        let (answer, retention) = EncodedCompletion::of_outcome(outcome);
        let (answer, kept_for) = (answer.as_ref(), micros(retention));
        let rows = self
            .calls
            .run(&self.calls.statements.complete, |call| {
                call.bind(&lease.claim.id.as_bytes()[..])
                    .bind(&lease.claim.nonce.as_bytes()[..])
                    .bind(&lease.claim.fingerprint.as_bytes()[..])
                    .bind(lease.token.get())
                    .bind(lease.attempt)
                    .bind(if answer.is_some() {
                        state::COMPLETED
                    } else {
                        state::SEALED
                    })
                    .bind(kept_for)
                    .bind(answer.map(|answer| answer.status))
                    .bind(answer.map(|answer| answer.began_at))
                    .bind(answer.map(|answer| answer.completed_at))
                    .bind(answer.map(|answer| answer.length))
                    .bind(answer.map(|answer| &answer.checksum[..]))
                    .bind(answer.map(|answer| &answer.answer[..]))
            })
            .await?;
        calls::tenure(&rows)
    }

    async fn release(
        &self,
        id: &RecordId,
        nonce: &Nonce,
        how: Release,
    ) -> Result<Ownership, StoreError> {
        let rows = self
            .calls
            .run(&self.calls.statements.release, |call| {
                call.bind(&id.as_bytes()[..])
                    .bind(&nonce.as_bytes()[..])
                    .bind(how == Release::OutcomeUnknown)
            })
            .await?;
        calls::tenure(&rows)
    }

    async fn look_up(&self, id: &RecordId) -> Result<Option<Record>, StoreError> {
        let rows = self
            .calls
            .run(&self.calls.statements.look_up, |call| {
                call.bind(&id.as_bytes()[..])
            })
            .await?;
        rows.first().map(record).transpose()
    }

    async fn forget(&self, id: &RecordId, force: bool) -> Result<Forgotten, StoreError> {
        let rows = self
            .calls
            .run(&self.calls.statements.forget, |call| {
                call.bind(&id.as_bytes()[..]).bind(force)
            })
            .await?;
        let row = rows.first().ok_or_else(|| unreadable("no answer"))?;
        match outcome(row)? {
            0 => Ok(Forgotten::Absent),
            1 => Ok(Forgotten::Gone),
            2 => Ok(Forgotten::InFlight),
            _ => Err(unreadable_format(row)?),
        }
    }

    fn transactional(&self) -> Option<Transactional<'_>> {
        Some(Transactional::new(self))
    }
}
