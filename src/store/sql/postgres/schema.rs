//! Creates the tables and functions, and checks that they exist.

use std::time::Duration;

use sqlx::postgres::{PgConnection, PgPool};
use sqlx::{AssertSqlSafe, Connection, Row, raw_sql};
use tracing::warn;

use super::super::{DEFAULT_TABLE, Table, failed, not_sent};
use super::meaning;
use crate::store::{StoreError, StoreErrorKind};

const SCRIPT: &str = include_str!("../../../../docs/sql/postgres.sql");
/// The version and the revision of the tables and functions that the script creates. The comment
/// on the table has both. Another version has other tables; a later revision has corrected
/// functions.
const VERSION: u32 = 1;
const REVISION: u32 = 6;
const COMMENT: &str = "tower-idempotency schema ";
/// What the second part of the script begins with: the indexes that `migrate` makes without locking
/// a table that has records.
const INDEXES: &str = "\n-- What a list of records is read by.";
/// How long a migration waits for the lock that adds columns, before it lets others pass.
const LOCK: &str = "SET LOCAL lock_timeout = '500ms'";
/// How often it tries to get that lock.
const TRIES: u32 = 60;
/// The statement names the isolation level, because a role or a database can have another default.
pub(super) const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED";

/// Returns the script for this table. In the script, names in quotes have no schema, and all other
/// names have it.
fn script(table: &Table) -> String {
    // The names are replaced in two steps, because the new name may contain the old one.
    let script = SCRIPT
        .replace(&format!("'{DEFAULT_TABLE}"), "'{name}")
        .replace(&format!("\"{DEFAULT_TABLE}"), "\"{name}")
        .replace(DEFAULT_TABLE, "{table}");
    table.in_statement(&script)
}

pub(super) async fn migrate(pool: &PgPool, table: &Table) -> Result<(), StoreError> {
    // If all tables and functions exist, `migrate` also succeeds for a role without the right to
    // create them.
    let mut there = found(pool, table).await?;
    if there.check(table).is_err() || there.revision() < REVISION {
        let mut tries = 1;
        while let Err(error) = make_tables(pool, table).await? {
            // Somebody's transaction has the table. Those who wait behind this one go first.
            let is_locked = error
                .as_database_error()
                .is_some_and(|error| error.code().as_deref() == Some("55P03"));
            if !is_locked || tries == TRIES {
                return Err(failed(error, meaning::meaning));
            }
            tries += 1;
            tokio::time::sleep(Duration::from_millis(rand::random_range(100..1000))).await;
        }
        check(pool, table).await?;
        there = found(pool, table).await?;
    }
    if !there.lacks_indexes {
        return Ok(());
    }
    make_indexes(pool, table).await
}

/// Makes all that the script makes, but no index on a table that has records, in one transaction.
async fn make_tables(pool: &PgPool, table: &Table) -> Result<Result<(), sqlx::Error>, StoreError> {
    let begun = pool.begin_with(BEGIN).await;
    let mut transaction = begun.map_err(|error| not_sent(error, meaning::meaning))?;
    // Without this lock, two migrations at once would fail.
    let lock = table.in_statement(
        "SELECT pg_advisory_xact_lock(hashtextextended('tower-idempotency {table}', 0))",
    );
    let found = async {
        raw_sql(AssertSqlSafe(lock))
            .execute(&mut *transaction)
            .await?;
        Found::by(&mut transaction, table).await
    };
    let found = match found.await {
        Ok(found) => found,
        Err(error) => return Ok(Err(error)),
    };
    if found.exists {
        found.version(table)?;
    }
    let mut script = script(table);
    if found.exists {
        script.truncate(script.find(INDEXES).expect("the script has that line"));
    }
    let made = async {
        raw_sql(LOCK).execute(&mut *transaction).await?;
        raw_sql(AssertSqlSafe(script))
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await
    };
    Ok(made.await)
}

