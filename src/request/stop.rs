//! Why a handler does not run.

use std::sync::Arc;
use std::time::Duration;

use crate::record::Completion;
use crate::rejection::Rejection;

/// Why the handler of a request does not run, and what the client is told.
pub(crate) enum Stop {
    Reject(Rejection),
    /// The operation is done: the client is given the recorded response.
    Replay(Arc<Completion>),
    /// The same request is in flight, under a lease that lapses after this time.
    InFlight(Duration),
}

impl From<Rejection> for Stop {
    fn from(rejection: Rejection) -> Self {
        Stop::Reject(rejection)
    }
}
