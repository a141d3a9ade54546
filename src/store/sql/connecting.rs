//! Connecting to a database server.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sqlx::Connection;
use sqlx::error::DatabaseError;

use super::{Meaning, not_sent};
use crate::store::StoreError;

/// Checks that the server can be reached. A pool retries until its timeout and
/// then reports only the timeout; this function connects once more without the
/// pool to return the real cause.
pub(super) async fn reach<DB: sqlx::Database>(
    pool: &sqlx::Pool<DB>,
    meaning: fn(&dyn DatabaseError) -> Meaning,
) -> Result<(), StoreError> {
    let Err(error) = pool.acquire().await else {
        return Ok(());
    };
    if matches!(error, sqlx::Error::PoolTimedOut) {
        let options = pool.connect_options();
        let alone = <DB::Connection as Connection>::connect_with(&options);
        if let Ok(Err(cause)) = tokio::time::timeout(Duration::from_secs(2), alone).await {
            return Err(not_sent(cause, meaning));
        }
    }
    Err(not_sent(error, meaning))
}

/// Whether a background task is making a connection for a pool.
///
/// If a caller that waits for a connection is dropped, the pool drops the
/// connection that it was making, and the next caller begins again. Where
/// connecting takes longer than callers wait, the pool would never get a
/// connection.
#[derive(Clone, Debug, Default)]
pub(super) struct Connecting(Arc<AtomicBool>);

impl Connecting {
    /// Makes a connection in a background task, however long that takes, if no
    /// connection is idle and none is being made.
    pub(super) fn regardless<DB: sqlx::Database>(&self, pool: &sqlx::Pool<DB>) {
        let full = pool.size() >= pool.options().get_max_connections();
        if full || pool.num_idle() > 0 || self.0.swap(true, Ordering::Relaxed) {
            return;
        }
        let (pool, ends) = (pool.clone(), Ends(Arc::clone(&self.0)));
        tokio::spawn(async move {
            let _ends = ends;
            drop(pool.acquire().await);
        });
    }
}

/// Resets the flag when it is dropped, also if the runtime drops the task. Otherwise no task would
/// ever be started again.
struct Ends(Arc<AtomicBool>);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}
