//! Records in PostgreSQL.

use std::sync::Arc;
use std::time::Duration;

use sqlx::Postgres;
use sqlx::error::DatabaseError;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgRow, PgSslMode};
use sqlx::{AssertSqlSafe, Row};

use self::database::{Call, Database, no_answer};
use self::listening::Notifications;
use self::meaning::{is_of_wrong_server, meaning};
use self::row::{column, not_of_this_version, ownership, steps, stored};
use self::sessions::Sessions;
use super::transaction::{ClaimedInside, CompletedInside, Engine, SqlRecords, TransactionFate};
use super::transport::{self, Mode, Transport, is_local_server};
use super::{CompleteRow, SqlStore, Table, bind, failed, reach};
use crate::record::{Nonce, RecordId};
use crate::store::encoding::EncodedCompletion;
use crate::store::notify::WakeUps;
use crate::store::row::{attempt_columns, micros, state, steps_unread, version_columns};
use crate::store::{
    Claim, Claimed, ForgetMode, Forgotten, Lease, ListQuery, OnLapsedLease, OnMismatch, Outcome,
    Ownership, POLL, Record, RecordPage, RecordedStep, Release, Store, StoreError, Subscription,
};

mod database;
mod listening;
mod meaning;
mod row;
mod schema;
mod sessions;

/// Records in a PostgreSQL database.
///
/// Each operation is one call of a function in the database, in one round trip.
/// A replay writes nothing. A claim never waits for a transaction that has
/// locked its record. `NOTIFY` wakes requests that wait for a record; in case a
/// notification is lost they also look at the record every second. The store
/// opens one connection of its own for this when the first request waits.
///
/// `docs/stores.md` lists the settings and rights that the store needs, what
/// they cost, and which failures its records survive. The text of `migrate` is
/// `docs/sql/postgres.sql`.
///
/// ```no_run
/// use sqlx::postgres::PgPoolOptions;
/// use tower_idempotency::{IdempotencyLayer, PostgresStore, scope};
///
/// # async fn start() -> Result<(), Box<dyn std::error::Error>> {
/// let pool = PgPoolOptions::new().connect("postgres://app@localhost/shop").await?;
/// let records = PostgresStore::builder(pool).table("shop.idempotency_records");
/// records.migrate().await?;
/// let idempotency = IdempotencyLayer::new(records.open().await?, scope::header("x-api-key"))?;
/// # Ok(())
/// # }
/// ```
pub type PostgresStore = SqlStore<Postgres>;

impl Engine for Postgres {
    type Records = PostgresRecords;

    const BEGIN: &'static str = "BEGIN";

    fn explained(error: sqlx::Error) -> StoreError {
        failed(error, meaning)
    }
}

impl Transport for Postgres {
    const VERIFIED: &'static str = "`sslmode=verify-full` (and `sslrootcert`)";

    fn mode(options: &PgConnectOptions) -> Mode {
        match options.get_ssl_mode() {
            PgSslMode::Disable | PgSslMode::Allow => Mode::Plain,
            PgSslMode::Prefer => Mode::Preferred,
            PgSslMode::Require => Mode::Required,
            PgSslMode::VerifyCa => Mode::OfCa,
            PgSslMode::VerifyFull => Mode::OfHost,
        }
    }

    fn with_mode(options: PgConnectOptions, mode: Mode) -> PgConnectOptions {
        options.ssl_mode(match mode {
            Mode::Plain => PgSslMode::Disable,
            Mode::Preferred => PgSslMode::Prefer,
            Mode::Required => PgSslMode::Require,
            Mode::OfCa => PgSslMode::VerifyCa,
            Mode::OfHost => PgSslMode::VerifyFull,
        })
    }

    fn is_local(options: &PgConnectOptions) -> bool {
        is_local_server(options.get_host(), options.get_socket().is_some())
    }
}

/// Whether a transaction that was rolled back may succeed if it is run again, because a concurrent
/// one was in its way or its connection led to the wrong server.
pub(super) fn may_succeed_again(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(DatabaseError::code);
    // The codes are a serialization failure, a deadlock and a lock timeout.
    code.is_some_and(|code| {
        matches!(&*code, "40001" | "40P01" | "55P03") || is_of_wrong_server(&code)
    })
}

