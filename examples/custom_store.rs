//! A complete store in one file: a map behind one mutex. The store is slow
//! under load, and its records are lost when the process ends, but it keeps
//! every rule of the contract of `Store`. A store on an SQL database or a
//! key-value server implements the same seven operations.
//!
//! ```text
//! cargo run --example custom_store
//! ```

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::ops::Bound;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use tower::{ServiceBuilder, ServiceExt};
use tower_idempotency::options::OnLapsedLease;
use tower_idempotency::store::{
    Claim, Claimed, Cursor, ForgetMode, Forgotten, Lease, ListQuery, ListedRecord, ListedState,
    Outcome, Ownership, Record, RecordPage, RecordState, Release, Store, StoreError,
    StoreErrorKind,
};
use tower_idempotency::store::{Completion, FencingToken, Nonce, RecordId};
use tower_idempotency::{IdempotencyLayer, scope};

#[derive(Default)]
pub(crate) struct MapStore {
    rows: Mutex<BTreeMap<RecordId, Row>>,
}

/// One record. An SQL store would have a table with these fields as columns.
struct Row {
    token: u64,
    attempt: u64,
    claim: Claim,
    state: State,
    /// When the row expires. A row with `None` stays until somebody resolves
    /// its record.
    until: Option<Instant>,
}

enum State {
    InFlight {
        lapses_at: Instant,
    },
    /// The owner released the record and said that the outcome is unknown. Such
    /// a row counts as lapsed, and its lease can't be renewed.
    Unknown,
    Completed(Arc<Completion>),
    Sealed,
    Released,
}

impl Row {
    fn is_lapsed(&self, now: Instant) -> bool {
        match self.state {
            State::InFlight { lapses_at } => lapses_at <= now,
            State::Unknown => true,
            _ => false,
        }
    }

    fn is_owned_by(&self, nonce: &Nonce) -> bool {
        self.claim.nonce == *nonce && !matches!(self.state, State::Released)
    }

    fn record(&self, now: Instant) -> Record {
        let token = FencingToken::new(self.token).expect("it was a token before");
        Record::new(token, self.attempt, self.state(now))
    }

    fn state(&self, now: Instant) -> RecordState {
        let fingerprint = self.claim.fingerprint;
        match &self.state {
            State::InFlight { .. } if self.is_lapsed(now) => RecordState::Lapsed { fingerprint },
            State::InFlight { lapses_at } => RecordState::InFlight {
                fingerprint,
                lapses_in: lapses_at.saturating_duration_since(now),
            },
            State::Completed(completion) => RecordState::Completed {
                fingerprint,
                completion: Arc::clone(completion),
            },
            State::Sealed => RecordState::Sealed { fingerprint },
            State::Released => RecordState::Released,
            State::Unknown => RecordState::Lapsed { fingerprint },
        }
    }
}

/// A row as a list shows it.
fn listed(id: &RecordId, row: &Row, now: Instant) -> ListedRecord {
    let record = row.record(now);
    let state = match &row.state {
        State::Unknown => ListedState::Unknown,
        State::InFlight { .. } if row.is_lapsed(now) => ListedState::Lapsed,
        State::InFlight { .. } => ListedState::InFlight,
        State::Completed(_) => ListedState::Completed,
        State::Sealed => ListedState::Sealed,
        State::Released => ListedState::Released,
    };
    let mut listed = ListedRecord::new(*id, state, record.token, record.attempt);
    listed.scope = Some(row.claim.scope);
    listed.origin = row.claim.origin.clone();
    // A token is the time of its claim.
    listed.claimed_at = Some(UNIX_EPOCH + Duration::from_micros(row.token));
    listed
}

fn fits(query: &ListQuery, record: &ListedRecord) -> bool {
    let age = record.claimed_at.and_then(|at| at.elapsed().ok());
    query.state.is_none_or(|state| state == record.state)
        && query.scope.is_none_or(|scope| record.scope == Some(scope))
        && query
            .older_than
            .is_none_or(|than| age.is_some_and(|age| age > than))
}

/// When a row is removed whose lease lapses: one retention later if the route
/// lets the operation run again, otherwise never.
fn end_of_lapse(claim: &Claim, lapses_at: Instant) -> Option<Instant> {
    (claim.on_lapsed_lease == OnLapsedLease::Rerun).then(|| after(lapses_at, claim.retention))
}

