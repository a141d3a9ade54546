//! Connecting to a server, which may take long or fail.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sqlx::Connection;
use sqlx::error::DatabaseError;

use super::{Meaning, not_sent};
use crate::store::StoreError;

/// A pool tries again until its time is over, and then says no more than that.
/// Whoever starts is told what is in the way.
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

/// Whether a task of its own makes a connection for a pool.
///
/// A caller that waits no longer takes the connection with it that it was
/// making, and the next one begins anew. Where connecting takes longer than
/// callers wait, none would ever be done.
#[derive(Clone, Debug, Default)]
pub(super) struct Connecting(Arc<AtomicBool>);

impl Connecting {
    /// Makes one, however long it takes, if none is idle and none is being made.
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

/// Also if the task is dropped, with its runtime.
struct Ends(Arc<AtomicBool>);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}
