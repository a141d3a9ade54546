//! Events of a layer, for metrics, traces and logs of an application's own.
//!
//! An [`Observer`] is told of each decision about a protected request, of each operation's end, of
//! each call of the store, and of each limit that refuses something. The module
//! [`telemetry`](crate::telemetry) has observers that pass these events on to a metrics library.
//!
//! ```
//! use std::sync::atomic::{AtomicU64, Ordering};
//! use tower_idempotency::observer::{Decision, Observer, RequestOutcome};
//! use tower_idempotency::{IdempotencyLayer, MemoryStore, scope};
//!
//! #[derive(Default)]
//! struct Replays(AtomicU64);
//!
//! impl Observer for Replays {
//!     fn decided(&self, decision: &Decision<'_>) {
//!         if let RequestOutcome::Replayed { .. } = decision.outcome {
//!             self.0.fetch_add(1, Ordering::Relaxed);
//!         }
//!     }
//! }
//!
//! let layer = IdempotencyLayer::builder(MemoryStore::new(), scope::shared())
//!     .observer(Replays::default())
//!     .build()?;
//! # Ok::<(), tower_idempotency::ConfigError>(())
//! ```
//!
//! May use: `rejection`, `store`, `limits`, `record`, `runtime`.

#[cfg(feature = "opentelemetry")]
mod active_span;
mod calls;
mod would;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use http::Method;
use tracing::error;

#[cfg(feature = "opentelemetry")]
pub(crate) use self::active_span::active_span;
pub(crate) use self::calls::Answer;
pub use self::calls::{StoreCall, StoreOperation, StoreResult};
pub use self::would::Would;
use crate::limits::{Full, Whose};
use crate::record::{RecordId, TraceContext};
use crate::rejection::RejectionCode;
use crate::runtime::Instant;

/// Is told what a layer does. Each method does nothing unless an observer has one of its own.
///
/// The layer calls an observer from the tasks of requests, and waits for it: a method must return
/// at once. A panic of a method is logged as an error, and the layer goes on as if the method had
/// returned. Events borrow what they name, so that an event costs no
/// allocation. No event holds a client's key, a caller or a path that a client chose.
///
/// A layer without an observer reads no clock for one.
pub trait Observer: Send + Sync + 'static {
    /// What a protected request came to. Called once a request, when the head of its response is
    /// known. A request whose client leaves before its handler has begun has no decision, and
    /// neither has one that a layer further out protects already.
    fn decided(&self, decision: &Decision<'_>) {
        let _ = decision;
    }

    /// How an operation ended, as far as the layer knew first. Called once for each operation whose
    /// handler has begun: before [`decided`](Self::decided), or after it if the response is sent
    /// while it is read. What becomes later of a record in doubt or unrecorded is no second end.
    fn ended(&self, ending: &Ending<'_>) {
        let _ = ending;
    }

    /// A call of the store was answered, or has timed out. A call that was dropped before has no
    /// event. The completion that a handler writes in a transaction of its own is no call of the
    /// layer.
    fn called_store(&self, call: &StoreCall) {
        let _ = call;
    }

    /// A lease has lapsed while its operation runs in this process: another owner may take over now.
    /// Told by the task that renews leases, once until the lease is renewed again. An operation
    /// that ends before that task has looked, and a process that dies, tell nothing; and neither does
    /// an operation that is only observed.
    fn lease_lapsed(&self, lapse: &LeaseLapse<'_>) {
        let _ = lapse;
    }

    /// A limit of what requests hold has refused a request.
    fn reached_limit(&self, limit: &ReachedLimit) {
        let _ = limit;
    }
}

impl<T: Observer> Observer for Arc<T> {
    fn decided(&self, decision: &Decision<'_>) {
        (**self).decided(decision);
    }

    fn ended(&self, ending: &Ending<'_>) {
        (**self).ended(ending);
    }

    fn called_store(&self, call: &StoreCall) {
        (**self).called_store(call);
    }

    fn lease_lapsed(&self, lapse: &LeaseLapse<'_>) {
        (**self).lease_lapsed(lapse);
    }

    fn reached_limit(&self, limit: &ReachedLimit) {
        (**self).reached_limit(limit);
    }
}

/// What a protected request came to.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Decision<'a> {
    /// What it came to.
    pub outcome: RequestOutcome,
    /// The method, which is one that the layer protects.
    pub method: &'a Method,
    /// The path of the route's pattern, such as `/payments/{id}`. `None` where the layer knows none.
    pub route: Option<&'a str>,
    /// The time since the layer was called.
    pub duration: Duration,
    /// The record of the operation that the response comes from. `None` for requests that were
    /// rejected or ran unprotected.
    pub record: Option<&'a RecordId>,
    /// The number of that operation's attempt, from 1.
    pub attempt: Option<u64>,
    /// The span in which that operation ran, if it is known: a replay's span can be linked to it.
    pub trace: Option<&'a TraceContext>,
}