/// A `Duration` may be as long as `Duration::MAX`, which can't be added to an
/// `Instant`, so that each length is cut to a century.
fn after(start: Instant, length: Duration) -> Instant {
    const CENTURY: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);
    start + length.min(CENTURY)
}

impl MapStore {
    /// Locks the map, removes expired rows and returns the current time. The
    /// time is read after the lock is taken, because waiting for the lock takes
    /// time too.
    fn rows(&self) -> (MutexGuard<'_, BTreeMap<RecordId, Row>>, Instant) {
        let mut rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        // A real store removes expired rows in small steps, and not on every
        // call.
        rows.retain(|_, row| row.until.is_none_or(|until| until > now));
        (rows, now)
    }
}

impl Store for MapStore {
    async fn claim(&self, claim: &Claim) -> Result<Claimed, StoreError> {
        let (mut rows, now) = self.rows();
        let (last_token, attempt) = match rows.get_mut(&claim.id) {
            None => match claim.found_nothing() {
                Some(found) => return Ok(found),
                None => (0, 1),
            },
            // This claim acquired the record before, but the caller never got
            // the response of the store and sent the claim again.
            Some(row)
                if row.is_owned_by(&claim.nonce) && matches!(row.state, State::InFlight { .. }) =>
            {
                let lapses_at = after(now, claim.lease);
                row.state = State::InFlight { lapses_at };
                row.until = end_of_lapse(claim, lapses_at);
                let token = FencingToken::new(row.token).expect("it was a token before");
                return Ok(Claimed::Acquired(Lease::new(claim, token, row.attempt)));
            }
            Some(row) => {
                let record = row.record(now);
                let free = matches!(row.state, State::Released) && claim.by_hand.is_none();
                let lapsed = row.is_lapsed(now)
                    && claim.takes_over(record.version(), &row.claim.fingerprint);
                if !free && !lapsed {
                    return Ok(Claimed::Found(record));
                }
                (row.token, row.attempt + 1)
            }
        };
        let clock = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        // A token is at least the time in microseconds, so that tokens also
        // grow when the row of an earlier owner has been removed.
        let token = (last_token + 1).max(u64::try_from(clock.as_micros()).unwrap_or(0));
        let lapses_at = after(now, claim.lease);
        let row = Row {
            token,
            attempt,
            claim: claim.clone(),
            state: State::InFlight { lapses_at },
            until: end_of_lapse(claim, lapses_at),
        };
        rows.insert(claim.id, row);
        let token = FencingToken::new(token).expect("a clock of microseconds stays below 2^53");
        Ok(Claimed::Acquired(Lease::new(claim, token, attempt)))
    }

    async fn renew(&self, lease: &Lease) -> Result<Ownership, StoreError> {
        let (mut rows, now) = self.rows();
        let Some(row) = rows.get_mut(&lease.claim.id) else {
            return Ok(Ownership::Lost);
        };
        if !row.is_owned_by(&lease.claim.nonce) || matches!(row.state, State::Unknown) {
            return Ok(Ownership::Lost);
        }
        if let State::InFlight { lapses_at } = &mut row.state {
            *lapses_at = after(now, lease.claim.lease);
            row.until = end_of_lapse(&lease.claim, *lapses_at);
        }
        Ok(Ownership::Held)
    }

    async fn complete(&self, lease: &Lease, outcome: &Outcome) -> Result<Ownership, StoreError> {
        let (mut rows, now) = self.rows();
        match rows.get(&lease.claim.id) {
            // The same nonce has completed the record before, so the record
            // stays as it is.
            Some(row)
                if row.is_owned_by(&lease.claim.nonce)
                    && matches!(row.state, State::Completed(_) | State::Sealed) =>
            {
                return Ok(Ownership::Held);
            }
            Some(row) if row.is_owned_by(&lease.claim.nonce) => {}
            // A released or removed row has no owner. A late completion is
            // still recorded, unless a newer owner released the row.
            Some(row) if matches!(row.state, State::Released) && row.token <= lease.token.get() => {
            }
            None => {}
            Some(_) => return Ok(Ownership::Lost),
        }
        let (state, retention) = match outcome {
            Outcome::Completed(completion) => (
                State::Completed(Arc::clone(completion)),
                completion.retention,
            ),
            Outcome::Sealed { retention } => (State::Sealed, *retention),
            // A later version of the crate may add an outcome. The store
            // returns an error and not `Ownership::Lost`, from which the layer
            // would conclude that another owner holds the record.
            _ => return Err(StoreError::new(StoreErrorKind::Unsupported, "outcome")),
        };
        let row = Row {
            token: lease.token.get(),
            attempt: lease.attempt,
            claim: lease.claim.clone(),
            state,
            until: Some(after(now, retention)),
        };
        rows.insert(lease.claim.id, row);
        Ok(Ownership::Held)
    }

