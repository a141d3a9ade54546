//! Creates the tables and the procedures.

use std::time::Duration;

use sqlx::mysql::MySqlDatabaseError;
use sqlx::{AssertSqlSafe, MySql, MySqlPool, Row, raw_sql};

use super::checks::find;
use super::errors::meaning;
use crate::store::sql::{Connections, DEFAULT_TABLE, Lent, Table, failed};
use crate::store::{StoreError, StoreErrorKind};

/// The statements that `migrate` runs, which are published as a file.
const SQL: &str = include_str!("../../../../docs/sql/mysql.sql");
/// The lock that allows one migration at a time on the whole server.
const LOCK: &str = "tower-idempotency migration";
/// What tables of an earlier version lack.
const COLUMNS: [(&str, &str); 5] = [
    ("scope", "BINARY(32)"),
    ("route", "VARBINARY(255)"),
    ("trace", "VARBINARY(55)"),
    ("origin_of", "BIGINT"),
    ("first_token", "BIGINT"),
];
const INDEXES: [(&str, &str); 2] = [("by_state", "state, token"), ("by_scope", "scope, token")];
/// How often a migration tries for a second to lock the table.
const TRIES: u32 = 60;
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
    let added = additions(&mut lent, table).await?;
    if added.is_empty() && found.is_current && found.lacks(table).is_none() {
        return Ok(());
    }
    for addition in added {
        let mut tries = 1;
        let add = table.in_statement(&format!("ALTER TABLE {{table}} {addition}"));
        while let Err(error) = raw_sql(AssertSqlSafe(add.clone()))
            .execute(lent.get())
            .await
        {
            // Somebody's transaction has read the table. Those who wait behind this one go first.
            let is_locked = error
                .as_database_error()
                .and_then(|error| error.try_downcast_ref::<MySqlDatabaseError>())
                .is_some_and(|error| error.number() == 1205);
            if !is_locked || tries == TRIES {
                return Err(failed(error, meaning));
            }
            tries += 1;
        }
    }
    for statement in statements(table) {
        sqlx::raw_sql(AssertSqlSafe(statement))
            .execute(lent.get())
            .await
            .map_err(|error| failed(error, meaning))?;
    }
    Ok(())
}

/// What a table of an earlier version needs: columns without writing a row, and indexes while
/// others read and write. Nothing for a table that is not there.
async fn additions(lent: &mut Lent<MySql>, table: &Table) -> Result<Vec<String>, StoreError> {
    let full = table.to_string();
    let (schema, name) = match full.split_once('.') {
        Some((schema, name)) => (Some(schema), name),
        None => (None, &*full),
    };
    let names = "SELECT CAST(column_name AS BINARY) FROM information_schema.columns \
                 WHERE table_schema = COALESCE(?, DATABASE()) AND table_name = ? \
                 UNION SELECT CAST(index_name AS BINARY) FROM information_schema.statistics \
                 WHERE table_schema = COALESCE(?, DATABASE()) AND table_name = ? LIMIT 1000";
    let rows = sqlx::query(names)
        .bind(schema)
        .bind(name)
        .bind(schema)
        .bind(name)
        .fetch_all(lent.get())
        .await
        .map_err(|error| failed(error, meaning))?;
    let names: Result<Vec<Vec<u8>>, _> = rows.iter().map(|row| row.try_get(0)).collect();
    let names = names.map_err(|error| failed(error, meaning))?;
    let lacks = |name: &str| !names.is_empty() && !names.iter().any(|it| it == name.as_bytes());
    let columns = COLUMNS.into_iter().filter(|(name, _)| lacks(name));
    let columns: Vec<_> = columns
        .map(|(name, kind)| format!("ADD COLUMN {name} {kind} NULL"))
        .collect();
    let indexes = INDEXES.into_iter().filter(|(name, _)| lacks(name));
    let indexes =
        indexes.map(|(name, of)| format!("ADD KEY {name} ({of}), ALGORITHM=INPLACE, LOCK=NONE"));
    let mut additions = Vec::new();
    if !columns.is_empty() {
        additions.push(format!("{}, ALGORITHM=INSTANT", columns.join(", ")));
    }
    additions.extend(indexes);
    if !additions.is_empty() {
        raw_sql("SET SESSION lock_wait_timeout = 1")
            .execute(lent.get())
            .await
            .map_err(|error| failed(error, meaning))?;
    }
    Ok(additions)
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
        assert_eq!(statements.len(), 46, "{statements:#?}");
        for statement in &statements {
            assert!(!statement.contains(DEFAULT_TABLE), "{statement}");
        }
        assert!(statements[2].contains("IF NOT EXISTS shop.keys ("));
        assert!(statements[4].contains("DROP PROCEDURE IF EXISTS shop.keys_hold"));
        assert!(statements[5].contains("CREATE PROCEDURE shop.keys_hold"));
        assert!(statements[45].contains("CREATE PROCEDURE shop.keys_purge"));
    }

    #[test]
    fn each_procedure_carries_the_digest_of_the_published_text() {
        let (_, digest) = procedure_comment().rsplit_once(' ').unwrap();
        assert_eq!(SQL.matches(digest).count(), 21);
        let without = SQL.replace(&format!(" {digest}'"), "'");
        let bytes = Sha256::digest(without);
        let actual = crate::record::Hex(&bytes[..8]).to_string();
        assert_eq!(
            digest, actual,
            "write the digest on the right into docs/sql/mysql.sql"
        );
    }
}
