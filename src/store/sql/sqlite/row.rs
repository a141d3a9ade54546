//! Reading a row.

use std::time::Duration;

use sqlx::error::UnexpectedNullError;
use sqlx::sqlite::SqliteRow;
use sqlx::{Decode, Error, Row, Sqlite, Type};

use super::super::failed;
use super::meaning::meaning;
use crate::store::encoding::{EncodedCompletion, unreadable};
use crate::store::listed_row::ListedRow;
use crate::store::row::{FORMAT, OriginColumns, RecordRow, state};
use crate::store::{Record, StoreError};

/// The record that was found under an id.
pub(super) struct Found {
    /// Whether the record has the nonce of the request.
    owned: bool,
    is_over: bool,
    stored: RecordRow,
}

impl Found {
    /// # Errors
    /// If a column has a value of another type: SQLite can store that.
    pub(super) fn read(row: &SqliteRow) -> Result<Self, StoreError> {
        let columns = Columns::read(row).map_err(|error| failed(error, meaning))?;
        columns.found()
    }

    /// Whether the record has expired: it is then treated as absent. A record
    /// of another format or in an unknown state never is, since its end is
    /// unknown.
    pub(super) fn is_over(&self) -> bool {
        let is_known = (state::IN_FLIGHT..=state::RELEASED).contains(&self.stored.state);
        self.is_over && is_known && self.stored.format == FORMAT
    }

    /// Whether the record is in flight under the nonce of the request, so that
    /// the claim gets its lease again.
    pub(super) fn is_held(&self) -> bool {
        self.owned && self.stored.state == state::IN_FLIGHT
    }

    /// Whether the record was completed under the nonce of the request.
    pub(super) fn is_done(&self) -> bool {
        self.owned && matches!(self.stored.state, state::COMPLETED | state::SEALED)
    }

    pub(super) fn record(self) -> Result<Record, StoreError> {
        self.stored.record()
    }
}

/// Reads a column that must not be null. The driver itself reads null as 0.
fn required<T>(row: &SqliteRow, column: &'static str) -> Result<T, Error>
where
    T: for<'r> Decode<'r, Sqlite> + Type<Sqlite>,
{
    let value: Option<T> = row.try_get(column)?;
    value.ok_or_else(|| Error::ColumnDecode {
        index: column.to_owned(),
        source: Box::new(UnexpectedNullError),
    })
}

fn origin(row: &SqliteRow) -> Result<OriginColumns, Error> {
    Ok(OriginColumns {
        scope: row.try_get("scope")?,
        route: row.try_get("route")?,
        trace: row.try_get("trace")?,
    })
}

/// A row of a list, at this time by the store's clock.
pub(super) fn listed(row: &SqliteRow, now: i64) -> Result<ListedRow, Error> {
    let lapses_at: Option<i64> = row.try_get("lapses_at")?;
    let expires_at: Option<i64> = row.try_get("expires_at")?;
    Ok(ListedRow {
        id: required(row, "id")?,
        format: required(row, "format")?,
        state: required(row, "state")?,
        token: required(row, "token")?,
        attempt: required(row, "attempt")?,
        lapses_in: lapses_at.map_or(0, |at| at.saturating_sub(now)),
        expires_in: expires_at.map(|at| at.saturating_sub(now)),
        status: row.try_get("status")?,
        completed_at: row.try_get("completed_at")?,
        origin: origin(row)?,
    })
}

struct Columns {
    now: i64,
    owned: bool,
    format: i64,
    state: i64,
    token: i64,
    attempt: i64,
    fingerprint: Vec<u8>,
    lapses_at: Option<i64>,
    expires_at: Option<i64>,
    answer: Option<CompletionColumns>,
    origin: OriginColumns,
}

struct CompletionColumns {
    status: i64,
    began_at: i64,
    completed_at: i64,
    kept_for: i64,
    length: i64,
    checksum: Vec<u8>,
    message: Vec<u8>,
}

impl Columns {
    fn read(row: &SqliteRow) -> Result<Self, Error> {
        let state = required(row, "state")?;
        let message: Option<Vec<u8>> = match state {
            state::COMPLETED => row.try_get("answer")?,
            _ => None,
        };
        let answer = match message {
            Some(message) => Some(CompletionColumns {
                status: required(row, "status")?,
                began_at: required(row, "began_at")?,
                completed_at: required(row, "completed_at")?,
                kept_for: required(row, "kept_for")?,
                length: required(row, "answer_length")?,
                checksum: required(row, "answer_sha256")?,
                message,
            }),
            None => None,
        };
        Ok(Self {
            now: required(row, "now")?,
            owned: required(row, "owned")?,
            format: required(row, "format")?,
            state,
            token: required(row, "token")?,
            attempt: required(row, "attempt")?,
            fingerprint: required(row, "fingerprint")?,
            lapses_at: match state {
                state::IN_FLIGHT => Some(required(row, "lapses_at")?),
                _ => row.try_get("lapses_at")?,
            },
            expires_at: row.try_get("expires_at")?,
            answer,
            origin: origin(row)?,
        })
    }

    fn found(self) -> Result<Found, StoreError> {
        Ok(Found {
            owned: self.owned,
            is_over: self.expires_at.is_some_and(|end| end <= self.now),
            stored: RecordRow {
                format: self.format,
                state: self.state,
                token: self.token,
                attempt: self.attempt,
                fingerprint: self.fingerprint,
                lapses_in: self.lapses_at.map_or(0, |at| at.saturating_sub(self.now)),
                answer: self.answer.map(CompletionColumns::decode).transpose()?,
                origin: self.origin,
            },
        })
    }
}

impl CompletionColumns {
    fn decode(self) -> Result<EncodedCompletion, StoreError> {
        let beyond = |_| unreadable("a number of its answer is beyond what it can be");
        let checksum = self.checksum.try_into();
        Ok(EncodedCompletion {
            status: self.status.try_into().map_err(beyond)?,
            began_at: self.began_at,
            completed_at: self.completed_at,
            retention: Duration::from_micros(self.kept_for.try_into().map_err(beyond)?),
            length: self.length.try_into().map_err(beyond)?,
            checksum: checksum.map_err(|_| unreadable("its checksum is not 32 bytes"))?,
            answer: self.message,
        })
    }
}
