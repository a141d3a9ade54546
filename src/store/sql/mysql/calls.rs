//! Calling a stored procedure, in one round trip.

use std::sync::Arc;
use std::time::Duration;

use sqlx::mysql::{MySql, MySqlArguments, MySqlRow};
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, MySqlPool, Row};

use super::errors::{condition, is_retried, meaning};
use super::within::Within;
use crate::record::FencingToken;
use crate::store::encoding::{EncodedCompletion, unreadable};
use crate::store::listed_row::ListedRow;
use crate::store::row::{FORMAT, OriginColumns, RecordRow, recorded_step};
use crate::store::sql::{Connections, Table, failed};
use crate::store::{Ownership, Record, RecordedStep, StoreError};

/// How often a call is sent that the server rolls back in favour of others.
const TRIES: u32 = 8;

/// A session can have a smaller default limit than the rows of a record's steps.
const STEPS: &str = "SELECT s.name AS step, s.result \
                     FROM {table} r JOIN {table}_steps s \
                       ON s.id = r.id AND s.first_token = COALESCE(r.first_token, 0) \
                     WHERE r.id = ? ORDER BY s.recorded_at, s.name_sha256 LIMIT 100000";

#[derive(Clone)]
pub(super) struct Calls {
    connections: Connections<MySql>,
    pub(super) statements: Arc<Statements>,
}

pub(super) struct Statements {
    pub(super) claim: Arc<str>,
    pub(super) claim_by_hand: Arc<str>,
    pub(super) list: Arc<str>,
    pub(super) renew: Arc<str>,
    pub(super) record_step: Arc<str>,
    pub(super) steps: Arc<str>,
    pub(super) complete: Arc<str>,
    pub(super) complete_within: Arc<str>,
    pub(super) within: Within,
    pub(super) fate: Arc<str>,
    pub(super) release: Arc<str>,
    pub(super) look_up: Arc<str>,
    pub(super) forget: Arc<str>,
    pub(super) purge: Arc<str>,
}

impl Calls {
    pub(super) fn new(pool: MySqlPool, table: &Table) -> Self {
        let call = |operation: &str, arguments: usize| -> Arc<str> {
            let places = vec!["?"; arguments].join(", ");
            format!("CALL {table}_{operation}({places})").into()
        };
        let statements = Statements {
            claim: call("claim_v3", 11),
            claim_by_hand: call("claim_by_hand", 12),
            list: call("list", 6),
            renew: call("renew", 3),
            record_step: call("record_step", 5),
            steps: table.in_statement(STEPS).into(),
            complete: call("complete_v2", 16),
            complete_within: call("complete_within_v2", 10),
            within: Within::of(table),
            fate: call("fate", 2),
            release: call("release", 3),
            look_up: call("look_up", 1),
            forget: call("forget_v3", 5),
            purge: call("purge_v2", 1),
        };
        Self {
            connections: Connections::new(pool, meaning, false),
            statements: Arc::new(statements),
        }
    }

    /// Calls a procedure that returns one row.
    pub(super) async fn row<'q>(
        &self,
        statement: &Arc<str>,
        bind: impl Fn(Query<'q, MySql, MySqlArguments>) -> Query<'q, MySql, MySqlArguments>,
    ) -> Result<MySqlRow, StoreError> {
        let rows = self.rows(statement, bind).await?;
        rows.into_iter()
            .next()
            .ok_or_else(|| unreadable("no answer"))
    }

    /// Calls a procedure, and calls it again if the server rolled it back in
    /// favour of another transaction. Calls it once more on another connection if this one leads
    /// to the wrong server.
    pub(super) async fn rows<'q>(
        &self,
        statement: &Arc<str>,
        bind: impl Fn(Query<'q, MySql, MySqlArguments>) -> Query<'q, MySql, MySqlArguments>,
    ) -> Result<Vec<MySqlRow>, StoreError> {
        let mut connection = self.connections.lend().await?;
        let (mut tries, mut is_second) = (1, false);
        loop {
            let call = bind(sqlx::query(AssertSqlSafe(Arc::clone(statement))));
            // Fetches all rows, because an error at the end of the procedure arrives after its
            // row.
            match call.fetch_all(connection.get()).await {
                Ok(rows) => {
                    connection.give_back();
                    return Ok(rows);
                }
                Err(error) if tries < TRIES && is_retried(&error) => {
                    tries += 1;
                    // The pause is random, because two calls that collided would otherwise collide
                    // again. It has a lower bound, because the pauses together outlast the moment
                    // without a procedure while a migration replaces it on a slow disk.
                    let pause = rand::random_range(500 << tries..1_000 << tries);
                    tokio::time::sleep(Duration::from_micros(pause)).await;
                }
                Err(error) => {
                    if !connection.failed(condition(&error)) || is_second {
                        return Err(failed(error, meaning));
                    }
                    is_second = true;
                    connection = self.connections.lend().await?;
                }
            }
        }
    }
}

