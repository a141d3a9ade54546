//! The operations of the store. Each is one statement that decides, or one
//! statement that only reads.

use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{Row, Sqlite, SqlitePool};
use tokio::sync::Mutex;

use super::super::transaction::{
    ClaimedInside, CompletedInside, Reservation, SqlRecords, TransactionFate,
};
use super::super::{CompleteRow, Table, bind, failed};
use super::connection::{Reader, Statement, clock};
use super::meaning::meaning;
use super::reserved::Reserved;
use super::row::{Found, listed};
use super::setup;
use super::statements::{self, Statements};
use super::wake_ups::WakeUps;
use crate::record::{FencingToken, Nonce, RecordId};
use crate::store::encoding::{EncodedCompletion, unreadable};
use crate::store::listed_row::{Order, Position, read};
use crate::store::row::{
    attempt_columns, micros, recorded_step, state, steps_unread, version_columns,
};
use crate::store::{
    Claim, Claimed, ForgetMode, Forgotten, Lease, ListQuery, OnLapsedLease, OnMismatch, Outcome,
    Ownership, Record, RecordPage, RecordState, RecordedStep, Release, Store, StoreError,
    StoreErrorKind, Subscription,
};

/// How often a claim reads a record again that changed between the claim's
/// reading it and taking it.
const CLAIM_ATTEMPTS: u32 = 16;

#[expect(unnameable_types, reason = "of a trait that is sealed")]
#[expect(missing_debug_implementations, reason = "of a trait that is sealed")]
pub struct SqliteRecords {
    pub(super) pool: SqlitePool,
    pub(super) table: Table,
    pub(super) statements: Statements,
    /// Locked by the task of this process that writes. Without this lock the tasks would compete
    /// for SQLite's lock, which is not fair, and some tasks would wait too long.
    pub(super) writing: Mutex<()>,
    pub(super) reader: Reader,
    wake_ups: WakeUps,
    reserved: Reserved,
    /// Whether the store was opened, so that the file was there and could be read.
    pub(super) is_open: bool,
}

impl SqliteRecords {
    fn new(pool: SqlitePool, table: Table) -> Self {
        Self {
            pool,
            statements: Statements::of(&table),
            table,
            writing: Mutex::default(),
            reader: Reader::default(),
            wake_ups: WakeUps::new(),
            reserved: Reserved::default(),
            is_open: false,
        }
    }
}

impl SqlRecords<Sqlite> for SqliteRecords {
    async fn migrate(pool: &SqlitePool, table: &Table) -> Result<(), StoreError> {
        setup::migrate(&Self::new(pool.clone(), table.clone())).await
    }

    async fn open(pool: SqlitePool, table: &Table) -> Result<Self, StoreError> {
        let mut records = Self::new(pool, table.clone());
        setup::check(&records).await?;
        records.is_open = true;
        Ok(records)
    }

    async fn purge(&self) -> Result<u64, StoreError> {
        let purge = self.run_in_turn(&self.statements.purge, |statement| statement);
        Ok(purge.await?.len() as u64)
    }

    fn reserve(&self, claim: &Claim) -> Option<Reservation> {
        self.reserved.reserve(claim).map(Reservation::new)
    }

