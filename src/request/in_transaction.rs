//! Steps 5, 7 and 8 where the handler makes the claim in its own transaction
//! ([`ExactlyOnce::InTransaction`](crate::options::ExactlyOnce::InTransaction), G7).

use std::panic::resume_unwind;
use std::sync::Arc;

use http::Response;
use http::request::Parts;
use http_body::Body;
use tracing::{error, warn};

use crate::error::cause;
use crate::lease::Ended;
use crate::limits::{Holding, Resource};
use crate::message::response_body::ResponseBody;
use crate::rejection::Rejection;
use crate::request::commit_state::Refusal;
use crate::request::content::Content;
use crate::request::operation::{Operation, Progress};
use crate::request::retry::{Retry, RetryHead, is_fitted};
use crate::request::settle::Settled;
use crate::request::stop::Stop;
use crate::runtime::catch::Panic;
use crate::store::Claim;

impl Operation {
    /// Step 5 where the handler makes the claim: only looks for a record.
    pub(super) async fn look_before(
        &self,
        claim: &Claim,
        parts: &Parts,
        content: &Content,
    ) -> Result<(), Stop> {
        if let Some(stop) = self.stop_by_record(claim).await? {
            return Err(stop);
        }
        self.look_under_old_secrets(parts, content).await?;
        self.commit.set_others(self.old_claims(parts, content)?);
        if is_fitted(&self.options) {
            let (head, body) = (RetryHead::of(parts), content.kept());
            self.commit.keep_retry(Retry { head, body });
        }
        self.leaves_claim(claim);
        Ok(())
    }

    /// What the records under the current secret and the old ones mean for a request whose handler
    /// could not make the claim.
    async fn stop_by_records(&self) -> Stop {
        let own = std::iter::once(&self.lease().claim);
        for claim in own.chain(self.commit.others()) {
            match self.stop_by_record(claim).await {
                Ok(None) => {}
                Ok(Some(stop)) | Err(stop) => return stop,
            }
        }
        // The record that was in the way is gone by now.
        Rejection::in_flight().into()
    }

    async fn stop_by_record(&self, claim: &Claim) -> Result<Option<Stop>, Stop> {
        self.look_for(claim).await.map_err(|error| {
            warn!(id = ?claim.id, error = cause(&error), "look-up failed");
            Rejection::store_unavailable().into()
        })
    }

    /// The rejection of such a response where the handler makes the claim.
    fn never_committed_inside(&self) -> Rejection {
        error!(
            record = %self.lease().claim.id,
            "a handler of an `exactly_once` route responded without having committed its claim \
             (see SqlClaim::begin): whether its operation has happened is not known, and a retry \
             executes it again"
        );
        Rejection::never_committed()
    }
}

/// Steps 7 and 8 where the handler makes the claim and commits it. What it has not committed has left
/// nothing behind: its response goes to this client, and a retry executes the operation.
pub(super) async fn finish_transaction<R, E>(
    operation: Arc<Operation>,
    place: Holding,
    handled: Result<Result<Response<R>, E>, Panic>,
    asked: Option<Box<Parts>>,
) -> Result<Response<ResponseBody<R>>, E>
where
    R: Body,
{
    operation.enter(Progress::Recording);
    let retry = operation.commit.take_retry().map(|retry| {
        let account = operation.account();
        let room = account.take_anyway(Resource::RequestBytes, retry.body.len());
        (retry, room)
    });
    let leases = &operation.core.leases;
    let settled = if operation.commit.close_unless_begun() {
        operation.settle_commit(None).await
    } else {
        Settled::Not(None)
    };
    if let Settled::Refused(why) = settled {
        let stop = match why {
            Refusal::InFlight => Rejection::in_flight().into(),
            Refusal::FullOfWaiters(full) => Rejection::in_flight_without_wait(full).into(),
            Refusal::Found => match (operation.stop_by_records().await, retry) {
                (Stop::Replay(replay), Some((retry, _room))) => {
                    operation.fit_aside(replay, *retry).await
                }
                // A task that outlives the handler has found it: the body is gone.
                (Stop::Replay(_), None) if is_fitted(&operation.options) => {
                    Rejection::in_flight().into()
                }
                (stop, _) => stop,
            },
        };
        return Ok(operation.stop(stop, asked.as_deref()));
    }
    leases.counts.executed.add();
    if operation.token_and_attempt().1 > 1 {
        leases.counts.rerun.add();
    }
    match settled {
        Settled::Committed(mut response) => {
            operation.executed(None);
            // As where the layer makes the claim: the operation keeps no extensions.
            if let Ok(Ok(returned)) = handled {
                *response.extensions_mut() = returned.into_parts().0.extensions;
            }
            return Ok(response);
        }
        Settled::InFlight | Settled::Refused(_) => {
            return Ok(operation.reject_executed(Rejection::in_flight(), asked.as_deref()));
        }
        Settled::Not(_) => {}
    }
    if let Some(lease) = operation.lease_state() {
        leases.ended(lease, Ended::Released);
    }
    let mut response = match handled {
        Ok(Ok(response)) => response,
        Ok(Err(error)) => {
            operation.executed(None);
            return Err(error);
        }
        Err(panic) => {
            operation.executed(None);
            resume_unwind(panic)
        }
    };
    if operation.is_uncommitted(&response) {
        let rejection = operation.never_committed_inside();
        return Ok(operation.reject_executed(rejection, asked.as_deref()));
    }
    operation.executed(None);
    if operation.marks_responses() {
        let began_at = operation.commit.began_at();
        let began_at = began_at.expect("the handler has begun");
        operation.mark(response.headers_mut(), began_at, None);
    }
    Ok(response.map(|body| ResponseBody::unprotected(body, Some(place))))
}
