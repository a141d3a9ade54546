//! The connection on which `NOTIFY` arrives.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use sqlx::pool::CloseEvent;
use sqlx::postgres::{PgListener, PgPoolOptions};
use sqlx::{Acquire, AssertSqlSafe, Postgres, Row};
use tracing::debug;

use super::super::{Connections, Table};
use super::database::TRIES;
use super::meaning::lost_a_race;
use super::sessions::Sessions;
use crate::error::{BoxError, cause};
use crate::record::RecordId;
use crate::store::notify::{Channels, Listen, Notification};
use crate::store::row::micros;

/// The database of a store, as the listening connection needs it.
pub(super) struct Notifications {
    connections: Connections<Postgres>,
    sessions: Sessions,
    channel: String,
    wait: Arc<str>,
}

impl Notifications {
    pub(super) fn new(
        connections: Connections<Postgres>,
        sessions: Sessions,
        table: &Table,
    ) -> Self {
        let wait = "SELECT id FROM unnest($1::bytea[]) id WHERE NOT {table}_wait(id, $2, $3)";
        Self {
            connections,
            sessions,
            channel: table.in_statement("{name}"),
            wait: table.in_statement(wait).into(),
        }
    }
}

impl Listen for Notifications {
    type Channels = Listener;

    async fn connect(&self) -> Result<Listener, BoxError> {
        // An application that has closed its pool expects no connection to its database any more.
        let app = self.connections.pool();
        if app.is_closed() {
            return Err("the pool of the store is closed".into());
        }
        // A session that a pooler shares would bring its notifications to any client, whose driver
        // does not expect them.
        if !self.sessions.are_own() {
            return Err("a pooler shares the sessions of the server".into());
        }
        // The connection has a pool of its own, so that a connection that has listened never goes
        // back to the application's pool.
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .connect_lazy_with((*app.connect_options()).clone());
        let given_up = Box::pin(self.connections.next_redial());
        let mut connection = PgListener::connect_with(&pool).await?;
        // If the driver replaced a lost connection by itself, the store would not know that
        // notifications were lost in between.
        connection.eager_reconnect(false);
        connection.listen(&self.channel).await?;
        Ok(Listener {
            connection,
            closed: Box::pin(app.close_event()),
            given_up,
            id: rand::random(),
            sessions: self.sessions.clone(),
            wait: Arc::clone(&self.wait),
        })
    }
}

pub(super) struct Listener {
    connection: PgListener,
    closed: Pin<Box<CloseEvent>>,
    /// Completes when the store gives up its other connections: this one is to the same server.
    given_up: Pin<Box<dyn Future<Output = ()> + Send>>,
    /// The id of this connection in the table of waiters.
    id: [u8; 16],
    sessions: Sessions,
    wait: Arc<str>,
}

impl Channels for Listener {
    /// Rows of the table `_waiters` expire, so that few rows are left of processes that died. A
    /// change of a record removes the rows of its waiters and notifies them once.
    const LASTS: Option<Duration> = Some(Duration::from_secs(60));
    /// Behind a connection pooler in transaction mode `LISTEN` succeeds, but no notification
    /// arrives.
    const IS_RELIABLE: bool = false;

    async fn listen(&mut self, ids: &[RecordId]) -> Result<Vec<RecordId>, BoxError> {
        if !self.sessions.are_own() {
            return Err("a pooler shares the sessions of the server".into());
        }
        let lasts = micros(Self::LASTS.expect("it is some"));
        let bytes: Vec<&[u8]> = ids.iter().map(|id| &id.as_bytes()[..]).collect();
        let mut tries = 1;
        loop {
            let ask = sqlx::query(AssertSqlSafe(Arc::clone(&self.wait)))
                .bind(&bytes)
                .bind(&self.id[..])
                .bind(lasts);
            let connection = self.connection.acquire().await?;
            let is_prepared = self.sessions.may_prepare();
            let rows = match self.sessions.fetch_all(connection, ask).await {
                Err(error) if lost_a_race(&error) && tries < TRIES => {
                    tries += 1;
                    continue;
                }
                Err(error) if self.sessions.prove_shared(&error) && is_prepared => continue,
                asked => asked?,
            };
            let changing = rows.iter().map(|row| -> Result<RecordId, BoxError> {
                let id: Vec<u8> = row.try_get(0)?;
                Ok(RecordId::from_bytes(id.try_into().map_err(|_| "no id")?))
            });
            return changing.collect();
        }
    }

    /// Does nothing: the rows of waiters expire, and removing them here would cost a round trip.
    async fn leave(&mut self, _: &[RecordId]) -> Result<(), BoxError> {
        Ok(())
    }

    fn poll_notification(&mut self, cx: &mut Context<'_>) -> Poll<Notification> {
        let closed = self.closed.as_mut().poll(cx).is_ready();
        if closed || self.given_up.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Notification::Disconnected);
        }
        // Each poll makes a new future. No notification is lost with a future of `try_recv` that
        // is dropped.
        let received = pin!(self.connection.try_recv()).poll(cx);
        received.map(|received| match received {
            Ok(Some(received)) => match RecordId::from_hex(received.payload()) {
                Some(id) => Notification::Changed(id),
                None => Notification::Anything,
            },
            Ok(None) => Notification::Disconnected,
            Err(error) => {
                debug!(error = cause(&error), "the connection that listens is lost");
                Notification::Disconnected
            }
        })
    }
}
