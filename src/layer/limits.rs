//! The options that limit what all requests hold, and what those of one caller hold (G11).

use crate::error::ConfigError;
use crate::layer::builder::IdempotencyLayerBuilder;
use crate::limits::{Limit, Resource, largest_share};

/// # Limits
///
/// Each limit has a sum, `max_X`, and a share of one caller, `max_X_per_caller`. By default a
/// caller may hold seven times what is free: a caller that is alone reaches seven eighths of the
/// sum, and its share shrinks as other callers ask. A share that is set is that number, and one
/// that is as large as the sum turns shares off. Where [all callers are one](crate::scope::shared),
/// there are no shares.
///
/// What is full refuses only what would begin: a retry whose response is recorded is given that
/// response. The repository's `docs/limits.md` has a table of all limits.
impl IdempotencyLayerBuilder {
    /// Limits how many protected requests are handled at once, from when their callers are known
    /// until their operations have ended. Requests that wait for another count as
    /// [waiting](Self::max_waiting_requests) instead. A request beyond the limit is rejected with
    /// `over-capacity`. Default: 10 000.
    pub fn max_in_flight_operations(self, operations: usize) -> Self {
        self.sum(Resource::Operations, operations)
    }

    /// Limits how many of [`max_in_flight_operations`](Self::max_in_flight_operations) one caller
    /// has. Default: seven times what is free.
    pub fn max_in_flight_per_caller(self, operations: usize) -> Self {
        self.share(Resource::Operations, operations)
    }

    /// Limits how many bytes all request bodies hold together: while the layer reads them, while
    /// their requests wait, and until their handlers have responded. A request beyond the limit is
    /// rejected with `over-capacity`. Default: 256 MiB.
    ///
    /// A body whose length is announced, and that is not compared as JSON, is still read and
    /// compared when the limit is reached, without being kept: its request is given the recorded
    /// response if there is one.
    pub fn max_buffered_bytes(self, bytes: usize) -> Self {
        self.sum(Resource::RequestBytes, bytes)
    }

    /// Limits how many of [`max_buffered_bytes`](Self::max_buffered_bytes) one caller has. Default:
    /// seven times what is free.
    pub fn max_buffered_bytes_per_caller(self, bytes: usize) -> Self {
        self.share(Resource::RequestBytes, bytes)
    }

    /// Limits how many bytes all responses together hold that are there as a whole: replays, and
    /// responses that the handler gives in one piece, until their servers have sent them. Responses
    /// of up to 64 KiB do not count. Default: 256 MiB.
    ///
    /// A caller whose share is used up begins no other operation (`over-capacity`). A replay is
    /// given all the same: the client that has read nothing of an older response of the same
    /// caller for longest is let go, and its operation stands.
    pub fn max_unsent_bytes(self, bytes: usize) -> Self {
        self.sum(Resource::UnsentBytes, bytes)
    }

    /// Limits how many bytes of [`max_unsent_bytes`](Self::max_unsent_bytes) the responses of one
    /// caller hold. Default: seven times what is free.
    pub fn max_unsent_bytes_per_caller(self, bytes: usize) -> Self {
        self.share(Resource::UnsentBytes, bytes)
    }

    /// Limits how many operations may run without a client. While that many operations run, no
    /// other operation begins: requests are rejected with `over-capacity`. Default: 10 000.
    ///
    /// The layer checks the limit before the claim, because an operation that has begun is not
    /// stopped when its client leaves (G4).
    ///
    /// Completions and releases that the layer sends to the store again count as operations.
    /// Requests to routes with [`OnDisconnect::Cancel`](crate::options::OnDisconnect::Cancel) are
    /// not rejected. Clients that leave at the same moment can exceed the limit, up to
    /// [`max_in_flight_operations`](Self::max_in_flight_operations). What is beyond the limit counts
    /// for its caller alone, so that no other caller is refused for it (G11).
    pub fn max_background_operations(self, operations: usize) -> Self {
        self.sum(Resource::Background, operations)
    }

    /// Limits how many of [`max_background_operations`](Self::max_background_operations) are of one
    /// caller. Default: seven times what is free.
    pub fn max_background_per_caller(self, operations: usize) -> Self {
        self.share(Resource::Background, operations)
    }

    /// Limits how many requests wait at once for the outcome of another request
    /// ([`OnInFlight::Wait`](crate::options::OnInFlight::Wait)). A request beyond the limit is
    /// rejected with `in-flight`. Default: 1 000.
    pub fn max_waiting_requests(self, requests: usize) -> Self {
        self.sum(Resource::Waiters, requests)
    }

    /// Limits how many of [`max_waiting_requests`](Self::max_waiting_requests) are of one caller.
    /// Default: seven times what is free.
    pub fn max_waiting_per_caller(self, requests: usize) -> Self {
        self.share(Resource::Waiters, requests)
    }

    /// Limits how many bytes of all responses together are read ahead of their clients and kept
    /// to be recorded. The first 64 KiB of each response do not count. Default: 256 MiB.
    ///
    /// A response for which there is no room is still sent, as fast as its client reads, and its
    /// operation is sealed at its end.
    pub fn max_read_ahead(self, bytes: usize) -> Self {
        self.sum(Resource::ReadAheadBytes, bytes)
    }

    /// Limits how many bytes of [`max_read_ahead`](Self::max_read_ahead) the responses of one
    /// caller hold. Default: seven times what is free.
    pub fn max_read_ahead_per_caller(self, bytes: usize) -> Self {
        self.share(Resource::ReadAheadBytes, bytes)
    }

    fn sum(mut self, of: Resource, sum: usize) -> Self {
        self.limits[of as usize].sum = sum;
        self
    }

    fn share(mut self, of: Resource, share: usize) -> Self {
        self.limits[of as usize].per_caller = Some(share);
        self
    }
}

/// Checks that the limits agree with each other, and with the largest body of a request.
/// `has_shares`: whether requests can have more than one caller.
pub(super) fn check_limits(
    limits: &[Limit; Resource::ALL.len()],
    largest_body: usize,
    has_shares: bool,
) -> Result<(), ConfigError> {
    for of in Resource::ALL {
        let Limit { sum, per_caller } = limits[of as usize];
        if let Some(share) = per_caller.filter(|share| *share > sum) {
            let message = format!("is {share}, more than `{}`, which is {sum}", of.option());
            return Err(ConfigError::new(of.share_option(), message));
        }
        // Without waiters a request is told that another is in flight.
        // Without room for responses each caller has one on its way.
        let is_needed = !matches!(
            of,
            Resource::Waiters | Resource::ReadAheadBytes | Resource::UnsentBytes
        );
        let none = [(of.option(), Some(sum)), (of.share_option(), per_caller)];
        let none = none.into_iter().find(|(_, limit)| *limit == Some(0));
        if let Some((option, _)) = none.filter(|_| is_needed) {
            let message = "must be at least 1, or nothing is ever begun";
            return Err(ConfigError::new(option, message));
        }
    }
    let bodies = limits[Resource::RequestBytes as usize];
    let (option, share) = match bodies.per_caller {
        Some(share) => ("max_buffered_bytes_per_caller", share),
        None if has_shares => ("max_buffered_bytes", largest_share(bodies.sum)),
        None => ("max_buffered_bytes", bodies.sum),
    };
    if share >= largest_body {
        return Ok(());
    }
    let mut message =
        format!("must hold the largest body, `max_request_body` of {largest_body} bytes");
    if share < bodies.sum && bodies.per_caller.is_none() {
        message += ", in seven eighths of it, which are the share of one caller";
    }
    Err(ConfigError::new(option, message))
}
