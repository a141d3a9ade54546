//! A record as an engine lists it, and the page that such records make.

use std::time::Duration;

use http::StatusCode;

use super::encoding::{micros, system_time};
use super::row::{FORMAT, OriginColumns, state};
#[cfg(feature = "_sql")]
use super::{Cursor, RecordPage, StoreError};
use super::{ListQuery, ListedRecord, ListedState};
use crate::record::{FencingToken, RecordId};

/// How many records one page reads at least, since not every record that it reads fits.
pub(crate) const READ: u16 = 500;

/// The fields of one record that are listed, unchecked.
#[derive(Debug)]
pub(crate) struct ListedRow {
    pub(crate) id: Vec<u8>,
    pub(crate) format: i64,
    pub(crate) state: i64,
    pub(crate) token: i64,
    pub(crate) attempt: i64,
    /// Microseconds until the lease lapses.
    pub(crate) lapses_in: i64,
    /// Microseconds until the record expires, if it ever does.
    pub(crate) expires_in: Option<i64>,
    pub(crate) status: Option<i64>,
    /// Microseconds since 1970.
    pub(crate) completed_at: Option<i64>,
    pub(crate) origin: OriginColumns,
}

impl ListedRow {
    /// The record; `None` if it has expired, or if this version can't read it. `now` is the store's
    /// clock, in microseconds since 1970.
    pub(crate) fn listed(self, now: i64) -> Option<ListedRecord> {
        if self.format != FORMAT || self.expires_in.is_some_and(|left| left <= 0) {
            return None;
        }
        let state = match self.state {
            state::IN_FLIGHT if self.lapses_in > 0 => ListedState::InFlight,
            state::IN_FLIGHT => ListedState::Lapsed,
            state::UNKNOWN => ListedState::Unknown,
            state::COMPLETED => ListedState::Completed,
            state::SEALED => ListedState::Sealed,
            state::RELEASED => ListedState::Released,
            _ => return None,
        };
        let id = RecordId::from_bytes(self.id.try_into().ok()?);
        let token = FencingToken::new(u64::try_from(self.token).ok()?)?;
        let attempt = u64::try_from(self.attempt).ok()?;
        let mut record = ListedRecord::new(id, state, token, attempt);
        record.scope = self.origin.scope();
        record.origin = self.origin.origin();
        record.claimed_at = token.claimed_at();
        let at = |micros| system_time(micros).ok();
        record.completed_at = self.completed_at.and_then(at);
        let ends = self
            .expires_in
            .and_then(|left| at(now.saturating_add(left)));
        record.expires_at = ends;
        let status = self.status.and_then(|status| u16::try_from(status).ok());
        record.status = status.and_then(|status| StatusCode::from_u16(status).ok());
        Some(record)
    }
}

/// Whether a record has what a query asks for.
pub(crate) fn fits(query: &ListQuery, record: &ListedRecord, now: i64) -> bool {
    query.state.is_none_or(|state| state == record.state)
        && query.scope.is_none_or(|scope| record.scope == Some(scope))
        && is_older(query.older_than, record.token, now)
}

fn is_older(than: Option<Duration>, token: FencingToken, now: i64) -> bool {
    let age = now.saturating_sub(token.get().cast_signed());
    than.is_none_or(|than| age > micros(than))
}

/// The place of a record in the order of a list: of its token, where the list is by tokens, and of
/// its id.
#[cfg(feature = "_sql")]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Position {
    pub(crate) token: i64,
    pub(crate) id: [u8; 32],
}

#[cfg(feature = "_sql")]
impl Position {
    /// Where the page of a query begins.
    pub(crate) fn of(query: &ListQuery) -> Result<Self, StoreError> {
        let Some(cursor) = &query.cursor else {
            return Ok(Self {
                token: 0,
                id: [0; 32],
            });
        };
        let invalid = StoreError::invalid_cursor;
        let (token, id) = cursor.as_bytes().split_first_chunk().ok_or_else(invalid)?;
        let position = Self {
            token: i64::from_be_bytes(*token),
            id: id.try_into().map_err(|_| invalid())?,
        };
        Ok(position)
    }

    fn cursor(self) -> Option<Cursor> {
        Cursor::from_bytes([&self.token.to_be_bytes()[..], &self.id].concat())
    }
}

/// By what an SQL store reads the records of a list.
#[cfg(feature = "_sql")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// By the primary key: all records, and those that are completed, which most are.
    Id,
    /// By token, the oldest first: those in the state of this number.
    State(i64),
    /// By token, the oldest first: those of one caller.
    Scope,
}

#[cfg(feature = "_sql")]
impl Order {
    pub(crate) fn of(query: &ListQuery) -> Self {
        match query.state {
            _ if query.scope.is_some() => Self::Scope,
            None | Some(ListedState::Completed) => Self::Id,
            Some(ListedState::InFlight | ListedState::Lapsed) => Self::State(state::IN_FLIGHT),
            Some(ListedState::Unknown) => Self::State(state::UNKNOWN),
            Some(ListedState::Sealed) => Self::State(state::SEALED),
            Some(ListedState::Released) => Self::State(state::RELEASED),
        }
    }

    /// The rows that a page reads, in this order, at most: those that fit are the page.
    pub(crate) fn page(self, query: &ListQuery, mut rows: Vec<ListedRow>, now: i64) -> RecordPage {
        let size = usize::from(query.page_size());
        let is_whole = rows.len() < usize::from(read(query));
        let position = |row: &ListedRow| Position {
            token: if self == Self::Id { 0 } else { row.token },
            id: row.id[..].try_into().unwrap_or([0xff; 32]),
        };
        rows.sort_by_key(position);
        let mut records = Vec::new();
        let mut next = None;
        let all = rows.len();
        for (at, row) in rows.into_iter().enumerate() {
            let place = position(&row);
            let record = row.listed(now);
            // By token, none of those that follow is older.
            if self != Self::Id
                && let Some(record) = &record
                && !is_older(query.older_than, record.token, now)
            {
                return RecordPage::new(records, None);
            }
            records.extend(record.filter(|record| fits(query, record, now)));
            next = place.cursor();
            if records.len() == size {
                let is_last = is_whole && at + 1 == all;
                return RecordPage::new(records, next.filter(|_| !is_last));
            }
        }
        RecordPage::new(records, next.filter(|_| !is_whole))
    }
}

/// How many rows a page of this query reads.
#[cfg(feature = "_sql")]
pub(crate) fn read(query: &ListQuery) -> u16 {
    query.page_size().max(READ)
}
