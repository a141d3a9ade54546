//! What the SQL engines share: names of tables, errors, and the purge.

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::time::Duration;

use sqlx::error::DatabaseError;
use tracing::warn;

use super::{StoreError, StoreErrorKind};
use crate::error::cause;

mod complete_row;
#[cfg(any(feature = "postgres", feature = "mysql"))]
mod connecting;
#[cfg(feature = "mysql")]
pub(crate) mod mysql;
#[cfg(feature = "postgres")]
pub(crate) mod postgres;
pub(crate) mod retried;
#[cfg(feature = "sqlite")]
pub(crate) mod sqlite;
mod store;
pub(crate) mod transaction;
#[cfg(any(feature = "postgres", feature = "mysql"))]
pub(super) mod transport;

use complete_row::{CompleteRow, bind};
#[cfg(feature = "mysql")]
use connecting::Lent;
#[cfg(any(feature = "postgres", feature = "mysql"))]
use connecting::{Condition, Connections, reach};
pub use store::{SqlStore, SqlStoreBuilder};

/// The default name of the table.
pub(super) const DEFAULT_TABLE: &str = "idempotency_records";
/// The longest name of a table. Names of functions and indexes add a suffix to
/// it, and engines limit names to about 60 characters.
const LONGEST_NAME: usize = 40;
/// How many records one statement removes: few enough that the statement locks
/// them only briefly.
pub(super) const PURGE_BATCH: u32 = 500;
/// How often a store removes expired records, by default.
pub(super) const PURGE_INTERVAL: Duration = Duration::from_secs(60);
/// The longest pause between two purges: tokio's timers can't be longer than
/// about two years.
const LONGEST_INTERVAL: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// The name of a table, with its schema if it has one. It needs no quotes in a
/// statement.
#[expect(unnameable_types, reason = "of a trait that is sealed")]
#[derive(Clone, Debug)]
pub struct Table(String);

impl Table {
    /// # Errors
    /// If the name is not one or two words of letters, digits and underscores,
    /// of at most 40 characters: the name becomes part of statements.
    pub(super) fn new(name: &str) -> Result<Self, StoreError> {
        let is_word = |word: &str| {
            let mut chars = word.chars();
            chars
                .next()
                .is_some_and(|first| first.is_ascii_alphabetic() || first == '_')
                && chars.all(|char| char.is_ascii_alphanumeric() || char == '_')
                && word.len() <= LONGEST_NAME
        };
        let words: Vec<&str> = name.split('.').collect();
        if words.len() <= 2 && words.iter().all(|word| is_word(word)) {
            return Ok(Self(name.to_owned()));
        }
        let message = format!(
            "`{}` is no name for a table: use letters, digits and underscores, {LONGEST_NAME} \
             characters at most, after `schema.` if need be",
            name.escape_debug()
        );
        Err(StoreError::new(StoreErrorKind::Refused, message))
    }

