//! The statements of the store. Each statement is a transaction of its own.
//!
//! In the statements `?1` is the time at which this process sent the statement, in microseconds,
//! and `?2` is the id of the record. `{now}` is the later of `?1` and SQLite's own time. SQLite
//! reads its time after it got the lock that the statement waits for, but in whole milliseconds.
//! Both times come from the clock of this machine. So `{now}` is never in the future; it is exact
//! if the statement did not wait for the lock, and otherwise less than a millisecond behind.

use std::sync::Arc;

use sqlx::{AssertSqlSafe, SqlSafeStr, SqlStr};

use super::super::{DEFAULT_TABLE, PURGE_BATCH, Table};
use crate::store::listed_row::Order;

const NOW: &str = "max(?1, CAST(unixepoch('now', 'subsec') * 1000000 AS INTEGER))";

/// The statements that create the tables, which are published as a file.
const TABLES: &str = include_str!("../../../../docs/sql/sqlite.sql");

const FIND: &str = "
    SELECT {now} AS now, nonce = ?3 AS owned, format, state, token, attempt, fingerprint, lapses_at,
        expires_at, status, began_at, completed_at, kept_for, answer_length, answer_sha256, answer,
        scope, {origin}
    FROM {table} WHERE id = ?2";

/// Route and trace, if they are of the last claim: a program that does not know them leaves those
/// of the claim before.
const ORIGIN: &str = "iif(origin_of = token, route, NULL) AS route,
        iif(origin_of = token, trace, NULL) AS trace";

/// `{which}` is the condition, the order and the number of the records that the page reads. `?2` is
/// an id, `?3` a token and `?4` a scope.
const LIST: &str = "
    SELECT {now} AS now, id, format, state, token, attempt, lapses_at, expires_at, status,
        completed_at, scope, {origin}
    FROM {table} WHERE {which}";

/// `?3` is the nonce, `?4` the fingerprint, `?5` the lease, `?6` the retention, `?7` whether the
/// record stays after its lease has lapsed, `?8` to `?10` are scope, route and trace, `?11` is
/// whether the claim takes over a lapsed record, and `?12` whether it does so for any fingerprint.
///
/// The statement decides by the record as it is now, also if an earlier read found another one.
/// `{of_what}` is whether there may be a row at all.
const CLAIM: &str = "
    INSERT INTO {table} (id, format, state, nonce, token, attempt, fingerprint, retention,
        lapses_at, expires_at, scope, route, trace, origin_of)
    SELECT ?2, 1, 1, ?3, {now}, 1, ?4, ?6, {now} + ?5, iif(?7, NULL, {now} + ?5 + ?6),
        ?8, ?9, ?10, {now}
    WHERE {of_what}
    ON CONFLICT (id) DO UPDATE SET
        state = 1,
        nonce = excluded.nonce,
        token = CASE
            WHEN expires_at <= {now} THEN max(token + 1, excluded.token)
            WHEN state = 1 AND nonce = excluded.nonce THEN token
            ELSE max(token + 1, excluded.token)
        END,
        scope = excluded.scope, route = excluded.route, trace = excluded.trace,
        origin_of = CASE
            WHEN expires_at <= {now} THEN max(token + 1, excluded.token)
            WHEN state = 1 AND nonce = excluded.nonce THEN token
            ELSE max(token + 1, excluded.token)
        END,
        attempt = CASE
            WHEN expires_at <= {now} THEN 1
            WHEN state = 1 AND nonce = excluded.nonce THEN attempt
            ELSE attempt + 1
        END,
        fingerprint = excluded.fingerprint,
        retention = excluded.retention,
        lapses_at = excluded.lapses_at,
        expires_at = excluded.expires_at,
        status = NULL, began_at = NULL, completed_at = NULL, kept_for = NULL,
        answer_length = NULL, answer_sha256 = NULL, answer = NULL
    WHERE format = 1 AND state BETWEEN 1 AND 5 AND (
        expires_at <= {now}
        OR state = 5
        OR (state = 1 AND nonce = excluded.nonce)
        OR ((state = 2 OR (state = 1 AND lapses_at <= {now}))
            AND ?11 AND (?12 OR fingerprint = excluded.fingerprint)))
    RETURNING token, attempt, EXISTS (SELECT 1 FROM {table}_steps WHERE id = ?2) AS has_steps";

