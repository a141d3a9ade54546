//! What is removed, in which order, and that nothing is kept beyond the caps.

use http::{HeaderMap, HeaderValue};

use super::*;

const SECOND: Duration = Duration::from_secs(1);

/// A claim of a record of its own.
fn distinct(number: u32) -> Claim {
    let mut bytes = [7; 32];
    bytes[..4].copy_from_slice(&number.to_le_bytes());
    Claim {
        id: RecordId::from_bytes(bytes),
        ..claim(0)
    }
}

impl Bench {
    fn unknown(&self, claim: &Claim) -> Ownership {
        let unknown = Release::OutcomeUnknown;
        self.records.release(&claim.id, &claim.nonce, unknown)
    }

    /// The state of each of these records: `-` if it is gone.
    fn states<const N: usize>(&self, ids: [u8; N]) -> [char; N] {
        ids.map(|id| match self.records.look_up(&claim(id).id) {
            None => '-',
            Some(record) => match record.state {
                RecordState::Released => 'r',
                RecordState::Completed { .. } => 'c',
                RecordState::Sealed { .. } => 's',
                _ => 'f',
            },
        })
    }
}

/// A client that leaves: its guard is dropped, then its claim is released. The records that
/// later ones push out once left an entry each.
#[test]
fn records_that_are_abandoned_then_released_leave_nothing_behind() {
    let bench = Bench::with(MemoryStore::builder().max_records(10));
    for number in 0..1000 {
        let claim = distinct(number);
        drop(bench.acquire(&claim));
        assert_eq!(bench.release(&claim), Ownership::Held);
        assert!(bench.records.queued().0 <= 10);
    }
    assert_eq!(
        bench.records.queued(),
        (10, 2),
        "an entry each, in a queue of each kind"
    );
    assert_eq!(bench.stats().released, 10);
    let room = bench.records.queues.lock().room();
    assert!(room < 40, "the memory of {room} entries for one at a time");
}

#[test]
fn a_record_has_one_entry_whatever_becomes_of_it() {
    let bench = Bench::new();
    let queued = || bench.records.queued().0;
    let first = claim(1);
    let lease = bench.acquire(&first);
    assert_eq!(queued(), 0, "a guarded lease does not end");
    drop(lease);
    assert_eq!(queued(), 1, "abandoned");
    let room = bench.records.queues.lock().room();
    assert!(
        room < 40,
        "a small store takes the memory of {room} entries"
    );
    let lease = bench.acquire(&first);
    assert_eq!(queued(), 0, "claimed again by its nonce");
    bench.release(&first);
    assert_eq!(queued(), 1, "released");
    drop(lease);
    let next = claim(1);
    let lease = bench.acquire(&next);
    assert_eq!(queued(), 0, "claimed by another");
    bench.unknown(&next);
    assert_eq!(queued(), 1, "unknown");
    assert_eq!(bench.complete(&lease), Ownership::Held);
    assert_eq!(queued(), 1, "completed");
    bench.records.forget(&next.id, ForgetMode::Forced);
    assert_eq!(queued(), 0, "forgotten");
}

#[test]
fn records_of_one_kind_and_retention_share_a_queue() {
    let bench = Bench::new();
    for number in 0..1200 {
        bench.complete(&bench.acquire(&distinct(number)));
    }
    assert_eq!(bench.records.queued(), (1200, 1));
    let room = bench.records.queues.lock().room();
    assert_eq!(room, 3 * 512, "three chunks");
}

/// The queues are searched one by one, so there must be no queue for each retention there ever was.
#[test]
fn a_queue_that_is_empty_serves_another_retention() {
    let bench = Bench::new();
    for number in 1..100 {
        let retention = SECOND * number;
        let lease = bench.acquire(&distinct(number));
        let sealed = Outcome::Sealed { retention };
        assert_eq!(bench.end(&lease, &sealed), Ownership::Held);
        bench.advance(retention);
    }
    let (entries, queues) = bench.records.queued();
    assert!(entries <= 2 && queues <= 3, "{entries} in {queues}");
}

#[test]
fn an_entry_in_the_middle_of_a_queue_can_go() {
    let bench = Bench::with(MemoryStore::builder().max_records(4));
    (1..=4).for_each(|id| bench.run(id));
    // The middle, the first, the last, and then the only one.
    for (id, left) in [(2, "c-cc"), (1, "--cc"), (4, "--c-"), (3, "----")] {
        bench.records.forget(&claim(id).id, ForgetMode::Forced);
        assert_eq!(bench.states([1, 2, 3, 4]).iter().collect::<String>(), left);
    }
    // What the removed entries left is used again, in order.
    (5..=8).for_each(|id| bench.run(id));
    bench.run(9);
    bench.run(10);
    assert_eq!(
        bench.states([5, 6, 7, 8, 9, 10]),
        ['-', '-', 'c', 'c', 'c', 'c']
    );
    assert_eq!(bench.records.queued().0, 4);
}

