//! Listing records, in pages.

use std::fmt;
use std::num::NonZeroU16;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use http::StatusCode;

use crate::record::{FencingToken, Hex, Origin, ParseError, RecordId, ScopeDigest, unhex_bytes};

/// Which records [`Store::list`](super::Store::list) is asked for: those that have everything that
/// is set here.
///
/// ```
/// use std::time::Duration;
/// use tower_idempotency::MemoryStore;
/// use tower_idempotency::store::{ListQuery, ListedState, Store};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let store = MemoryStore::new();
/// let mut query = ListQuery::new()
///     .state(ListedState::Unknown)
///     .older_than(Duration::from_secs(3600));
/// loop {
///     let page = store.list(&query).await?;
///     for record in page.records {
///         println!("{} {:?}", record.id, record.origin.route);
///     }
///     // A page may be empty although another one follows.
///     let Some(next) = page.next else { break };
///     query = query.cursor(next);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ListQuery {
    /// The state that listed records are in. `None`: a record of any state is listed.
    pub state: Option<ListedState>,
    /// The age that the current attempt of a listed record exceeds, by the store's clock.
    pub older_than: Option<Duration>,
    /// The caller that listed records belong to. `None`: records of all callers are listed.
    pub scope: Option<ScopeDigest>,
    /// The number of records that a page has at most; what is above [`MAX_LIMIT`](Self::MAX_LIMIT)
    /// counts as that. Default: 100.
    pub limit: NonZeroU16,
    /// Where the page before ended: its [`next`](RecordPage::next). `None`: the first page.
    pub cursor: Option<Cursor>,
}

impl ListQuery {
    /// The size of the largest page.
    pub const MAX_LIMIT: u16 = 1000;

    /// A query for the first page of all records.
    #[must_use]
    pub fn new() -> Self {
        Self {
            state: None,
            older_than: None,
            scope: None,
            limit: NonZeroU16::new(100).expect("a hundred is not zero"),
            cursor: None,
        }
    }

    /// Asks for the records in this state alone.
    #[must_use]
    pub fn state(mut self, state: ListedState) -> Self {
        self.state = Some(state);
        self
    }

    /// Asks for the records whose current attempt began longer ago than this.
    #[must_use]
    pub fn older_than(mut self, age: Duration) -> Self {
        self.older_than = Some(age);
        self
    }

    /// Asks for the records of this caller alone.
    #[must_use]
    pub fn scope(mut self, scope: ScopeDigest) -> Self {
        self.scope = Some(scope);
        self
    }

    /// Asks for pages of at most so many records. A number above [`MAX_LIMIT`](Self::MAX_LIMIT)
    /// counts as that.
    #[must_use]
    pub fn limit(mut self, limit: NonZeroU16) -> Self {
        self.limit = limit;
        self
    }

    /// Asks for the page after the one that ended with this cursor.
    #[must_use]
    pub fn cursor(mut self, cursor: Cursor) -> Self {
        self.cursor = Some(cursor);
        self
    }

    /// Returns how many records a page has at most, from 1 to [`MAX_LIMIT`](Self::MAX_LIMIT).
    #[must_use]
    pub fn page_size(&self) -> u16 {
        self.limit.get().min(Self::MAX_LIMIT)
    }
}

impl Default for ListQuery {
    fn default() -> Self {
        Self::new()
    }
}

/// The state of a record, as an operator asks for it.
///
/// Its text is `in-flight`, `lapsed`, `unknown`, `sealed`, `completed` or `released`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ListedState {
    /// An owner executes the operation.
    InFlight,
    /// The lease ended, and no owner said what became of the operation.
    Lapsed,
    /// The owner released the record as [`OutcomeUnknown`](super::Release::OutcomeUnknown).
    Unknown,
    /// The operation is done, and its response was not kept.
    Sealed,
    /// The operation is done, and its response is recorded.
    Completed,
    /// The operation may run again.
    Released,
}

impl ListedState {
    /// All states.
    pub const ALL: [Self; 6] = [
        Self::InFlight,
        Self::Lapsed,
        Self::Unknown,
        Self::Sealed,
        Self::Completed,
        Self::Released,
    ];

    /// Returns the text of the state.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InFlight => "in-flight",
            Self::Lapsed => "lapsed",
            Self::Unknown => "unknown",
            Self::Sealed => "sealed",
            Self::Completed => "completed",
            Self::Released => "released",
        }
    }
}

impl fmt::Display for ListedState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for ListedState {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let found = Self::ALL.into_iter().find(|state| state.as_str() == text);
        found.ok_or(ParseError(
            "a state: `in-flight`, `lapsed`, `unknown`, `sealed`, `completed` or `released`",
        ))
    }
}

