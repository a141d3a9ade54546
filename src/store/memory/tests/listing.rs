//! Listing the records of a memory store.

use std::collections::BTreeMap;
use std::num::NonZeroU16;

use super::*;
use crate::record::{Origin, TraceContext};
use crate::store::{Cursor, ListQuery, ListedRecord, ListedState};

/// All pages of a query.
fn all(bench: &Bench, query: &ListQuery) -> Vec<ListedRecord> {
    let mut query = query.clone();
    let mut found = Vec::new();
    loop {
        let page = bench.records.list(&query).unwrap();
        assert!(page.records.len() <= usize::from(query.page_size()));
        found.extend(page.records);
        let Some(next) = page.next else { return found };
        query = query.cursor(next);
    }
}

fn states(bench: &Bench) -> BTreeMap<u8, ListedState> {
    let listed = all(bench, &ListQuery::new());
    let states = listed
        .iter()
        .map(|record| (record.id.as_bytes()[0], record.state));
    states.collect()
}

#[test]
fn a_record_is_listed_in_the_state_that_it_is_in() {
    let bench = Bench::new();
    let _in_flight = bench.acquire(&claim(1));
    drop(bench.acquire(&claim(2)));
    let unknown = bench.acquire(&claim(3));
    let how = Release::OutcomeUnknown;
    bench
        .records
        .release(&unknown.claim.id, &unknown.claim.nonce, how);
    let sealed = Outcome::Sealed { retention: HOUR };
    bench.end(&bench.acquire(&claim(4)), &sealed);
    bench.run(5);
    let released = bench.acquire(&claim(6));
    bench.release(&released.claim);
    bench.advance(Duration::from_secs(31));
    let expected = [
        (1, ListedState::InFlight),
        (2, ListedState::Lapsed),
        (3, ListedState::Unknown),
        (4, ListedState::Sealed),
        (5, ListedState::Completed),
        (6, ListedState::Released),
    ];
    assert_eq!(states(&bench), expected.into());
    for (id, state) in expected {
        let found = all(&bench, &ListQuery::new().state(state));
        assert_eq!(found.len(), 1, "{state}");
        assert_eq!(found[0].id.as_bytes()[0], id);
    }
    bench.advance(2 * HOUR);
    assert_eq!(states(&bench), [(1, ListedState::InFlight)].into());
}

#[test]
fn a_record_keeps_its_origin_caller_and_time_in_every_state() {
    let bench = Bench::new();
    let trace = TraceContext {
        trace_id: [7; 16],
        span_id: [8; 8],
        flags: 1,
    };
    let mut asked = claim(1);
    asked.origin = Origin::none().route("POST /payments/{id}").trace(trace);
    bench.advance(HOUR);
    let lease = bench.acquire(&asked);
    let seen = || {
        let [listed] = &all(&bench, &ListQuery::new())[..] else {
            panic!("one record");
        };
        let record = bench.records.look_up(&asked.id).unwrap();
        assert_eq!(
            (&record.origin, &listed.origin),
            (&asked.origin, &asked.origin)
        );
        assert_eq!(
            (record.scope, listed.scope),
            (Some(asked.scope), Some(asked.scope))
        );
        assert_eq!(record.claimed_at, listed.claimed_at);
        listed.clone()
    };
    let began = seen();
    let start = UNIX_EPOCH + Duration::from_micros(bench.records.first_token);
    assert_eq!(began.claimed_at, Some(start + HOUR));
    assert_eq!((began.completed_at, began.status), (None, None));
    bench.advance(HOUR);
    bench.complete(&lease);
    let done = seen();
    assert_eq!(done.claimed_at, Some(start + HOUR));
    assert_eq!(done.completed_at, Some(UNIX_EPOCH));
    assert_eq!(done.expires_at, Some(start + 3 * HOUR));
    assert_eq!(done.status, Some(StatusCode::CREATED));

    bench.records.forget(&asked.id, ForgetMode::Forced);
    let sealed = Outcome::Sealed { retention: HOUR };
    bench.end(&bench.acquire(&asked), &sealed);
    assert_eq!(seen().completed_at, Some(start + 2 * HOUR));

    bench.records.forget(&asked.id, ForgetMode::Forced);
    bench.release(&bench.acquire(&asked).claim);
    seen();
    bench.run(1);
    let [listed] = &all(&bench, &ListQuery::new())[..] else {
        panic!("one record");
    };
    assert_eq!((listed.attempt, &listed.origin), (2, &Origin::none()));
}

