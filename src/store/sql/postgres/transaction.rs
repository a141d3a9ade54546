//! Completions inside a transaction of the handler's own.

use std::sync::Arc;

use sqlx::error::DatabaseError;
use sqlx::{AssertSqlSafe, PgConnection, Postgres, Row};

use super::super::failed;
use super::super::transaction::{Engine, Fate, InDatabase, Inside, Later};
use super::meaning::meaning;
use super::row::column;
use super::{PostgresStore, within_reach};
use crate::record::RecordId;
use crate::store::at_rest::AtRest;
use crate::store::stored::micros;
use crate::store::{Lease, Outcome, StoreError};

impl Engine for Postgres {
    type Store = PostgresStore;

    const BEGIN: &'static str = "BEGIN";

    async fn complete_within<'a>(
        store: &'a PostgresStore,
        transaction: &'a mut PgConnection,
        lease: &'a Lease,
        outcome: &'a Outcome,
    ) -> Result<Inside, sqlx::Error> {
        let (answer, retention) = AtRest::of_outcome(outcome);
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
            1 => Inside::Held,
            2 => Inside::HeldAndAwaited,
            _ => Inside::Lost,
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

impl InDatabase for PostgresStore {
    fn fate<'a>(&'a self, lease: &'a Lease) -> Later<'a, Result<Fate, StoreError>> {
        Box::pin(async move {
            let database = &self.shared.database;
            let row = database
                .call(&database.statements.fate, |call| {
                    call.bind(&lease.claim.id.as_bytes()[..])
                        .bind(&lease.claim.nonce.as_bytes()[..])
                })
                .await?;
            match (column::<Option<i16>>(&row, 0)?, column(&row, 1)?) {
                (Some(state), Some(is_own)) => Ok(Fate::of(state.into(), is_own)),
                _ if column(&row, 2)? => Ok(Fate::UnderWay),
                _ => Ok(Fate::Absent),
            }
        })
    }

    fn wake<'a>(&'a self, id: &'a RecordId) -> Later<'a, Result<(), StoreError>> {
        Box::pin(async move {
            let database = &self.shared.database;
            let call = database.call(&database.statements.changed, |call| {
                call.bind(&id.as_bytes()[..])
            });
            call.await.map(drop)
        })
    }
}
