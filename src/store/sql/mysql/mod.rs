//! Records in MySQL and MariaDB.

use std::time::Duration;

use sqlx::mysql::{MySqlArguments, MySqlConnectOptions, MySqlConnection, MySqlSslMode};
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, MySql, MySqlPool, Row};

use self::calls::{
    Calls, column, listed, outcome, ownership, record, steps, token_and_attempt, unreadable_format,
};
use self::errors::meaning;
use self::settings::Settings;
use super::transaction::{ClaimedInside, CompletedInside, Engine, SqlRecords, TransactionFate};
use super::transport::{self, Mode, Transport, is_local_server};
use super::{CompleteRow, PURGE_BATCH, SqlStore, Table, bind, failed, reach};
use crate::record::{Nonce, RecordId};
use crate::store::encoding::{EncodedCompletion, unreadable};
use crate::store::listed_row::{Order, Position, read};
use crate::store::row::{attempt_columns, micros, version_columns};
use crate::store::{
    Claim, Claimed, ForgetMode, Forgotten, Lease, ListQuery, OnLapsedLease, OnMismatch, Outcome,
    Ownership, Record, RecordPage, RecordState, RecordVersion, RecordedStep, Release, Store,
    StoreError,
};

mod calls;
mod checks;
mod errors;
mod migration;
mod settings;
mod within;

pub(super) use errors::may_succeed_again;

/// The time until the lease lapses that a claim returns for a record whose row
/// another transaction has locked: the record is in flight, and its real time is
/// unknown. Waiters look at the record more often than this.
const LOCKED_FOR: Duration = Duration::from_secs(1);

/// Records in a MySQL or MariaDB database.
///
/// [`migrate`](super::SqlStoreBuilder::migrate), or `docs/sql/mysql.sql`, makes a
/// table of records, a table of renewals, and a stored procedure for each
/// operation, so that an operation is one round trip and one transaction. The
/// user needs the rights `CREATE`, `INDEX` and `CREATE ROUTINE` for that, and
/// `ALTER ROUTINE` for procedures that another user made. `docs/stores.md` has
/// the columns, what the server must offer, and which failures the records
/// survive.
///
/// Responses larger than the server's `max_allowed_packet` are not kept: their records are sealed.
///
/// ```no_run
/// use sqlx::MySqlPool;
/// use tower_idempotency::{IdempotencyLayer, MySqlStore, scope};
///
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// let pool = MySqlPool::connect("mysql://app:secret@localhost/shop").await?;
/// MySqlStore::builder(pool.clone()).migrate().await?;
/// let store = MySqlStore::open(pool).await?;
/// let idempotency = IdempotencyLayer::new(store, scope::header("x-api-key"))?;
/// # Ok(())
/// # }
/// ```
pub type MySqlStore = SqlStore<MySql>;

impl Engine for MySql {
    type Records = MySqlRecords;

    const BEGIN: &'static str = "BEGIN";

    fn explained(error: sqlx::Error) -> StoreError {
        failed(error, meaning)
    }
}

impl Transport for MySql {
    const VERIFIED: &'static str = "`ssl-mode=VERIFY_IDENTITY` (and `ssl-ca`)";

    fn mode(options: &MySqlConnectOptions) -> Mode {
        match options.get_ssl_mode() {
            MySqlSslMode::Disabled => Mode::Plain,
            MySqlSslMode::Preferred => Mode::Preferred,
            MySqlSslMode::Required => Mode::Required,
            MySqlSslMode::VerifyCa => Mode::OfCa,
            MySqlSslMode::VerifyIdentity => Mode::OfHost,
        }
    }

    fn with_mode(options: MySqlConnectOptions, mode: Mode) -> MySqlConnectOptions {
        options.ssl_mode(match mode {
            Mode::Plain => MySqlSslMode::Disabled,
            Mode::Preferred => MySqlSslMode::Preferred,
            Mode::Required => MySqlSslMode::Required,
            Mode::OfCa => MySqlSslMode::VerifyCa,
            Mode::OfHost => MySqlSslMode::VerifyIdentity,
        })
    }