#[expect(unnameable_types, reason = "of a trait that is sealed")]
#[expect(missing_debug_implementations, reason = "of a trait that is sealed")]
pub struct PostgresRecords {
    database: Database,
    /// None where no notification can arrive: waiters then look at the record every so often.
    wake_ups: Option<Arc<WakeUps<Notifications>>>,
}

impl SqlRecords<Postgres> for PostgresRecords {
    async fn migrate(pool: &PgPool, table: &Table) -> Result<(), StoreError> {
        reach(pool, meaning).await?;
        schema::migrate(pool, table).await
    }

    async fn open(pool: PgPool, table: &Table) -> Result<Self, StoreError> {
        reach(&pool, meaning).await?;
        transport::check(&pool).await;
        schema::check(&pool, table).await?;
        let sessions = Sessions::find(&pool).await;
        let database = Database::new(pool, sessions.clone(), table);
        let connections = database.connections.clone();
        let wake_ups = sessions
            .are_own()
            .then(|| WakeUps::new(Notifications::new(connections, sessions, table)));
        Ok(Self { database, wake_ups })
    }

    async fn purge(&self) -> Result<u64, StoreError> {
        self.database.purge().await
    }

    async fn claim_within<'a>(
        &'a self,
        transaction: &'a mut PgConnection,
        claim: &'a Claim,
    ) -> Result<ClaimedInside, sqlx::Error> {
        let statement = &self.database.statements.claim_within;
        let call = bind_claim(sqlx::query(AssertSqlSafe(Arc::clone(statement))), claim);
        let rows = self.within(transaction, call).await?;
        let Some(row) = rows.first() else {
            return Ok(ClaimedInside::InFlight);
        };
        if row.try_get("acquired")? {
            let stored = stored(row).map_err(|error| sqlx::Error::Decode(error.into()))?;
            let lease = stored
                .token()
                .and_then(|token| Ok(Lease::new(claim, token, stored.attempt()?)));
            let lease = lease.map_err(|error| sqlx::Error::Decode(error.into()))?;
            return Ok(ClaimedInside::Acquired(Box::new(lease)));
        }
        let is_alive = row.try_get::<i64, _>("lapses_in").unwrap_or_default() > 0;
        let is_in_flight = i64::from(row.try_get::<i16, _>("state")?) == state::IN_FLIGHT;
        Ok(if is_in_flight && is_alive {
            ClaimedInside::InFlight
        } else {
            ClaimedInside::Found
        })
    }

    async fn unclaim_within<'a>(
        &'a self,
        transaction: &'a mut PgConnection,
        lease: &'a Lease,
    ) -> Result<(), sqlx::Error> {
        let statement = &self.database.statements.unclaim_within;
        let call = sqlx::query(AssertSqlSafe(Arc::clone(statement)))
            .bind(&lease.claim.id.as_bytes()[..])
            .bind(&lease.claim.nonce.as_bytes()[..]);
        self.within(transaction, call).await.map(drop)
    }

    async fn complete_within<'a>(
        &'a self,
        transaction: &'a mut PgConnection,
        lease: &'a Lease,
        outcome: &'a Outcome,
    ) -> Result<CompletedInside, sqlx::Error> {
        let encoded = EncodedCompletion::of_outcome(outcome);
        let row = row_of(lease, &encoded);
        let statement = self.database.statements.complete_within.clone();
        let call = bind!(sqlx::query(AssertSqlSafe(statement)), row:
            id nonce kept_for status began_at completed_at answer answer_length answer_sha256);
        let rows = self.within(transaction, call).await?;
        let done = rows.first().ok_or(sqlx::Error::RowNotFound)?;
        Ok(match done.try_get::<i16, _>(0)? {
            1 => CompletedInside::Held,
            2 => CompletedInside::HeldAndAwaited,
            _ => CompletedInside::Lost,
        })
    }

    async fn record_step_within<'a>(
        &'a self,
        transaction: &'a mut PgConnection,
        lease: &'a Lease,
        step: &'a RecordedStep,
    ) -> Result<Ownership, sqlx::Error> {
        let statement = self.database.statements.record_step.clone();
        let sessions = &self.database.sessions;
        let call = sqlx::query(AssertSqlSafe(statement))
            .bind(&lease.claim.id.as_bytes()[..])
            .bind(&lease.claim.nonce.as_bytes()[..])
            .bind(step.name.as_bytes())
            .bind(&step.result[..])
            .persistent(sessions.may_prepare());
        let done = call.fetch_one(transaction).await;
        let done = done.inspect_err(|error| {
            sessions.prove_shared(error);
        })?;
        Ok(match done.try_get::<Option<bool>, _>(0)? {
            Some(true) => Ownership::Held,
            Some(false) | None => Ownership::Lost,
        })
    }

    async fn steps(&self, id: &RecordId) -> Result<Vec<RecordedStep>, StoreError> {
        let call = self
            .database
            .call(&self.database.statements.steps_of, |call| {
                call.bind(&id.as_bytes()[..])
            });
        Ok(steps(&call.await?)?.unwrap_or_default())
    }

    async fn fate(&self, lease: &Lease) -> Result<TransactionFate, StoreError> {
        let call = self.database.call(&self.database.statements.fate, |call| {
            call.bind(&lease.claim.id.as_bytes()[..])
                .bind(&lease.claim.nonce.as_bytes()[..])
        });
        let row = call.await?;
        match (column::<Option<i16>>(&row, 0)?, column(&row, 1)?) {
            (Some(state), Some(is_own)) => Ok(TransactionFate::of(state.into(), is_own)),
            _ if column(&row, 2)? => Ok(TransactionFate::UnderWay),
            _ => Ok(TransactionFate::Absent),
        }
    }

    async fn wake(&self, id: &RecordId) -> Result<(), StoreError> {
        let call = (self.database).call(&self.database.statements.changed, |call| {
            call.bind(&id.as_bytes()[..])
        });
        call.await.map(drop)
    }
}