    async fn claim_within<'a>(
        &'a self,
        transaction: &'a mut SqliteConnection,
        claim: &'a Claim,
    ) -> Result<ClaimedInside, sqlx::Error> {
        let decode = |error: StoreError| sqlx::Error::Decode(error.into());
        let now = clock();
        let statement = sqlx::query(self.statements.claim_absent.clone()).bind(now);
        let made = bind_claim(statement, claim)
            .execute(&mut *transaction)
            .await?;
        if made.rows_affected() == 1 {
            let lease = lease_with(claim, now, 1).map_err(decode)?;
            return Ok(ClaimedInside::Acquired(Box::new(lease)));
        }
        let statement = sqlx::query(self.statements.claim.clone()).bind(clock());
        let rows = bind_claim(statement, claim)
            .fetch_all(&mut *transaction)
            .await?;
        if let Some(row) = rows.first() {
            let lease = lease_of(row, claim).map_err(decode)?;
            return Ok(ClaimedInside::Acquired(Box::new(lease)));
        }
        let find = sqlx::query(self.statements.find.clone()).bind(clock());
        let find = find
            .bind(&claim.id.as_bytes()[..])
            .bind(&claim.nonce.as_bytes()[..]);
        let rows = find.fetch_all(transaction).await?;
        let found = rows.first().map(Found::read).transpose().map_err(decode)?;
        let record = found.map(Found::record).transpose();
        // What can't be read is found by the look-up too, which says so.
        Ok(match record.ok().flatten().map(|record| record.state) {
            Some(RecordState::InFlight { .. }) => ClaimedInside::InFlight,
            _ => ClaimedInside::Found,
        })
    }

    async fn unclaim_within<'a>(
        &'a self,
        transaction: &'a mut SqliteConnection,
        lease: &'a Lease,
    ) -> Result<(), sqlx::Error> {
        let (id, nonce) = (&lease.claim.id, &lease.claim.nonce);
        let statement = if lease.attempt == 1 {
            sqlx::query(self.statements.unclaim_within.clone())
                .bind(&id.as_bytes()[..])
                .bind(&nonce.as_bytes()[..])
        } else {
            sqlx::query(self.statements.release.clone())
                .bind(clock())
                .bind(&id.as_bytes()[..])
                .bind(&nonce.as_bytes()[..])
                .bind(state::RELEASED)
        };
        statement.execute(transaction).await.map(drop)
    }

    async fn complete_within<'a>(
        &'a self,
        transaction: &'a mut SqliteConnection,
        lease: &'a Lease,
        outcome: &'a Outcome,
    ) -> Result<CompletedInside, sqlx::Error> {
        let encoded = EncodedCompletion::of_outcome(outcome);
        let row = CompleteRow::of(lease, &encoded);
        let statement = sqlx::query(self.statements.complete_within.clone()).bind(clock());
        let statement = bind!(statement, row: id nonce state kept_for
            status began_at completed_at answer_length answer_sha256 answer);
        let written = statement.execute(transaction).await?;
        Ok(if written.rows_affected() == 0 {
            CompletedInside::Lost
        } else {
            // Waking the waiters of this process costs less than asking whether
            // there are any.
            CompletedInside::HeldAndAwaited
        })
    }

    async fn record_step_within<'a>(
        &'a self,
        transaction: &'a mut SqliteConnection,
        lease: &'a Lease,
        step: &'a RecordedStep,
    ) -> Result<Ownership, sqlx::Error> {
        let statement = sqlx::query(self.statements.record_step.clone()).bind(clock());
        let rows = bind_step(statement, lease, step).fetch_all(transaction);
        Ok(if rows.await?.is_empty() {
            Ownership::Lost
        } else {
            Ownership::Held
        })
    }

    async fn steps(&self, id: &RecordId) -> Result<Vec<RecordedStep>, StoreError> {
        let rows = self.run(&self.statements.steps, |statement| {
            statement.bind(&id.as_bytes()[..])
        });
        let rows = rows.await?;
        let steps = rows.iter().map(|row| {
            let column = |name| row.try_get(name).map_err(|error| failed(error, meaning));
            recorded_step(column("name")?, column("result")?)
        });
        steps.collect()
    }

    async fn fate(&self, lease: &Lease) -> Result<TransactionFate, StoreError> {
        let written = self.run_in_turn(&self.statements.fate, |statement| {
            statement
                .bind(&lease.claim.id.as_bytes()[..])
                .bind(&lease.claim.nonce.as_bytes()[..])
        });
        let rows = match written.await {
            Ok(rows) => rows,
            Err(error) if error.kind() == StoreErrorKind::Contention => {
                return Ok(TransactionFate::UnderWay);
            }
            Err(error) => return Err(error),
        };
        let Some(row) = rows.first() else {
            return Ok(TransactionFate::Absent);
        };
        let (state, is_own): (i64, bool) = (|| Ok((row.try_get(0)?, row.try_get(1)?)))()
            .map_err(|error| failed(error, meaning))?;
        Ok(TransactionFate::of(state, is_own))
    }

    async fn wake(&self, id: &RecordId) -> Result<(), StoreError> {
        self.wake_ups.wake(id);
        Ok(())
    }
}

/// `SQLITE_MAX_LENGTH`, the most bytes of a row, unless SQLite was compiled with another number.
const LARGEST_ROW: usize = 1_000_000_000;

impl Store for SqliteRecords {
    fn largest_completion(&self) -> Option<usize> {
        Some(LARGEST_ROW)
    }

    /// Reads first: a claim that finds a record then neither writes nor waits
    /// for another writer.
    async fn claim(&self, claim: &Claim) -> Result<Claimed, StoreError> {
        for _ in 0..CLAIM_ATTEMPTS {
            let found = self.find(&claim.id, &claim.nonce).await?;
            if let Some(found) = found.filter(|found| !found.is_over()) {
                let is_held = found.is_held();
                let record = found.record()?;
                let takes = match &record.state {
                    RecordState::Released => claim.by_hand.is_none(),
                    RecordState::InFlight { .. } => is_held,
                    RecordState::Lapsed { fingerprint } => {
                        is_held || claim.takes_over(record.version(), fingerprint)
                    }
                    _ => false,
                };
                if !takes {
                    return Ok(Claimed::Found(record));
                }
            } else if let Some(nothing) = claim.found_nothing() {
                return Ok(nothing);
            }
            if let Some(lease) = self.take(claim).await? {
                return Ok(Claimed::Acquired(lease));
            }
            // Another claim changed the record between the read and the write.
        }
        let why = "the record changed each time it was about to be claimed";
        Err(StoreError::new(StoreErrorKind::Contention, why))
    }

