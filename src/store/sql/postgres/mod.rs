//! Records in PostgreSQL.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::PgPool;

use self::database::Database;
use self::listening::Listening;
use self::meaning::meaning;
use self::row::{column, not_of_this_version, stored, tenure};
use super::{DEFAULT_TABLE, PURGE_INTERVAL, Purging, Table, reach};
use crate::record::{Nonce, RecordId};
use crate::store::encoding::EncodedCompletion;
use crate::store::row::micros;
use crate::store::{
    Claim, Claimed, Forgotten, Lease, OnLapsedLease, OnMismatch, Outcome, Ownership, Record,
    Release, Store, StoreError, Subscription, Transactional,
};

mod database;
mod listening;
mod meaning;
mod row;
mod schema;
mod transaction;
mod waiting;

pub(super) use transaction::gave_way;

/// A [`Store`] in a PostgreSQL database, by the application's own pool.
///
/// Each operation is one call of a function in the database, one round trip.
/// A replay writes nothing. A claim never waits behind a transaction that is
/// at work on its record. Who waits for a record is told by `NOTIFY`, and asks
/// now and then in case that was lost; the store opens one connection of its
/// own for that when somebody first waits.
///
/// [`migrate`](PostgresStoreBuilder::migrate) makes the tables and functions,
/// or `docs/sql/postgres.sql` does, the same text. `docs/stores.md` says what
/// survives what, what it costs, and which settings and rights it needs.
///
/// ```no_run
/// use sqlx::postgres::PgPoolOptions;
/// use tower_idempotency::{IdempotencyLayer, PostgresStore, scope};
///
/// # async fn start() -> Result<(), Box<dyn std::error::Error>> {
/// let pool = PgPoolOptions::new().connect("postgres://app@localhost/shop").await?;
/// let records = PostgresStore::builder(pool).table("shop.idempotency_records");
/// records.migrate().await?;
/// let idempotency = IdempotencyLayer::new(records.open().await?, scope::header("x-api-key")?);
/// # Ok(())
/// # }
/// ```
///
/// A clone is another handle on the same store. Its tasks (the purge, and the
/// one that listens) end with the last of them.
#[derive(Clone)]
pub struct PostgresStore {
    shared: Arc<Shared>,
}

struct Shared {
    database: Database,
    listening: Listening,
    _purging: Purging,
}

/// Options of a [`PostgresStore`].
#[derive(Clone)]
#[must_use]
pub struct PostgresStoreBuilder {
    pool: PgPool,
    table: String,
    purge_every: Duration,
}

impl PostgresStoreBuilder {
    /// The table's name, after `schema.` if need be: letters, digits and
    /// underscores. What else the store makes has it as prefix. Default:
    /// `idempotency_records`.
    pub fn table(mut self, name: impl Into<String>) -> Self {
        self.table = name.into();
        self
    }

    /// How often this process looks for records past their end. Default: once
    /// a minute.
    pub fn purge_every(mut self, interval: Duration) -> Self {
        self.purge_every = interval;
        self
    }

    /// Makes the tables and functions, as `docs/sql/postgres.sql` has them,
    /// unless they are there. Any number of processes can do so at once.
    ///
    /// # Errors
    /// [`Refused`](crate::store::StoreErrorKind::Refused) if the role may not,
    /// the schema is missing, the table is not of this crate or of a newer
    /// version. The source says which.
    pub async fn migrate(&self) -> Result<(), StoreError> {
        let table = Table::new(&self.table)?;
        reach(&self.pool, meaning).await?;
        schema::migrate(&self.pool, &table).await
    }

    /// The store. Starts the task that removes records past their end, so it
    /// has to be called inside a tokio runtime.
    ///
    /// # Errors
    /// [`NotSent`](crate::store::StoreErrorKind::NotSent) if the database
    /// can't be reached, [`Refused`](crate::store::StoreErrorKind::Refused) if
    /// tables, functions or rights are missing, are of another version, or the
    /// database is read-only. The source says what to do about it.
    pub async fn open(self) -> Result<PostgresStore, StoreError> {
        let table = Table::new(&self.table)?;
        reach(&self.pool, meaning).await?;
        schema::check(&self.pool, &table).await?;
        let listening = Listening::new(self.pool.clone(), &table);
        let database = Database::new(self.pool, &table);
        let purged = database.clone();
        let purging = Purging::every(self.purge_every, move || {
            let purged = purged.clone();
            async move { purged.purge().await }
        });
        Ok(PostgresStore {
            shared: Arc::new(Shared {
                database,
                listening,
                _purging: purging,
            }),
        })
    }
}

impl fmt::Debug for PostgresStoreBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresStoreBuilder")
            .field("table", &self.table)
            .field("purge_every", &self.purge_every)
            .finish_non_exhaustive()
    }
}

impl PostgresStore {
    /// On the table `idempotency_records`, which has to be there.
    ///
    /// # Errors
    /// As [`PostgresStoreBuilder::open`].
    pub async fn open(pool: PgPool) -> Result<Self, StoreError> {
        Self::builder(pool).open().await
    }

