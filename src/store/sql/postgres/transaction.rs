//! Completions inside a transaction of the handler's own.

use std::sync::Arc;

use sqlx::error::DatabaseError;
use sqlx::{AssertSqlSafe, PgConnection, Postgres, Row};

use super::super::failed;
use super::super::transaction::{
    BoxFuture, CompletedInside, Engine, TransactionFate, TransactionalStore,
};
use super::meaning::meaning;
use super::row::column;
use super::{PostgresStore, within_reach};
use crate::record::RecordId;
use crate::store::encoding::EncodedCompletion;
use crate::store::row::micros;
use crate::store::{Lease, Outcome, StoreError};

impl Engine for Postgres {
    type Store = PostgresStore;

    const BEGIN: &'static str = "BEGIN";

    async fn complete_within<'a>(
        store: &'a PostgresStore,
        transaction: &'a mut PgConnection,
        lease: &'a Lease,
        outcome: &'a Outcome,
    ) -> Result<CompletedInside, sqlx::Error> {
        let (answer, retention) = EncodedCompletion::of_outcome(outcome);
        let answer = answer.as_ref();
        let statement = &store.shared.database.statements.complete_within;
        let row = sqlx::query(AssertSqlSafe(Arc::clone(statement)))
            .bind(&lease.claim.id.as_bytes()[..])
            .bind(&lease.claim.nonce.as_bytes()[..])
            .bind(micros(retention))
            .bind(answer.map(|answer| answer.status.cast_signed()))
            .bind(answer.map(|answer| within_reach(answer.began_at)))
            .bind(answer.map(|answer| within_reach(answer.completed_at)))
            .bind(answer.map(|answer| &answer.answer[..]))
            .bind(answer.map(|answer| answer.length.cast_signed()))
            .bind(answer.map(|answer| &answer.checksum[..]))
            .fetch_one(transaction)
            .await?;
        Ok(match row.try_get::<i16, _>(0)? {
            1 => CompletedInside::Held,
            2 => CompletedInside::HeldAndAwaited,
            _ => CompletedInside::Lost,
        })
    }

    fn explained(error: sqlx::Error) -> StoreError {
        failed(error, meaning)
    }
}

/// Whether a transaction failed for others that were at the same.
pub(in crate::store::sql) fn gave_way(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(DatabaseError::code);
    // Not serializable, deadlock, and a lock that was waited for too long.
    matches!(code.as_deref(), Some("40001" | "40P01" | "55P03"))
}

impl TransactionalStore for PostgresStore {
    fn fate<'a>(&'a self, lease: &'a Lease) -> BoxFuture<'a, Result<TransactionFate, StoreError>> {
        Box::pin(async move {
            let database = &self.shared.database;
            let row = database
                .call(&database.statements.fate, |call| {
                    call.bind(&lease.claim.id.as_bytes()[..])
                        .bind(&lease.claim.nonce.as_bytes()[..])
                })
                .await?;
            match (column::<Option<i16>>(&row, 0)?, column(&row, 1)?) {
                (Some(state), Some(is_own)) => Ok(TransactionFate::of(state.into(), is_own)),
                _ if column(&row, 2)? => Ok(TransactionFate::UnderWay),
                _ => Ok(TransactionFate::Absent),
            }
        })
    }

    fn wake<'a>(&'a self, id: &'a RecordId) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            let database = &self.shared.database;
            let call = database.call(&database.statements.changed, |call| {
                call.bind(&id.as_bytes()[..])
            });
            call.await.map(drop)
        })
    }
}