#[test]
fn a_query_finds_the_old_records_of_one_caller() {
    let bench = Bench::new();
    let of = |id: u8, caller: u8| Claim {
        scope: ScopeDigest::from_bytes([caller; 32]),
        ..claim(id)
    };
    bench.complete(&bench.acquire(&of(1, 1)));
    bench.complete(&bench.acquire(&of(2, 2)));
    bench.advance(Duration::from_secs(60));
    bench.complete(&bench.acquire(&of(3, 1)));
    let ids = |query: ListQuery| {
        let found = all(&bench, &query);
        let mut ids: Vec<_> = found.iter().map(|record| record.id.as_bytes()[0]).collect();
        ids.sort_unstable();
        ids
    };
    let own = || ListQuery::new().scope(ScopeDigest::from_bytes([1; 32]));
    assert_eq!(ids(own()), [1, 3]);
    let minute = Duration::from_secs(59);
    assert_eq!(ids(ListQuery::new().older_than(minute)), [1, 2]);
    assert_eq!(ids(own().older_than(minute)), [1]);
    assert_eq!(ids(own().older_than(HOUR)), [0_u8; 0]);
}

/// Records come and go between the pages, and what was there all the time is listed once.
#[test]
fn a_record_that_stays_is_listed_once_while_others_come_and_go() {
    let bench = Bench::new();
    for id in 0..100 {
        bench.run(id);
    }
    let mut query = ListQuery::new().limit(NonZeroU16::new(7).unwrap());
    let mut listed = [0; 200];
    for round in 0..u8::MAX {
        let page = bench.records.list(&query).unwrap();
        for record in &page.records {
            listed[usize::from(record.id.as_bytes()[0])] += 1;
        }
        bench.run(100 + round % 100);
        if round < 50 {
            bench.records.forget(&claim(round).id, ForgetMode::Forced);
        }
        let Some(next) = page.next else { break };
        query = query.cursor(next);
    }
    assert_eq!(listed[50..100], [1; 50]);
    assert!(listed.iter().all(|times| *times <= 1));
}

#[test]
fn a_page_of_a_large_store_is_bounded_although_nothing_fits() {
    let bench = Bench::new();
    for number in 0_u32..25_000 {
        let mut id = [0; 32];
        id[..4].copy_from_slice(&number.to_be_bytes());
        bench.complete(&bench.acquire(&Claim {
            id: RecordId::from_bytes(id),
            ..claim(0)
        }));
    }
    let mut query = ListQuery::new().state(ListedState::Unknown);
    let mut pages = 1;
    loop {
        let page = bench.records.list(&query).unwrap();
        assert!(page.records.is_empty());
        let Some(next) = page.next else { break };
        query = query.cursor(next);
        pages += 1;
    }
    assert!(pages >= 3, "{pages}");
}

#[test]
fn a_cursor_of_another_store_is_refused_or_ends_the_list() {
    let bench = Bench::new();
    bench.run(1);
    let at = |bytes: &[u8]| {
        let query = ListQuery::new().cursor(Cursor::from_bytes(bytes).unwrap());
        bench.records.list(&query)
    };
    assert_eq!(
        at(&[1; 7]).unwrap_err().kind(),
        StoreErrorKind::InvalidCursor
    );
    let page = at(&[0xff; 8]).unwrap();
    assert!(page.records.is_empty() && page.next.is_none());
}
