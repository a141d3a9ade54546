//! What became of requests, as numbers.
//!
//! Public items: `Counts`, `LimitCounts`, `ObservedCounts`. May use: `observer`, `rejection`, `limits`.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::limits::{Full, Resource, Whose};
use crate::observer::Would;
use crate::rejection::RejectionCode;

/// What became of the requests of one layer since it was built. Requests that
/// are not protected are not counted.
///
/// ```
/// use tower_idempotency::{IdempotencyLayer, MemoryStore, scope};
/// use tower_idempotency::rejection::RejectionCode;
///
/// let layer = IdempotencyLayer::new(MemoryStore::new(), scope::shared())?;
/// let counts = layer.counts();
/// assert_eq!(counts.executed, 0);
/// assert_eq!(counts.rejected(RejectionCode::KeyReused), 0);
/// # Ok::<(), tower_idempotency::ConfigError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    /// Operations whose handlers began.
    pub executed: u64,
    /// Among `executed`, those that were not the first attempt of their keys.
    pub rerun: u64,
    /// Recorded responses that were given to retries.
    pub replayed: u64,
    /// Operations whose responses were recorded.
    pub recorded: u64,
    /// Operations that are done and whose responses were not kept.
    pub sealed: u64,
    /// Operations whose keys were given back: a retry executes again.
    pub released: u64,
    /// Operations of which nobody knows how they ended, under
    /// [`OnLapsedLease::Refuse`](crate::options::OnLapsedLease::Refuse). Their records
    /// wait until somebody [resolves](crate::Records::resolve) them: alert on this
    /// number.
    pub outcome_unknown: u64,
    /// Operations that may still be running somewhere: their records are left in
    /// flight until their leases lapse. An operation whose handler commits later does not count
    /// again, and one that is only observed does not count.
    pub in_doubt: u64,
    /// Operations whose responses were discarded, because another owner had taken over
    /// (G5).
    pub overtaken: u64,
    /// Operations whose responses were sent before they were recorded. A background
    /// task goes on trying to record each. An operation that is only observed does not count.
    pub unrecorded: u64,
    /// Operations that ran unprotected because the store was down
    /// ([`OnStoreError::RunUnprotected`](crate::options::OnStoreError::RunUnprotected)).
    pub unprotected: u64,
    /// What the layer would have done in [`Mode::Observe`](crate::options::Mode::Observe). The
    /// operations that it would have executed count as `executed` too, and the ends of their records
    /// as such ends.
    pub observed: ObservedCounts,
    rejected: [u64; RejectionCode::ALL.len()],
    limits: [LimitCounts; Resource::ALL.len()],
}

/// What a layer would have done with the requests that it only observed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ObservedCounts {
    /// Requests whose handlers would have run.
    pub execute: u64,
    /// Duplicates that would have been given the recorded response.
    pub replay: u64,
    /// Requests without a key that need none.
    pub pass: u64,
    /// Requests of which the layer can't say what it would have done: the handler did not read the
    /// body to its end, or there was no room for the observation.
    pub not_observed: u64,
    reject: [u64; RejectionCode::ALL.len()],
}

impl ObservedCounts {
    /// How many requests would have been rejected with this code.
    #[must_use]
    pub fn reject(&self, code: RejectionCode) -> u64 {
        self.reject[place(code)]
    }
}

/// How often one limit of what requests hold has refused a request (G11).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LimitCounts {
    /// The option that sets the limit, such as `max_buffered_bytes`.
    pub option: &'static str,
    /// Requests whose caller had used up its share.
    pub by_share: u64,
    /// Requests for which all callers together had left no room.
    pub by_sum: u64,
}

impl Counts {
    /// How many requests were rejected with this code.
    #[must_use]
    pub fn rejected(&self, code: RejectionCode) -> u64 {
        self.rejected[place(code)]
    }

    /// For each limit of what requests hold, how many requests it has refused.
    #[must_use]
    pub fn limits(&self) -> &[LimitCounts] {
        &self.limits
    }
}

/// Nothing has happened yet.
impl Default for Counts {
    fn default() -> Self {
        Counters::default().read()
    }
}

/// [`Counts`], while they grow. Nothing is decided by a counter, so the counters
/// are relaxed atomics, in no order with anything else.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) executed: Count,
    pub(crate) rerun: Count,
    pub(crate) replayed: Count,
    pub(crate) unprotected: Count,
    pub(crate) released: Count,
    pub(crate) outcome_unknown: Count,
    pub(crate) in_doubt: Count,
    pub(crate) recorded: Count,
    pub(crate) sealed: Count,
    pub(crate) overtaken: Count,
    pub(crate) unrecorded: Count,
    pub(crate) not_observed: Count,
    would_execute: Count,
    would_replay: Count,
    would_pass: Count,
    would_reject: [Count; RejectionCode::ALL.len()],
    rejected: [Count; RejectionCode::ALL.len()],
    by_share: [Count; Resource::ALL.len()],
    by_sum: [Count; Resource::ALL.len()],
}

/// One counter.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    pub(crate) fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Counters {
    pub(crate) fn rejected(&self, code: RejectionCode) {
        self.rejected[place(code)].add();
    }

    pub(crate) fn observed(&self, would: Would) {
        let count = match would {
            Would::Execute => &self.would_execute,
            Would::Replay => &self.would_replay,
            Would::Reject(code) => &self.would_reject[place(code)],
            Would::Pass => &self.would_pass,
        };
        count.add();
    }

    pub(crate) fn full(&self, Full { of, whose }: Full) {
        let counts = match whose {
            Whose::Caller => &self.by_share,
            Whose::Service => &self.by_sum,
        };
        counts[of as usize].add();
    }

    pub(crate) fn read(&self) -> Counts {
        Counts {
            executed: self.executed.get(),
            rerun: self.rerun.get(),
            replayed: self.replayed.get(),
            recorded: self.recorded.get(),
            sealed: self.sealed.get(),
            released: self.released.get(),
            outcome_unknown: self.outcome_unknown.get(),
            in_doubt: self.in_doubt.get(),
            overtaken: self.overtaken.get(),
            unrecorded: self.unrecorded.get(),
            unprotected: self.unprotected.get(),
            observed: ObservedCounts {
                execute: self.would_execute.get(),
                replay: self.would_replay.get(),
                pass: self.would_pass.get(),
                not_observed: self.not_observed.get(),
                reject: self.would_reject.each_ref().map(Count::get),
            },
            rejected: self.rejected.each_ref().map(Count::get),
            limits: Resource::ALL.map(|of| LimitCounts {
                option: of.option(),
                by_share: self.by_share[of as usize].get(),
                by_sum: self.by_sum[of as usize].get(),
            }),
        }
    }
}

fn place(code: RejectionCode) -> usize {
    let mut all = RejectionCode::ALL.iter();
    all.position(|own| *own == code)
        .expect("every code is listed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_code_is_counted_for_itself() {
        let counters = Counters::default();
        for (times, code) in RejectionCode::ALL.iter().enumerate() {
            for _ in 0..times {
                counters.rejected(*code);
            }
        }
        let counts = counters.read();
        for (times, code) in RejectionCode::ALL.iter().enumerate() {
            assert_eq!(counts.rejected(*code), times as u64, "{code}");
        }
    }
}
