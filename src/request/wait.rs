//! Step 5, where the route says `OnInFlight::Wait`: waiting for the outcome of
//! another request.

use std::sync::Arc;
use std::time::Duration;

use http::request::Parts;
use tracing::warn;

use crate::error::cause;
use crate::limits::Resource;
use crate::options::OnInFlight;
use crate::rejection::Rejection;
use crate::request::claim::Protection;
use crate::request::content::Content;
use crate::request::operation::{Operation, Progress};
use crate::request::stop::Stop;
use crate::runtime::deadline::Deadline;
use crate::runtime::{Instant, sleep};
use crate::store::{Claim, POLL, Subscription};

/// The shortest pause between two claims for a lease that may be about to lapse.
const SHORTEST_PAUSE: Duration = Duration::from_millis(20);
/// So many early wake-ups in a row are taken for wake-ups of others.
const FEW: u32 = 10;

impl Operation {
    /// Waits for the outcome of the operation in flight: subscribes to the record,
    /// then claims. Only a claim decides; a change of the record, or the lapse of
    /// its lease, says when another claim is worth sending.
    ///
    /// Subscribing comes first: a change between the claim and a later
    /// subscription would be missed.
    pub(super) async fn wait(
        self: &Arc<Self>,
        claim: &Claim,
        parts: &Parts,
        content: &Content,
        mut lapses_in: Duration,
    ) -> Result<Protection, Stop> {
        let store = &self.core.leases.store;
        let OnInFlight::Wait(bound) = self.options.on_in_flight else {
            return Err(Stop::InFlight(lapses_in));
        };
        if !self.has_client() {
            return Err(Stop::InFlight(lapses_in));
        }
        let _waits = match self.account().take(Resource::Waiters, 1) {
            Ok(waits) => waits,
            Err(full) => {
                self.core.leases.reached_limit(full);
                return Err(Rejection::in_flight_without_wait(full).into());
            }
        };
        let asked = Instant::now();
        let mut woken = None;
        let mut in_vain = 0;
        loop {
            // Nothing is claimed here: if the client leaves, the request's future
            // is dropped and no record changes.
            self.enter(Progress::Reading);
            let left = bound.saturating_sub(asked.elapsed());
            let subscribed = Deadline::new(left, store.subscribe(&claim.id)).await;
            let mut changed = match subscribed {
                Some(Ok(changed)) => changed,
                Some(Err(error)) => {
                    let error = cause(&error);
                    warn!(id = ?claim.id, error, "can't subscribe to a record, polling it instead");
                    Subscription::after(POLL)
                }
                None => return Err(Stop::InFlight(lapses_in)),
            };
            let claimed_at = Instant::now();
            let claimed = self.claim(claim, parts, content, None).await;
            // The subscription that woke this request is dropped only now: a
            // dropped subscription passes its wake-up on to another waiter, which
            // would then claim beside this one.
            drop(woken.take());
            lapses_in = match claimed {
                Err(Stop::InFlight(lapses_in)) => lapses_in,
                // An operation was seen in flight. A store that has failed since is
                // no reason to run this request unprotected beside it.
                Ok(Protection::None) => return Err(Rejection::store_unavailable().into()),
                decided => return decided,
            };
            let left = bound.saturating_sub(asked.elapsed());
            if left.is_zero() || !self.has_client() {
                return Err(Stop::InFlight(lapses_in));
            }
            self.enter(Progress::Reading);
            let pause = lapses_in.max(SHORTEST_PAUSE).min(left);
            Deadline::new(pause, &mut changed).await;
            // A store that wakes its subscribers for nothing must not be claimed
            // from in a loop without a pause.
            let early = claimed_at.elapsed() < SHORTEST_PAUSE;
            in_vain = if early { in_vain + 1 } else { 0 };
            if in_vain > FEW {
                let left = bound.saturating_sub(asked.elapsed());
                sleep(SHORTEST_PAUSE.min(left)).await;
            }
            woken = Some(changed);
        }
    }
}
