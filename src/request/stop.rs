//! Why a handler does not run.

use std::sync::Arc;
use std::time::Duration;

use crate::record::{Completion, RecordId, TraceContext};
use crate::rejection::Rejection;

/// Why the handler of a request does not run, and what the client is told.
pub(crate) enum Stop {
    Reject(Rejection),
    /// The operation is done: the client is given the recorded response.
    Replay(Replay),
    /// The same request is in flight, under a lease that lapses after this time.
    InFlight(Duration),
}

/// A recorded response, and the operation that it comes from.
#[derive(Clone)]
pub(crate) struct Replay {
    pub(crate) completion: Arc<Completion>,
    pub(crate) record: RecordId,
    pub(crate) attempt: u64,
    /// The span in which the operation ran.
    pub(crate) trace: Option<TraceContext>,
}

impl From<Rejection> for Stop {
    fn from(rejection: Rejection) -> Self {
        Stop::Reject(rejection)
    }
}
