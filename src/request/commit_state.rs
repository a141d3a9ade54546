//! How far the handler's own commit of its claim has come (G7).

use std::mem;
use std::time::SystemTime;

use bytes::Bytes;
use http::{Extensions, Response, response};
use http_body_util::Full;

use crate::limits;
use crate::message::body::FullBody;
use crate::record::FencingToken;
use crate::request::retry::Retry;
use crate::runtime::{Mutex, Notify, OnceLock};
use crate::store::sql::transaction::Reservation;
use crate::store::{Claim, Lease, Outcome};

/// The commit state of one operation: its handler moves the state on, its flow
/// reads the state when the handler is through.
#[derive(Default)]
pub(crate) struct Commit {
    state: Mutex<State>,
    /// Notified after each change of `state` by an [`Attempt`].
    settled: Notify,
    began_at: OnceLock<SystemTime>,
    /// The claims of the request under secrets that are being rotated out, where the handler makes the
    /// claim: it makes these too, so that no process that lists the secrets in another order runs the
    /// operation beside it.
    others: OnceLock<Box<[Claim]>>,
    /// What a replay needs of this request, where the handler makes the claim and may find the
    /// operation done.
    retry: Mutex<Option<Box<Retry>>>,
}

#[derive(Default)]
enum State {
    /// Nothing is committed.
    #[default]
    Open,
    /// The handler's transaction could not begin with the claim.
    Refused(Refusal),
    /// A transaction of the handler has made the claim.
    Begun(Box<BegunClaim>),
    /// An [`Attempt`] is at work.
    UnderWay,
    /// The `COMMIT` may have been sent, and its result is not known.
    Unheard(Box<UnheardCommit>),
    Committed(Box<CommittedResponse>),
    /// Another owner has taken over.
    Lost,
    /// The request has another response: a commit comes too late.
    Over,
}

/// The claim that a transaction of the handler has made.
pub(crate) struct BegunClaim {
    pub(crate) lease: Lease,
    /// What the transaction has claimed under other secrets, and gives back at its end.
    pub(crate) others: Vec<Lease>,
    /// Keeps requests of this process from waiting for the transaction.
    #[expect(dead_code, reason = "they are kept for their drop")]
    pub(crate) reserved: Vec<Reservation>,
}

/// Why a transaction of the handler could not make the claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Another request executes the operation.
    InFlight,
    /// There is a record that says how the operation ended.
    Found,
    /// The operation is in flight, and no more requests may wait for its outcome.
    FullOfWaiters(limits::Full),
}

/// The response that the client gets once the transaction is committed.
#[derive(Clone)]
pub(crate) struct CommittedResponse {
    /// Without extensions, which go to the handler: they may hold the operation, as its
    /// `IdempotencyContext` does, and the operation holds this response.
    pub(crate) head: response::Parts,
    pub(crate) body: FullBody,
    pub(crate) outcome: Outcome,
    /// Whether another request may wait for this outcome.
    pub(crate) awaited: bool,
}

/// A `COMMIT` whose result is not known.
#[derive(Clone)]
pub(crate) struct UnheardCommit {
    pub(crate) response: CommittedResponse,
    /// Whether the handler was told that nobody knows. A handler that has left its commit, at a
    /// timeout say, was told nothing.
    pub(crate) is_told: bool,
}

/// Why no attempt may begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotOpen {
    /// The handler makes the claim, and has not.
    NotBegun,
    UnderWay,
    Unheard,
    Committed,
    Lost,
    Over,
}

/// What a commit came to.
pub(crate) enum CommitOutcome {
    /// Nothing was committed, and nothing will be.
    Nothing,
    /// The handler's transaction could not begin, and nothing was committed.
    Refused(Refusal),
    Unheard(Box<UnheardCommit>),
    Committed(Box<CommittedResponse>),
    Lost,
}

impl Commit {
    pub(crate) fn begins(&self, at: SystemTime) {
        self.began_at.get_or_init(|| at);
    }