/// The claim of a record that is not there, with the parameters of [`CLAIM`]. Its transaction must have
/// begun by `BEGIN IMMEDIATE`: it has SQLite's lock already then, so that `?1` is the time after the
/// wait for that lock. The statement returns no row: the token is `?1`, and the attempt 1.
const CLAIM_ABSENT: &str = "
    INSERT INTO {table} (id, format, state, nonce, token, attempt, fingerprint, retention,
        lapses_at, expires_at, scope, route, trace, origin_of)
    VALUES (?2, 1, 1, ?3, ?1, 1, ?4, ?6, ?1 + ?5, iif(?7, NULL, ?1 + ?5 + ?6),
        ?8, ?9, ?10, ?1)
    ON CONFLICT (id) DO NOTHING";

/// The condition of a claim by hand, of the token `?13` and the attempt `?14`. A claim that was sent
/// before has the record.
const BY_HAND: &str = "EXISTS (
        SELECT 1 FROM {table}
        WHERE id = ?2 AND (expires_at IS NULL OR expires_at > {now})
            AND (state IN (1, 2) AND token = ?13 AND attempt = ?14 OR state = 1 AND nonce = ?3))";

/// `?3` is the nonce, `?4` the lease and `?5` the retention.
const RENEW: &str = "
    UPDATE {table} SET
        lapses_at = {now} + ?4,
        expires_at = iif(expires_at IS NULL, NULL, {now} + ?4 + ?5)
    WHERE id = ?2 AND format = 1 AND state = 1 AND nonce = ?3
        AND (expires_at IS NULL OR expires_at > {now})
    RETURNING 1";

/// `?3` is the nonce, `?4` the token, `?5` the attempt, `?6` the fingerprint, `?7` the claim's
/// retention, `?8` the state, `?9` how long the completion is kept, `?10` to `?15` are the
/// completion, and `?16` to `?18` are scope, route and trace.
const COMPLETE: &str = "
    INSERT INTO {table} (id, format, state, nonce, token, attempt, fingerprint, retention,
        expires_at, kept_for, status, began_at, completed_at, answer_length, answer_sha256, answer,
        scope, route, trace, origin_of)
    VALUES (?2, 1, ?8, ?3, ?4, ?5, ?6, ?7, {now} + ?9, ?9, ?10, ?11, ?12, ?13, ?14, ?15,
        ?16, ?17, ?18, ?4)
    ON CONFLICT (id) DO UPDATE SET
        state = excluded.state,
        nonce = excluded.nonce,
        token = excluded.token,
        attempt = excluded.attempt,
        fingerprint = excluded.fingerprint,
        retention = excluded.retention,
        lapses_at = NULL,
        expires_at = excluded.expires_at,
        kept_for = excluded.kept_for,
        status = excluded.status,
        began_at = excluded.began_at,
        completed_at = excluded.completed_at,
        answer_length = excluded.answer_length,
        answer_sha256 = excluded.answer_sha256,
        answer = excluded.answer,
        scope = excluded.scope, route = excluded.route, trace = excluded.trace,
        origin_of = excluded.origin_of
    WHERE format = 1 AND state BETWEEN 1 AND 5 AND (
        (state IN (1, 2) AND nonce = excluded.nonce)
        OR ((state = 5 OR expires_at <= {now}) AND token <= excluded.token))
    RETURNING 1";

