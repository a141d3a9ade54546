//! The tables and functions: making them, and whether they are there.

use sqlx::postgres::{PgConnection, PgPool};
use sqlx::{AssertSqlSafe, Row, raw_sql};

use super::super::{DEFAULT_TABLE, Table, failed, not_sent};
use super::database::connection;
use super::meaning;
use crate::store::{StoreError, StoreErrorKind};

const SCRIPT: &str = include_str!("../../../../docs/sql/postgres.sql");
/// What the script makes, as the comment on the table says.
const VERSION: u32 = 1;
const COMMENT: &str = "tower-idempotency schema ";
/// Whatever a role's or a database's default is.
pub(super) const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED";

/// In quotes the script has bare names, elsewhere names with their schema.
fn script(table: &Table) -> String {
    let bare = table.in_statement("{name}");
    SCRIPT
        .replace(&format!("'{DEFAULT_TABLE}"), &format!("'{bare}"))
        .replace(&format!("\"{DEFAULT_TABLE}"), &format!("\"{bare}"))
        .replace(DEFAULT_TABLE, &table.to_string())
}

pub(super) async fn migrate(pool: &PgPool, table: &Table) -> Result<(), StoreError> {
    // Whoever may only use them can call this too, once they are there.
    match check(pool, table).await {
        Err(error) if error.kind() == StoreErrorKind::Refused => {}
        other => return other,
    }
    let failed = |error| failed(error, meaning::meaning);
    let begun = pool.begin_with(BEGIN).await;
    let mut transaction = begun.map_err(|error| not_sent(error, meaning::meaning))?;
    // Two that create the same at once would fail.
    let lock = table.in_statement(
        "SELECT pg_advisory_xact_lock(hashtextextended('tower-idempotency {table}', 0))",
    );
    sqlx::query(AssertSqlSafe(lock))
        .execute(&mut *transaction)
        .await
        .map_err(failed)?;
    let found = Found::by(&mut transaction, table).await.map_err(failed)?;
    if found.exists {
        found.version(table)?;
    }
    raw_sql(AssertSqlSafe(script(table)))
        .execute(&mut *transaction)
        .await
        .map_err(failed)?;
    transaction.commit().await.map_err(failed)?;
    check(pool, table).await
}

/// Whether all is there that the store needs.
pub(super) async fn check(pool: &PgPool, table: &Table) -> Result<(), StoreError> {
    let mut connection = connection(pool).await?;
    let found = Found::by(&mut connection, table)
        .await
        .map_err(|error| failed(error, meaning::meaning))?;
    found.check(table)
}

struct Found {
    exists: bool,
    comment: Option<String>,
    read_only: bool,
    missing: Vec<String>,
    forbidden: Vec<String>,
}

impl Found {
    async fn by(connection: &mut PgConnection, table: &Table) -> Result<Self, sqlx::Error> {
        let statement = table.in_statement(
            "WITH tables AS (
                SELECT '{table}' || suffix AS name
                FROM unnest(ARRAY['', '_renewals', '_waiters']) suffix
            ), functions AS (
                SELECT '{table}_' || suffix AS name
                FROM unnest(ARRAY['claim', 'renew', 'complete', 'release', 'look_up', 'forget',
                    'changed', 'wait', 'purge']) suffix
            )
            SELECT
                to_regclass('{table}') IS NOT NULL,
                obj_description(to_regclass('{table}'), 'pg_class'),
                current_setting('transaction_read_only') = 'on',
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
                    WHERE NOT has_function_privilege(to_regproc(name), 'EXECUTE'))",
        );
        let row = sqlx::query(AssertSqlSafe(statement))
            .fetch_one(connection)
            .await?;
        Ok(Self {
            exists: row.try_get(0)?,
            comment: row.try_get(1)?,
            read_only: row.try_get(2)?,
            missing: row.try_get(3)?,
            forbidden: row.try_get(4)?,
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

    fn version(&self, table: &Table) -> Result<(), StoreError> {
        let comment = self.comment.as_deref().unwrap_or_default();
        let version = comment.strip_prefix(COMMENT).map(str::parse);
        match version {
            Some(Ok(VERSION)) => Ok(()),
            Some(Ok(other)) => Err(refused(format!(
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
        assert!(script.contains(&format!("COMMENT ON TABLE app.t IS '{COMMENT}{VERSION}';")));
    }
}
