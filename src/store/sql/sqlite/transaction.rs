//! Completions inside a transaction of the handler's own.

use sqlx::{Row, Sqlite, SqliteConnection};

use super::SqliteStore;
use super::connection::clock;
use super::meaning::meaning;
use super::records::signed;
use crate::record::RecordId;
use crate::store::encoding::EncodedCompletion;
use crate::store::row::{micros, state};
use crate::store::sql::failed;
use crate::store::sql::transaction::{
    BoxFuture, CompletedInside, Engine, TransactionFate, TransactionalStore,
};
use crate::store::{Lease, Outcome, StoreError, StoreErrorKind};

impl Engine for Sqlite {
    type Store = SqliteStore;

    /// One that begins as a reader fails at its first write if anybody has
    /// written since.
    const BEGIN: &'static str = "BEGIN IMMEDIATE";

    async fn complete_within<'a>(
        store: &'a SqliteStore,
        transaction: &'a mut SqliteConnection,
        lease: &'a Lease,
        outcome: &'a Outcome,
    ) -> Result<CompletedInside, sqlx::Error> {
        let (answer, retention) = EncodedCompletion::of_outcome(outcome);
        let state = match answer {
            Some(_) => state::COMPLETED,
            None => state::SEALED,
        };
        let answer = answer.as_ref();
        let rows = sqlx::query(store.records.statements.complete_within.clone())
            .bind(clock())
            .bind(&lease.claim.id.as_bytes()[..])
            .bind(&lease.claim.nonce.as_bytes()[..])
            .bind(state)
            .bind(micros(retention))
            .bind(answer.map(|answer| answer.status))
            .bind(answer.map(|answer| answer.began_at))
            .bind(answer.map(|answer| answer.completed_at))
            .bind(answer.map(|answer| signed(answer.length)))
            .bind(answer.map(|answer| &answer.checksum[..]))
            .bind(answer.map(|answer| &answer.answer[..]))
            .fetch_all(transaction)
            .await?;
        Ok(if rows.is_empty() {
            CompletedInside::Lost
        } else {
            // Who waits in this process costs nothing to tell.
            CompletedInside::HeldAndAwaited
        })
    }

    fn explained(error: sqlx::Error) -> StoreError {
        failed(error, meaning)
    }
}

impl TransactionalStore for SqliteStore {
    fn fate<'a>(&'a self, lease: &'a Lease) -> BoxFuture<'a, Result<TransactionFate, StoreError>> {
        Box::pin(async move {
            let records = &self.records;
            let written = records.write(&records.statements.fate, |statement| {
                statement
                    .bind(lease.claim.id.as_bytes().to_vec())
                    .bind(lease.claim.nonce.as_bytes().to_vec())
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
        })
    }

    fn wake<'a>(&'a self, id: &'a RecordId) -> BoxFuture<'a, Result<(), StoreError>> {
        self.records.wake_ups.wake(id);
        Box::pin(async { Ok(()) })
    }
}