/// This statement runs in the handler's own transaction. `?3` is the nonce, `?4` the state, `?5`
/// how long the completion is kept, and `?6` to `?11` are the completion.
const COMPLETE_WITHIN: &str = "
    UPDATE {table} SET
        state = ?4, lapses_at = NULL, expires_at = {now} + ?5, kept_for = ?5,
        status = ?6, began_at = ?7, completed_at = ?8, answer_length = ?9, answer_sha256 = ?10,
        answer = ?11
    WHERE id = ?2 AND nonce = ?3 AND state IN (1, 2) AND format = 1";

/// The statement writes without changing a value, so that it succeeds only when no other
/// transaction has written and not ended. `?3` is the nonce.
const FATE: &str = "
    UPDATE {table} SET state = state WHERE id = ?2 AND ?1 RETURNING state, nonce = ?3";

/// `?3` is the nonce, and `?4` the state of the record after the release.
const RELEASE: &str = "
    UPDATE {table} SET
        state = ?4,
        lapses_at = {now},
        expires_at = iif(?4 = 2 AND expires_at IS NULL, NULL, {now} + retention)
    WHERE id = ?2 AND format = 1 AND state IN (1, 2) AND nonce = ?3
        AND (expires_at IS NULL OR expires_at > {now})
    RETURNING 1";

/// `?3` is the nonce, `?4` the name of the step and `?5` its result. A step that is there already
/// is written without a change, so that there is a row to tell that the record is held.
const RECORD_STEP: &str = "
    INSERT INTO {table}_steps (id, name, result)
    SELECT ?2, ?4, ?5 FROM {table}
    WHERE id = ?2 AND format = 1 AND state = 1 AND nonce = ?3 AND ?1
    ON CONFLICT (id, name) DO UPDATE SET name = excluded.name
    RETURNING 1";

const STEPS: &str = "SELECT name, result FROM {table}_steps WHERE id = ?2 AND ?1 ORDER BY rowid";

/// `?3` is whether a live record goes too. `?4`, `?5` and `?6` are the token, the attempt and
/// whether it is done of the record that is meant; they are null if any record is.
const FORGET: &str = "
    DELETE FROM {table}
    WHERE id = ?2 AND (?3 AND ?4 IS NULL OR format = 1 AND state BETWEEN 1 AND 5
        AND (expires_at <= {now}
            OR (?4 IS NULL OR token = ?4 AND attempt = ?5 AND (state IN (3, 4)) = ?6)
                AND (?3 OR state <> 1 OR lapses_at <= {now})))
    RETURNING coalesce(format = 1 AND state BETWEEN 1 AND 5 AND expires_at <= {now}, 0) AS over";

const PURGE: &str = "
    DELETE FROM {table} WHERE rowid IN (
        SELECT rowid FROM {table}
        WHERE expires_at <= {now} AND format = 1 AND state BETWEEN 1 AND 5
        ORDER BY expires_at LIMIT {batch})
    RETURNING 1";

/// Counts the tables, indexes and views that have the name of one of the two tables.
const THERE: &str = "
    SELECT count(*) FILTER (WHERE name = '{name}' COLLATE NOCASE),
        count(*) FILTER (WHERE name = '{name}_schema' COLLATE NOCASE)
    FROM {schema}sqlite_schema";

/// The statement returns no row, and fails if a column is missing.
const COLUMNS: &str = "
    SELECT id, format, state, nonce, token, attempt, fingerprint, retention, lapses_at, expires_at,
        status, began_at, completed_at, kept_for, answer_length, answer_sha256, answer{added}
    FROM {table}{steps} LIMIT 0";

/// What [`COLUMNS`] reads besides, of tables of this version.
const STEP_COLUMNS: &str = ", (SELECT id AS step_of, name, result FROM {table}_steps LIMIT 0)";

/// The columns that a table of an earlier version lacks, with their types.
pub(super) const ADDED: [(&str, &str); 4] = [
    ("scope", "BLOB"),
    ("route", "TEXT"),
    ("trace", "TEXT"),
    ("origin_of", "INTEGER"),
];

const VERSION: &str = "SELECT version FROM {table}_schema";