#[test]
fn what_is_over_goes_before_any_tombstone() {
    let bench = Bench::with(MemoryStore::builder().max_records(2));
    let lease = bench.acquire(&claim(1));
    let retention = SECOND;
    bench.end(&lease, &Outcome::Sealed { retention });
    let released = claim(2);
    bench.acquire(&released);
    bench.release(&released);
    bench.advance(SECOND);
    bench.acquire(&claim(3));
    assert_eq!(bench.states([1, 2, 3]), ['-', 'r', 'f']);
}

#[test]
fn an_abandoned_record_goes_once_it_is_over_and_not_before() {
    let bench = Bench::with(MemoryStore::builder().max_records(1));
    let short = Claim {
        retention: SECOND,
        ..claim(1)
    };
    drop(bench.acquire(&short));
    bench.advance(short.lease + SECOND.saturating_sub(Duration::from_millis(1)));
    assert!(matches!(bench.claim(&claim(2)), Claimed::OverCapacity));
    bench.advance(Duration::from_millis(1));
    bench.acquire(&claim(2));
}

#[test]
fn released_as_unknown_under_rerun_a_record_is_removed_after_its_retention() {
    let bench = Bench::new();
    let unknown = claim(1);
    let _lease = bench.acquire(&unknown);
    assert_eq!(bench.unknown(&unknown), Ownership::Held);
    bench.advance(HOUR.saturating_sub(Duration::from_millis(1)));
    bench.run(2);
    assert_eq!(bench.stats().in_flight, 1);
    bench.advance(Duration::from_millis(1));
    bench.run(3);
    assert_eq!(bench.stats().in_flight, 0);
}

#[test]
fn released_as_unknown_under_refuse_a_record_has_no_end() {
    let bench = Bench::new();
    let refuse = Claim {
        on_lapsed_lease: OnLapsedLease::Refuse,
        ..claim(1)
    };
    let _lease = bench.acquire(&refuse);
    bench.unknown(&refuse);
    assert_eq!(bench.records.queued().0, 0);
}

/// Its old entry once stood at the front of the queue.
#[test]
fn a_record_that_is_kept_anew_goes_after_those_that_were_older_meanwhile() {
    let bench = Bench::with(MemoryStore::builder().max_records(2));
    for id in [1, 2, 1] {
        let claim = claim(id);
        bench.acquire(&claim);
        bench.release(&claim);
        bench.advance(SECOND);
    }
    bench.acquire(&claim(3));
    assert_eq!(bench.states([1, 2, 3]), ['r', '-', 'f']);
}

#[test]
fn a_renewal_keeps_a_lapsed_record_for_a_lease_and_a_retention_more() {
    let bench = Bench::new();
    let lease = bench.acquire(&claim(1)).without_guard();
    bench.advance(HOUR);
    assert_eq!(bench.records.renew(&lease), Ownership::Held);
    assert_eq!(bench.records.queued(), (1, 1));
    bench.advance(lease.claim.lease + HOUR.saturating_sub(Duration::from_millis(1)));
    bench.run(2);
    assert_eq!(bench.stats().in_flight, 1);
    bench.advance(Duration::from_millis(1));
    bench.run(3);
    assert_eq!(bench.stats().in_flight, 0);
}

/// Renewals move their entries, which would otherwise stand before all that has expired.
#[test]
fn records_that_are_renewed_past_their_end_hold_up_no_removal() {
    let bench = Bench::new();
    let renewed = [1, 2, 3].map(|id| bench.acquire(&claim(id)).without_guard());
    bench.run(4);
    bench.advance(HOUR);
    for lease in &renewed {
        assert_eq!(bench.records.renew(lease), Ownership::Held);
    }
    bench.run(5);
    bench.advance(HOUR);
    bench.run(6);
    bench.run(7);
    assert_eq!(
        bench.states([1, 2, 3, 4, 5, 6, 7]),
        ['f', 'f', 'f', '-', '-', 'c', 'c']
    );
    assert_eq!(bench.stats().records, 5);
}

/// Some of these are in the shard of the record that is renewed: a renewal that still held it
/// would wait for itself.
#[test]
fn a_renewal_removes_expired_records_too() {
    let bench = Bench::new();
    let retention = SECOND;
    for number in 0..1500 {
        let lease = bench.acquire(&distinct(number));
        let sealed = Outcome::Sealed { retention };
        bench.end(&lease, &sealed);
    }
    let renewed = bench.acquire(&claim(1)).without_guard();
    bench.advance(SECOND);
    for _ in 0..750 {
        assert_eq!(bench.records.renew(&renewed), Ownership::Held);
    }
    assert_eq!(bench.stats().records, 1);
}

#[test]
fn a_release_removes_expired_records_too() {
    let bench = Bench::new();
    let retention = SECOND;
    for number in 0..20 {
        let lease = bench.acquire(&distinct(number));
        let sealed = Outcome::Sealed { retention };
        bench.end(&lease, &sealed);
    }
    assert_eq!(bench.stats().bytes, room(20), "a sealed record has no more");
    bench.advance(SECOND);
    for number in 100..110 {
        let claim = distinct(number);
        bench.acquire(&claim);
        bench.release(&claim);
    }
    assert_eq!(bench.stats().records, 10);
    assert_eq!(bench.stats().bytes, room(10), "nor has a tombstone");
}