    /// When the handler began.
    pub(crate) fn began_at(&self) -> Option<SystemTime> {
        self.began_at.get().copied()
    }

    /// Keeps the claims under other secrets, for the handler to make.
    pub(crate) fn set_others(&self, others: Vec<Claim>) {
        self.others.get_or_init(|| others.into());
    }

    pub(crate) fn others(&self) -> &[Claim] {
        self.others.get().map_or(&[], |others| others)
    }

    pub(crate) fn keep_retry(&self, retry: Retry) {
        *self.retry.lock() = Some(Box::new(retry));
    }

    /// What a replay needs of this request, if the handler has found the operation done. It is dropped
    /// otherwise: the handler is through, and the room of the body was given back.
    pub(crate) fn take_retry(&self) -> Option<Box<Retry>> {
        let retry = self.retry.lock().take();
        let is_found = matches!(&*self.state.lock(), State::Refused(Refusal::Found));
        retry.filter(|_| is_found)
    }

    /// Whether a transaction may begin with the claim, and whether one has begun already. That one may
    /// be over by now: a handler can drop it.
    pub(crate) fn may_begin(&self) -> Result<bool, NotOpen> {
        match &*self.state.lock() {
            State::Open | State::Refused(_) => Ok(false),
            State::Begun(_) => Ok(true),
            closed => Err(closed.not_open()),
        }
    }

    /// Says that a transaction has made the claim.
    pub(crate) fn begun(&self, claim: Box<BegunClaim>) -> Result<(), NotOpen> {
        // Read and changed under one lock: the request may be answered at this moment, and nobody
        // would end the claim any more.
        let mut state = self.state.lock();
        match &*state {
            State::Open | State::Refused(_) | State::Begun(_) => {
                *state = State::Begun(claim);
                Ok(())
            }
            closed => Err(closed.not_open()),
        }
    }

    /// Says that the transaction that has made the claim was given up.
    pub(crate) fn left(&self) {
        let mut state = self.state.lock();
        if matches!(&*state, State::Begun(_)) {
            *state = State::Open;
        }
    }

    /// Says that no transaction could make the claim.
    pub(crate) fn refused(&self, why: Refusal) {
        let mut state = self.state.lock();
        // A record is found only once a transaction that had begun before is over.
        let is_over = matches!(&*state, State::Begun(_)) && why == Refusal::Found;
        if is_over || matches!(&*state, State::Open | State::Refused(_)) {
            *state = State::Refused(why);
        }
    }

    /// The fencing token and the attempt of the claim that a transaction has made.
    pub(crate) fn begun_as(&self) -> Option<(FencingToken, u64)> {
        match &*self.state.lock() {
            State::Begun(begun) => Some((begun.lease.token, begun.lease.attempt)),
            _ => None,
        }
    }

    /// Begins an attempt to commit. One attempt is at work at a time. `claims` is whether the
    /// transaction has to have made the claim.
    pub(crate) fn attempt(&self, claims: bool) -> Result<Attempt<'_>, NotOpen> {
        // Read and changed under one lock: two attempts would otherwise both find `Open`,
        // and commit twice.
        let mut state = self.state.lock();
        match &*state {
            State::Open | State::Refused(_) if claims => return Err(NotOpen::NotBegun),
            State::Open | State::Begun(_) => {}
            closed => return Err(closed.not_open()),
        }
        let begun = match mem::replace(&mut *state, State::UnderWay) {
            State::Begun(begun) => Some(begun),
            _ => None,
        };
        Ok(Attempt {
            commit: self,
            begun,
            leaves: Some(State::Open),
        })
    }

    /// Closes the claim to later commits and returns `false`, unless a commit has
    /// begun.
    pub(crate) fn close_unless_begun(&self) -> bool {
        // Closed under the lock in which `Open` was read: a commit that begins in between
        // would be answered by the handler's own response as well.
        let mut state = self.state.lock();
        if matches!(&*state, State::Open | State::Begun(_)) {
            *state = State::Over;
        }
        !matches!(&*state, State::Over)
    }

    /// Waits until no attempt is at work. Closes the claim to later commits if
    /// nothing was committed.
    pub(crate) async fn outcome(&self) -> CommitOutcome {
        loop {
            // Asked for before the state is read: an attempt that ends between the
            // two would notify nobody otherwise.
            let changed = self.settled.notified();
            if let Some(outcome) = self.close_or_outcome() {
                return outcome;
            }
            changed.await;
        }
    }

    /// `None` while an attempt is at work.
    fn close_or_outcome(&self) -> Option<CommitOutcome> {
        // As in `close_unless_begun`, `Open` is closed under the lock that read it.
        let state = &mut *self.state.lock();
        match state {
            State::Open | State::Begun(_) | State::Over => {
                *state = State::Over;
                Some(CommitOutcome::Nothing)
            }
            State::Refused(why) => {
                let why = *why;
                *state = State::Over;
                Some(CommitOutcome::Refused(why))
            }
            State::UnderWay => None,
            State::Unheard(unheard) => Some(CommitOutcome::Unheard(unheard.clone())),
            State::Committed(response) => Some(CommitOutcome::Committed(response.clone())),
            State::Lost => Some(CommitOutcome::Lost),
        }
    }
}