/// One page of a list.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct RecordPage {
    /// The records of this page. The page may have fewer than were asked for, or none, although
    /// another page follows.
    pub records: Vec<ListedRecord>,
    /// Where the next page begins. `None`: there is no other page.
    pub next: Option<Cursor>,
}

impl RecordPage {
    /// A page of these records.
    #[must_use]
    pub fn new(records: Vec<ListedRecord>, next: Option<Cursor>) -> Self {
        Self { records, next }
    }
}

/// A record in a list. Nothing of a response is in it besides its status: no header and no body.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ListedRecord {
    /// The record.
    pub id: RecordId,
    /// Its state.
    pub state: ListedState,
    /// The token of the last claim that acquired the record.
    pub token: FencingToken,
    /// The attempt of the last claim that acquired the record.
    pub attempt: u64,
    /// The caller. `None` in a record of an earlier version.
    pub scope: Option<ScopeDigest>,
    /// Where the last attempt came from.
    pub origin: Origin,
    /// When the last attempt began, by the store's clock.
    pub claimed_at: Option<SystemTime>,
    /// When the operation ended with an outcome, if the store keeps that.
    pub completed_at: Option<SystemTime>,
    /// When the store forgets the record, if the record does not change before. `None`: not before
    /// someone resolves the record, or while its owner lives.
    pub expires_at: Option<SystemTime>,
    /// The status of the recorded response.
    pub status: Option<StatusCode>,
}

impl ListedRecord {
    /// A record of which nothing else is known.
    #[must_use]
    pub fn new(id: RecordId, state: ListedState, token: FencingToken, attempt: u64) -> Self {
        Self {
            id,
            state,
            token,
            attempt,
            scope: None,
            origin: Origin::none(),
            claimed_at: None,
            completed_at: None,
            expires_at: None,
            status: None,
        }
    }
}

/// Where a page ended. Only the store that made a cursor knows what it means; its text needs no
/// escape in a URL.
///
/// ```
/// use tower_idempotency::store::Cursor;
///
/// let cursor = Cursor::from_bytes([1, 2]).unwrap();
/// assert_eq!(cursor.to_string(), "0102");
/// assert_eq!("0102".parse(), Ok(cursor));
/// assert!("0".parse::<Cursor>().is_err());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor(Box<[u8]>);

impl Cursor {
    /// The number of bytes that a cursor has at most.
    pub const MAX_LENGTH: usize = 512;

    /// Makes a cursor, for a store of one's own. `None` for more bytes than
    /// [`MAX_LENGTH`](Self::MAX_LENGTH).
    #[must_use]
    pub fn from_bytes(bytes: impl Into<Box<[u8]>>) -> Option<Self> {
        Some(Self(bytes.into())).filter(|cursor| cursor.0.len() <= Self::MAX_LENGTH)
    }

    /// Returns what the store gave [`from_bytes`](Self::from_bytes), or whatever else a client
    /// sent.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Writes hexadecimal digits.
impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Hex(&self.0).fmt(f)
    }
}

impl FromStr for Cursor {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let bytes = (text.len() <= 2 * Self::MAX_LENGTH).then(|| unhex_bytes(text));
        let bytes = bytes.flatten();
        let cursor = bytes.map(|bytes| Self(bytes.into()));
        cursor.ok_or(ParseError("the cursor of a list"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_read_from_its_own_text_only() {
        let cursor = Cursor::from_bytes(vec![0xab; Cursor::MAX_LENGTH]).unwrap();
        let text = cursor.to_string();
        assert_eq!(text.parse(), Ok(cursor));
        for wrong in ["a", "zz", "é0", &format!("{text}00")] {
            assert!(wrong.parse::<Cursor>().is_err(), "{wrong}");
        }
        assert!(Cursor::from_bytes(vec![0; Cursor::MAX_LENGTH + 1]).is_none());
    }

    #[test]
    fn every_state_is_read_from_its_text() {
        for state in ListedState::ALL {
            assert_eq!(state.to_string().parse(), Ok(state));
        }
        assert!("Completed".parse::<ListedState>().is_err());
    }

    #[test]
    fn a_page_has_a_hundred_records_unless_asked_and_a_thousand_at_most() {
        let of = |limit| ListQuery::new().limit(NonZeroU16::new(limit).unwrap());
        assert_eq!(ListQuery::new().page_size(), 100);
        assert_eq!(of(1).page_size(), 1);
        assert_eq!(of(1001).page_size(), 1000);
    }
}
