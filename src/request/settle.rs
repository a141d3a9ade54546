//! How far the commit of an operation's claim has come, as its handler and its
//! flow see it.

use std::sync::{Arc, PoisonError};
use std::time::SystemTime;

use bytes::Bytes;
use http::{Response, StatusCode, response};
use http_body_util::Full;
use tracing::{Instrument, debug, error, warn};

use crate::exactly_once::CommitError;
use crate::lease::{Ended, LeaseOwner};
use crate::message::body::FullBody;
use crate::message::response_body::ResponseBody;
use crate::options::recording::ResponseHead;
use crate::rejection::{Rejection, RejectionCode};
use crate::request::admit::in_flight;
use crate::request::commit_fate::find_out;
use crate::request::judge::Verdict;
use crate::request::operation::Operation;
use crate::runtime::deadline::Deadline;
use crate::runtime::{Handle, Mutex, MutexGuard, Notify, OnceLock};
use crate::store::sql::transaction::TransactionFate;
use crate::store::{Outcome, Release};

/// Of one operation.
#[derive(Default)]
pub(crate) struct Commit {
    state: Mutex<State>,
    settled: Notify,
    began_at: OnceLock<SystemTime>,
}

#[derive(Default)]
enum State {
    /// Nothing is committed.
    #[default]
    Open,
    /// Somebody is at it.
    UnderWay,
    /// The `COMMIT` may have been sent, and nobody heard of its end.
    Unheard(Box<CommittedResponse>),
    Committed(Box<CommittedResponse>),
    /// Another owner has taken over.
    Lost,
    /// The request has another answer: it is too late.
    Over,
}

/// What the client gets once it is committed.
#[derive(Clone)]
pub(crate) struct CommittedResponse {
    head: response::Parts,
    whole: FullBody,
    outcome: Outcome,
    /// Whether somebody may wait for it.
    awaited: bool,
}

impl CommittedResponse {
    pub(crate) fn new(
        head: response::Parts,
        whole: FullBody,
        outcome: Outcome,
        awaited: bool,
    ) -> Self {
        Self {
            head,
            whole,
            outcome,
            awaited,
        }
    }
}

/// What a flow does with a handler that is through.
pub(crate) enum Settled<R> {
    /// Sends this: it was committed.
    Committed(Response<ResponseBody<R>>),
    /// Says `in-flight`: another owner has taken over, or nobody knows.
    InFlight,
    /// Goes by what the handler answered: nothing was committed.
    Not(LeaseOwner),
}

impl Commit {
    pub(crate) fn begins(&self, at: SystemTime) {
        self.began_at.get_or_init(|| at);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One at a time.
    pub(crate) fn attempt(&self) -> Result<Attempt<'_>, CommitError> {
        let mut state = self.lock();
        let why = match &*state {
            State::Open => {
                *state = State::UnderWay;
                return Ok(Attempt {
                    commit: self,
                    end: Some(State::Open),
                });
            }
            State::Unheard(_) => return Err(CommitError::still_unknown()),
            State::Lost => return Err(CommitError::lost()),
            State::UnderWay => "the claim is being committed already",
            State::Committed(_) => "the claim is committed already",
            State::Over => "the request has been answered without it",
        };
        Err(CommitError::failed(why))
    }

    pub(crate) fn is_committed(&self) -> bool {
        matches!(&*self.lock(), State::Committed(_))
    }

    /// Whether there is anything to settle. If not, there never will be.
    pub(crate) fn has_begun(&self) -> bool {
        let mut state = self.lock();
        if matches!(&*state, State::Open) {
            *state = State::Over;
        }
        !matches!(&*state, State::Over)
    }

    /// What came of it, `None` while somebody is at it.
    fn end(&self) -> Option<End> {
        let state = &mut *self.lock();
        match state {
            State::Open | State::Over => {
                *state = State::Over;
                Some(End::Not)
            }
            State::UnderWay => None,
            State::Unheard(answer) => Some(End::Unheard(answer.clone())),
            State::Committed(answer) => Some(End::Committed(answer.clone())),
            State::Lost => Some(End::Lost),
        }
    }
}

enum End {
    Not,
    Unheard(Box<CommittedResponse>),
    Committed(Box<CommittedResponse>),
    Lost,
}

/// One try. Dropped, it leaves behind how far it had come.
pub(crate) struct Attempt<'a> {
    commit: &'a Commit,
    end: Option<State>,
}

