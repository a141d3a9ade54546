//! A transaction that is run again if it has to give way.

use std::error::Error;
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http_body::Body;
use http_body_util::Full;
use sqlx::{Pool, Transaction};

use super::error::may_succeed;
use super::{CommitError, CommitErrorKind, SqlClaim};
use crate::body::BoxError;
use crate::rt::sleep;
use crate::store::sql::transaction::SqlDatabase;

/// How often a transaction is run that gives way to others each time.
const TRIES: u32 = 8;

impl<DB: SqlDatabase> SqlClaim<DB> {
    /// Begins a transaction, runs `work` in it, and [commits](Self::commit) it
    /// with the answer. All of it is run again, up to eight times in all, if
    /// the transaction was rolled back in favour of another one or its
    /// connection broke. What `work` does elsewhere it then does again.
    ///
    /// If `work` fails, its transaction is rolled back. Whether to run it again
    /// is told by an `sqlx::Error` or a [`CommitError`] among the sources of its
    /// error.
    ///
    /// # Errors
    /// That of `work`, or the [`CommitError`] made into it.
    pub async fn transact<B, E>(
        &self,
        pool: &Pool<DB>,
        mut work: impl AsyncFnMut(&mut Transaction<'static, DB>) -> Result<Response<B>, E>,
    ) -> Result<Response<Full<Bytes>>, E>
    where
        B: Body,
        B::Error: Into<BoxError>,
        E: Error + From<CommitError> + 'static,
    {
        let mut tries = 1;
        loop {
            let error = match self.run(pool, &mut work).await {
                Ok(response) => return Ok(response),
                Err(error) => error,
            };
            if tries == TRIES || !is_retried::<DB>(&error) {
                return Err(error);
            }
            // Two that met once don't meet again in step.
            let pause = rand::random_range(0..1_000_u64 << tries);
            sleep(Duration::from_micros(pause)).await;
            tries += 1;
        }
    }

    async fn run<B, E>(
        &self,
        pool: &Pool<DB>,
        work: &mut impl AsyncFnMut(&mut Transaction<'static, DB>) -> Result<Response<B>, E>,
    ) -> Result<Response<Full<Bytes>>, E>
    where
        B: Body,
        B::Error: Into<BoxError>,
        E: Error + From<CommitError> + 'static,
    {
        let begun = pool.begin_with(DB::BEGIN).await;
        let mut transaction = begun.map_err(CommitError::rolled_back::<DB>)?;
        match work(&mut transaction).await {
            Ok(response) => Ok(self.commit(transaction, response).await?),
            Err(error) => {
                self.roll_back(transaction).await;
                Err(error)
            }
        }
    }
}

fn is_retried<DB: SqlDatabase>(error: &(dyn Error + 'static)) -> bool {
    let mut sources = std::iter::successors(Some(error), |error| (*error).source());
    sources.any(|error| {
        if let Some(error) = error.downcast_ref::<CommitError>() {
            return error.kind() == CommitErrorKind::Retry;
        }
        let error = error.downcast_ref::<sqlx::Error>();
        error.is_some_and(may_succeed::<DB>)
    })
}