#[test]
fn a_store_that_is_exactly_full_has_removed_nothing() {
    let bench = Bench::with(MemoryStore::builder().max_records(3));
    (1..=3).for_each(|id| bench.run(id));
    assert_eq!(bench.states([1, 2, 3]), ['c'; 3]);
    bench.run(4);
    assert_eq!(bench.states([1, 2, 3, 4]), ['-', 'c', 'c', 'c']);

    let body = &[0; 100];
    let bench = Bench::with(
        MemoryStore::builder().max_bytes(room(2) + 2 * (COMPLETION_BYTES + body.len())),
    );
    for id in 1..=2 {
        let lease = bench.acquire(&claim(id));
        bench.end(&lease, &completed(body));
    }
    assert_eq!(bench.states([1, 2]), ['c', 'c']);
    assert_eq!(
        bench.stats().bytes,
        room(2) + 2 * (COMPLETION_BYTES + body.len())
    );
}

#[test]
fn operations_in_flight_fill_the_bytes_to_the_last() {
    for (bytes, fit) in [(room(2), 2), (room(2) - 1, 1)] {
        let bench = Bench::with(MemoryStore::builder().max_bytes(bytes));
        let held: Vec<_> = (1..=fit).map(|id| bench.acquire(&claim(id))).collect();
        assert!(matches!(bench.claim(&claim(9)), Claimed::OverCapacity));
        let stats = bench.stats();
        assert_eq!(stats.in_flight, held.len());
        assert_eq!(
            stats.bytes,
            room(held.len()),
            "a refused one counts nothing"
        );
    }
}

#[test]
fn a_completion_without_a_record_counts_as_one() {
    let bench = Bench::new();
    let lease = bench.acquire(&claim(1));
    bench.records.forget(&lease.claim.id, ForgetMode::Forced);
    assert_eq!(bench.complete(&lease), Ownership::Held);
    let stats = bench.stats();
    assert_eq!((stats.records, stats.in_flight, stats.completed), (1, 0, 1));
    assert_eq!(stats.bytes, room(1) + COMPLETION_BYTES + b"done".len());
}

#[test]
fn an_answer_that_fills_the_store_alone_is_kept_and_one_byte_more_is_not() {
    for (over, state) in [(0, 'c'), (1, 's')] {
        let bench =
            Bench::with(MemoryStore::builder().max_bytes(room(1) + COMPLETION_BYTES + 1000 - over));
        let lease = bench.acquire(&claim(1));
        bench.end(&lease, &completed(&[0; 1000]));
        assert_eq!(bench.states([1]), [state]);
        let kept = if over == 0 {
            COMPLETION_BYTES + 1000
        } else {
            0
        };
        assert_eq!(bench.stats().bytes, room(1) + kept);
    }
}

/// Of equal age, what was completed last is kept: it evicts others and never itself.
#[test]
fn a_completion_makes_room_for_itself_among_those_of_its_age() {
    let bench = Bench::with(MemoryStore::builder().max_bytes(room(3) + 3 * COMPLETION_BYTES));
    for id in 1..=3 {
        let lease = bench.acquire(&claim(id));
        bench.end(&lease, &completed(b""));
    }
    let lease = bench.acquire(&claim(4));
    bench.end(&lease, &completed(&[0; RECORD_BYTES + COMPLETION_BYTES]));
    assert_eq!(bench.states([1, 2, 3, 4]), ['-', '-', 'c', 'c']);
}

#[test]
fn headers_and_trailers_count_with_their_bytes_and_what_each_field_costs() {
    let fields = |names: &[&'static str]| {
        let value = HeaderValue::from_static("12345");
        let fields = names
            .iter()
            .map(|name| (name.parse().unwrap(), value.clone()));
        fields.collect::<HeaderMap>()
    };
    let bytes = |headers: HeaderMap, trailers: Option<HeaderMap>| {
        let bench = Bench::new();
        let mut completion = Completion::new(StatusCode::OK, "body", SystemTime::UNIX_EPOCH);
        completion.headers = headers;
        completion.trailers = trailers;
        completion.retention = HOUR;
        let lease = bench.acquire(&claim(1));
        let outcome = Outcome::Completed(Arc::new(completion));
        bench.end(&lease, &outcome);
        bench.stats().bytes - room(1) - COMPLETION_BYTES
    };
    assert_eq!(bytes(HeaderMap::new(), None), 4);
    // A name of 3 bytes, a value of 5, and what a field costs.
    assert_eq!(
        bytes(fields(&["x-a", "x-b"]), None),
        4 + 2 * (3 + 5 + FIELD_BYTES)
    );
    let trailers = Some(fields(&["x-c"]));
    assert_eq!(
        bytes(fields(&["x-a"]), trailers),
        4 + 2 * (3 + 5 + FIELD_BYTES)
    );
}