    /// Replaces `{table}` in a statement by the full name, `{schema}` by the
    /// schema and a dot (or by nothing), and `{name}` by the name without the
    /// schema.
    pub(super) fn in_statement(&self, statement: &str) -> String {
        let (schema, name) = match self.0.split_once('.') {
            Some((schema, name)) => (format!("{schema}."), name),
            None => (String::new(), &*self.0),
        };
        statement
            .replace("{table}", &self.0)
            .replace("{schema}", &schema)
            .replace("{name}", name)
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What an engine's error means: whether the store did what was asked, and what
/// the operator should do.
pub(super) struct Meaning(pub(super) StoreErrorKind, pub(super) &'static str);

/// Makes the error of an operation that got no connection, and therefore sent nothing.
pub(super) fn not_sent(
    error: sqlx::Error,
    meaning: fn(&dyn DatabaseError) -> Meaning,
) -> StoreError {
    StoreError::new(StoreErrorKind::NotSent, not_connected(error, meaning))
}

const NO_CONNECTION: &str = "the database can't be reached, or every connection of the pool is in use: \
                             give it more, or find who keeps them";

fn not_connected(error: sqlx::Error, meaning: fn(&dyn DatabaseError) -> Meaning) -> Failed {
    let remedy = match &error {
        sqlx::Error::Database(refused) => meaning(&**refused).1,
        _ => tls_remedy(&error).unwrap_or(match &error {
            sqlx::Error::Tls(_) => "see whether the server has TLS, and the certificates of both",
            sqlx::Error::PoolTimedOut => NO_CONNECTION,
            sqlx::Error::Configuration(_) => "mend the address of the database",
            _ => "see whether the database runs and can be reached",
        }),
    };
    Failed { error, remedy }
}

/// What to do about an error of TLS. The files of `SQLite` have none.
fn tls_remedy(error: &sqlx::Error) -> Option<&'static str> {
    #[cfg(any(feature = "postgres", feature = "mysql"))]
    return super::tls::remedy(&error.to_string());
    #[cfg(not(any(feature = "postgres", feature = "mysql")))]
    {
        let _ = error;
        None
    }
}

/// Makes the error of opening a store: [`Refused`](StoreErrorKind::Refused) if a later attempt
/// would fail as well, because the address, the user or the database's rights are wrong, and
/// otherwise [`NotSent`](StoreErrorKind::NotSent).
pub(super) fn not_opened(
    error: sqlx::Error,
    meaning: fn(&dyn DatabaseError) -> Meaning,
) -> StoreError {
    let lasts = match &error {
        sqlx::Error::Database(refused) => matches!(
            meaning(&**refused).0,
            StoreErrorKind::Refused | StoreErrorKind::Unreadable
        ),
        sqlx::Error::Configuration(_) | sqlx::Error::Tls(_) => true,
        _ => tls_remedy(&error).is_some(),
    };
    let kind = if lasts {
        StoreErrorKind::Refused
    } else {
        StoreErrorKind::NotSent
    };
    StoreError::new(kind, not_connected(error, meaning))
}

/// Makes the error of a statement that was sent.
pub(super) fn failed(error: sqlx::Error, meaning: fn(&dyn DatabaseError) -> Meaning) -> StoreError {
    let Meaning(kind, remedy) = match &error {
        sqlx::Error::Database(refused) => meaning(&**refused),
        sqlx::Error::ColumnNotFound(_)
        | sqlx::Error::ColumnDecode { .. }
        | sqlx::Error::Decode(_) => Meaning(
            StoreErrorKind::Unreadable,
            "the table is of another version: see docs/stores.md",
        ),
        sqlx::Error::PoolTimedOut => Meaning(StoreErrorKind::NotSent, NO_CONNECTION),
        _ => Meaning(StoreErrorKind::Unknown, ""),
    };
    StoreError::new(kind, Failed { error, remedy })
}

struct Failed {
    error: sqlx::Error,
    remedy: &'static str,
}

/// Writes only the text of `Display`, because the details in a server's error can quote rows
/// (G10).
impl fmt::Debug for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)?;
        if self.remedy.is_empty() {
            return Ok(());
        }
        write!(f, ": {}", self.remedy)
    }
}

/// This error has no source, because the text of an `sqlx::Error` contains the text of its source.
impl Error for Failed {}

/// A handle of the task that removes expired records. The task ends when the handle is dropped.
#[derive(Debug)]
pub(super) struct Purging(tokio::task::AbortHandle);

impl Purging {
    /// Removes batches after each pause. Any number of processes can do this on
    /// one table: the pauses are random, so that they do not all purge at once.
    pub(super) fn every<F>(
        interval: Duration,
        batch: impl Fn() -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Result<u64, StoreError>> + Send,
    {
        let interval = interval.clamp(Duration::from_millis(1), LONGEST_INTERVAL);
        let task = tokio::spawn(async move {
            loop {
                tokio::time::sleep(interval.mul_f64(rand::random_range(0.5..1.5))).await;
                loop {
                    match batch().await {
                        Ok(removed) if removed >= u64::from(PURGE_BATCH) => {}
                        Ok(_) => break,
                        Err(error) => {
                            warn!(
                                error = cause(&error),
                                "records past their end could not be removed, trying again later"
                            );
                            break;
                        }
                    }
                }
            }
        });
        Self(task.abort_handle())
    }
}

impl Drop for Purging {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_would_need_quotes_is_refused() {
        for name in ["records", "_r1", "app.idempotency_records"] {
            assert_eq!(Table::new(name).unwrap().to_string(), name);
        }
        let long = "a".repeat(41);
        for name in [
            "",
            "1a",
            "a b",
            "a;drop table b",
            "a.b.c",
            "a.",
            ".a",
            "\"a\"",
            "\u{e9}",
            &long,
        ] {
            let error = Table::new(name).unwrap_err();
            assert_eq!(error.kind(), StoreErrorKind::Refused, "{name}");
        }
    }

    #[test]
    fn names_derived_from_a_table_are_in_its_schema() {
        let statement = "SELECT {schema}{name}_claim(), '{table}'";
        let of = |name| Table::new(name).unwrap().in_statement(statement);
        assert_eq!(of("app.t"), "SELECT app.t_claim(), 'app.t'");
        assert_eq!(of("t"), "SELECT t_claim(), 't'");
    }
}
