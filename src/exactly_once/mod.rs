//! A handler's own writes and its response in one database transaction (G7).
//!
//! Public items: `SqlClaim`, `SqlDatabase`, `CommitError`, `CommitErrorKind`,
//! `MissingClaim`. May use: `request`, `limits`, `options`, `store`, `message`, `runtime`, `error`.

use std::any::Any;
use std::fmt;
use std::future::poll_fn;
use std::marker::PhantomData;
use std::mem;
use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use http::response::Parts;
use http::{Extensions, Response};
use http_body::Body;
use http_body_util::Full;
use sqlx::Transaction;
use sqlx_core::transaction::TransactionManager;
use tracing::warn;

use crate::error::cause;
use crate::message::body::{BodyBuffer, BoxError, FullBody, announced_length};
use crate::message::media_type::{is_event_stream, never_ends};
use crate::options::EventStreams;
use crate::request::context::IdempotencyContext;
use crate::request::operation::Operation;
use crate::runtime::deadline::Deadline;
use crate::store::SqlStore;
use crate::store::sql::retried::is_retried;
use crate::store::sql::transaction::{CompletedInside, TransactionFate, TransactionalStore};

mod begin;

mod error;

mod missing_claim;

mod step_in;

mod transact;

pub use error::{CommitError, CommitErrorKind};
pub use missing_claim::MissingClaim;

pub use crate::store::sql::transaction::SqlDatabase;

use crate::request::commit_state::CommittedResponse;
use crate::request::{committed, find_out};

/// The claim of a request, which the handler commits in a database transaction of its
/// own. The operation's writes and its recorded response are then committed together:
/// a crash at any instant leaves both or neither (G7).
///
/// The records must be in the same database as the transaction: in a `PostgresStore`,
/// `MySqlStore` or `SqliteStore`. A handler gets its claim from the request's
/// extensions by [`of`](Self::of). With the feature `axum` the claim is an extractor;
/// use `Option<SqlClaim<_>>` where a request may be unprotected. A clone is the same
/// claim.
///
/// `docs/exactly-once.md` says what holds in which mode, crash by crash.
pub struct SqlClaim<DB: SqlDatabase> {
    operation: Arc<Operation>,
    database: PhantomData<fn() -> DB>,
}

impl<DB: SqlDatabase> SqlClaim<DB> {
    /// The claim of the request with these extensions.
    ///
    /// # Errors
    /// If the request is not protected, or the layer's store is not in a
    /// database of this kind.
    pub fn of(extensions: &Extensions) -> Result<Self, MissingClaim> {
        let context = extensions.get::<IdempotencyContext>();
        let context = context.ok_or(MissingClaim::NOT_PROTECTED)?;
        let claim = Self {
            operation: Arc::clone(&context.0),
            database: PhantomData,
        };
        match claim.store() {
            Some(_) => Ok(claim),
            None => Err(MissingClaim::not_in(DB::NAME)),
        }
    }

    /// The operation of this claim, for everything else that a handler may ask.
    #[must_use]
    pub fn context(&self) -> IdempotencyContext {
        IdempotencyContext(Arc::clone(&self.operation))
    }

    fn store(&self) -> Option<&SqlStore<DB>> {
        let store: &dyn Any = self.operation.core.leases.store.store().in_database()?;
        store.downcast_ref()
    }

