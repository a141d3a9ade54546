//! A transaction that is run again if it has to give way to another.

use std::error::Error;
use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http_body::Body;
use http_body_util::Full;
use sqlx::{Pool, Transaction};

use crate::exactly_once::begin::END_OF_ANOTHER;
use crate::exactly_once::error::may_succeed;
use crate::exactly_once::{CommitError, CommitErrorKind, SqlClaim};
use crate::message::body::BoxError;
use crate::runtime::sleep;
use crate::store::sql::transaction::SqlDatabase;

/// How often a transaction is run that has to give way each time.
pub(super) const TRIES: u32 = 8;

impl<DB: SqlDatabase> SqlClaim<DB> {
    /// [Begins](Self::begin) a transaction, runs `work` in it, and [commits](Self::commit) it with the
    /// response that `work` returns together with the transaction. If the transaction
    /// has to give way to another one, or its connection breaks, all of this is run
    /// again, up to eight times. So `work` should do nothing but write to this
    /// database.
    ///
    /// The transaction begins with `BEGIN`, at the default isolation level of its
    /// connection; on SQLite with `BEGIN IMMEDIATE`.
    ///
    /// # Errors
    /// The error of `work`, or a [`CommitError`] converted into it. Whether `work` is run
    /// again is decided by the `sqlx::Error` or [`CommitError`] among the error's
    /// sources.
    ///
    /// ```
    /// # #[cfg(feature = "postgres")] mod example {
    /// use bytes::Bytes;
    /// use http::Response;
    /// use http_body_util::Full;
    /// use sqlx::{PgPool, Postgres};
    /// use tower_idempotency::exactly_once::{CommitError, SqlClaim};
    ///
    /// async fn pay(
    ///     claim: &SqlClaim<Postgres>,
    ///     pool: &PgPool,
    ///     amount: i64,
    /// ) -> Result<Response<Full<Bytes>>, CommitError> {
    ///     let insert = "INSERT INTO payments (amount) VALUES ($1)";
    ///     let paid = claim.transact(pool, |mut tx| async move {
    ///         sqlx::query(insert).bind(amount).execute(&mut *tx).await?;
    ///         Ok((tx, Response::new(Full::<Bytes>::from("paid"))))
    ///     });
    ///     paid.await
    /// }
    /// # }
    /// ```
    pub async fn transact<F, B, E>(
        &self,
        pool: &Pool<DB>,
        mut work: impl FnMut(Transaction<'static, DB>) -> F,
    ) -> Result<Response<Full<Bytes>>, E>
    where
        F: Future<Output = Result<(Transaction<'static, DB>, Response<B>), E>>,
        B: Body,
        B::Error: Into<BoxError>,
        E: Error + From<CommitError> + 'static,
    {
        let mut tries = 1;
        loop {
            let error = match self.run(pool, tries == 1, &mut work).await {
                Ok(response) => return Ok(response),
                Err(error) => error,
            };
            if tries == TRIES || !runs_again(&error) {
                return Err(error);
            }
            pause(tries).await;
            tries += 1;
        }
    }

    async fn run<F, B, E>(
        &self,
        pool: &Pool<DB>,
        is_first: bool,
        work: &mut impl FnMut(Transaction<'static, DB>) -> F,
    ) -> Result<Response<Full<Bytes>>, E>
    where
        F: Future<Output = Result<(Transaction<'static, DB>, Response<B>), E>>,
        B: Body,
        B::Error: Into<BoxError>,
        E: Error + From<CommitError> + 'static,
    {
        // A transaction that `work` has dropped is rolled back a moment later.
        let grace = if is_first {
            Duration::ZERO
        } else {
            END_OF_ANOTHER
        };
        let transaction = self.begin_after(pool, grace).await?;
        match work(transaction).await {
            Ok((transaction, response)) => Ok(self.commit(transaction, response).await?),
            Err(error) => {
                self.operation.commit.left();
                Err(error)
            }
        }
    }
}

/// A random pause: two transactions that met once would otherwise meet again in step.
pub(super) async fn pause(tries: u32) {
    let pause = rand::random_range(0..1_000_u64 << tries);
    sleep(Duration::from_micros(pause)).await;
}

pub(super) fn runs_again(error: &(dyn Error + 'static)) -> bool {
    let mut sources = std::iter::successors(Some(error), |error| (*error).source());
    sources.any(|error| {
        let commit = error.downcast_ref::<CommitError>();
        let sql = error.downcast_ref::<sqlx::Error>();
        commit.is_some_and(|error| error.kind() == CommitErrorKind::Retry)
            || sql.is_some_and(may_succeed)
    })
}
