//! This handler commits the effect and the completion in one transaction (G7).

use std::sync::{Mutex, PoisonError};

use axum::response::{IntoResponse, Response};
use http::{Extensions, StatusCode};
use sqlx::postgres::PgPool;
use sqlx::{MySql, Postgres, Sqlite};
use tokio::time::sleep;
use tower_idempotency::IdempotencyContext;
use tower_idempotency::exactly_once::{CommitError, CommitErrorKind, SqlClaim};

use super::handler::{Shop, answer, execution};
use super::history::Entry;
use super::ledger::{INSERT, INSERT_DOLLAR, Ledger};
use super::plan::{Body, works_for};

#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error("the ledger was not written")]
    Ledger(#[from] sqlx::Error),
    #[error(transparent)]
    Commit(#[from] CommitError),
}

impl Shop {
    pub(crate) async fn commit(&self, extensions: &Extensions, entry: &Entry) -> Response {
        macro_rules! transact {
            ($DB:ty, $pool:ident, $begins:expr, $insert:expr) => {{
                let claim = match SqlClaim::<$DB>::of(extensions) {
                    Ok(claim) => claim,
                    Err(error) => return error.into_response(),
                };
                let committed = claim.transact($pool, |mut transaction| async move {
                    if let Some(begins) = $begins {
                        sqlx::query(begins).execute(&mut *transaction).await?;
                    }
                    sqlx::query($insert)
                        .bind(&self.run)
                        .bind(i64::from(entry.operation))
                        .bind(entry.body.name())
                        .bind(&entry.execution)
                        .execute(&mut *transaction)
                        .await?;
                    self.journal.completing(&entry.execution);
                    Ok::<_, Failed>((transaction, answer(entry)))
                });
                committed.await
            }};
        }
        let committed = match &self.ledger {
            Ledger::Postgres(pool) => {
                let isolation = isolation(entry.operation);
                transact!(Postgres, pool, isolation, INSERT_DOLLAR)
            }
            Ledger::MySql(pool) => transact!(MySql, pool, None::<&str>, INSERT),
            Ledger::Sqlite(pool) => transact!(Sqlite, pool, None::<&str>, INSERT),
            Ledger::File(_) => unreachable!("a file has no transactions"),
        };
        let error = match committed {
            Ok(response) => {
                self.journal.completed(&entry.execution);
                return response.map(axum::body::Body::new);
            }
            Err(Failed::Commit(error)) => error,
            Err(error @ Failed::Ledger(_)) => {
                self.journal.failed(&entry.execution, &error.to_string());
                return StatusCode::SERVICE_UNAVAILABLE.into_response();
            }
        };
        match error.kind() {
            CommitErrorKind::Lost if !self.fenced => {
                // Without the fence, the handler writes its entry although the
                // layer has said that another owner has taken over.
                if self.ledger.write(&self.run, entry).await.is_ok() {
                    self.journal.completed(&entry.execution);
                }
            }
            CommitErrorKind::Lost => self.journal.refused(&entry.execution),
            // The checker reads from the ledger whether the transaction was
            // committed.
            CommitErrorKind::Unknown => {}
            _ => self.journal.failed(&entry.execution, &error.to_string()),
        }
        error.into_response()
    }
}

/// How a handler makes the claim in its transaction.
#[derive(Debug)]
pub(crate) struct Claims {
    /// One pool for each isolation level: the transaction begins with the claim, and its level can't
    /// be changed after that.
    pub(crate) isolated: Option<[PgPool; 3]>,
    /// The handler writes under the claim's lock.
    pub(crate) locks: bool,
}

pub(crate) fn isolated(ledger: &Ledger) -> Option<[PgPool; 3]> {
    let Ledger::Postgres(pool) = ledger else {
        return None;
    };
    let levels = ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"];
    Some(levels.map(|level| {
        let options = pool.options().clone().max_connections(3);
        let options = options.after_connect(move |connection, _| {
            let set = format!("SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL {level}");
            Box::pin(async move {
                let set = sqlx::raw_sql(sqlx::AssertSqlSafe(set));
                set.execute(connection).await.map(drop)
            })
        });
        options.connect_lazy_with((*pool.connect_options()).clone())
    }))
}

impl Shop {
    /// Makes the claim, works and writes, and commits all of it.
    pub(crate) async fn claim(
        &self,
        extensions: &Extensions,
        claims: &Claims,
        operation: u32,
        body: Body,
    ) -> Response {
        // Each transaction is an execution of its own, which leaves nothing behind unless it commits.
        // The attempts of a key are not counted, so their tokens number them.
        let last = Mutex::new(None);
        let begin = |context: &IdempotencyContext| {
            let token = context.fencing_token();
            let execution = execution(&context.record_id(), token);
            self.journal
                .began(&execution, operation, token.get(), token.get());
            let entry = Entry {
                operation,
                body,
                execution,
            };
            *last.lock().unwrap_or_else(PoisonError::into_inner) = Some(entry.clone());
            entry
        };
        macro_rules! transact {
            ($DB:ty, $pool:expr, $insert:expr) => {{
                let claim = match SqlClaim::<$DB>::of(extensions) {
                    Ok(claim) => claim,
                    Err(error) => return error.into_response(),
                };
                let context = &claim.context();
                let mut written = None;
                if !claims.locks {
                    // Without the lock, the handler writes before its claim is made.
                    let entry = begin(context);
                    sleep(works_for(self.seed, operation, 1)).await;
                    if self.ledger.write(&self.run, &entry).await.is_err() {
                        return StatusCode::SERVICE_UNAVAILABLE.into_response();
                    }
                    self.journal.completing(&entry.execution);
                    written = Some(entry);
                }
                let (written, begin) = (&written, &begin);
                let committed = claim.transact($pool, |mut transaction| async move {
                    if let Some(entry) = written {
                        return Ok::<_, Failed>((transaction, answer(entry)));
                    }
                    let entry = begin(context);
                    sleep(works_for(self.seed, operation, 1)).await;
                    sqlx::query($insert)
                        .bind(&self.run)
                        .bind(i64::from(operation))
                        .bind(body.name())
                        .bind(&entry.execution)
                        .execute(&mut *transaction)
                        .await?;
                    self.journal.completing(&entry.execution);
                    Ok((transaction, answer(&entry)))
                });
                committed.await
            }};
        }
        let committed = match &self.ledger {
            Ledger::Postgres(pool) => {
                let isolated = claims.isolated.as_ref();
                let pool = isolated.map_or(pool, |pools| &pools[operation as usize % 3]);
                transact!(Postgres, pool, INSERT_DOLLAR)
            }
            Ledger::MySql(pool) => transact!(MySql, pool, INSERT),
            Ledger::Sqlite(pool) => transact!(Sqlite, pool, INSERT),
            Ledger::File(_) => unreachable!("a file has no transactions"),
        };
        let last = last.into_inner().unwrap_or_else(PoisonError::into_inner);
        let execution = last.map(|entry| entry.execution);
        let error = match (committed, &execution) {
            (Ok(response), Some(execution)) => {
                self.journal.completed(execution);
                return response.map(axum::body::Body::new);
            }
            (Ok(_), None) => unreachable!("a transaction has begun"),
            (Err(Failed::Commit(error)), _) => error,
            (Err(Failed::Ledger(_)), _) => return StatusCode::SERVICE_UNAVAILABLE.into_response(),
        };
        let is_known = error.kind() != CommitErrorKind::Unknown;
        if let Some(execution) = execution.filter(|_| is_known) {
            self.journal.failed(&execution, &error.to_string());
        }
        error.into_response()
    }
}

/// The stricter isolation levels must work as well as the default does.
fn isolation(operation: u32) -> Option<&'static str> {
    match operation % 3 {
        0 => None,
        1 => Some("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"),
        _ => Some("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE"),
    }
}
