//! Checks that the tables and procedures exist, and that the user has the rights to use them.

use sqlx::{AssertSqlSafe, MySql, MySqlPool, Row};
use tracing::warn;

use super::errors::meaning;
use super::migration::procedure_comment;
use super::settings::{Settings, settings};
use crate::store::sql::{Connections, Lent, Table, failed};
use crate::store::{StoreError, StoreErrorKind};

/// The comment of this version's tables, and the beginning of its procedures'
/// comments.
const COMMENT: &str = "tower-idempotency 1";
/// The tables beside the table of records, by the end of their names.
const DERIVED_TABLES: [&str; 2] = ["renewals", "steps"];
const PROCEDURES: [&str; 21] = [
    "hold",
    "extend",
    "claim",
    "claim_v2",
    "claim_v3",
    "claim_by_hand",
    "list",
    "look_up",
    "renew",
    "record_step",
    "complete",
    "complete_v2",
    "complete_within",
    "complete_within_v2",
    "fate",
    "release",
    "forget",
    "forget_v2",
    "forget_v3",
    "purge",
    "purge_v2",
];

pub(super) async fn check(pool: &MySqlPool, table: &Table) -> Result<Settings, StoreError> {
    let mut lent = Connections::new(pool.clone(), meaning, false)
        .lend()
        .await?;
    let found = find(&mut lent, table).await?;
    if let Some(what) = found.lacks(table) {
        return Err(missing(&what));
    }
    if !found.is_current {
        warn!(
            %table,
            "its procedures are those of another version of tower-idempotency, older or newer, \
             and may lack what was mended since: call `migrate()` or run \
             docs/sql/mysql.sql"
        );
    }
    rehearse(&mut lent, table)
        .await
        .map_err(|error| failed(error, meaning))?;
    let settings = settings(&mut lent, table).await?;
    lent.give_back();
    Ok(settings)
}

fn missing(what: &str) -> StoreError {
    StoreError::new(
        StoreErrorKind::Refused,
        format!(
            "{what} is not there, or its user may not see it: call `migrate()` \
             or run docs/sql/mysql.sql, and grant the rights that docs/stores.md lists"
        ),
    )
}

/// The tables and procedures of a store that exist.
pub(super) struct Found {
    names: Vec<String>,
    /// Whether the procedures have the text of this version.
    pub(super) is_current: bool,
}

impl Found {
    /// The first table or procedure that is missing.
    pub(super) fn lacks(&self, table: &Table) -> Option<String> {
        let derived = DERIVED_TABLES.map(|name| format!("{table}_{name}"));
        let tables = [table.to_string()].into_iter().chain(derived);
        let tables = tables.map(|name| ("table", name));
        let procedures = PROCEDURES.map(|name| ("procedure", format!("{table}_{name}")));
        let mut all = tables.chain(procedures);
        // The comparison ignores case, because some servers convert names to lower case.
        let is_there = |name: &str| self.names.iter().any(|it| it.eq_ignore_ascii_case(name));
        let (kind, name) = all.find(|(_, name)| !is_there(name))?;
        Some(format!("the {kind} `{name}`"))
    }
}

