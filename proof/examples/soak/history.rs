//! What happened: the server's ledger of executions, what clients saw, and
//! what the store let happen to leases.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

/// One clock for all, so that any two moments have an order.
#[derive(Clone, Debug)]
pub(crate) struct Clock(Arc<(AtomicU64, Instant)>);

/// The order decides; the time is for whoever reads it.
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

/// What was asked under an operation's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// What the key is for.
    Own,
    /// Another body: a client with a bug.
    Other,
    /// A body of another operation; the handler can only see it if requests
    /// cross.
    Crossed,
}

pub(crate) type AnswerDigest = [u8; 32];

/// Of all that makes two answers the same: status, body, trailers.
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

/// One run of the handler, until its answer's body has ended. Its number is
/// its place in the ledger, and in its answer.
#[derive(Clone, Debug)]
pub(crate) struct Execution {
    pub(crate) operation: u32,
    pub(crate) asked: Asked,
    /// 0 where nothing protects it.
    pub(crate) token: u64,
    pub(crate) attempt: u64,
    pub(crate) begun: Moment,
    pub(crate) ended: Option<(Moment, End)>,
    /// Once the handler has answered.
    pub(crate) answer: Option<Answered>,
    /// Whether its context said, at the end, that another has taken over.
    pub(crate) lost: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum End {
    /// Its answer came to its own end.
    Whole,
    /// Its answer's body broke off with an error.
    BrokeOff,
    /// Its answer's body broke off with a panic.
    BodyPanicked,
    /// The handler panicked.
    Panicked,
    /// The handler returned an error.
    Failed,
    /// Somebody stopped polling it.
    Dropped,
}

/// What the handler meant to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Answered {
    pub(crate) status: u16,
    pub(crate) length: usize,
    pub(crate) digest: AnswerDigest,
}

/// Whether the layer records an answer with this status, by its defaults.
pub(crate) fn is_recorded(status: u16) -> bool {
    status < 500 && ![401, 403, 407, 408, 425, 429].contains(&status)
}

impl Execution {
    /// When it was done for good: it must not run again.
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

    /// Whether nobody can say how it ended.
    pub(crate) fn is_unknown(&self) -> bool {
        matches!(self.ended, Some((_, End::Panicked | End::Failed)))
    }
}

/// What a client saw of one request.
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
    /// The server ended the connection before the answer's end; of which
    /// execution, if its head had come.
    Cut(Option<u32>),
    /// The client left.
    Left(Stage),
    /// No end of an answer in a time that is enough for any.
    Hung,
}

/// An answer that was read to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WholeAnswer {
    pub(crate) status: u16,
    pub(crate) execution: Option<u32>,
    pub(crate) replayed: bool,
    /// `Idempotency-Status`.
    pub(crate) lacks: Option<String>,
    pub(crate) digest: AnswerDigest,
}

impl WholeAnswer {
    /// Whether it says of itself that a retry gets it again.
    pub(crate) fn is_recorded(&self) -> bool {
        self.lacks.is_none() && self.execution.is_some() && is_recorded(self.status)
    }
}

/// Where a client left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    BeforeTheBody,
    WhileItRuns,
    AfterATimeout,
    InTheAnswer,
    BeforeTheLastByte,
}

/// A claim that took over a lease that had lapsed.
#[derive(Clone, Debug)]
pub(crate) struct Overtake {
    pub(crate) from: u64,
    pub(crate) to: u64,
    pub(crate) at: Moment,
    /// How long ago the lease had last been claimed or renewed.
    pub(crate) unrenewed: Duration,
}

/// A time in which the process did not get to run.
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

/// What the store holds in the end, by the token of its last claim.
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