    async fn release(
        &self,
        id: &RecordId,
        nonce: &Nonce,
        how: Release,
    ) -> Result<Ownership, StoreError> {
        let (mut rows, now) = self.rows();
        let Some(row) = rows.get_mut(id) else {
            return Ok(Ownership::Lost);
        };
        let is_open = matches!(row.state, State::InFlight { .. } | State::Unknown);
        if !row.is_owned_by(nonce) || !is_open {
            return Ok(Ownership::Lost);
        }
        match how {
            Release::MayRunAgain => {
                row.state = State::Released;
                row.until = Some(after(now, row.claim.retention));
            }
            Release::OutcomeUnknown => {
                row.state = State::Unknown;
                row.until = end_of_lapse(&row.claim, now);
            }
            _ => return Err(StoreError::new(StoreErrorKind::Unsupported, "release")),
        }
        Ok(Ownership::Held)
    }

    async fn look_up(&self, id: &RecordId) -> Result<Option<Record>, StoreError> {
        let (rows, now) = self.rows();
        Ok(rows.get(id).map(|row| row.record(now)))
    }

    async fn forget(&self, id: &RecordId, mode: ForgetMode) -> Result<Forgotten, StoreError> {
        let (mut rows, now) = self.rows();
        let Some(row) = rows.get(id) else {
            return Ok(Forgotten::Absent);
        };
        let is_alive = matches!(row.state, State::InFlight { .. }) && !row.is_lapsed(now);
        let answer = mode.decide(row.record(now).version(), is_alive);
        if answer == Forgotten::Gone {
            rows.remove(id);
        }
        Ok(answer)
    }

    /// The rows are in the order of their ids, so a cursor is the id of the last row that a page
    /// has looked at. A page looks at a thousand rows at most, so it may have no record at all.
    async fn list(&self, query: &ListQuery) -> Result<RecordPage, StoreError> {
        let after = match &query.cursor {
            None => Bound::Unbounded,
            Some(cursor) => {
                let id = cursor.as_bytes().try_into();
                let id = id.map_err(|_| StoreError::invalid_cursor())?;
                Bound::Excluded(RecordId::from_bytes(id))
            }
        };
        let (rows, now) = self.rows();
        let mut page = RecordPage::default();
        for (number, (id, row)) in rows.range((after, Bound::Unbounded)).enumerate() {
            if number == 1000 || page.records.len() == usize::from(query.page_size()) {
                return Ok(page);
            }
            page.next = Cursor::from_bytes(*id.as_bytes());
            page.records
                .extend(Some(listed(id, row, now)).filter(|it| fits(query, it)));
        }
        page.next = None;
        Ok(page)
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let executions = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&executions);
    let layer = IdempotencyLayer::builder(MapStore::default(), scope::header("x-api-key"))
        .defaults(|options| options.lease(Duration::from_secs(10)))
        .build()?;
    let service = ServiceBuilder::new()
        .layer(layer)
        .service_fn(move |_: Request<Full<Bytes>>| {
            let number = counted.fetch_add(1, Ordering::Relaxed) + 1;
            async move {
                let answer = format!("execution {number}");
                Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(answer))))
            }
        });
    for (key, expected) in [
        ("a", "execution 1"),
        ("a", "execution 1"),
        ("b", "execution 2"),
    ] {
        let request = Request::post("/payments")
            .header("x-api-key", "alice")
            .header("idempotency-key", key)
            .body(Full::from("42"))?;
        let response = service.clone().oneshot(request).await?;
        let replayed = response.headers().contains_key("idempotency-replayed");
        let body = response
            .into_body()
            .collect()
            .await
            .map_err(|error| error.to_string())?;
        let body = String::from_utf8(body.to_bytes().to_vec())?;
        println!(
            "key {key}: {body}{}",
            if replayed { ", replayed" } else { "" }
        );
        if body != expected {
            return Err(format!("expected {expected}").into());
        }
    }
    println!(
        "{} executions for three requests",
        executions.load(Ordering::Relaxed)
    );
    Ok(())
}
