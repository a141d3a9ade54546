//! The connections to a database server: how they are made, lent, and given up.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sqlx::error::DatabaseError;
use sqlx::pool::PoolConnection;
use sqlx::{Connection, Database, Pool};
use tokio::runtime::Handle;
use tokio::time::timeout;

use super::transport::{Mode, Transport};
use super::{Meaning, not_opened, not_sent};
use crate::store::StoreError;
use crate::store::redial::{Redial, Redials};
use crate::store::tls::install_provider;

/// How long the server may take to end a call whose caller has left.
const ENDS: Duration = Duration::from_secs(1);

/// Checks that the server can be reached. A pool retries until its timeout and
/// then reports only the timeout; this function connects once more without the
/// pool to return the real cause.
pub(super) async fn reach<DB: Transport>(
    pool: &Pool<DB>,
    meaning: fn(&dyn DatabaseError) -> Meaning,
) -> Result<(), StoreError> {
    // To verify the CA without the name of the server, the driver takes the provider of the process.
    if DB::mode(&pool.connect_options()) == Mode::OfCa {
        install_provider();
    }
    let Err(error) = pool.acquire().await else {
        return Ok(());
    };
    if matches!(error, sqlx::Error::PoolTimedOut) {
        let options = pool.connect_options();
        let alone = <DB::Connection as Connection>::connect_with(&options);
        if let Ok(Err(cause)) = timeout(Duration::from_secs(2), alone).await {
            return Err(not_opened(cause, meaning));
        }
    }
    Err(not_opened(error, meaning))
}

/// What an error says of the connection on which it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Condition {
    /// Another call can use the connection.
    Usable,
    /// The state of the connection is unknown.
    #[cfg_attr(not(feature = "mysql"), allow(dead_code))]
    Unknown,
    /// The connection has ended, and with it probably every other one.
    Broken,
    /// The server refuses every call that writes, and did nothing. It may be a primary no longer.
    OfWrongServer,
}

/// The connections of one store: the pool of the application, and what the store does with a
/// connection after an error.
pub(super) struct Connections<DB: Database> {
    pool: Pool<DB>,
    meaning: fn(&dyn DatabaseError) -> Meaning,
    /// Whether the driver can use a connection again after a call on it was dropped.
    resumes: bool,
    /// Whether a background task is making a connection.
    connecting: Arc<AtomicBool>,
    redials: Arc<Redials>,
}

impl<DB: Database> Connections<DB> {
    pub(super) fn new(
        pool: Pool<DB>,
        meaning: fn(&dyn DatabaseError) -> Meaning,
        resumes: bool,
    ) -> Self {
        Self {
            pool,
            meaning,
            resumes,
            connecting: Arc::default(),
            redials: Arc::default(),
        }
    }

    #[cfg_attr(not(feature = "postgres"), allow(dead_code))]
    pub(super) fn pool(&self) -> &Pool<DB> {
        &self.pool
    }

    /// Takes a connection from the pool.
    pub(super) async fn lend(&self) -> Result<Lent<DB>, StoreError> {
        self.connect_regardless();
        match self.pool.acquire().await {
            Ok(connection) => Ok(Lent {
                connection: Some(connection),
                connections: self.clone(),
            }),
            Err(error) => Err(not_sent(error, self.meaning)),
        }
    }

    /// Completes when the store gives up its connections the next time.
    #[cfg_attr(not(feature = "postgres"), allow(dead_code))]
    pub(super) fn next_redial(&self) -> impl Future<Output = ()> + Send + 'static {
        self.redials.next()
    }

    /// Makes a connection in a background task, however long that takes, if no connection is
    /// idle and none is being made.
    ///
    /// If a caller that waits for a connection is dropped, the pool drops the connection that
    /// it was making, and the next caller begins again. Where connecting takes longer than
    /// callers wait, the pool would never get a connection.
    fn connect_regardless(&self) {
        let full = self.pool.size() >= self.pool.options().get_max_connections();
        if full || self.pool.num_idle() > 0 || self.connecting.swap(true, Ordering::Relaxed) {
            return;
        }
        let (pool, ends) = (self.pool.clone(), Ends(Arc::clone(&self.connecting)));
        tokio::spawn(async move {
            let _ends = ends;
            drop(pool.acquire().await);
        });
    }

    /// Returns what becomes of a connection and of the idle ones, and closes the idle ones.
    fn redial(&self) -> Redial {
        let size = usize::try_from(self.pool.size()).unwrap_or(usize::MAX);
        let in_use = size.saturating_sub(self.pool.num_idle() + 1);
        let redial = self.redials.after_error(in_use);
        if redial == Redial::All {
            while let Some(idle) = self.pool.try_acquire() {
                drop(idle.detach());
            }
        }
        redial
    }
}

impl<DB: Database> Clone for Connections<DB> {
    fn clone(&self) -> Self {
        Self {
            pool: self.pool.clone(),
            meaning: self.meaning,
            resumes: self.resumes,
            connecting: Arc::clone(&self.connecting),
            redials: Arc::clone(&self.redials),
        }
    }
}

/// Without the pool, whose address may hold a password.
impl<DB: Database> fmt::Debug for Connections<DB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connections").finish_non_exhaustive()
    }
}

/// A connection that goes back to its pool by [`Self::give_back`] or [`Self::failed`].
///
/// A connection that is dropped before, with its call, goes back only if the driver can use it
/// again and the server ends the call soon. Otherwise it is closed: the driver may have read half
/// a packet, a transaction that was interrupted is only rolled back when its connection ends, and
/// a server that never replies would keep the connection's place in the pool.
pub(super) struct Lent<DB: Database> {
    connection: Option<PoolConnection<DB>>,
    connections: Connections<DB>,
}

impl<DB: Database> Lent<DB> {
    pub(super) fn get(&mut self) -> &mut DB::Connection {
        self.connection
            .as_mut()
            .expect("it is taken out at the end only")
    }

    pub(super) fn give_back(mut self) {
        self.connection.take();
    }

    /// Closes the connection, or gives it back, after an error of a call. If the error says that
    /// other connections are no better, the idle ones are closed as well, at most every 250 ms.
    ///
    /// Returns whether the call can be sent again on another connection, since this one led to
    /// a server that did nothing and that the store's address may have left.
    pub(super) fn failed(self, condition: Condition) -> bool {
        match condition {
            Condition::Usable => self.give_back(),
            Condition::Unknown => self.close(),
            Condition::Broken => {
                self.connections.redial();
                self.close();
            }
            Condition::OfWrongServer => match self.connections.redial() {
                Redial::None => self.give_back(),
                Redial::One | Redial::All => {
                    self.close();
                    return true;
                }
            },
        }
        false
    }

    fn close(mut self) {
        drop(self.connection.take().map(PoolConnection::detach));
    }
}

impl<DB: Database> Drop for Lent<DB> {
    fn drop(&mut self) {
        let Some(mut connection) = self.connection.take() else {
            return;
        };
        match Handle::try_current() {
            Ok(runtime) if self.connections.resumes => drop(runtime.spawn(async move {
                // The driver reads the rest of the dropped call before the answer to a ping.
                if !matches!(timeout(ENDS, connection.ping()).await, Ok(Ok(()))) {
                    drop(connection.detach());
                }
            })),
            _ => drop(connection.detach()),
        }
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
