//! Completions inside a transaction of the handler's own.

use std::sync::Arc;

use sqlx::{AssertSqlSafe, MySql, MySqlConnection, Row};

use super::MySqlStore;
use super::calls::column;
use super::errors::meaning;
use crate::record::RecordId;
use crate::store::encoding::{EncodedCompletion, unreadable};
use crate::store::row::{micros, state};
use crate::store::sql::failed;
use crate::store::sql::transaction::{
    BoxFuture, CompletedInside, Engine, TransactionFate, TransactionalStore,
};
use crate::store::{Lease, Outcome, StoreError};

impl Engine for MySql {
    type Store = MySqlStore;

    const BEGIN: &'static str = "BEGIN";

    async fn complete_within<'a>(
        store: &'a MySqlStore,
        transaction: &'a mut MySqlConnection,
        lease: &'a Lease,
        outcome: &'a Outcome,
    ) -> Result<CompletedInside, sqlx::Error> {
        let (answer, retention) = EncodedCompletion::of_outcome(outcome);
        let answer = answer.as_ref();
        let statement = &store.calls.statements.complete_within;
        let rows = sqlx::query(AssertSqlSafe(Arc::clone(statement)))
            .bind(&lease.claim.id.as_bytes()[..])
            .bind(&lease.claim.nonce.as_bytes()[..])
            .bind(if answer.is_some() {
                state::COMPLETED
            } else {
                state::SEALED
            })
            .bind(micros(retention))
            .bind(answer.map(|answer| answer.status))
            .bind(answer.map(|answer| answer.began_at))
            .bind(answer.map(|answer| answer.completed_at))
            .bind(answer.map(|answer| answer.length))
            .bind(answer.map(|answer| &answer.checksum[..]))
            .bind(answer.map(|answer| &answer.answer[..]))
            // To the end of the answer: what went wrong comes after its row.
            .fetch_all(transaction)
            .await?;
        let row = rows.first().ok_or(sqlx::Error::RowNotFound)?;
        Ok(match row.try_get::<i64, _>("outcome")? {
            1 => CompletedInside::Held,
            _ => CompletedInside::Lost,
        })
    }

    fn explained(error: sqlx::Error) -> StoreError {
        failed(error, meaning)
    }
}

impl TransactionalStore for MySqlStore {
    fn fate<'a>(&'a self, lease: &'a Lease) -> BoxFuture<'a, Result<TransactionFate, StoreError>> {
        Box::pin(async move {
            let rows = self
                .calls
                .run(&self.calls.statements.fate, |call| {
                    call.bind(&lease.claim.id.as_bytes()[..])
                        .bind(&lease.claim.nonce.as_bytes()[..])
                })
                .await?;
            let row = rows.first().ok_or_else(|| unreadable("no answer"))?;
            match (column::<Option<i64>>(row, "state")?, column(row, "own")?) {
                (Some(state), Some(is_own)) => Ok(TransactionFate::of(state, is_own)),
                _ if column(row, "there")? => Ok(TransactionFate::UnderWay),
                _ => Ok(TransactionFate::Absent),
            }
        })
    }

    /// Nobody is told here: who waits looks for himself.
    fn wake<'a>(&'a self, _: &'a RecordId) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async { Ok(()) })
    }
}