/// Makes the indexes of a table that may have records and traffic, and locks out nobody. One
/// process makes them: the others leave it to that one, and need not wait, as only a list reads by
/// them.
///
/// A statement that makes an index so waits for every transaction of the moment. So no process may
/// wait for this lock within a statement: each would wait for the other.
async fn make_indexes(pool: &PgPool, table: &Table) -> Result<(), StoreError> {
    let failed = |error| failed(error, meaning::meaning);
    let acquired = pool.acquire().await;
    let connection = acquired.map_err(|error| not_sent(error, meaning::meaning))?;
    // The lock ends with the connection, whatever becomes of this future.
    let mut connection = connection.detach();
    let lock = table.in_statement(
        "SELECT pg_try_advisory_lock(hashtextextended('tower-idempotency {table} indexes', 0))",
    );
    let row = raw_sql(AssertSqlSafe(lock))
        .fetch_one(&mut connection)
        .await;
    if !row.map_err(failed)?.try_get(0).map_err(failed)? {
        return Ok(());
    }
    for (name, create) in indexes(table) {
        let found = Found::by(&mut connection, table).await.map_err(failed)?;
        // One that was given up half-way is there, and of no use.
        let is_broken = found.broken_indexes.contains(&name);
        let drop = table.in_statement(&format!("DROP INDEX CONCURRENTLY {{schema}}\"{name}\""));
        for statement in is_broken.then_some(drop).into_iter().chain([create]) {
            raw_sql(AssertSqlSafe(statement))
                .execute(&mut connection)
                .await
                .map_err(failed)?;
        }
    }
    connection.close().await.map_err(failed)
}

/// The indexes of the second part of the script, by name, as statements that lock out nobody.
fn indexes(table: &Table) -> Vec<(String, String)> {
    let script = script(table);
    let (_, part) = script
        .split_once(INDEXES)
        .expect("the script has that line");
    let statements = part.split("\nCREATE INDEX ").skip(1).map(|rest| {
        let name = rest.split('"').nth(1).expect("the name is in quotes");
        (name.to_owned(), format!("CREATE INDEX CONCURRENTLY {rest}"))
    });
    statements.collect()
}

/// Checks that all tables, functions and rights exist that the store needs.
pub(super) async fn check(pool: &PgPool, table: &Table) -> Result<(), StoreError> {
    let found = found(pool, table).await?;
    found.check(table)?;
    if found.loses_commits {
        warn!(
            %table,
            "a crash of this server takes back records that others have read, and their operations \
             run again: set synchronous_commit and fsync to on (docs/stores.md)"
        );
    }
    if found.revision() < REVISION {
        warn!(
            %table,
            "the functions of the table are those of an earlier version: call `migrate()` or run \
             docs/sql/postgres.sql"
        );
    }
    if found.lacks_indexes {
        warn!(
            %table,
            "the table lacks the indexes that a list reads by, so that a list reads the whole \
             table: call `migrate()`, or make them as docs/sql/postgres.sql says"
        );
    }
    Ok(())
}

async fn found(pool: &PgPool, table: &Table) -> Result<Found, StoreError> {
    let acquired = pool.acquire().await;
    let mut connection = acquired.map_err(|error| not_sent(error, meaning::meaning))?;
    let found = Found::by(&mut connection, table).await;
    found.map_err(|error| failed(error, meaning::meaning))
}

#[expect(clippy::struct_excessive_bools, reason = "each is a column of one row")]
struct Found {
    exists: bool,
    comment: Option<String>,
    read_only: bool,
    loses_commits: bool,
    missing: Vec<String>,
    forbidden: Vec<String>,
    /// Whether an index of the lists is not there, or can't be used.
    lacks_indexes: bool,
    /// Those that are there and can't be used.
    broken_indexes: Vec<String>,
}

