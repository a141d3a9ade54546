//! The history is the server's ledger of executions, what the clients saw, and
//! which leases the store let lapse.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

/// All parts of the run share one clock, so any two moments have an order.
#[derive(Clone, Debug)]
pub(crate) struct Clock(Arc<(AtomicU64, Instant)>);

/// Moments are compared by `order`; `at` is for the reader of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Moment {
    pub(crate) order: u64,
    pub(crate) at: Duration,
}

impl Clock {
    pub(crate) fn new() -> Self {
        Self(Arc::new((AtomicU64::new(0), Instant::now())))
    }

    pub(crate) fn now(&self) -> Moment {
        let (order, start) = &*self.0;
        Moment {
            order: order.fetch_add(1, Ordering::SeqCst),
            at: start.elapsed(),
        }
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:9.3} s #{:<8}", self.at.as_secs_f64(), self.order)
    }
}

/// `Asked` is what a request under an operation's key asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// The request asks for what the key is for.
    Own,
    /// A client with a bug sends another body under the key.
    Other,
    /// The body belongs to another operation; the handler can see this only if the
    /// layer mixes up requests.
    Crossed,
}

pub(crate) type AnswerDigest = [u8; 32];

/// Returns the digest of all that makes two responses the same: status, body and
/// trailers.
pub(crate) fn digest(status: u16, body: &[u8], trailers: &[(String, String)]) -> AnswerDigest {
    let mut digest = Sha256::new();
    digest.update(status.to_be_bytes());
    digest.update((body.len() as u64).to_be_bytes());
    digest.update(body);
    for (name, value) in trailers {
        digest.update(format!("{name}: {value}\n"));
    }
    digest.finalize().into()
}

/// An execution is one run of the handler, until the body of its response has
/// ended. Its number is its place in the ledger; the response carries the number
/// too.
#[derive(Clone, Debug)]
pub(crate) struct Execution {
    pub(crate) operation: u32,
    pub(crate) asked: Asked,
    /// The token is 0 if no layer protects the handler.
    pub(crate) token: u64,
    pub(crate) attempt: u64,
    pub(crate) begun: Moment,
    pub(crate) ended: Option<(Moment, End)>,
    /// This is set once the handler has returned its response.
    pub(crate) answer: Option<Answered>,
    /// Says whether the handler's context reported, at the end, that another owner
    /// has taken over.
    pub(crate) lost: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum End {
    /// The body of the response came to its own end.
    Whole,
    /// The body of the response broke off with an error.
    BrokeOff,
    /// The body of the response broke off with a panic.
    BodyPanicked,
    /// The handler panicked.
    Panicked,
    /// The handler returned an error.
    Failed,
    /// The execution's future or body was dropped before its end.
    Dropped,
}

/// `Answered` is the response that the handler intended to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Answered {
    pub(crate) status: u16,
    pub(crate) length: usize,
    pub(crate) digest: AnswerDigest,
}

/// Returns whether the layer records a response with this status, by its defaults.
pub(crate) fn is_recorded(status: u16) -> bool {
    status < 500 && ![307, 308, 401, 403, 407, 408, 417, 421, 425, 429].contains(&status)
}

impl Execution {
    /// Returns when the execution was finally done, so that the operation must not
    /// run again.
    pub(crate) fn done(&self) -> Option<Moment> {
        let (at, end) = self.ended?;
        let recorded = is_recorded(self.answer?.status);
        let has_effect = matches!(end, End::Whole | End::BrokeOff | End::BodyPanicked);
        (recorded && has_effect).then_some(at)
    }

    pub(crate) fn is_whole(&self) -> bool {
        matches!(self.ended, Some((_, End::Whole)))
    }

    pub(crate) fn has_panicked(&self) -> bool {
        matches!(self.ended, Some((_, End::Panicked | End::BodyPanicked)))
    }

    /// Returns whether nobody can know how the execution ended.
    pub(crate) fn is_unknown(&self) -> bool {
        matches!(self.ended, Some((_, End::Panicked | End::Failed)))
    }
}

/// `Seen` is what a client saw of one request.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) operation: u32,
    pub(crate) client: usize,
    pub(crate) asked: Asked,
    pub(crate) sent: Moment,
    pub(crate) ended: Moment,
    pub(crate) what: What,
}

#[derive(Clone, Debug)]
pub(crate) enum What {
    Answer(WholeAnswer),
    Refused {
        status: u16,
        code: String,
    },
    /// The server ended the connection before the end of the response. The number
    /// is that of the execution, if the response's head had come.
    Cut(Option<u32>),
    /// The client left.
    Left(Stage),
    /// The response did not end within a time that is enough for any response.
    Hung,
}

/// This response was read to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WholeAnswer {
    pub(crate) status: u16,
    pub(crate) execution: Option<u32>,
    pub(crate) replayed: bool,
    /// This is the value of the header `Idempotency-Status`.
    pub(crate) lacks: Option<String>,
    pub(crate) digest: AnswerDigest,
}

impl WholeAnswer {
    /// Returns whether the response says that a retry gets the same response again.
    pub(crate) fn is_recorded(&self) -> bool {
        self.lacks.is_none() && self.execution.is_some() && is_recorded(self.status)
    }
}

/// A client leaves at one of these stages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    BeforeTheBody,
    WhileItRuns,
    AfterATimeout,
    InTheAnswer,
    BeforeTheLastByte,
}

/// An overtake is a claim that took over a lapsed lease.
#[derive(Clone, Debug)]
pub(crate) struct Overtake {
    pub(crate) from: u64,
    pub(crate) to: u64,
    pub(crate) at: Moment,
    /// The lease had last been claimed or renewed this long ago.
    pub(crate) unrenewed: Duration,
}

/// A pause is a time in which the process did not run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pause {
    pub(crate) from: Duration,
    pub(crate) to: Duration,
}

impl Pause {
    pub(crate) fn length(&self) -> Duration {
        self.to.saturating_sub(self.from)
    }
}

/// `LeftRecord` is what the store holds in the end, under the token of its last
/// claim.
#[derive(Clone, Debug)]
pub(crate) struct LeftRecord {
    pub(crate) token: u64,
    pub(crate) state: LeftState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LeftState {
    InFlight,
    Lapsed,
    Completed(AnswerDigest),
    Sealed,
    Released,
}