    async fn renew(&self, lease: &Lease) -> Result<Ownership, StoreError> {
        let claim = &lease.claim;
        let rows = self
            .run_in_turn(&self.statements.renew, |statement| {
                statement
                    .bind(&claim.id.as_bytes()[..])
                    .bind(&claim.nonce.as_bytes()[..])
                    .bind(micros(claim.lease))
                    .bind(micros(claim.retention))
            })
            .await?;
        self.held_or(!rows.is_empty(), &claim.id, &claim.nonce)
            .await
    }

    async fn complete(&self, lease: &Lease, outcome: &Outcome) -> Result<Ownership, StoreError> {
        let encoded = EncodedCompletion::of_outcome(outcome);
        let row = CompleteRow::of(lease, &encoded);
        let rows = self
            .run_in_turn(&self.statements.complete, |statement| {
                bind!(statement, row: id nonce token attempt fingerprint retention state kept_for
                    status began_at completed_at answer_length answer_sha256 answer
                    scope route)
                .bind(row.trace_text())
            })
            .await?;
        let Claim { id, nonce, .. } = &lease.claim;
        if !rows.is_empty() {
            self.wake_ups.wake(id);
        }
        self.held_or(!rows.is_empty(), id, nonce).await
    }

    async fn release(
        &self,
        id: &RecordId,
        nonce: &Nonce,
        how: Release,
    ) -> Result<Ownership, StoreError> {
        let state = match how {
            Release::MayRunAgain => state::RELEASED,
            Release::OutcomeUnknown => state::UNKNOWN,
        };
        let rows = self
            .run_in_turn(&self.statements.release, |statement| {
                statement
                    .bind(&id.as_bytes()[..])
                    .bind(&nonce.as_bytes()[..])
                    .bind(state)
            })
            .await?;
        if rows.is_empty() {
            self.is_readable(id).await?;
            return Ok(Ownership::Lost);
        }
        self.wake_ups.wake(id);
        Ok(Ownership::Held)
    }

    async fn record_step(
        &self,
        lease: &Lease,
        step: &RecordedStep,
    ) -> Result<Ownership, StoreError> {
        let rows = self.run_in_turn(&self.statements.record_step, |statement| {
            bind_step(statement, lease, step)
        });
        if rows.await?.is_empty() {
            self.is_readable(&lease.claim.id).await?;
            return Ok(Ownership::Lost);
        }
        Ok(Ownership::Held)
    }

    fn keeps_steps(&self) -> bool {
        true
    }

    async fn look_up(&self, id: &RecordId) -> Result<Option<Record>, StoreError> {
        let found = self.find(id, &Nonce::from_bytes([0; 16])).await?;
        let found = found.filter(|found| !found.is_over());
        found.map(Found::record).transpose()
    }

    async fn forget(&self, id: &RecordId, mode: ForgetMode) -> Result<Forgotten, StoreError> {
        let rows = self
            .run_in_turn(&self.statements.forget, |statement| {
                let [token, attempt, done] = version_columns(mode);
                statement
                    .bind(&id.as_bytes()[..])
                    .bind(mode.is_forced())
                    .bind(token)
                    .bind(attempt)
                    .bind(done)
            })
            .await?;
        if let Some(row) = rows.first() {
            let was_over: bool = row
                .try_get("over")
                .map_err(|error| failed(error, meaning))?;
            if was_over {
                return Ok(Forgotten::Absent);
            }
            self.wake_ups.wake(id);
            return Ok(Forgotten::Gone);
        }
        // The statement did not remove the record, because it was in flight with a live lease, of
        // another version, absent, or of a format that can't be read. The record is still so, or
        // another process has claimed it.
        Ok(mode.refusal(self.look_up(id).await?.as_ref()))
    }

    async fn list(&self, query: &ListQuery) -> Result<RecordPage, StoreError> {
        let order = Order::of(query);
        let Position { token, id } = Position::of(query)?;
        let statement = statements::list(&self.table, order, read(query));
        let rows = self.run(&statement, |statement| {
            let scope = query.scope.map(|scope| scope.as_bytes().to_vec());
            statement.bind(id.to_vec()).bind(token).bind(scope)
        });
        let rows = rows.await?;
        let failed = |error| failed(error, meaning);
        let now = rows.first().map(|row| row.try_get("now")).transpose();
        let now = now.map_err(failed)?.unwrap_or(0);
        let listed = rows
            .iter()
            .map(|row| listed(row, now))
            .collect::<Result<_, _>>();
        Ok(order.page(query, listed.map_err(failed)?, now))
    }