impl Found {
    async fn by(connection: &mut PgConnection, table: &Table) -> Result<Self, sqlx::Error> {
        let statement = table.in_statement(
            "WITH tables AS (
                SELECT '{table}' || suffix AS name
                FROM unnest(ARRAY['', '_renewals', '_steps', '_waiters']) suffix
            ), functions AS (
                SELECT '{table}_' || suffix AS name
                FROM unnest(ARRAY['claim_v2', 'renew', 'complete_v2', 'complete_within', 'release',
                    'look_up', 'forget', 'changed', 'wait', 'purge', 'record_step', 'steps_of']) suffix
            )
            SELECT
                to_regclass('{table}') IS NOT NULL,
                obj_description(to_regclass('{table}'), 'pg_class'),
                current_setting('transaction_read_only') = 'on',
                current_setting('synchronous_commit') = 'off' OR current_setting('fsync') = 'off',
                ARRAY(
                    SELECT name FROM tables WHERE to_regclass(name) IS NULL
                    UNION ALL
                    SELECT name || '()' FROM functions WHERE to_regproc(name) IS NULL),
                ARRAY(
                    SELECT privilege || ' on ' || name
                    FROM tables, unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) privilege
                    WHERE NOT has_table_privilege(to_regclass(name), privilege)
                    UNION ALL
                    SELECT 'EXECUTE on ' || name || '()' FROM functions
                    WHERE NOT has_function_privilege(to_regproc(name), 'EXECUTE')),
                (SELECT count(*) < 2 FROM pg_index i
                   JOIN pg_class c ON c.oid = i.indexrelid
                  WHERE i.indrelid = to_regclass('{table}') AND i.indisvalid
                    AND c.relname IN ('{name}_by_state', '{name}_by_scope')),
                ARRAY(SELECT c.relname::text FROM pg_index i
                   JOIN pg_class c ON c.oid = i.indexrelid
                  WHERE i.indrelid = to_regclass('{table}') AND NOT i.indisvalid)",
        );
        // A statement without parameters is not prepared, so that every pooler lets it pass.
        let row = raw_sql(AssertSqlSafe(statement))
            .fetch_one(connection)
            .await?;
        Ok(Self {
            exists: row.try_get(0)?,
            comment: row.try_get(1)?,
            read_only: row.try_get(2)?,
            loses_commits: row.try_get(3)?,
            missing: row.try_get(4)?,
            forbidden: row.try_get(5)?,
            lacks_indexes: row.try_get(6)?,
            broken_indexes: row.try_get(7)?,
        })
    }

    fn check(&self, table: &Table) -> Result<(), StoreError> {
        if !self.exists {
            return Err(refused(format!(
                "there is no table `{table}`: call `migrate()` or run docs/sql/postgres.sql, and \
                 see the role's search_path"
            )));
        }
        self.version(table)?;
        if !self.missing.is_empty() {
            return Err(refused(format!(
                "with the table `{table}` belong {}, which are missing: call `migrate()` or run \
                 docs/sql/postgres.sql",
                self.missing.join(", ")
            )));
        }
        if !self.forbidden.is_empty() {
            return Err(refused(format!(
                "the role has no right to {}: grant it",
                self.forbidden.join(", ")
            )));
        }
        if self.read_only {
            return Err(refused(format!(
                "the table `{table}` is read-only here: connect to the primary, and see \
                 default_transaction_read_only"
            )));
        }
        Ok(())
    }

    fn revision(&self) -> u32 {
        self.said().1.unwrap_or_default()
    }

    /// Returns the version and the revision that the comment on the table names.
    fn said(&self) -> (Option<u32>, Option<u32>) {
        let comment = self.comment.as_deref().unwrap_or_default();
        let numbers = comment.strip_prefix(COMMENT).unwrap_or_default();
        let (version, revision) = numbers.split_once(", revision ").unwrap_or((numbers, ""));
        (version.parse().ok(), revision.parse().ok())
    }

    fn version(&self, table: &Table) -> Result<(), StoreError> {
        match self.said().0 {
            Some(VERSION) => Ok(()),
            Some(other) => Err(refused(format!(
                "the table `{table}` is of schema {other}, and this version of tower-idempotency \
                 knows schema {VERSION}: use the version that made it, or a newer one"
            ))),
            _ => Err(refused(format!(
                "the table `{table}` has not the comment `{COMMENT}{VERSION}`, so it is not \
                 tower-idempotency's: choose another name"
            ))),
        }
    }
}

fn refused(message: String) -> StoreError {
    StoreError::new(StoreErrorKind::Refused, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_script_names_another_table_everywhere() {
        let script = script(&Table::new("app.t").unwrap());
        assert!(!script.contains(DEFAULT_TABLE));
        assert!(script.contains("INDEX IF NOT EXISTS \"t_expires_at\"\n    ON app.t ("));
        assert!(script.contains("FUNCTION app.t_claim("));
        assert!(script.contains("pg_notify('t', "));
        assert!(script.contains(&format!(
            "COMMENT ON TABLE app.t IS '{COMMENT}{VERSION}, revision {REVISION}';"
        )));
    }

    /// The store listens on the name without the schema, and the functions notify on the same
    /// name.
    #[test]
    fn the_other_name_may_contain_the_usual_one() {
        for name in [
            "shop.idempotency_records",
            "payments_idempotency_records",
            "idempotency_records_v2",
        ] {
            let table = Table::new(name).unwrap();
            let bare = table.in_statement("{name}");
            let script = script(&table);
            assert!(script.contains(&format!("pg_notify('{bare}', ")), "{name}");
            assert!(
                script.contains(&format!("FUNCTION {name}_claim(")),
                "{name}"
            );
            assert!(script.contains(&format!("\"{bare}_expires_at\"")), "{name}");
        }
    }

    /// A database that has the functions gets changed functions only if the revision is higher.
    #[test]
    fn a_change_of_the_script_raises_the_revision() {
        use sha2::{Digest, Sha256};
        let digest = crate::record::Hex(&Sha256::digest(SCRIPT)[..4]).to_string();
        assert_eq!((REVISION, &*digest), (6, "802efdbf"));
    }
}
