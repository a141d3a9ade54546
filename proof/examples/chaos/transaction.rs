//! This handler commits the effect and the completion in one transaction (G7).

use axum::response::{IntoResponse, Response};
use http::{Extensions, StatusCode};
use sqlx::{MySql, Postgres, Sqlite};
use tower_idempotency::exactly_once::{CommitError, CommitErrorKind, SqlClaim};

use super::handler::{Shop, answer};
use super::history::Entry;
use super::ledger::{INSERT, INSERT_DOLLAR, Ledger};

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

/// The stricter isolation levels must work as well as the default does.
fn isolation(operation: u32) -> Option<&'static str> {
    match operation % 3 {
        0 => None,
        1 => Some("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"),
        _ => Some("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE"),
    }
}