    fn is_local(options: &MySqlConnectOptions) -> bool {
        is_local_server(options.get_host(), options.get_socket().is_some())
    }
}

#[expect(unnameable_types, reason = "of a trait that is sealed")]
#[expect(missing_debug_implementations, reason = "of a trait that is sealed")]
pub struct MySqlRecords(Calls, Settings);

impl SqlRecords<MySql> for MySqlRecords {
    async fn migrate(pool: &MySqlPool, table: &Table) -> Result<(), StoreError> {
        reach(pool, meaning).await?;
        migration::migrate(pool, table).await
    }

    async fn open(pool: MySqlPool, table: &Table) -> Result<Self, StoreError> {
        reach(&pool, meaning).await?;
        transport::check(&pool).await;
        let settings = checks::check(&pool, table).await?;
        Ok(Self(Calls::new(pool, table), settings))
    }

    fn loses_commits(&self) -> Option<&'static str> {
        self.1.loses_commits
    }

    async fn purge(&self) -> Result<u64, StoreError> {
        let purge = self
            .0
            .row(&self.0.statements.purge, |call| call.bind(PURGE_BATCH));
        let removed: i64 = column(&purge.await?, "removed")?;
        u64::try_from(removed).map_err(unreadable)
    }

    fn claims_nothing_within(&self) -> Option<&'static str> {
        let why = "MySQL has no statement that inserts a row without waiting for the transaction of \
                   another one: use MariaDB, PostgreSQL or SQLite, or `committed`";
        (!self.1.is_mariadb).then_some(why)
    }

    async fn claim_within<'a>(
        &'a self,
        transaction: &'a mut MySqlConnection,
        claim: &'a Claim,
    ) -> Result<ClaimedInside, sqlx::Error> {
        self.0.statements.within.claim(transaction, claim).await
    }

    async fn unclaim_within<'a>(
        &'a self,
        transaction: &'a mut MySqlConnection,
        lease: &'a Lease,
    ) -> Result<(), sqlx::Error> {
        self.0.statements.within.unclaim(transaction, lease).await
    }

    async fn complete_within<'a>(
        &'a self,
        transaction: &'a mut MySqlConnection,
        lease: &'a Lease,
        outcome: &'a Outcome,
    ) -> Result<CompletedInside, sqlx::Error> {
        let encoded = EncodedCompletion::of_outcome(outcome);
        let row = CompleteRow::of(lease, &encoded);
        let statement = self.0.statements.complete_within.clone();
        let call = bind!(sqlx::query(AssertSqlSafe(statement)), row:
            id nonce state kept_for status began_at completed_at
            answer_length answer_sha256 answer);
        // Fetches all rows, because an error at the end of the procedure arrives after its row.
        let rows = call.fetch_all(transaction).await?;
        let row = rows.first().ok_or(sqlx::Error::RowNotFound)?;
        Ok(match row.try_get::<i64, _>("outcome")? {
            1 => CompletedInside::Held,
            _ => CompletedInside::Lost,
        })
    }

    async fn record_step_within<'a>(
        &'a self,
        transaction: &'a mut MySqlConnection,
        lease: &'a Lease,
        step: &'a RecordedStep,
    ) -> Result<Ownership, sqlx::Error> {
        let statement = self.0.statements.record_step.clone();
        let call = bind_step(sqlx::query(AssertSqlSafe(statement)), lease, step).bind(true);
        let rows = call.fetch_all(transaction).await?;
        let row = rows.first().ok_or(sqlx::Error::RowNotFound)?;
        Ok(match row.try_get::<i64, _>("outcome")? {
            1 => Ownership::Held,
            _ => Ownership::Lost,
        })
    }

    async fn steps(&self, id: &RecordId) -> Result<Vec<RecordedStep>, StoreError> {
        let rows = self.0.rows(&self.0.statements.steps, |call| {
            call.bind(&id.as_bytes()[..])
        });
        steps(&rows.await?)
    }

    async fn fate(&self, lease: &Lease) -> Result<TransactionFate, StoreError> {
        let call = self.0.row(&self.0.statements.fate, |call| {
            call.bind(&lease.claim.id.as_bytes()[..])
                .bind(&lease.claim.nonce.as_bytes()[..])
        });
        let row = call.await?;
        match (column::<Option<i64>>(&row, "state")?, column(&row, "own")?) {
            (Some(state), Some(is_own)) => Ok(TransactionFate::of(state, is_own)),
            _ if column(&row, "there")? => Ok(TransactionFate::UnderWay),
            _ => Ok(TransactionFate::Absent),
        }
    }
}