/// The kinds of outcomes of a protected request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RequestOutcome {
    /// The handler ran under a lease.
    #[non_exhaustive]
    Executed {
        /// How the operation ended. `None` if its response is still being read.
        end: Option<OperationEnd>,
        /// The code of the rejection that the client is given instead of the handler's response.
        rejection: Option<RejectionCode>,
    },
    /// The client is given a recorded response.
    #[non_exhaustive]
    Replayed {
        /// The time since that response was complete.
        age: Duration,
    },
    /// The handler did not run.
    Rejected(RejectionCode),
    /// The handler ran without a lease, because the store was down.
    Unprotected,
    /// The request passed as if there were no layer, which would have done this. Such a decision is
    /// told when the layer knows it, before the head of the response or after it.
    Observed(Would),
}

impl RequestOutcome {
    /// `executed`, `replayed`, `rejected`, `unprotected` or `observed`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Executed { .. } => "executed",
            Self::Replayed { .. } => "replayed",
            Self::Rejected(_) => "rejected",
            Self::Unprotected => "unprotected",
            Self::Observed(_) => "observed",
        }
    }

    /// The code of the rejection that the client is given, if it is given one.
    #[must_use]
    pub const fn rejection(self) -> Option<RejectionCode> {
        match self {
            Self::Executed { rejection, .. } => rejection,
            Self::Rejected(code) => Some(code),
            Self::Replayed { .. } | Self::Unprotected | Self::Observed(_) => None,
        }
    }
}

/// How an operation ended.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Ending<'a> {
    /// How it ended.
    pub end: OperationEnd,
    /// The operation's record.
    pub record: &'a RecordId,
    /// The number of the attempt, from 1.
    pub attempt: u64,
    /// Whether the operation was only observed ([`Mode::Observe`](crate::options::Mode::Observe)): it ran
    /// as if there were no layer, and nobody has to look after it, however it ended.
    pub is_observed: bool,
}

/// A lease that has lapsed while its operation runs.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LeaseLapse<'a> {
    /// Why it was not renewed in time.
    pub cause: LapseCause,
    /// The operation's record.
    pub record: &'a RecordId,
    /// The number of the attempt, from 1.
    pub attempt: u64,
}

/// Why a lease was not renewed in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LapseCause {
    /// Renewals have failed, or the process or its runtime stood still for too long to send them.
    NotRenewed,
    /// The operation runs for longer than `max_operation`, so that its lease is renewed no more.
    MaxOperation,
}

impl LapseCause {
    pub(crate) const ALL: [Self; 2] = [Self::NotRenewed, Self::MaxOperation];

    /// The word of this cause in metrics: `not_renewed` or `max_operation`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotRenewed => "not_renewed",
            Self::MaxOperation => "max_operation",
        }
    }
}

/// What became of an operation's record. [`Counts`](crate::Counts) has a number for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum OperationEnd {
    /// The response is recorded.
    Recorded,
    /// The operation is done, and its response was not kept.
    Sealed,
    /// A retry executes the operation again.
    Released,
    /// Nobody knows how the operation ended, and its record waits for somebody to
    /// [resolve](crate::Records::resolve) it.
    OutcomeUnknown,
    /// The operation may still be running somewhere: its record stays in flight until its lease
    /// lapses.
    InDoubt,
    /// Another owner had taken over, and the response was discarded (G5).
    Overtaken,
    /// The response was sent before it was recorded. A background task goes on trying.
    Unrecorded,
}

impl OperationEnd {
    pub(crate) const ALL: [Self; 7] = [
        Self::Recorded,
        Self::Sealed,
        Self::Released,
        Self::OutcomeUnknown,
        Self::InDoubt,
        Self::Overtaken,
        Self::Unrecorded,
    ];

    /// The word of this end in metrics, such as `outcome_unknown`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Recorded => "recorded",
            Self::Sealed => "sealed",
            Self::Released => "released",
            Self::OutcomeUnknown => "outcome_unknown",
            Self::InDoubt => "in_doubt",
            Self::Overtaken => "overtaken",
            Self::Unrecorded => "unrecorded",
        }
    }
}

/// A limit of what requests hold has refused a request (G11).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReachedLimit {
    /// The option that sets the limit, such as `max_buffered_bytes`.
    pub option: &'static str,
    /// Whether the share of the caller was used up. Otherwise all callers together had left no room.
    pub by_share: bool,
}

/// The observers of a layer. Without one, nothing is read from a clock.
#[derive(Clone, Default)]
pub(crate) struct Observers(Arc<[Arc<dyn Observer>]>);

impl Observers {
    pub(crate) fn new(observers: Vec<Arc<dyn Observer>>) -> Self {
        Self(observers.into())
    }

    /// The present moment, if there is an observer.
    pub(crate) fn now(&self) -> Option<Instant> {
        (!self.0.is_empty()).then(Instant::now)
    }

    pub(crate) fn tell(&self, event: impl Fn(&dyn Observer)) {
        for observer in self.0.iter() {
            // Events come in the middle of a claim and from destructors: a panic there would lose a
            // lease, or abort the process.
            if catch_unwind(AssertUnwindSafe(|| event(&**observer))).is_err() {
                error!("an observer has panicked: it has missed an event");
            }
        }
    }

    pub(crate) fn reached_limit(&self, Full { of, whose }: Full) {
        let limit = ReachedLimit {
            option: of.option(),
            by_share: whose == Whose::Caller,
        };
        self.tell(|observer| observer.reached_limit(&limit));
    }
}