    /// With another table, or to [`migrate`](PostgresStoreBuilder::migrate)
    /// first.
    pub fn builder(pool: PgPool) -> PostgresStoreBuilder {
        PostgresStoreBuilder {
            pool,
            table: DEFAULT_TABLE.to_owned(),
            purge_every: PURGE_INTERVAL,
        }
    }

    /// Removes at most 500 records past their end, and says how many. The
    /// store does so by itself now and then.
    ///
    /// # Errors
    /// If the database can't be reached, or does not do it.
    pub async fn purge(&self) -> Result<u64, StoreError> {
        self.shared.database.purge().await
    }
}

/// Neither the pool nor its address: that may hold a password.
impl fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresStore").finish_non_exhaustive()
    }
}

impl Store for PostgresStore {
    async fn claim(&self, claim: &Claim) -> Result<Claimed, StoreError> {
        let database = &self.shared.database;
        let row = database
            .call(&database.statements.claim, |call| {
                call.bind(&claim.id.as_bytes()[..])
                    .bind(&claim.nonce.as_bytes()[..])
                    .bind(&claim.fingerprint.as_bytes()[..])
                    .bind(micros(claim.lease))
                    .bind(micros(claim.retention))
                    .bind(claim.on_lapsed_lease == OnLapsedLease::Refuse)
                    .bind(claim.by_hand)
                    .bind(claim.on_mismatch == OnMismatch::Replay)
            })
            .await?;
        let stored = stored(&row)?;
        if column(&row, "acquired")? {
            let lease = Lease::new(claim, stored.token()?, stored.attempt()?);
            return Ok(Claimed::Acquired(lease));
        }
        stored.record().map(Claimed::Found)
    }

    async fn renew(&self, lease: &Lease) -> Result<Ownership, StoreError> {
        let database = &self.shared.database;
        let row = database
            .call(&database.statements.renew, |call| {
                call.bind(&lease.claim.id.as_bytes()[..])
                    .bind(&lease.claim.nonce.as_bytes()[..])
                    .bind(micros(lease.claim.lease))
            })
            .await?;
        tenure(&row)
    }

    async fn complete(&self, lease: &Lease, outcome: &Outcome) -> Result<Ownership, StoreError> {
        let (answer, retention) = EncodedCompletion::of_outcome(outcome);
        let answer = answer.as_ref();
        let database = &self.shared.database;
        let row = database
            .call(&database.statements.complete, |call| {
                call.bind(&lease.claim.id.as_bytes()[..])
                    .bind(&lease.claim.nonce.as_bytes()[..])
                    .bind(lease.token.get().cast_signed())
                    .bind(lease.attempt.cast_signed())
                    .bind(&lease.claim.fingerprint.as_bytes()[..])
                    .bind(micros(lease.claim.retention))
                    .bind(micros(retention))
                    .bind(answer.map(|answer| answer.status.cast_signed()))
                    .bind(answer.map(|answer| within_reach(answer.began_at)))
                    .bind(answer.map(|answer| within_reach(answer.completed_at)))
                    .bind(answer.map(|answer| &answer.answer[..]))
                    .bind(answer.map(|answer| answer.length.cast_signed()))
                    .bind(answer.map(|answer| &answer.checksum[..]))
            })
            .await?;
        tenure(&row)
    }

    async fn release(
        &self,
        id: &RecordId,
        nonce: &Nonce,
        how: Release,
    ) -> Result<Ownership, StoreError> {
        let database = &self.shared.database;
        let row = database
            .call(&database.statements.release, |call| {
                call.bind(&id.as_bytes()[..])
                    .bind(&nonce.as_bytes()[..])
                    .bind(how == Release::OutcomeUnknown)
            })
            .await?;
        tenure(&row)
    }

    async fn look_up(&self, id: &RecordId) -> Result<Option<Record>, StoreError> {
        let database = &self.shared.database;
        let row = database
            .call_for_any(&database.statements.look_up, |call| {
                call.bind(&id.as_bytes()[..])
            })
            .await?;
        row.map(|row| stored(&row)?.record()).transpose()
    }

    async fn forget(&self, id: &RecordId, force: bool) -> Result<Forgotten, StoreError> {
        let database = &self.shared.database;
        let row = database
            .call(&database.statements.forget, |call| {
                call.bind(&id.as_bytes()[..]).bind(force)
            })
            .await?;
        match column::<Option<i16>>(&row, 0)? {
            Some(0) => Ok(Forgotten::Absent),
            Some(1) => Ok(Forgotten::Gone),
            Some(2) => Ok(Forgotten::InFlight),
            _ => Err(not_of_this_version()),
        }
    }

    async fn subscribe(&self, id: &RecordId) -> Result<Subscription, StoreError> {
        let Shared {
            database,
            listening,
            ..
        } = &*self.shared;
        Ok(listening.subscribe(id, database).await)
    }

    fn transactional(&self) -> Option<Transactional<'_>> {
        Some(Transactional::new(self))
    }
}

/// What is before 1684 or after 2255 is as good as then: floating point numbers
/// of the server tell microseconds apart within that.
fn within_reach(micros: i64) -> i64 {
    micros.clamp(-(1 << 53), 1 << 53)
}
