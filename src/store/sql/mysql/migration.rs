//! Creates the tables and the procedures.

use std::time::Duration;

use sqlx::{AssertSqlSafe, MySqlPool, Row};

use super::checks::find;
use super::errors::meaning;
use crate::store::sql::{Connections, DEFAULT_TABLE, Table, failed};
use crate::store::{StoreError, StoreErrorKind};

/// The statements that `migrate` runs, which are published as a file.
const SQL: &str = include_str!("../../../../docs/sql/mysql.sql");
/// The lock that allows one migration at a time on the whole server.
const LOCK: &str = "tower-idempotency migration";
/// How long a migration waits for another one.
const PATIENCE: Duration = Duration::from_secs(60);

/// Creates the tables and procedures that are missing. The connection is not given back to its
/// pool, so that the lock, and the `sql_mode` that the statements set, end with the connection.
pub(super) async fn migrate(pool: &MySqlPool, table: &Table) -> Result<(), StoreError> {
    let mut lent = Connections::new(pool.clone(), meaning, false)
        .lend()
        .await?;
    let locked = sqlx::query("SELECT GET_LOCK(?, ?)")
        .bind(LOCK)
        .bind(PATIENCE.as_secs())
        .fetch_one(lent.get())
        .await
        .map_err(|error| failed(error, meaning))?;
    if locked.try_get::<Option<i64>, _>(0).ok().flatten() != Some(1) {
        return Err(StoreError::new(
            StoreErrorKind::Contention,
            format!("the lock `{LOCK}` was not to be had: another process holds it"),
        ));
    }
    let found = find(&mut lent, table).await?;
    if found.is_current && found.lacks(table).is_none() {
        return Ok(());
    }
    for statement in statements(table) {
        sqlx::raw_sql(AssertSqlSafe(statement))
            .execute(lent.get())
            .await
            .map_err(|error| failed(error, meaning))?;
    }
    Ok(())
}

/// Returns the comment that the procedures have in the published text. The comment ends in the
/// digest of that text.
pub(super) fn procedure_comment() -> &'static str {
    let (_, rest) = SQL
        .split_once("SQL SECURITY INVOKER COMMENT '")
        .expect("one is there");
    rest.split_once('\'').expect("it ends").0
}

/// Returns the statements between the two `DELIMITER` lines. These lines are for the program
/// `mysql`, and the server does not know them.
fn statements(table: &Table) -> impl Iterator<Item = String> {
    let (_, text) = SQL.split_once("\nDELIMITER //\n").expect("it begins so");
    let (text, _) = text.split_once("\nDELIMITER ;\n").expect("it ends so");
    let text = text.replace(DEFAULT_TABLE, "{table}");
    let statements: Vec<_> = text
        .split("\n//\n")
        .filter(|statement| !statement.trim().is_empty())
        .map(|statement| table.in_statement(statement))
        .collect();
    statements.into_iter()
}

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256};

    use super::*;

    #[test]
    fn the_published_text_is_a_statement_for_each_thing_and_names_one_table() {
        let table = Table::new("shop.keys").unwrap();
        let statements: Vec<_> = statements(&table).collect();
        assert_eq!(statements.len(), 25, "{statements:#?}");
        for statement in &statements {
            assert!(!statement.contains(DEFAULT_TABLE), "{statement}");
        }
        assert!(statements[2].contains("IF NOT EXISTS shop.keys ("));
        assert!(statements[3].contains("DROP PROCEDURE IF EXISTS shop.keys_hold"));
        assert!(statements[4].contains("CREATE PROCEDURE shop.keys_hold"));
        assert!(statements[24].contains("CREATE PROCEDURE shop.keys_purge"));
    }

    #[test]
    fn each_procedure_carries_the_digest_of_the_published_text() {
        let (_, digest) = procedure_comment().rsplit_once(' ').unwrap();
        assert_eq!(SQL.matches(digest).count(), 11);
        let without = SQL.replace(&format!(" {digest}'"), "'");
        let bytes = Sha256::digest(without);
        let actual = crate::record::Hex(&bytes[..8]).to_string();
        assert_eq!(
            digest, actual,
            "write the digest on the right into docs/sql/mysql.sql"
        );
    }
}
