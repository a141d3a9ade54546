//! Step 7 where the handler may have committed its claim itself (G7).

use std::sync::Arc;

use http::Response;
use tracing::{Instrument, debug, error};

use crate::error::cause;
use crate::lease::{Ended, LeaseOwner, Verdict};
use crate::message::kept::unsent;
use crate::message::response_body::ResponseBody;
use crate::options::ExactlyOnce;
use crate::options::recording::ResponseHead;
use crate::options::statuses::ASKS_AGAIN;
use crate::rejection::Rejection;
use crate::request::commit_fate::find_out;
use crate::request::commit_state::{CommitOutcome, CommittedResponse, Refusal};
use crate::request::operation::Operation;
use crate::runtime::Handle;
use crate::runtime::deadline::Deadline;
use crate::store::sql::transaction::TransactionFate;
use crate::store::{OnLapsedLease, Outcome, Release};

/// What the flow does once the handler is through.
pub(crate) enum Settled<R> {
    /// Sends this response: it was committed.
    Committed(Response<ResponseBody<R>>),
    /// Rejects with `in-flight`: another owner has taken over, nobody knows, or the
    /// transaction was rolled back after its handler was told that nobody knows.
    InFlight,
    /// Does not run the operation: the handler's transaction could not make the claim.
    Refused(Refusal),
    /// Goes by what the handler returned: nothing was committed.
    Not(Option<LeaseOwner>),
}

impl Operation {
    /// Settles an operation whose handler is through and has at least tried to
    /// commit its claim. There is no owner where the handler makes the claim itself: what it has not
    /// committed is not stored.
    pub(super) async fn settle_commit<R>(&self, owner: Option<LeaseOwner>) -> Settled<R> {
        let timeout = self.core.leases.store.timeout();
        // Of a record that stands, the drop of `owner` releases nothing.
        match Deadline::new(timeout, self.commit.outcome()).await {
            Some(CommitOutcome::Nothing) => Settled::Not(owner),
            Some(CommitOutcome::Refused(why)) => Settled::Refused(why),
            Some(CommitOutcome::Committed(response)) => self.committed(*response),
            Some(CommitOutcome::Lost) => {
                self.overtaken(owner);
                Settled::InFlight
            }
            Some(CommitOutcome::Unheard(unheard)) => match self.transaction_fate().await {
                TransactionFate::Committed => {
                    self.stands(&unheard.response);
                    self.committed(unheard.response)
                }
                // The response of a handler that was told that nobody knows does not say what the
                // layer has found out since.
                TransactionFate::RolledBack if unheard.is_told => {
                    if let Some(owner) = owner {
                        owner.end(Verdict::Release(Release::MayRunAgain)).await;
                    }
                    Settled::InFlight
                }
                TransactionFate::RolledBack => Settled::Not(owner),
                TransactionFate::Overtaken => {
                    if let Some(lease) = self.lease_state() {
                        lease.lose();
                    }
                    self.overtaken(owner);
                    Settled::InFlight
                }
                TransactionFate::UnderWay | TransactionFate::Absent => self.left_unknown(owner),
            },
            None => self.left_unknown(owner),
        }
    }

    /// The record is another owner's.
    fn overtaken(&self, owner: Option<LeaseOwner>) {
        match (owner, self.lease_state()) {
            (Some(owner), _) => owner.overtaken(),
            (None, Some(lease)) => self.core.leases.ended(lease, Ended::Overtaken),
            (None, None) => {}
        }
    }

    fn committed<R>(&self, response: CommittedResponse) -> Settled<R> {
        let mut head = response.head;
        let kept_until = match &response.outcome {
            Outcome::Completed(completion) => completion.kept_until(),
            Outcome::Sealed { .. } => None,
        };
        if let Some(began_at) = self.commit.began_at() {
            self.mark(&mut head.headers, began_at, kept_until);
        }
        let mut body = response.body;
        let account = self.account();
        body.data = unsent(body.data, account);
        let body = ResponseBody::known(body).in_parts(account, self.core.send_timeout);
        Settled::Committed(Response::from_parts(head, body))
    }

    /// Counts a response that was committed, keeps the owner from releasing the
    /// record, and wakes the requests that wait for the outcome.
    pub(crate) fn stands(&self, response: &CommittedResponse) {
        let leases = &self.core.leases;
        if let Some(lease) = self.lease_state() {
            leases.ended(lease, Ended::from(&response.outcome));
            lease.complete_elsewhere();
        }
        if !response.awaited {
            return;
        }
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        let id = self.lease().claim.id;
        let waking = {
            let leases = Arc::clone(leases);
            async move {
                let store = &leases.store;
                let Some(database) = store.store().in_database() else {
                    return;
                };
                if let Err(error) = store.bound(database.wake(&id)).await {
                    let error = cause(&error);
                    debug!(?id, error, "waiters were not woken, they poll the record");
                }
            }
        };
        let waking = waking.instrument(self.span.clone());
        self.account().spawn(&runtime, waking);
    }

    /// Whether a response says that the operation has happened, though its handler
    /// committed nothing on an `exactly_once` route.
    pub(super) fn is_uncommitted<R>(&self, response: &Response<R>) -> bool {
        if self.options.exactly_once == ExactlyOnce::No {
            return false;
        }
        let status = response.status();
        let failed = status.is_client_error()
            || status.is_server_error()
            || ASKS_AGAIN.contains(&status.as_u16())
            || ResponseHead::new(status, response.headers(), None).is_failed_grpc();
        !failed
    }

    /// The rejection of such a response: nobody knows what the handler has done.
    pub(super) async fn never_committed(&self, owner: LeaseOwner) -> Rejection {
        let retried = match self.options.on_lapsed_lease {
            OnLapsedLease::Rerun => "a retry executes it again",
            OnLapsedLease::Refuse => "a retry is rejected until the record is resolved",
        };
        error!(
            lease = ?self.lease(),
            "a handler of an `exactly_once` route responded without having committed its claim \
             (see SqlClaim): whether its operation has happened is not known, and {retried}"
        );
        let unknown = Verdict::Release(Release::OutcomeUnknown);
        match owner.end(unknown).await {
            Ended::Overtaken => Rejection::in_flight(),
            _ => Rejection::never_committed(),
        }
    }

    async fn transaction_fate(&self) -> TransactionFate {
        let leases = &self.core.leases;
        match leases.store.store().in_database() {
            Some(database) => {
                let (lease, timeout) = (self.lease(), leases.store.timeout());
                find_out(database, lease, self.claims_inside(), timeout).await
            }
            None => TransactionFate::UnderWay,
        }
    }

    /// Nobody knows whether the transaction was committed. The record is not
    /// released: whatever becomes of the transaction, the record will say so, and
    /// no other owner takes over before the lease lapses.
    fn left_unknown<R>(&self, owner: Option<LeaseOwner>) -> Settled<R> {
        error!(lease = ?self.lease(),
            "nobody knows whether a transaction was committed: its record says so once it has \
             ended, or its lease has lapsed");
        if let Some(lease) = self.lease_state() {
            self.core.leases.ended(lease, Ended::LeftInFlight);
        }
        if let Some(owner) = owner {
            owner.leave();
        }
        Settled::InFlight
    }
}
