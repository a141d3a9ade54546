//! The operations of the store. Each is one statement that decides, or one
//! that only looks.

use sqlx::{Row, SqlitePool};
use tokio::sync::Mutex;

use super::super::{Table, failed};
use super::meaning::meaning;
use super::row::Found;
use super::statements::Statements;
use super::wake_ups::WakeUps;
use crate::record::{FencingToken, Nonce, RecordId};
use crate::store::OnMismatch;
use crate::store::encoding::{EncodedCompletion, unreadable};
use crate::store::row::{micros, state};
use crate::store::{
    Claim, Claimed, Forgotten, Lease, OnLapsedLease, Outcome, Ownership, Record, RecordState,
    Release, StoreError, StoreErrorKind,
};

/// How often a claim looks again at a record that changed while it was about
/// to take it.
const CLAIM_ATTEMPTS: u32 = 16;

pub(super) struct Records {
    pub(super) pool: SqlitePool,
    pub(super) table: Table,
    pub(super) statements: Statements,
    /// Whose turn it is to write, of this process.
    pub(super) writing: Mutex<()>,
    pub(super) wake_ups: WakeUps,
}

impl Records {
    pub(super) fn new(pool: SqlitePool, table: Table) -> Self {
        Self {
            pool,
            statements: Statements::of(&table),
            table,
            writing: Mutex::default(),
            wake_ups: WakeUps::new(),
        }
    }

    /// Looks first: most claims that find something find it so, and neither
    /// write nor wait for who writes.
    pub(super) async fn claim(&self, claim: &Claim) -> Result<Claimed, StoreError> {
        for _ in 0..CLAIM_ATTEMPTS {
            if let Some(found) = self.find(&claim.id, &claim.nonce).await?
                && !found.is_over()
            {
                let is_held = found.is_held();
                let record = found.record()?;
                let takes = match &record.state {
                    RecordState::Released => true,
                    RecordState::InFlight { .. } => is_held,
                    RecordState::Lapsed { fingerprint } => is_held || claim.takes_over(fingerprint),
                    _ => false,
                };
                if !takes {
                    return Ok(Claimed::Found(record));
                }
            }
            if let Some(lease) = self.take(claim).await? {
                return Ok(Claimed::Acquired(lease));
            }
            // Somebody was faster.
        }
        let why = "the record changed each time it was about to be claimed";
        Err(StoreError::new(StoreErrorKind::Contention, why))
    }

    async fn take(&self, claim: &Claim) -> Result<Option<Lease>, StoreError> {
        let stays = claim.on_lapsed_lease == OnLapsedLease::Refuse;
        let takes_lapsed = claim.by_hand || claim.on_lapsed_lease == OnLapsedLease::Rerun;
        let of_any_fingerprint = claim.on_mismatch == OnMismatch::Replay;
        let rows = self
            .write(&self.statements.claim, |statement| {
                statement
                    .bind(claim.id.as_bytes().to_vec())
                    .bind(claim.nonce.as_bytes().to_vec())
                    .bind(claim.fingerprint.as_bytes().to_vec())
                    .bind(micros(claim.lease))
                    .bind(micros(claim.retention))
                    .bind(stays)
                    .bind(takes_lapsed)
                    .bind(of_any_fingerprint)
            })
            .await?;
        let Some(row) = rows.first() else {
            return Ok(None);
        };
        let number = |column| {
            row.try_get::<i64, _>(column)
                .map_err(|error| failed(error, meaning))
        };
        let (token, attempt) = (number("token")?, number("attempt")?);
        let token = u64::try_from(token).ok().and_then(FencingToken::new);
        match (token, u64::try_from(attempt)) {
            (Some(token), Ok(attempt)) => Ok(Some(Lease::new(claim, token, attempt))),
            _ => Err(unreadable("its tokens or attempts are used up")),
        }
    }

