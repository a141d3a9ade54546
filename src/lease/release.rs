//! Claims that are given back in the background.

use std::sync::Arc;
use std::time::Duration;

use tracing::{Instrument, debug, warn};

use crate::error::cause;
use crate::lease::{FIRST_PAUSE, LONGEST_PAUSE, Leases};
use crate::limits::Account;
use crate::runtime::{Handle, Instant, sleep};
use crate::store::{Claim, Ownership, Release};

/// How long a background task tries to release a claim whose lease practically
/// never lapses.
const LONGEST_RELEASE: Duration = Duration::from_secs(24 * 60 * 60);

/// Whether a claim that is given up is known to have reached the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ClaimSent {
    /// The store has acquired it.
    Acquired,
    /// The store did not answer: the claim may have been lost, or may still be on
    /// its way.
    Maybe,
}

impl Leases {
    /// Releases a claim by its nonce, in a background task, until the store has
    /// answered or the lease would have lapsed anyway. The task counts for the caller.
    pub(crate) fn release_later(
        self: &Arc<Self>,
        caller: &Arc<Account>,
        claim: &Claim,
        how: Release,
        sent: ClaimSent,
    ) {
        let Claim {
            id, nonce, lease, ..
        } = *claim;
        let Ok(runtime) = Handle::try_current() else {
            // Without a runtime no task can run: the lease lapses.
            debug!(?id, "no runtime to release a claim on");
            return;
        };
        let leases = Arc::clone(self);
        let release = async move {
            let end = Instant::now() + lease.min(LONGEST_RELEASE);
            let mut pause = FIRST_PAUSE;
            loop {
                match leases.store.release(&id, &nonce, how).await {
                    Ok(Ownership::Held) => return,
                    // A claim that the store does not know yet may still arrive.
                    Ok(Ownership::Lost) if sent == ClaimSent::Acquired || end <= Instant::now() => {
                        return;
                    }
                    Err(error) if end <= Instant::now() => {
                        let error = cause(&error);
                        warn!(?id, error, "a claim was not released, its lease lapses");
                        return;
                    }
                    Ok(Ownership::Lost) | Err(_) => sleep(pause).await,
                }
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        };
        caller.spawn(&runtime, release.in_current_span());
    }
}