impl Store for MySqlRecords {
    fn largest_completion(&self) -> Option<usize> {
        Some(self.1.largest_packet)
    }

    async fn claim(&self, claim: &Claim) -> Result<Claimed, StoreError> {
        if let Some(seen) = claim.by_hand {
            return self.claim_by_hand(claim, seen).await;
        }
        let stays = claim.on_lapsed_lease == OnLapsedLease::Refuse;
        let any_fingerprint = claim.on_mismatch == OnMismatch::Replay;
        let rows = self
            .0
            .rows(&self.0.statements.claim, |call| {
                call.bind(&claim.id.as_bytes()[..])
                    .bind(&claim.nonce.as_bytes()[..])
                    .bind(&claim.fingerprint.as_bytes()[..])
                    .bind(micros(claim.lease))
                    .bind(micros(claim.retention))
                    .bind(stays)
                    .bind(!stays)
                    .bind(any_fingerprint)
                    .bind(&claim.scope.as_bytes()[..])
                    .bind(claim.origin.kept_route().map(|route| route.as_bytes()))
                    .bind(trace_of(claim))
            })
            .await?;
        let row = rows.first().ok_or_else(|| unreadable("no answer"))?;
        match outcome(row)? {
            0 => record(row).map(Claimed::Found),
            1 => {
                let (token, attempt) = token_and_attempt(row)?;
                let lease = Lease::new(claim, token, attempt);
                Ok(Claimed::Acquired(lease.with_steps(steps(&rows)?)))
            }
            // The fingerprint that the other transaction writes is not known yet, so the record
            // gets the claim's own fingerprint. With any other one the layer would reject the
            // request with `key-reused`, and the client would never retry.
            2 => {
                let (token, attempt) = token_and_attempt(row)?;
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
        let row = self
            .0
            .row(&self.0.statements.renew, |call| {
                call.bind(&lease.claim.id.as_bytes()[..])
                    .bind(&lease.claim.nonce.as_bytes()[..])
                    .bind(micros(lease.claim.lease))
            })
            .await?;
        ownership(&row)
    }

    async fn complete(&self, lease: &Lease, outcome: &Outcome) -> Result<Ownership, StoreError> {
        let encoded = EncodedCompletion::of_outcome(outcome);
        let row = CompleteRow::of(lease, &encoded);
        let call = self.0.row(&self.0.statements.complete, |call| {
            bind!(call, row: id nonce fingerprint token attempt state kept_for
                status began_at completed_at answer_length answer_sha256 answer
                scope)
            .bind(row.route.map(str::as_bytes))
            .bind(row.trace_text().map(String::into_bytes))
        });
        ownership(&call.await?)
    }

    async fn release(
        &self,
        id: &RecordId,
        nonce: &Nonce,
        how: Release,
    ) -> Result<Ownership, StoreError> {
        let row = self
            .0
            .row(&self.0.statements.release, |call| {
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
        let row = self
            .0
            .row(&self.0.statements.record_step, |call| {
                bind_step(call, lease, step).bind(false)
            })
            .await?;
        ownership(&row)
    }

    fn keeps_steps(&self) -> bool {
        true
    }

    async fn look_up(&self, id: &RecordId) -> Result<Option<Record>, StoreError> {
        let rows = self
            .0
            .rows(&self.0.statements.look_up, |call| {
                call.bind(&id.as_bytes()[..])
            })
            .await?;
        rows.first().map(record).transpose()
    }

    async fn forget(&self, id: &RecordId, mode: ForgetMode) -> Result<Forgotten, StoreError> {
        let row = self
            .0
            .row(&self.0.statements.forget, |call| {
                let [token, attempt, done] = version_columns(mode);
                call.bind(&id.as_bytes()[..])
                    .bind(mode.is_forced())
                    .bind(token)
                    .bind(attempt)
                    .bind(done)
            })
            .await?;
        match outcome(&row)? {
            0 => Ok(Forgotten::Absent),
            1 => Ok(Forgotten::Gone),
            2 => Ok(Forgotten::InFlight),
            4 => Ok(Forgotten::Moved),
            _ => Err(unreadable_format(&row)?),
        }
    }

    async fn list(&self, query: &ListQuery) -> Result<RecordPage, StoreError> {
        let order = Order::of(query);
        let Position { token, id } = Position::of(query)?;
        let (by, state) = match order {
            Order::Id => (0, 0),
            Order::State(state) => (1, state),
            Order::Scope => (2, 0),
        };
        let rows = self
            .0
            .rows(&self.0.statements.list, |call| {
                call.bind(by)
                    .bind(state)
                    .bind(query.scope.map(|scope| scope.as_bytes().to_vec()))
                    .bind(token)
                    .bind(id.to_vec())
                    .bind(read(query))
            })
            .await?;
        let rows = rows.iter().map(listed).collect::<Result<Vec<_>, _>>()?;
        let now = rows.first().map_or(0, |(_, now)| *now);
        let rows = rows.into_iter().map(|(row, _)| row).collect();
        Ok(order.page(query, rows, now))
    }
}

impl MySqlRecords {
    async fn claim_by_hand(
        &self,
        claim: &Claim,
        seen: RecordVersion,
    ) -> Result<Claimed, StoreError> {
        let call = self.0.rows(&self.0.statements.claim_by_hand, |call| {
            let [token, attempt] = attempt_columns(seen);
            call.bind(&claim.id.as_bytes()[..])
                .bind(&claim.nonce.as_bytes()[..])
                .bind(&claim.fingerprint.as_bytes()[..])
                .bind(micros(claim.lease))
                .bind(micros(claim.retention))
                .bind(claim.on_lapsed_lease == OnLapsedLease::Refuse)
                .bind(claim.on_mismatch == OnMismatch::Replay)
                .bind(&claim.scope.as_bytes()[..])
                .bind(claim.origin.kept_route().map(|route| route.as_bytes()))
                .bind(trace_of(claim))
                .bind(token)
                .bind(attempt)
        });
        let rows = call.await?;
        let row = rows.first().ok_or_else(|| unreadable("no answer"))?;
        if outcome(row)? == 1 {
            let (token, attempt) = token_and_attempt(row)?;
            let lease = Lease::new(claim, token, attempt);
            return Ok(Claimed::Acquired(lease.with_steps(steps(&rows)?)));
        }
        let found = self.look_up(&claim.id).await?.map(Claimed::Found);
        let found = found.or_else(|| claim.found_nothing());
        found.ok_or_else(|| unreadable("no answer"))
    }
}

fn trace_of(claim: &Claim) -> Option<Vec<u8>> {
    let trace = claim.origin.trace?;
    Some(trace.to_string().into_bytes())
}

fn bind_step<'q>(
    call: Query<'q, MySql, MySqlArguments>,
    lease: &'q Lease,
    step: &'q RecordedStep,
) -> Query<'q, MySql, MySqlArguments> {
    call.bind(&lease.claim.id.as_bytes()[..])
        .bind(&lease.claim.nonce.as_bytes()[..])
        .bind(step.name.as_bytes())
        .bind(&step.result[..])
}