impl PostgresRecords {
    /// Calls a function in a transaction of the handler's, and reads its rows to their end.
    async fn within(
        &self,
        transaction: &mut PgConnection,
        call: Call<'_>,
    ) -> Result<Vec<PgRow>, sqlx::Error> {
        let sessions = &self.database.sessions;
        let call = call.persistent(sessions.may_prepare());
        let rows = call.fetch_all(transaction).await;
        rows.inspect_err(|error| {
            sessions.prove_shared(error);
        })
    }
}

/// Binds what a claim says to the parameters of the function that claims.
fn bind_claim<'q>(call: Call<'q>, claim: &'q Claim) -> Call<'q> {
    call.bind(&claim.id.as_bytes()[..])
        .bind(&claim.nonce.as_bytes()[..])
        .bind(&claim.fingerprint.as_bytes()[..])
        .bind(micros(claim.lease))
        .bind(micros(claim.retention))
        .bind(claim.on_lapsed_lease == OnLapsedLease::Refuse)
        .bind(claim.by_hand.is_some())
        .bind(claim.on_mismatch == OnMismatch::Replay)
        .bind(&claim.scope.as_bytes()[..])
        .bind(claim.origin.kept_route().map(|route| &**route))
        .bind(claim.origin.trace.map(|trace| trace.to_string()))
}

/// The largest field of a row, in bytes, less what else is in a message.
const LARGEST_FIELD: usize = (1 << 30) - (64 << 10);

impl Store for PostgresRecords {
    fn largest_completion(&self) -> Option<usize> {
        Some(LARGEST_FIELD)
    }

    async fn claim(&self, claim: &Claim) -> Result<Claimed, StoreError> {
        let database = &self.database;
        let statement = match claim.by_hand {
            None => &database.statements.claim,
            Some(_) => &database.statements.claim_by_hand,
        };
        let row = database
            .call_for_any(statement, |call| {
                let call = bind_claim(call, claim);
                let Some(seen) = claim.by_hand else {
                    return call;
                };
                let [token, attempt] = attempt_columns(seen);
                call.bind(token).bind(attempt)
            })
            .await?;
        let Some(row) = row else {
            return match self.look_up(&claim.id).await? {
                Some(record) => Ok(Claimed::Found(record)),
                None => claim.found_nothing().ok_or_else(no_answer),
            };
        };
        let stored = stored(&row)?;
        if column(&row, "acquired")? {
            let lease = Lease::new(claim, stored.token()?, stored.attempt()?);
            let steps = match steps(&row)? {
                None if lease.attempt > 1 || stored.state != 0 => {
                    self.steps(&claim.id).await.map_err(steps_unread)?
                }
                steps => steps.unwrap_or_default(),
            };
            return Ok(Claimed::Acquired(lease.with_steps(steps)));
        }
        stored.record().map(Claimed::Found)
    }