impl Attempt<'_> {
    pub(crate) fn began_at(&self) -> SystemTime {
        let began_at = self.commit.began_at.get();
        *began_at.expect("the handler has begun")
    }

    /// From here on it may be committed.
    pub(crate) fn sends_commit(&mut self, answer: CommittedResponse) {
        self.end = Some(State::Unheard(Box::new(answer)));
    }

    pub(crate) fn rolled_back(mut self) {
        self.end = Some(State::Open);
    }

    pub(crate) fn lost(mut self, operation: &Operation) {
        self.end = Some(State::Lost);
        operation.lose();
        warn!(lease = ?operation.lease(),
            "another owner has taken over, the transaction is rolled back");
    }

    /// The answer, for the handler to return.
    pub(crate) fn committed(mut self, operation: &Operation) -> Response<Full<Bytes>> {
        let Some(State::Unheard(answer)) = self.end.take() else {
            unreachable!("the COMMIT was sent");
        };
        answer.stands(operation);
        let body = Full::new(answer.whole.data.clone());
        let response = Response::from_parts(answer.head.clone(), body);
        self.end = Some(State::Committed(answer));
        response
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        if let Some(end) = self.end.take() {
            *self.commit.lock() = end;
        }
        self.commit.settled.notify_waiters();
    }
}

impl CommittedResponse {
    /// Counts it, and tells those who wait.
    fn stands(&self, operation: &Operation) {
        let is_answer = matches!(self.outcome, Outcome::Completed(_));
        operation.layer.counts.ended(Ended::Recorded, is_answer);
        if !self.awaited {
            return;
        }
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        let (layer, id) = (Arc::clone(&operation.layer), operation.lease().claim.id);
        let told = async move {
            let Some(store) = layer.store.in_database() else {
                return;
            };
            if let Err(error) = layer.within(store.wake(&id)).await {
                let error: &dyn std::error::Error = &error;
                debug!(?id, error, "those who wait look for themselves");
            }
        };
        let told = told.instrument(operation.span.clone());
        operation.layer.detached.spawn(&runtime, told);
    }

    fn response<R>(self, operation: &Operation) -> Response<ResponseBody<R>> {
        let mut head = self.head;
        let completion = match &self.outcome {
            Outcome::Completed(completion) => Some(&**completion),
            Outcome::Sealed { .. } => None,
        };
        if let Some(began_at) = operation.commit.began_at.get() {
            operation.mark(&mut head.headers, *began_at, completion);
        }
        Response::from_parts(head, ResponseBody::known(self.whole))
    }
}

impl Operation {
    /// What is to be done about an operation whose handler is through, and
    /// whose claim somebody has at least tried to commit.
    pub(crate) async fn settle_commit<R>(&self, held: LeaseOwner) -> Settled<R> {
        let settled = async {
            loop {
                // Before the look, so that no end is missed in between.
                let changed = self.commit.settled.notified();
                if let Some(end) = self.commit.end() {
                    return end;
                }
                changed.await;
            }
        };
        let end = Deadline::new(self.layer.store_timeout, settled).await;
        let answer = match end {
            Some(End::Not) => return Settled::Not(held),
            Some(End::Committed(answer)) => answer,
            Some(End::Lost) => {
                self.layer.counts.ended(Ended::Overtaken, false);
                held.let_go();
                return Settled::InFlight;
            }
            Some(End::Unheard(answer)) => match self.fate().await {
                TransactionFate::Committed => {
                    answer.stands(self);
                    answer
                }
                TransactionFate::RolledBack => return Settled::Not(held),
                TransactionFate::Overtaken => {
                    self.lose();
                    self.layer.counts.ended(Ended::Overtaken, false);
                    held.let_go();
                    return Settled::InFlight;
                }
                TransactionFate::UnderWay | TransactionFate::Absent => return self.doubt(held),
            },
            None => return self.doubt(held),
        };
        held.let_go();
        Settled::Committed(answer.response(self))
    }

    /// Whether an answer says that effects have happened, without a commit.
    pub(crate) fn is_uncommitted<R>(&self, response: &Response<R>) -> bool {
        let status = response.status();
        let failed = status.is_client_error()
            || status.is_server_error()
            || ResponseHead::new(status, response.headers(), None).is_failed_grpc();
        self.options.exactly_once && !failed
    }

    /// What a client is told then. Nobody knows what the handler has done.
    pub(crate) async fn never_committed(&self, held: LeaseOwner) -> Rejection {
        error!(
            lease = ?self.lease(),
            "a handler of an `exactly_once` route answered without having committed its claim: \
             see SqlClaim"
        );
        match held.end(Verdict::Release(Release::OutcomeUnknown)).await {
            Ended::Overtaken => in_flight(),
            _ => Rejection::new(
                RejectionCode::OutcomeUnknown,
                "The server made a mistake: whether the operation has happened is not recorded.",
            )
            .with_status(StatusCode::INTERNAL_SERVER_ERROR),
        }
    }

    async fn fate(&self) -> TransactionFate {
        match self.layer.store.in_database() {
            Some(store) => find_out(self, store).await,
            None => TransactionFate::UnderWay,
        }
    }

    /// Released it is not: whatever becomes of the transaction, the record says
    /// so, and nobody takes over before.
    fn doubt<R>(&self, held: LeaseOwner) -> Settled<R> {
        error!(lease = ?self.lease(),
            "nobody knows whether a transaction was committed: its record says so once it has \
             ended, or its lease has lapsed");
        self.layer.counts.in_doubt.add();
        held.let_go();
        Settled::InFlight
    }
}