/// The statement changes no row, but fails if the database can't be written.
const TOUCH: &str = "UPDATE {table} SET state = state WHERE id = x''";

#[derive(Debug)]
pub(super) struct Statements {
    pub(super) find: SqlStr,
    pub(super) claim: SqlStr,
    pub(super) claim_absent: SqlStr,
    pub(super) claim_by_hand: SqlStr,
    pub(super) renew: SqlStr,
    pub(super) complete: SqlStr,
    pub(super) unclaim_within: SqlStr,
    pub(super) complete_within: SqlStr,
    pub(super) fate: SqlStr,
    pub(super) release: SqlStr,
    pub(super) record_step: SqlStr,
    pub(super) steps: SqlStr,
    pub(super) forget: SqlStr,
    pub(super) purge: SqlStr,
    pub(super) there: SqlStr,
    /// The columns of every version, and all that this version needs.
    pub(super) first_columns: SqlStr,
    pub(super) columns: SqlStr,
    pub(super) version: SqlStr,
    pub(super) touch: SqlStr,
}

impl Statements {
    pub(super) fn of(table: &Table) -> Self {
        let statement = |text: &str| {
            let text = text.replace("{now}", NOW).replace("{origin}", ORIGIN);
            in_table(table, &text.replace("{batch}", &PURGE_BATCH.to_string()))
        };
        let added = ADDED.map(|(name, _)| format!(", {name}")).concat();
        let columns =
            |added: &str, steps| COLUMNS.replace("{added}", added).replace("{steps}", steps);
        Self {
            find: statement(FIND),
            claim: statement(&CLAIM.replace("{of_what}", "true")),
            claim_absent: statement(CLAIM_ABSENT),
            claim_by_hand: statement(&CLAIM.replace("{of_what}", BY_HAND)),
            renew: statement(RENEW),
            complete: statement(COMPLETE),
            unclaim_within: statement("DELETE FROM {table} WHERE id = ?1 AND nonce = ?2"),
            complete_within: statement(COMPLETE_WITHIN),
            fate: statement(FATE),
            release: statement(RELEASE),
            record_step: statement(RECORD_STEP),
            steps: statement(STEPS),
            forget: statement(FORGET),
            purge: statement(PURGE),
            there: statement(THERE),
            first_columns: statement(&columns("", "")),
            columns: statement(&columns(&added, STEP_COLUMNS)),
            version: statement(VERSION),
            touch: statement(TOUCH),
        }
    }
}

/// Returns the statement that reads one page of a list.
pub(super) fn list(table: &Table, order: Order, rows: u16) -> SqlStr {
    const AFTER: &str = "token >= ?3 AND (token > ?3 OR id > ?2) ORDER BY token, id";
    let which = match order {
        Order::Id => "id > ?2 ORDER BY id".to_owned(),
        // The condition of the index, which SQLite does not conclude from the state.
        Order::State(state) => format!("state = {state} AND state <> 3 AND {AFTER}"),
        Order::Scope => format!("scope = ?4 AND {AFTER}"),
    };
    let text = LIST
        .replace("{now}", NOW)
        .replace("{origin}", ORIGIN)
        .replace("{which}", &format!("{which} LIMIT {rows}"));
    in_table(table, &text)
}

/// Returns the statements that create the tables.
pub(super) fn tables(table: &Table) -> SqlStr {
    // The name of an index or a trigger has the schema, and the names of their tables must not
    // have it.
    let text = TABLES
        .replace(&format!(" ON {DEFAULT_TABLE}"), " ON {name}")
        .replace(
            &format!("DELETE FROM {DEFAULT_TABLE}"),
            "DELETE FROM {name}",
        )
        .replace(DEFAULT_TABLE, "{table}");
    in_table(table, &text)
}

/// Puts the name of the table into a statement. The name of a `Table` needs no quotes.
pub(super) fn in_table(table: &Table, statement: &str) -> SqlStr {
    let text: Arc<str> = table.in_statement(statement).into();
    AssertSqlSafe(text).into_sql_str()
}