pub(super) fn column<'r, T>(row: &'r MySqlRow, name: &str) -> Result<T, StoreError>
where
    T: sqlx::Decode<'r, MySql> + sqlx::Type<MySql>,
{
    row.try_get(name).map_err(|error| failed(error, meaning))
}

pub(super) fn outcome(row: &MySqlRow) -> Result<i64, StoreError> {
    column(row, "outcome")
}

pub(super) fn ownership(row: &MySqlRow) -> Result<Ownership, StoreError> {
    match outcome(row)? {
        0 => Ok(Ownership::Lost),
        1 => Ok(Ownership::Held),
        _ => Err(unreadable_format(row)?),
    }
}

/// The error for a record that this version can't read.
pub(super) fn unreadable_format(row: &MySqlRow) -> Result<StoreError, StoreError> {
    let format: i64 = column(row, "format")?;
    let state: i64 = column(row, "state")?;
    Ok(unreadable(format!(
        "it is of format {format} and in state {state}, this version reads format {FORMAT} \
         and states 1 to 5"
    )))
}

pub(super) fn token_and_attempt(row: &MySqlRow) -> Result<(FencingToken, u64), StoreError> {
    let stored = RecordRow {
        format: FORMAT,
        state: 0,
        token: column(row, "token")?,
        attempt: column(row, "attempt")?,
        fingerprint: Vec::new(),
        lapses_in: 0,
        answer: None,
        origin: OriginColumns::default(),
    };
    Ok((stored.token()?, stored.attempt()?))
}

/// The steps in these rows. The row of a record that was made has no column for them, and in a row
/// without a step it is null.
pub(super) fn steps(rows: &[MySqlRow]) -> Result<Vec<RecordedStep>, StoreError> {
    let mut steps = Vec::with_capacity(rows.len());
    for row in rows {
        let name = match row.try_get::<Option<_>, _>("step") {
            Err(sqlx::Error::ColumnNotFound(_)) => return Ok(steps),
            name => name.map_err(|error| failed(error, meaning))?,
        };
        if let Some(name) = name {
            steps.push(recorded_step(name, column(row, "result")?)?);
        }
    }
    Ok(steps)
}

pub(super) fn record(row: &MySqlRow) -> Result<Record, StoreError> {
    RecordRow {
        format: column(row, "format")?,
        state: column(row, "state")?,
        token: column(row, "token")?,
        attempt: column(row, "attempt")?,
        fingerprint: column(row, "fingerprint")?,
        lapses_in: column(row, "lapses_in")?,
        answer: answer(row)?,
        origin: origin(row)?,
    }
    .record()
}

/// The columns are missing where a program of an earlier version has put its procedures back.
fn origin(row: &MySqlRow) -> Result<OriginColumns, StoreError> {
    let bytes = |name| match row.try_get::<Option<Vec<u8>>, _>(name) {
        Err(sqlx::Error::ColumnNotFound(_)) => Ok(None),
        bytes => bytes.map_err(|error| failed(error, meaning)),
    };
    let text = |name| Ok(bytes(name)?.and_then(|bytes| String::from_utf8(bytes).ok()));
    Ok(OriginColumns {
        scope: bytes("scope")?,
        route: text("route")?,
        trace: text("trace")?,
    })
}

/// A row of a list, and the server's clock.
pub(super) fn listed(row: &MySqlRow) -> Result<(ListedRow, i64), StoreError> {
    let listed = ListedRow {
        id: column(row, "id")?,
        format: column(row, "format")?,
        state: column(row, "state")?,
        token: column(row, "token")?,
        attempt: column(row, "attempt")?,
        lapses_in: column(row, "lapses_in")?,
        expires_in: column(row, "expires_in")?,
        status: column(row, "status")?,
        completed_at: column(row, "completed_at")?,
        origin: origin(row)?,
    };
    Ok((listed, column(row, "moment")?))
}

/// The completion, or `None` if a column of it is null.
fn answer(row: &MySqlRow) -> Result<Option<EncodedCompletion>, StoreError> {
    let Some(answer) = column::<Option<Vec<u8>>>(row, "answer")? else {
        return Ok(None);
    };
    let number = |name| column::<Option<i64>>(row, name);
    let (status, length) = (number("status")?, number("answer_length")?);
    let (began_at, completed_at) = (number("began_at")?, number("completed_at")?);
    let kept_for = number("kept_for")?;
    let checksum = column::<Option<Vec<u8>>>(row, "answer_sha256")?;
    Ok((|| {
        Some(EncodedCompletion {
            status: status?.try_into().ok()?,
            began_at: began_at?,
            completed_at: completed_at?,
            retention: Duration::from_micros(kept_for?.try_into().ok()?),
            answer,
            length: length?.try_into().ok()?,
            checksum: checksum?.try_into().ok()?,
        })
    })())
}