    pub(super) async fn renew(&self, lease: &Lease) -> Result<Ownership, StoreError> {
        let claim = &lease.claim;
        let rows = self
            .write(&self.statements.renew, |statement| {
                statement
                    .bind(claim.id.as_bytes().to_vec())
                    .bind(claim.nonce.as_bytes().to_vec())
                    .bind(micros(claim.lease))
                    .bind(micros(claim.retention))
            })
            .await?;
        self.held_or(!rows.is_empty(), &claim.id, &claim.nonce)
            .await
    }

    pub(super) async fn complete(
        &self,
        lease: &Lease,
        outcome: &Outcome,
    ) -> Result<Ownership, StoreError> {
        let (answer, retention) = EncodedCompletion::of_outcome(outcome);
        let state = match answer {
            Some(_) => state::COMPLETED,
            None => state::SEALED,
        };
        let claim = &lease.claim;
        let answer = answer.as_ref();
        let rows = self
            .write(&self.statements.complete, |statement| {
                statement
                    .bind(claim.id.as_bytes().to_vec())
                    .bind(claim.nonce.as_bytes().to_vec())
                    .bind(signed(lease.token.get()))
                    .bind(signed(lease.attempt))
                    .bind(claim.fingerprint.as_bytes().to_vec())
                    .bind(micros(claim.retention))
                    .bind(state)
                    .bind(micros(retention))
                    .bind(answer.map(|answer| answer.status))
                    .bind(answer.map(|answer| answer.began_at))
                    .bind(answer.map(|answer| answer.completed_at))
                    .bind(answer.map(|answer| signed(answer.length)))
                    .bind(answer.map(|answer| answer.checksum.to_vec()))
                    .bind(answer.map(|answer| answer.answer.clone()))
            })
            .await?;
        if !rows.is_empty() {
            self.wake_ups.wake(&claim.id);
        }
        self.held_or(!rows.is_empty(), &claim.id, &claim.nonce)
            .await
    }

    pub(super) async fn release(
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
            .write(&self.statements.release, |statement| {
                statement
                    .bind(id.as_bytes().to_vec())
                    .bind(nonce.as_bytes().to_vec())
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

    /// What became of a renewal or completion that changed nothing, too.
    ///
    /// Held by whoever ended the record, which stays so. Otherwise it was lost
    /// when the statement met the record, whatever the record is now.
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

    pub(super) async fn look_up(&self, id: &RecordId) -> Result<Option<Record>, StoreError> {
        let found = self.find(id, &Nonce::from_bytes([0; 16])).await?;
        let found = found.filter(|found| !found.is_over());
        found.map(Found::record).transpose()
    }

    pub(super) async fn forget(&self, id: &RecordId, force: bool) -> Result<Forgotten, StoreError> {
        let rows = self
            .write(&self.statements.forget, |statement| {
                statement.bind(id.as_bytes().to_vec()).bind(force)
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
        // In flight and alive, or not there, or not to be read. It is one of them
        // at this moment too, unless it was claimed since, and then it was in flight.
        Ok(if self.is_readable(id).await? {
            Forgotten::InFlight
        } else {
            Forgotten::Absent
        })
    }

    /// Whether there is a record, over or not.
    ///
    /// # Errors
    /// If there is one that this version can't read.
    async fn is_readable(&self, id: &RecordId) -> Result<bool, StoreError> {
        let found = self.find(id, &Nonce::from_bytes([0; 16])).await?;
        Ok(found.map(Found::record).transpose()?.is_some())
    }

    pub(super) async fn purge(&self) -> Result<u64, StoreError> {
        let rows = self.write(&self.statements.purge, |statement| statement);
        Ok(rows.await?.len() as u64)
    }

    pub(super) async fn find(
        &self,
        id: &RecordId,
        nonce: &Nonce,
    ) -> Result<Option<Found>, StoreError> {
        let rows = self.look(&self.statements.find, |statement| {
            statement
                .bind(id.as_bytes().to_vec())
                .bind(nonce.as_bytes().to_vec())
        });
        rows.await?.first().map(Found::read).transpose()
    }
}

/// Tokens, attempts and lengths are far below 2⁶³.
pub(super) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