/// # Errors
/// If a table or procedure is of another version, or of another program.
pub(super) async fn find(lent: &mut Lent<MySql>, table: &Table) -> Result<Found, StoreError> {
    let full = table.to_string();
    let (schema, name) = match full.split_once('.') {
        Some((schema, name)) => (Some(schema), name),
        None => (None, &*full),
    };
    // The texts are cast to bytes, because the collation of the catalogue's texts depends on the
    // version of the server. The statement has a `LIMIT`, because a session can have a smaller
    // default limit.
    let sql = "SELECT CAST(table_name AS BINARY), CAST(table_comment AS BINARY) \
               FROM information_schema.tables \
               WHERE table_schema = COALESCE(?, DATABASE()) AND table_name IN (?, CONCAT(?, '_renewals'), CONCAT(?, '_steps')) \
               UNION ALL \
               SELECT CAST(routine_name AS BINARY), CAST(routine_comment AS BINARY) \
               FROM information_schema.routines \
               WHERE routine_schema = COALESCE(?, DATABASE()) AND routine_type = 'PROCEDURE' \
                 AND LEFT(routine_name, CHAR_LENGTH(?) + 1) = CONCAT(?, '_') \
               LIMIT 1000";
    let rows = sqlx::query(sql)
        .bind(schema)
        .bind(name)
        .bind(name)
        .bind(name)
        .bind(schema)
        .bind(name)
        .bind(name)
        .fetch_all(lent.get())
        .await
        .map_err(|error| failed(error, meaning))?;
    let prefix = schema.map_or(String::new(), |schema| format!("{schema}."));
    let mut found = Found {
        names: Vec::new(),
        is_current: true,
    };
    for row in rows {
        let text = |at: usize| -> Result<String, StoreError> {
            let bytes: Vec<u8> = row.try_get(at).map_err(|error| failed(error, meaning))?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        let (found_name, comment) = (format!("{prefix}{}", text(0)?), text(1)?);
        let derived = found_name.get(full.len() + 1..);
        let is_procedure = derived.is_some_and(|name| PROCEDURES.contains(&name));
        if derived.is_some_and(|name| !DERIVED_TABLES.contains(&name)) && !is_procedure {
            continue;
        }
        let digest = comment.strip_prefix(COMMENT);
        if !digest
            .is_some_and(|digest| digest.is_empty() || is_procedure && digest.starts_with(' '))
        {
            return Err(StoreError::new(
                StoreErrorKind::Refused,
                format!(
                    "`{found_name}` is not what this version of the store made: its comment is \
                     `{comment}`, not `{COMMENT}`; choose another table, or the crate's version \
                     that it is of"
                ),
            ));
        }
        found.is_current &= !is_procedure || comment == procedure_comment();
        found.names.push(found_name);
    }
    Ok(found)
}

/// Writes to every table that the procedures write to, and rolls the transaction back. So a
/// missing right, a read-only server or a full disk is found when the store is opened, and not at
/// the first request.
async fn rehearse(lent: &mut Lent<MySql>, table: &Table) -> Result<(), sqlx::Error> {
    let id = rand::random::<[u8; 32]>();
    let statements = [
        "INSERT INTO {table}_renewals (id, nonce, lapses_at) VALUES (?, '', 0)",
        "UPDATE {table}_renewals SET lapses_at = 1 WHERE id = ?",
        "DELETE FROM {table}_renewals WHERE id = ?",
        "INSERT INTO {table} \
         (id, format, state, nonce, token, attempt, fingerprint, lapses_at, retention, expires_at, \
         scope, route, trace, origin_of, first_token) \
         VALUES (?, 1, 5, '', 0, 0, '', 0, 0, 0, NULL, NULL, NULL, NULL, NULL)",
        "UPDATE {table} SET token = 1 WHERE id = ?",
        "DELETE FROM {table} WHERE id = ?",
        "INSERT INTO {table}_steps (id, first_token, name_sha256, name, result, recorded_at) \
         VALUES (?, 0, '', '', '', 0)",
        "UPDATE {table}_steps SET recorded_at = 1 WHERE id = ?",
        "DELETE FROM {table}_steps WHERE id = ?",
    ];
    sqlx::raw_sql("START TRANSACTION")
        .execute(lent.get())
        .await?;
    for statement in statements {
        sqlx::query(AssertSqlSafe(table.in_statement(statement)))
            .bind(&id[..])
            .persistent(false)
            .execute(lent.get())
            .await?;
    }
    // The statement is written in full, because `completion_type` of the session changes the
    // meaning of a plain `ROLLBACK`.
    sqlx::raw_sql("ROLLBACK AND NO CHAIN NO RELEASE")
        .execute(lent.get())
        .await?;
    let look_up = table.in_statement("CALL {table}_look_up(?)");
    sqlx::query(AssertSqlSafe(look_up))
        .bind(&id[..])
        .fetch_all(lent.get())
        .await?;
    Ok(())
}