    async fn renew(&self, lease: &Lease) -> Result<Ownership, StoreError> {
        let database = &self.database;
        let row = database
            .call(&database.statements.renew, |call| {
                call.bind(&lease.claim.id.as_bytes()[..])
                    .bind(&lease.claim.nonce.as_bytes()[..])
                    .bind(micros(lease.claim.lease))
            })
            .await?;
        ownership(&row)
    }

    async fn complete(&self, lease: &Lease, outcome: &Outcome) -> Result<Ownership, StoreError> {
        let encoded = EncodedCompletion::of_outcome(outcome);
        let row = row_of(lease, &encoded);
        let statement = &self.database.statements.complete;
        let call = self.database.call(statement, |call| {
            bind!(call, row: id nonce token attempt fingerprint retention kept_for
                status began_at completed_at answer answer_length answer_sha256
                scope route)
            .bind(row.trace_text())
        });
        ownership(&call.await?)
    }

    async fn release(
        &self,
        id: &RecordId,
        nonce: &Nonce,
        how: Release,
    ) -> Result<Ownership, StoreError> {
        let database = &self.database;
        let row = database
            .call(&database.statements.release, |call| {
                call.bind(&id.as_bytes()[..])
                    .bind(&nonce.as_bytes()[..])
                    .bind(how == Release::OutcomeUnknown)
            })
            .await?;
        ownership(&row)
    }

    async fn record_step(
        &self,
        lease: &Lease,
        step: &RecordedStep,
    ) -> Result<Ownership, StoreError> {
        let database = &self.database;
        let row = database
            .call(&database.statements.record_step, |call| {
                call.bind(&lease.claim.id.as_bytes()[..])
                    .bind(&lease.claim.nonce.as_bytes()[..])
                    .bind(step.name.as_bytes())
                    .bind(&step.result[..])
            })
            .await?;
        ownership(&row)
    }

    fn keeps_steps(&self) -> bool {
        true
    }

    async fn look_up(&self, id: &RecordId) -> Result<Option<Record>, StoreError> {
        let database = &self.database;
        let row = database
            .call_for_any(&database.statements.look_up, |call| {
                call.bind(&id.as_bytes()[..])
            })
            .await?;
        row.map(|row| stored(&row)?.record()).transpose()
    }

    async fn forget(&self, id: &RecordId, mode: ForgetMode) -> Result<Forgotten, StoreError> {
        let database = &self.database;
        let statement = match mode.version() {
            None => &database.statements.forget,
            Some(_) => &database.statements.forget_unchanged,
        };
        let row = database
            .call_for_any(statement, |call| {
                let call = call.bind(&id.as_bytes()[..]).bind(mode.is_forced());
                if mode.version().is_none() {
                    return call;
                }
                let [token, attempt, done] = version_columns(mode);
                call.bind(token).bind(attempt).bind(done)
            })
            .await?;
        let Some(row) = row else {
            return Ok(mode.refusal(self.look_up(id).await?.as_ref()));
        };
        match column::<Option<i16>>(&row, 0)? {
            Some(0) => Ok(Forgotten::Absent),
            Some(1) => Ok(Forgotten::Gone),
            Some(2) => Ok(Forgotten::InFlight),
            _ => Err(not_of_this_version()),
        }
    }

    async fn list(&self, query: &ListQuery) -> Result<RecordPage, StoreError> {
        self.database.list(query).await
    }

    async fn subscribe(&self, id: &RecordId) -> Result<Subscription, StoreError> {
        match &self.wake_ups {
            Some(wake_ups) => Ok(wake_ups.subscribe(id).await),
            None => Ok(Subscription::after(POLL)),
        }
    }
}

/// Returns the row of a completion. Its times are moved into the years 1684 to 2255, because only
/// there the server's floating point numbers have the precision of microseconds.
fn row_of<'a>(
    lease: &'a Lease,
    encoded: &'a (Option<EncodedCompletion>, Duration),
) -> CompleteRow<'a> {
    let mut row = CompleteRow::of(lease, encoded);
    for time in [&mut row.began_at, &mut row.completed_at] {
        *time = time.map(|micros| micros.clamp(-(1 << 53), 1 << 53));
    }
    row
}
