//! Reading the rows that the functions return.

use std::time::Duration;

use sqlx::postgres::PgRow;
use sqlx::{Postgres, Row};

use super::super::failed;
use super::meaning::meaning;
use crate::store::encoding::{EncodedCompletion, unreadable};
use crate::store::listed_row::ListedRow;
use crate::store::row::{FORMAT, OriginColumns, RecordRow, recorded_step, state};
use crate::store::{Ownership, RecordedStep, StoreError};

pub(super) fn column<'r, T>(
    row: &'r PgRow,
    index: impl sqlx::ColumnIndex<PgRow>,
) -> Result<T, StoreError>
where
    T: sqlx::Decode<'r, Postgres> + sqlx::Type<Postgres>,
{
    row.try_get(index).map_err(|error| failed(error, meaning))
}

pub(super) fn stored(row: &PgRow) -> Result<RecordRow, StoreError> {
    let state = column::<Option<i16>>(row, "state")?.map_or(0, i64::from);
    let format = column::<Option<i16>>(row, "format")?.map_or(0, i64::from);
    let has_answer = state == state::COMPLETED && format == FORMAT;
    Ok(RecordRow {
        format,
        state,
        token: column(row, "token")?,
        attempt: column(row, "attempt")?,
        fingerprint: column::<Option<_>>(row, "fingerprint")?.unwrap_or_default(),
        lapses_in: column::<Option<_>>(row, "lapses_in")?.unwrap_or_default(),
        answer: has_answer.then(|| answer(row)).transpose()?,
        origin: origin(row)?,
    })
}

fn origin(row: &PgRow) -> Result<OriginColumns, StoreError> {
    Ok(OriginColumns {
        scope: column(row, "scope")?,
        route: column(row, "route")?,
        trace: column(row, "trace")?,
    })
}

pub(super) fn listed(row: &PgRow) -> Result<ListedRow, StoreError> {
    Ok(ListedRow {
        id: column(row, "id")?,
        format: column::<i16>(row, "format")?.into(),
        state: column::<i16>(row, "state")?.into(),
        token: column(row, "token")?,
        attempt: column(row, "attempt")?,
        lapses_in: column(row, "lapses_in")?,
        expires_in: column(row, "expires_in")?,
        status: column::<Option<i16>>(row, "status")?.map(i64::from),
        completed_at: column(row, "completed_at")?,
        origin: origin(row)?,
    })
}

fn answer(row: &PgRow) -> Result<EncodedCompletion, StoreError> {
    let checksum: Vec<u8> = column(row, "answer_sha256")?;
    let kept_for: i64 = column(row, "kept_for")?;
    Ok(EncodedCompletion {
        status: column::<i16>(row, "status")?.cast_unsigned(),
        began_at: column(row, "began_at")?,
        completed_at: column(row, "completed_at")?,
        retention: Duration::from_micros(kept_for.max(0).cast_unsigned()),
        answer: column(row, "answer")?,
        length: column::<i64>(row, "answer_length")?.cast_unsigned(),
        checksum: (checksum.try_into()).map_err(|_| unreadable("its checksum is not 32 bytes"))?,
    })
}

/// The steps of a record, or none if the statement did not read them.
pub(super) fn steps(row: &PgRow) -> Result<Option<Vec<RecordedStep>>, StoreError> {
    let parts = column::<Option<Vec<Vec<u8>>>>(row, "steps")?;
    let Some(parts) = parts else {
        return Ok(None);
    };
    let mut parts = parts.into_iter();
    let mut steps = Vec::with_capacity(parts.len() / 2);
    while let (Some(name), Some(result)) = (parts.next(), parts.next()) {
        steps.push(recorded_step(name, result)?);
    }
    Ok(Some(steps))
}

pub(super) fn ownership(row: &PgRow) -> Result<Ownership, StoreError> {
    match column::<Option<bool>>(row, 0)? {
        Some(true) => Ok(Ownership::Held),
        Some(false) => Ok(Ownership::Lost),
        None => Err(not_of_this_version()),
    }
}

pub(super) fn not_of_this_version() -> StoreError {
    unreadable("it is of a format or in a state that this version does not know")
}
