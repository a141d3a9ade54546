//! What fills a store, and what asks it again.

use std::future::Future;
use std::hint::black_box;
use std::ops::Range;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::SystemTime;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, LOCATION};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use indicatif::ProgressBar;
use tower_idempotency::MemoryStore;
use tower_idempotency::store::{
    Claim, Claimed, Completion, Fingerprint, Lease, Outcome, Ownership, RecordId, RecordState,
    ScopeDigest, Store,
};

use crate::BATCH;
use crate::costs::Costs;

pub(crate) struct Load {
    pub(crate) per_caller: u64,
}

impl Load {
    fn claim(&self, number: u64) -> Claim {
        let caller = number / self.per_caller;
        Claim::new(
            RecordId::from_bytes(digest(1, number)),
            ScopeDigest::from_bytes(digest(2, caller)),
            Fingerprint::from_bytes(digest(3, number)),
        )
    }

    /// Claims and completes these records, and measures both.
    pub(crate) fn first(
        &self,
        store: &MemoryStore,
        numbers: Range<u64>,
        bar: &ProgressBar,
    ) -> (Costs, Costs) {
        let batches = (numbers.end - numbers.start) / BATCH;
        let (mut claims, mut completions) = (Costs::of(batches), Costs::of(batches));
        let mut claimed: Vec<Lease> = Vec::new();
        for batch in 0..batches {
            let from = numbers.start + batch * BATCH;
            let of_batch = from..from + BATCH;
            let asked: Vec<_> = of_batch.clone().map(|number| self.claim(number)).collect();
            let outcomes: Vec<_> = of_batch.map(completion).collect();
            claims.measure(|| {
                for claim in &asked {
                    match now(store.claim(claim)) {
                        Ok(Claimed::Acquired(lease)) => claimed.push(lease),
                        other => panic!("not acquired: {other:?}"),
                    }
                }
            });
            completions.measure(|| {
                for (lease, outcome) in claimed.drain(..).zip(&outcomes) {
                    let ended = now(store.complete(&lease, outcome));
                    assert_eq!(ended.expect("there is room"), Ownership::Held);
                }
            });
            bar.inc(BATCH);
        }
        (claims, completions)
    }
}

/// Claims records that are done, and measures that: of so many keys any, or always the first one.
pub(crate) fn replay(
    load: &Load,
    store: &MemoryStore,
    seed: u64,
    keys: u64,
    operations: u64,
    bar: &ProgressBar,
) -> Costs {
    let batches = operations / BATCH;
    let mut costs = Costs::of(batches);
    for batch in 0..batches {
        let numbers = (0..BATCH).map(|at| mixed((seed << 40) + batch * BATCH + at) % keys);
        let claims: Vec<_> = numbers.map(|number| load.claim(number)).collect();
        costs.measure(|| {
            for claim in &claims {
                match now(store.claim(claim)) {
                    Ok(Claimed::Found(record)) => match record.state {
                        RecordState::Completed { completion, .. } => {
                            black_box(headers(completion));
                        }
                        other => panic!("no completion: {other:?}"),
                    },
                    other => panic!("not found: {other:?}"),
                }
            }
        });
        bar.inc(BATCH);
    }
    costs
}

/// The headers of a replay, which the layer changes: they are taken, or copied if they are shared.
fn headers(completion: Arc<Completion>) -> HeaderMap {
    match Arc::try_unwrap(completion) {
        Ok(completion) => completion.headers,
        Err(shared) => shared.headers.clone(),
    }
}

fn completion(number: u64) -> Outcome {
    let body = Bytes::from(vec![b'x'; 256]);
    let mut completion = Completion::new(StatusCode::CREATED, body, SystemTime::now());
    let text = |text: String| HeaderValue::try_from(text).expect("plain characters");
    let json = HeaderValue::from_static("application/json");
    let location = text(format!("/payments/{number}"));
    let request = text(format!("01890a5d-ac96-774b-bcce-{number:012}"));
    completion.headers.insert(CONTENT_TYPE, json);
    completion.headers.insert(LOCATION, location);
    let name = HeaderName::from_static("x-request-id");
    completion.headers.insert(name, request);
    Outcome::Completed(Arc::new(completion))
}

/// A digest as random as one of SHA-256, for less time.
fn digest(what: u64, number: u64) -> [u8; 32] {
    let mut bytes = [0; 32];
    for (word, at) in bytes.chunks_exact_mut(8).zip(0..) {
        let mixed = mixed(mixed(number) ^ (what << 8) ^ at);
        word.copy_from_slice(&mixed.to_le_bytes());
    }
    bytes
}

/// The last step of the generator `SplitMix64`.
fn mixed(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// The result of a future of the memory store, which never waits.
fn now<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => result,
        Poll::Pending => unreachable!("a memory store never waits"),
    }
}
