//! What a layer would have done, in [`Mode::Observe`](crate::options::Mode::Observe).

use crate::rejection::RejectionCode;

/// What a layer would have done with a request that it only observed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Would {
    /// The handler would have run: it is the first request with this key, or a retry of an operation
    /// that was released.
    Execute,
    /// The request is a duplicate, and would have been given the recorded response. One that
    /// would have waited for the outcome of another counts as this too.
    Replay,
    /// The request would have been rejected with this code.
    Reject(RejectionCode),
    /// The request has no key, and needs none.
    Pass,
}

impl Would {
    /// `execute`, `replay`, `reject` or `pass`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Execute => "execute",
            Self::Replay => "replay",
            Self::Reject(_) => "reject",
            Self::Pass => "pass",
        }
    }
}