    async fn subscribe(&self, id: &RecordId) -> Result<Subscription, StoreError> {
        Ok(self.wake_ups.subscribe(id))
    }
}

impl SqliteRecords {
    async fn take(&self, claim: &Claim) -> Result<Option<Lease>, StoreError> {
        let statement = match claim.by_hand {
            None => &self.statements.claim,
            Some(_) => &self.statements.claim_by_hand,
        };
        let rows = self
            .run_in_turn(statement, |statement| {
                let statement = bind_claim(statement, claim);
                let Some(seen) = claim.by_hand else {
                    return statement;
                };
                let [token, attempt] = attempt_columns(seen);
                statement.bind(token).bind(attempt)
            })
            .await?;
        let Some(row) = rows.first() else {
            return Ok(None);
        };
        let lease = lease_of(row, claim)?;
        let has_steps = row.try_get::<i64, _>("has_steps");
        if has_steps.map_err(|error| failed(error, meaning))? == 0 {
            return Ok(Some(lease));
        }
        // The record is this claim's own by now: nobody else changes its steps.
        let steps = self.steps(&claim.id).await.map_err(steps_unread)?;
        Ok(Some(lease.with_steps(steps)))
    }

    /// The result of a renewal or a completion, also of one that changed
    /// nothing.
    ///
    /// If the record was completed by this nonce, that does not change any
    /// more: `Held`. Otherwise the nonce had lost the record when the statement
    /// ran, whatever the record is now.
    async fn held_or(
        &self,
        changed: bool,
        id: &RecordId,
        nonce: &Nonce,
    ) -> Result<Ownership, StoreError> {
        if changed {
            return Ok(Ownership::Held);
        }
        let Some(found) = self.find(id, nonce).await? else {
            return Ok(Ownership::Lost);
        };
        let is_done = found.is_done() && !found.is_over();
        found.record()?;
        Ok(if is_done {
            Ownership::Held
        } else {
            Ownership::Lost
        })
    }

    /// Whether there is a record, expired or not.
    ///
    /// # Errors
    /// If there is a record that this version can't read.
    async fn is_readable(&self, id: &RecordId) -> Result<bool, StoreError> {
        let found = self.find(id, &Nonce::from_bytes([0; 16])).await?;
        Ok(found.map(Found::record).transpose()?.is_some())
    }

    async fn find(&self, id: &RecordId, nonce: &Nonce) -> Result<Option<Found>, StoreError> {
        let rows = self.read(&self.statements.find, |statement| {
            statement
                .bind(&id.as_bytes()[..])
                .bind(&nonce.as_bytes()[..])
        });
        rows.await?.first().map(Found::read).transpose()
    }
}

fn bind_step<'q>(
    statement: Statement<'q>,
    lease: &'q Lease,
    step: &'q RecordedStep,
) -> Statement<'q> {
    statement
        .bind(&lease.claim.id.as_bytes()[..])
        .bind(&lease.claim.nonce.as_bytes()[..])
        .bind(&*step.name)
        .bind(&step.result[..])
}

/// Binds what a claim says to the parameters of the statement that claims.
fn bind_claim<'q>(statement: Statement<'q>, claim: &'q Claim) -> Statement<'q> {
    statement
        .bind(&claim.id.as_bytes()[..])
        .bind(&claim.nonce.as_bytes()[..])
        .bind(&claim.fingerprint.as_bytes()[..])
        .bind(micros(claim.lease))
        .bind(micros(claim.retention))
        .bind(claim.on_lapsed_lease == OnLapsedLease::Refuse)
        .bind(&claim.scope.as_bytes()[..])
        .bind(claim.origin.kept_route().map(|route| &**route))
        .bind(claim.origin.trace.map(|trace| trace.to_string()))
        .bind(claim.by_hand.is_some() || claim.on_lapsed_lease == OnLapsedLease::Rerun)
        .bind(claim.on_mismatch == OnMismatch::Replay)
}

/// The lease of a claim that acquired its record.
fn lease_of(row: &SqliteRow, claim: &Claim) -> Result<Lease, StoreError> {
    let number = |column| {
        row.try_get::<i64, _>(column)
            .map_err(|error| failed(error, meaning))
    };
    lease_with(claim, number("token")?, number("attempt")?)
}

fn lease_with(claim: &Claim, token: i64, attempt: i64) -> Result<Lease, StoreError> {
    let token = u64::try_from(token).ok().and_then(FencingToken::new);
    match (token, u64::try_from(attempt)) {
        (Some(token), Ok(attempt)) => Ok(Lease::new(claim, token, attempt)),
        _ => Err(unreadable("its tokens or attempts are used up")),
    }
}