    /// Records `response` as the operation's response inside `transaction`, and commits
    /// the transaction. From then on this response stands: the layer sends it whatever
    /// the handler returns, and every retry gets it, whatever
    /// [`record`](crate::RouteOptions::record) and similar options say.
    ///
    /// The body is read to its end first. A body that is larger than
    /// [`max_recorded_body`](crate::RouteOptions::max_recorded_body) is sent to this
    /// client, and the record is sealed.
    ///
    /// This costs one round trip and the `COMMIT`.
    ///
    /// # Errors
    /// [`CommitErrorKind`] says what became of the transaction. Unless the kind is
    /// [`Unknown`](CommitErrorKind::Unknown), the transaction was rolled back.
    ///
    /// # Cancel safety
    /// If the future is dropped before it has sent the `COMMIT`, the transaction is
    /// rolled back. If it is dropped later, the layer finds out what became of the
    /// transaction, and responds accordingly.
    pub async fn commit<B>(
        &self,
        mut transaction: Transaction<'_, DB>,
        response: Response<B>,
    ) -> Result<Response<Full<Bytes>>, CommitError>
    where
        B: Body,
        B::Error: Into<BoxError>,
    {
        let operation = &*self.operation;
        if operation.steps.is_open() {
            self.roll_back(transaction).await;
            return Err(CommitError::failed(
                "a step of the operation is running, whose result the commit would drop: commit \
                 once every step is done",
            ));
        }
        let claims = operation.claims_inside();
        let mut attempt = match operation.commit.attempt(claims) {
            Ok(attempt) => attempt,
            Err(why) => {
                self.roll_back(transaction).await;
                return Err(CommitError::not_open(why));
            }
        };
        Self::check_depth(&transaction)?;
        let (mut head, body) = response.into_parts();
        let extensions = mem::take(&mut head.extensions);
        let body = self.whole_body(&head, body).await?;
        let claimed = attempt.claimed();
        let lease = claimed.map_or_else(|| operation.lease(), |claimed| &claimed.lease);
        let timed = &operation.core.leases.store;
        let began_at = operation.commit.began_at();
        let began_at = began_at.expect("the handler has begun");
        let outcome = committed(&operation.options, &head, &body, began_at);
        let outcome = timed.fitted(outcome);
        let kept = timed.store().kept(lease, outcome.clone());
        let store = self.store().expect("it was there when the claim was made");
        let completing = async {
            for other in claimed.iter().flat_map(|claimed| &claimed.others) {
                store.unclaim_within(&mut transaction, other).await?;
            }
            store.complete_within(&mut transaction, lease, &kept).await
        };
        let inside = match completing.await {
            Ok(CompletedInside::Lost) => {
                self.roll_back(transaction).await;
                // Nobody takes over what the claim's own transaction has made.
                if claims {
                    return Err(CommitError::not_begun());
                }
                let fate = timed.bound(store.fate(lease)).await;
                if matches!(fate, Ok(TransactionFate::RolledBack)) {
                    return Err(CommitError::failed(
                        "the transaction does not see the claim: it is not in the database of \
                         the records, or began before the request was claimed",
                    ));
                }
                lose(operation);
                attempt.lost();
                return Err(CommitError::lost());
            }
            Ok(inside) => inside,
            Err(error) => {
                self.roll_back(transaction).await;
                return Err(CommitError::rolled_back::<DB>(error));
            }
        };
        let awaited = inside == CompletedInside::HeldAndAwaited;
        let lease = lease.clone();
        attempt.sends_commit(CommittedResponse {
            head,
            body,
            outcome,
            awaited,
        });
        let Err(error) = transaction.commit().await else {
            return Ok(attempt.committed(extensions, |response| operation.stands(response)));
        };
        if is_retried(&error) {
            attempt.rolled_back();
            return Err(CommitError::rolled_back::<DB>(error));
        }
        match find_out(store, &lease, claims, timed.timeout()).await {
            TransactionFate::Committed => {
                Ok(attempt.committed(extensions, |response| operation.stands(response)))
            }
            TransactionFate::RolledBack => {
                attempt.rolled_back();
                Err(CommitError::rolled_back::<DB>(error))
            }
            TransactionFate::Overtaken => {
                lose(operation);
                attempt.lost();
                Err(CommitError::lost())
            }
            TransactionFate::UnderWay | TransactionFate::Absent => {
                attempt.unknown();
                Err(CommitError::unknown::<DB>(error))
            }
        }
    }

    /// Reads the body of a response that can be recorded.
    async fn whole_body<B>(&self, head: &Parts, body: B) -> Result<FullBody, CommitError>
    where
        B: Body,
        B::Error: Into<BoxError>,
    {
        let records_events = self.operation.options.event_streams == EventStreams::Record
            && is_event_stream(&head.headers);
        if never_ends(head) && !records_events {
            let why = "an answer without an end can't be recorded";
            return Err(CommitError::failed(why));
        }
        let body = full_body(body).await?;
        let announced = announced_length(&head.headers);
        if announced.is_some_and(|length| length != body.data.len() as u64) {
            let why = "the answer's Content-Length is not the length of its body";
            return Err(CommitError::failed(why));
        }
        Ok(body)
    }

    fn check_depth(transaction: &Transaction<'_, DB>) -> Result<(), CommitError> {
        match DB::TransactionManager::get_transaction_depth(transaction) {
            1 => Ok(()),
            0 => Err(CommitError::failed("the transaction is over already")),
            _ => Err(CommitError::failed(
                "the transaction is a savepoint inside another one, whose rollback would \
                 take the record back: commit the outer one",
            )),
        }
    }

    /// Rolls back now. sqlx would roll back a dropped transaction when its connection is
    /// used next, and until then the record's row is locked and can't be released.
    async fn roll_back(&self, transaction: Transaction<'_, DB>) {
        let limit = self.operation.core.leases.store.timeout();
        if let Some(Err(error)) = Deadline::new(limit, transaction.rollback()).await {
            let error = cause(&error);
            warn!(
                error,
                "a transaction is rolled back by the end of its connection"
            );
        }
    }
}

/// Another owner has taken over the operation, as its transaction has found out.
fn lose(operation: &Operation) {
    if let Some(lease) = operation.lease_state() {
        lease.lose();
    }
    warn!(lease = ?operation.lease(),
        "another owner has taken over, the transaction is rolled back");
}

async fn full_body<B>(body: B) -> Result<FullBody, CommitError>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    let mut body = pin!(body);
    let mut read = BodyBuffer::default();
    poll_fn(|cx| read.poll_from(body.as_mut(), |_| true, cx))
        .await
        .map_err(CommitError::failed)?;
    Ok(read.joined())
}

impl<DB: SqlDatabase> Clone for SqlClaim<DB> {
    fn clone(&self) -> Self {
        Self {
            operation: Arc::clone(&self.operation),
            database: PhantomData,
        }
    }
}

/// The key and the caller are redacted.
impl<DB: SqlDatabase> fmt::Debug for SqlClaim<DB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqlClaim")
            .field("database", &DB::NAME)
            .field("lease", self.operation.lease())
            .finish_non_exhaustive()
    }
}
