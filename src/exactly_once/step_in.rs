//! A step whose record and whose writes are one transaction (G12).

use std::error::Error;
use std::future::Future;

use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::{Pool, Transaction};

use crate::exactly_once::transact::{TRIES, pause, runs_again};
use crate::exactly_once::{CommitError, CommitErrorKind, SqlClaim, lose};
use crate::request::find_out;
use crate::request::operation::Operation;
use crate::request::steps::{OpenStep, packed};
use crate::steps::{StepError, StepFault, StepFaultKind};
use crate::store::sql::retried::is_retried;
use crate::store::sql::transaction::{SqlDatabase, TransactionFate, TransactionalStore};
use crate::store::{Ownership, RecordedStep, StoreError, StoreErrorKind};

/// Why one run of a step has no result.
enum Failed<E> {
    /// The transaction was rolled back in favour of another one, or together with its connection.
    GaveWay(StepFault),
    Step(StepError<E>),
}

impl<E> From<StepFault> for Failed<E> {
    fn from(fault: StepFault) -> Self {
        Self::Step(fault.into())
    }
}

impl<DB: SqlDatabase> SqlClaim<DB> {
    /// Runs a part of the operation once, as
    /// [`IdempotencyContext::step`](crate::IdempotencyContext::step) does, for a part that writes to
    /// this database: its writes and its result are committed in one transaction, so that a crash
    /// at any instant leaves both or neither (G12). The transaction of an owner that was overtaken
    /// can't commit.
    ///
    /// If an earlier attempt recorded the step, its result is returned and no transaction begins.
    /// Otherwise a transaction begins, `work` runs in it and returns it together with the step's
    /// result, and it is committed. If the transaction has to give way to another one, or its
    /// connection breaks, all of this is run again, up to eight times. So `work` should do nothing
    /// but write to this database.
    ///
    /// The transaction begins with `BEGIN`, at the default isolation level of its connection; on
    /// SQLite with `BEGIN IMMEDIATE`. A step costs one round trip beside `work`, `BEGIN` and
    /// `COMMIT`. Other steps of the operation, and renewals of its lease, go on meanwhile, but on
    /// SQLite, where one transaction writes at a time.
    ///
    /// # Errors
    /// [`StepError::Failed`] with the error of `work`: whether `work` is run again is decided by the
    /// `sqlx::Error` or [`CommitError`] among its sources. [`StepError::Fault`] as of
    /// [`step`](crate::IdempotencyContext::step). Unless
    /// [`has_run`](crate::steps::StepFault::has_run) is true, nothing was committed; with
    /// [`Store`](crate::steps::StepFaultKind::Store) it is true if nobody knows what became of the
    /// `COMMIT`, and a later attempt then finds the step or runs it.
    ///
    /// # Cancel safety
    /// If the future is dropped before it has sent the `COMMIT`, the transaction is rolled back. If
    /// it is dropped later, a later attempt finds the step or runs it.
    ///
    /// ```
    /// # #[cfg(feature = "postgres")] mod example {
    /// use sqlx::{PgPool, Postgres};
    /// use tower_idempotency::exactly_once::{CommitError, SqlClaim};
    /// use tower_idempotency::steps::StepError;
    ///
    /// async fn reserve(
    ///     claim: &SqlClaim<Postgres>,
    ///     pool: &PgPool,
    ///     article: i64,
    /// ) -> Result<i64, StepError<CommitError>> {
    ///     let take = "UPDATE stock SET number = number - 1 WHERE article = $1 RETURNING number";
    ///     let reserved = claim.step_in(pool, "reserve", |mut tx| async move {
    ///         let left = sqlx::query_scalar(take).bind(article).fetch_one(&mut *tx).await?;
    ///         Ok::<(_, i64), CommitError>((tx, left))
    ///     });
    ///     reserved.await
    /// }
    /// # }
    /// ```
    pub async fn step_in<T, F, E>(
        &self,
        pool: &Pool<DB>,
        name: &str,
        mut work: impl FnMut(Transaction<'static, DB>) -> F,
    ) -> Result<T, StepError<E>>
    where
        F: Future<Output = Result<(Transaction<'static, DB>, T), E>>,
        T: Serialize + DeserializeOwned,
        E: Error + 'static,
    {
        let context = self.context();
        let mut step = match context.begin_step(name)? {
            Ok(recorded) => return Ok(recorded),
            Err(open) => open,
        };
        let mut tries = 1;
        loop {
            let run = self.run_step(pool, &mut step, name, &mut work);
            let (again, error) = match run.await {
                Ok(value) => return Ok(value),
                Err(Failed::GaveWay(fault)) => (true, fault.into()),
                Err(Failed::Step(StepError::Failed(error))) => {
                    (runs_again(&error), StepError::Failed(error))
                }
                Err(Failed::Step(fault)) => (false, fault),
            };
            if tries == TRIES || !again {
                return Err(error);
            }
            pause(tries).await;
            tries += 1;
        }
    }

    /// One transaction with the step and its writes.
    async fn run_step<T, F, E>(
        &self,
        pool: &Pool<DB>,
        step: &mut OpenStep<'_>,
        name: &str,
        work: &mut impl FnMut(Transaction<'static, DB>) -> F,
    ) -> Result<T, Failed<E>>
    where
        F: Future<Output = Result<(Transaction<'static, DB>, T), E>>,
        T: Serialize,
    {
        let operation = &*self.operation;
        let begun = pool.begin_with(DB::BEGIN).await;
        let transaction = begun.map_err(rolled_back::<DB, E>)?;
        let worked = self.context().inside_step(work(transaction)).await;
        let (transaction, value) = worked.map_err(StepError::Failed).map_err(Failed::Step)?;
        let json = serde_json::to_vec(&value);
        let json = json.map_err(|_| StepFault::before(StepFaultKind::Unwritable))?;
        let size = name.len() + json.len();
        let kept = step.keep(size, operation.step_limits());
        kept.map_err(StepFault::before)?;
        let lease = operation.lease();
        let recorded = RecordedStep::new(name, packed(json, &lease.claim.fingerprint));
        let committed = self.commit_step(transaction, recorded).await;
        let is_undone = match &committed {
            Err(Failed::GaveWay(_)) => true,
            Err(Failed::Step(StepError::Fault(fault))) => !fault.has_run(),
            _ => false,
        };
        if is_undone {
            step.take_back(size);
        }
        committed.map(|()| value)
    }

    async fn commit_step<E>(
        &self,
        mut transaction: Transaction<'static, DB>,
        step: RecordedStep,
    ) -> Result<(), Failed<E>> {
        let operation = &*self.operation;
        let lease = operation.lease();
        let timed = &operation.core.leases.store;
        let store = self.store().expect("it was there when the claim was made");
        let step = timed.store().kept_step(lease, step);
        match store
            .record_step_within(&mut transaction, lease, &step)
            .await
        {
            Ok(Ownership::Held) => {}
            Ok(Ownership::Lost) => {
                self.roll_back(transaction).await;
                return Err(self.why_not_held().await.into());
            }
            Err(error) => {
                self.roll_back(transaction).await;
                return Err(rolled_back::<DB, E>(error));
            }
        }
        let Err(error) = transaction.commit().await else {
            return Ok(());
        };
        if is_retried(&error) {
            return Err(rolled_back::<DB, E>(error));
        }
        let unknown = |error| Err(StepFault::store(DB::explained(error)).into());
        match find_out(store, lease, false, timed.timeout()).await {
            TransactionFate::RolledBack => {
                // The transaction has ended, and the record is this attempt's own.
                match timed.bound(store.steps(&lease.claim.id)).await {
                    Ok(steps) if steps.iter().any(|own| own.name == step.name) => Ok(()),
                    Ok(_) => Err(rolled_back::<DB, E>(error)),
                    Err(_) => unknown(error),
                }
            }
            TransactionFate::Overtaken => {
                lose(operation);
                Err(StepFault::after(StepFaultKind::Lost).into())
            }
            TransactionFate::Committed | TransactionFate::UnderWay | TransactionFate::Absent => {
                unknown(error)
            }
        }
    }

    /// Why a transaction found no record in flight under the operation's nonce.
    async fn why_not_held(&self) -> StepFault {
        let operation: &Operation = &self.operation;
        let store = self.store().expect("it was there when the claim was made");
        let fate = store.fate(operation.lease());
        match operation.core.leases.store.bound(fate).await {
            Ok(TransactionFate::RolledBack) => refused(
                "the transaction does not see the claim: it is not in the database of the records",
            ),
            _ => StepFault::before(operation.why_lost()),
        }
    }
}

/// A fault after which certainly nothing is committed.
fn rolled_back<DB: SqlDatabase, E>(error: sqlx::Error) -> Failed<E> {
    let error = CommitError::rolled_back::<DB>(error);
    let gave_way = error.kind() == CommitErrorKind::Retry;
    let kind = if gave_way {
        StoreErrorKind::Contention
    } else {
        StoreErrorKind::Refused
    };
    let fault = StepFault::not_committed(StoreError::new(kind, error));
    if gave_way {
        Failed::GaveWay(fault)
    } else {
        Failed::Step(fault.into())
    }
}

fn refused(why: &'static str) -> StepFault {
    StepFault::not_committed(StoreError::new(StoreErrorKind::Refused, why))
}
