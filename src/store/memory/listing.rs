//! Listing: the records of one part after another.

use std::time::Duration;

use http::StatusCode;

use crate::record::{RecordId, ScopeDigest};
use crate::store::{Cursor, ListQuery, ListedRecord, ListedState, RecordPage, StoreError};

use super::clock::{Nanos, SinceStart};
use super::kept::Kept;
use super::origins::KeptOrigin;
use super::records::Records;
use super::slot::{Slot, State, token};

/// How many places one page looks at: about a millisecond's work.
const VISITED: usize = 10_000;

/// How many of them while a part is locked.
const AT_ONCE: usize = 256;

/// What a list has seen of a record while its part was locked. The completion is read later.
struct Glimpse {
    id: RecordId,
    state: ListedState,
    token: u64,
    attempt: u32,
    scope: ScopeDigest,
    /// `Err` for a completed record.
    origin: Result<KeptOrigin, Kept>,
    completed: Option<SinceStart>,
    ends: Option<SinceStart>,
}

impl Records {
    /// One page. A record stays in its place as long as it is there, so that a cursor is the place
    /// at which the next page begins.
    pub(super) fn list(&self, query: &ListQuery) -> Result<RecordPage, StoreError> {
        let mut at = match &query.cursor {
            None => (0, 0),
            Some(cursor) => place(cursor).ok_or_else(StoreError::invalid_cursor)?,
        };
        let size = usize::from(query.page_size());
        let older_than = query.older_than.map(Nanos::from);
        let mut found = Vec::new();
        let mut visited = 0;
        let mut next = Some(at);
        while visited < VISITED && found.len() < size {
            let now = self.clock.now();
            let fits = |slot: &Slot| {
                !slot.is_over(now)
                    && query
                        .scope
                        .is_none_or(|scope| *slot.account.scope() == scope)
                    && older_than
                        .is_none_or(|age| self.claimed(slot.token).saturating_add(age) < now)
                    && query.state.is_none_or(|state| state == slot.listed(now))
            };
            let most = AT_ONCE.min(VISITED - visited);
            next = self.slots.visit(at, most, |slot| {
                if fits(slot) {
                    found.push(Glimpse::of(slot, now));
                }
                found.len() < size
            });
            visited += AT_ONCE;
            let Some(further) = next else { break };
            at = further;
        }
        let listed = found.into_iter().map(|glimpse| self.listed(glimpse));
        Ok(RecordPage::new(listed.collect(), next.and_then(cursor)))
    }

    /// When the claim with this token was made.
    fn claimed(&self, token: u64) -> SinceStart {
        Duration::from_micros(token.saturating_sub(self.first_token)).into()
    }

    fn listed(&self, glimpse: Glimpse) -> ListedRecord {
        let Glimpse { id, state, .. } = glimpse;
        let token = token(glimpse.token);
        let mut record = ListedRecord::new(id, state, token, glimpse.attempt.into());
        record.scope = Some(glimpse.scope);
        record.claimed_at = token.claimed_at();
        record.completed_at = glimpse.completed.and_then(|at| self.wall(at));
        record.expires_at = glimpse.ends.and_then(|at| self.wall(at));
        let origin = glimpse.origin.unwrap_or_else(|kept| {
            let head = kept.head();
            record.status = Some::<StatusCode>(head.status);
            record.completed_at = Some(head.completed_at());
            head.origin
        });
        record.origin = self.routes.origin(origin);
        record
    }
}

impl Slot {
    fn listed(&self, now: SinceStart) -> ListedState {
        match &self.state {
            State::InFlight { unknown: true, .. } => ListedState::Unknown,
            State::InFlight { .. } if self.is_lapsed(now) => ListedState::Lapsed,
            State::InFlight { .. } => ListedState::InFlight,
            State::Done { .. } => ListedState::Completed,
            State::Sealed { .. } => ListedState::Sealed,
            State::Released { .. } => ListedState::Released,
        }
    }
}

impl Glimpse {
    fn of(slot: &Slot, now: SinceStart) -> Self {
        Self {
            id: slot.id,
            state: slot.listed(now),
            token: slot.token,
            attempt: slot.attempt,
            scope: *slot.account.scope(),
            origin: slot.state.origin(),
            completed: match &slot.state {
                State::Sealed { completed, .. } => Some(*completed),
                _ => None,
            },
            ends: slot.end(),
        }
    }
}

/// Where a page begins: a part, and a place in it.
fn place(cursor: &Cursor) -> Option<(u32, u32)> {
    let (part, place) = cursor.as_bytes().split_first_chunk()?;
    let place = place.try_into().ok()?;
    Some((u32::from_be_bytes(*part), u32::from_be_bytes(place)))
}

fn cursor((part, place): (u32, u32)) -> Option<Cursor> {
    let bytes = [part.to_be_bytes(), place.to_be_bytes()].concat();
    Cursor::from_bytes(bytes)
}
