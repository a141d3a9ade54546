//! Waiting by `LISTEN`, with asking again as the fallback.

use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::Poll;
use std::time::Duration;

use sqlx::postgres::{PgListener, PgPool, PgPoolOptions};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::debug;

use super::super::Table;
use super::database::Database;
use super::waiting::{Waiter, WakeUps};
use crate::record::RecordId;
use crate::store::{POLL, Subscription};

/// Notifications arrive: asking again is for one that was lost.
const POLL_IN_CASE: Duration = Duration::from_secs(1);
/// The record is changing at this moment, perhaps without a notification.
const POLL_AT_ONCE: Duration = Duration::from_millis(50);
/// For how long a record's changes are asked for, so that little is left of
/// who went away.
const ASKED_FOR: Duration = Duration::from_secs(60);
/// How long one who waits gives the connection to come about.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long no connection is tried after one was lost.
const PAUSE: Duration = Duration::from_millis(500);

/// The connection that listens. It is made when somebody first waits, and ends
/// with the store.
pub(super) struct Listening {
    /// As which the database knows this store.
    listener: [u8; 16],
    pool: PgPool,
    channel: String,
    ears: Arc<Ears>,
    task: OnceLock<AbortHandle>,
}

struct Ears {
    wake_ups: Arc<WakeUps>,
    state: watch::Sender<State>,
    /// Whether this connection was ever told anything. Behind some poolers
    /// `LISTEN` succeeds, and nothing comes of it.
    hear: AtomicBool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Starting,
    Listening,
    Deaf,
}

impl Listening {
    pub(super) fn new(pool: PgPool, table: &Table) -> Self {
        Self {
            listener: rand::random(),
            pool,
            channel: table.in_statement("{name}"),
            ears: Arc::new(Ears {
                wake_ups: Arc::default(),
                state: watch::Sender::new(State::Starting),
                hear: AtomicBool::new(false),
            }),
            task: OnceLock::new(),
        }
    }

    /// The next change of the record.
    pub(super) async fn subscribe(&self, id: &RecordId, database: &Database) -> Subscription {
        self.task.get_or_init(|| self.start());
        // Before anything else, so that it is told of all that comes now.
        let waiter = self.ears.wake_ups.enter(*id);
        let mut state = self.ears.state.subscribe();
        let started = timeout(PATIENCE, state.wait_for(|state| *state != State::Starting));
        let listens = matches!(started.await, Ok(Ok(state)) if *state == State::Listening);
        if !listens {
            return Subscription::after(POLL);
        }
        let told = {
            let mut asked = waiter.asked().lock().await;
            let is_asked = asked.is_some_and(|at| at.elapsed() < ASKED_FOR / 2);
            let now = Instant::now();
            // If it can't be asked, the claim that comes now says why.
            let wait = database.wait(id, &self.listener, ASKED_FOR);
            let told = is_asked || wait.await.unwrap_or(false);
            if told && !is_asked {
                *asked = Some(now);
            }
            told
        };
        if !told {
            return Subscription::after(POLL_AT_ONCE);
        }
        let ask_again = if self.ears.hear.load(Ordering::Relaxed) {
            POLL_IN_CASE
        } else {
            POLL
        };
        Subscription::new(woken_or_at(waiter, Instant::now() + ask_again))
    }

    fn start(&self) -> AbortHandle {
        let ears = Arc::clone(&self.ears);
        let app = self.pool.clone();
        let channel = self.channel.clone();
        let task = tokio::spawn(async move {
            let _deaf = DeafInTheEnd(&ears);
            // An application that closes its pool wants no connection any more.
            let _ = app
                .close_event()
                .do_until(ears.listen(&app, &channel))
                .await;
        });
        task.abort_handle()
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        if let Some(task) = self.task.get() {
            task.abort();
        }
    }
}

impl Ears {
    async fn listen(&self, app: &PgPool, channel: &str) {
        loop {
            // Of its own: one that listens never goes back to its pool.
            let pool = PgPoolOptions::new()
                .max_connections(1)
                .acquire_timeout(Duration::from_secs(5))
                .connect_lazy_with((*app.connect_options()).clone());
            if let Err(error) = self.listen_on(&pool, channel).await {
                debug!(
                    error = &error as &dyn std::error::Error,
                    "can't listen to the database, asking again and again instead"
                );
            }
            self.deafen();
            sleep(PAUSE).await;
        }
    }

    async fn listen_on(&self, pool: &PgPool, channel: &str) -> Result<(), sqlx::Error> {
        let mut listener = PgListener::connect_with(pool).await?;
        listener.eager_reconnect(false);
        listener.listen(channel).await?;
        self.state.send_replace(State::Listening);
        while let Some(told) = listener.try_recv().await? {
            self.hear.store(true, Ordering::Relaxed);
            match RecordId::from_hex(told.payload()) {
                Some(id) => self.wake_ups.wake(&id),
                None => self.wake_ups.wake_everyone(),
            }
        }
        Ok(())
    }

    /// What was to be heard from now on is lost: all look for themselves.
    fn deafen(&self) {
        self.state.send_replace(State::Deaf);
        self.hear.store(false, Ordering::Relaxed);
        self.wake_ups.wake_everyone();
    }
}

/// However the task ends, with its runtime too.
struct DeafInTheEnd<'a>(&'a Ears);

impl Drop for DeafInTheEnd<'_> {
    fn drop(&mut self) {
        self.0.deafen();
    }
}

async fn woken_or_at(mut waiter: Waiter, at: Instant) {
    let mut woken = pin!(waiter.woken());
    let mut ask_again = pin!(sleep_until(at));
    std::future::poll_fn(|cx| {
        if woken.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        ask_again.as_mut().poll(cx)
    })
    .await;
}