impl State {
    /// Why nothing can begin in this state.
    fn not_open(&self) -> NotOpen {
        match self {
            State::Open | State::Refused(_) | State::Begun(_) => NotOpen::NotBegun,
            State::UnderWay => NotOpen::UnderWay,
            State::Unheard(_) => NotOpen::Unheard,
            State::Committed(_) => NotOpen::Committed,
            State::Lost => NotOpen::Lost,
            State::Over => NotOpen::Over,
        }
    }
}

/// One attempt to commit. Dropped, it leaves behind how far it had come.
pub(crate) struct Attempt<'a> {
    commit: &'a Commit,
    /// The claim that the transaction has made. Its reservation goes with the attempt.
    begun: Option<Box<BegunClaim>>,
    /// The state that the drop leaves behind.
    leaves: Option<State>,
}

impl Attempt<'_> {
    /// What the transaction has claimed, where the handler makes the claim.
    pub(crate) fn claimed(&self) -> Option<&BegunClaim> {
        self.begun.as_deref()
    }

    /// Says that from here on the transaction may be committed.
    pub(crate) fn sends_commit(&mut self, response: CommittedResponse) {
        let is_told = false;
        self.leaves = Some(State::Unheard(Box::new(UnheardCommit {
            response,
            is_told,
        })));
    }

    /// Says that the handler is told that nobody knows.
    pub(crate) fn unknown(mut self) {
        if let Some(State::Unheard(unheard)) = &mut self.leaves {
            unheard.is_told = true;
        }
    }

    pub(crate) fn rolled_back(mut self) {
        self.leaves = Some(State::Open);
    }

    pub(crate) fn lost(mut self) {
        self.leaves = Some(State::Lost);
    }

    /// Says that the transaction was committed. `stands` is called with the
    /// response before anybody learns of the commit. Returns the response with its
    /// extensions, for the handler to return.
    pub(crate) fn committed(
        mut self,
        extensions: Extensions,
        stands: impl FnOnce(&CommittedResponse),
    ) -> Response<Full<Bytes>> {
        let Some(State::Unheard(unheard)) = self.leaves.take() else {
            unreachable!("the COMMIT was sent");
        };
        let response = Box::new(unheard.response);
        stands(&response);
        let body = Full::new(response.body.data.clone());
        let mut returned = Response::from_parts(response.head.clone(), body);
        *returned.extensions_mut() = extensions;
        self.leaves = Some(State::Committed(response));
        returned
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        if let Some(state) = self.leaves.take() {
            *self.commit.state.lock() = state;
        }
        // After the state is set: whoever is woken reads it.
        self.commit.settled.notify_waiters();
    }
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};
    use std::time::Duration;

    use super::*;

    fn response() -> CommittedResponse {
        let (head, ()) = Response::builder()
            .status(201)
            .body(())
            .unwrap()
            .into_parts();
        CommittedResponse {
            head,
            body: FullBody {
                data: Bytes::from("done"),
                trailers: None,
            },
            outcome: Outcome::Sealed {
                retention: Duration::ZERO,
            },
            awaited: true,
        }
    }

    fn polled<T>(future: impl Future<Output = T>) -> Poll<T> {
        pin!(future).poll(&mut Context::from_waker(Waker::noop()))
    }

    /// What the flow sees, and why no other attempt may begin.
    fn end(commit: &Commit) -> (&'static str, Option<NotOpen>) {
        let outcome = match polled(commit.outcome()) {
            Poll::Pending => "pending",
            Poll::Ready(CommitOutcome::Nothing) => "nothing",
            Poll::Ready(CommitOutcome::Refused(_)) => "refused",
            Poll::Ready(CommitOutcome::Unheard(_)) => "unheard",
            Poll::Ready(CommitOutcome::Committed(_)) => "committed",
            Poll::Ready(CommitOutcome::Lost) => "lost",
        };
        (outcome, commit.attempt(false).err())
    }

    #[test]
    fn an_attempt_leaves_behind_how_far_it_had_come() {
        let commit = Commit::default();
        drop(commit.attempt(false).unwrap());
        commit.attempt(false).unwrap().rolled_back();
        let again = commit.attempt(false).unwrap();
        assert_eq!(end(&commit), ("pending", Some(NotOpen::UnderWay)));
        drop(again);
        assert_eq!(end(&commit), ("nothing", Some(NotOpen::Over)));

        let commit = Commit::default();
        commit.attempt(false).unwrap().lost();
        assert_eq!(end(&commit), ("lost", Some(NotOpen::Lost)));

        let commit = Commit::default();
        commit.attempt(false).unwrap().sends_commit(response());
        assert_eq!(end(&commit), ("unheard", Some(NotOpen::Unheard)));

        let commit = Commit::default();
        let mut attempt = commit.attempt(false).unwrap();
        attempt.sends_commit(response());
        attempt.rolled_back();
        assert_eq!(end(&commit), ("nothing", Some(NotOpen::Over)));
    }

    #[test]
    fn a_committed_response_is_known_to_its_handler_before_anybody_else() {
        let commit = Commit::default();
        let mut attempt = commit.attempt(false).unwrap();
        attempt.sends_commit(response());
        let mut stood = false;
        let returned = attempt.committed(Extensions::new(), |response| {
            assert_eq!(response.head.status, 201);
            assert_eq!(commit.attempt(false).err(), Some(NotOpen::UnderWay));
            stood = true;
        });
        assert!(stood);
        assert_eq!(returned.status(), 201);
        assert_eq!(end(&commit), ("committed", Some(NotOpen::Committed)));
        assert!(commit.close_unless_begun());
    }

    #[test]
    fn the_flow_is_woken_when_an_attempt_has_ended() {
        let commit = Commit::default();
        let attempt = commit.attempt(false).unwrap();
        let mut outcome = pin!(commit.outcome());
        let mut cx = Context::from_waker(Waker::noop());
        assert!(outcome.as_mut().poll(&mut cx).is_pending());
        attempt.lost();
        assert!(outcome.as_mut().poll(&mut cx).is_ready());
    }

    #[test]
    fn a_claim_that_is_closed_takes_no_commit_any_more() {
        let commit = Commit::default();
        assert!(!commit.close_unless_begun());
        assert_eq!(end(&commit), ("nothing", Some(NotOpen::Over)));
        let commit = Commit::default();
        let attempt = commit.attempt(false).unwrap();
        assert!(commit.close_unless_begun());
        attempt.rolled_back();
        assert!(!commit.close_unless_begun());
    }

    #[test]
    fn the_handler_begins_once() {
        let commit = Commit::default();
        assert_eq!(commit.began_at(), None);
        commit.begins(SystemTime::UNIX_EPOCH);
        commit.begins(SystemTime::now());
        assert_eq!(commit.began_at(), Some(SystemTime::UNIX_EPOCH));
    }
}
