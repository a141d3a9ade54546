//! Waking requests that wait for a record which another process changes: the
//! waiters of this process, and the one connection that tells it of changes.
//!
//! Redis and PostgreSQL use this. SQLite has no notifications between processes,
//! and MySQL has none at all: their waiters look at the record every [`POLL`].
//! The memory store needs no connection.

use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout};
use tracing::debug;

use super::{POLL, Subscription};
use crate::error::{BoxError, cause};
use crate::record::RecordId;
use crate::runtime::{Mutex, MutexGuard};

/// How long the task waits for a connection, and for the server to confirm that
/// it notifies of a record.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long a waiter waits for that confirmation. Without it the waiter looks at
/// the record after [`POLL`].
const ACKNOWLEDGED: Duration = Duration::from_millis(500);
/// After which time a waiter looks at its record although it would have been
/// notified of a change: a notification can be lost.
const LISTENING_POLL: Duration = Duration::from_secs(1);
/// After which time a waiter looks at a record that is changing while it
/// subscribes.
const CHANGING_POLL: Duration = Duration::from_millis(50);
/// For how long no connection is tried after one was lost, at first and at most.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// An engine that can notify this process of changes.
pub(crate) trait Listen: Send + Sync + 'static {
    type Channels: Channels;

    fn connect(&self) -> impl Future<Output = Result<Self::Channels, BoxError>> + Send;
}

/// A connection on which a server sends notifications of chosen records.
pub(crate) trait Channels: Send + 'static {
    /// `None`: the server notifies of a record until [`leave`](Self::leave).
    /// Otherwise it notifies of the next change only, and forgets a record of
    /// which it was not asked again for this long.
    const LASTS: Option<Duration>;
    /// Whether a confirmation by the server means that its notifications arrive.
    /// Behind a pooler of PostgreSQL they may not; there, waiters look every
    /// [`POLL`] until a first notification has arrived.
    const IS_RELIABLE: bool;

    /// Asks for notifications of these records. Once this has returned, no change
    /// of them can be missed, except of the records that it returns: those were
    /// changing while the server was asked.
    fn listen(
        &mut self,
        ids: &[RecordId],
    ) -> impl Future<Output = Result<Vec<RecordId>, BoxError>> + Send;

    /// Ends the notifications of these records.
    fn leave(&mut self, ids: &[RecordId]) -> impl Future<Output = Result<(), BoxError>> + Send;

    fn poll_notification(&mut self, cx: &mut Context<'_>) -> Poll<Notification>;
}

pub(crate) enum Notification {
    /// This record has changed.
    Changed(RecordId),
    /// Any record may have changed.
    #[cfg_attr(not(feature = "postgres"), allow(dead_code))]
    Anything,
    /// The connection is lost.
    Disconnected,
}

/// The waiters of this process. The connection is made for the first of them,
/// and ends with the last handle.
pub(crate) struct WakeUps<L> {
    listen: Arc<L>,
    waiting: Arc<Waiting>,
    /// Sends ids to the task that owns the connection: whether anybody waits for
    /// that record has changed.
    asks: Mutex<Option<mpsc::UnboundedSender<RecordId>>>,
}

/// What the waiters of one record see.
#[derive(Clone, Copy, Default)]
struct Seen {
    /// Since when the server notifies of changes.
    listening: Option<Instant>,
    /// The record was changing when the server was asked for notifications.
    changing: bool,
    /// The number of changes, and of moments at which one may have been missed.
    changes: u64,
}

/// The records that are waited for.
///
/// Whoever wakes waiters first clones the sender and unlocks `records`: a waker
/// may run any code, and if it drops a [`Subscription`] at once, that locks
/// `records` in [`Waiter::drop`].
#[derive(Default)]
struct Waiting {
    records: Mutex<HashMap<RecordId, Watched>>,
    /// Whether the connection has delivered a notification.
    has_delivered: AtomicBool,
}

struct Watched {
    waiters: usize,
    seen: watch::Sender<Seen>,
}

impl Waiting {
    fn lock(&self) -> MutexGuard<'_, HashMap<RecordId, Watched>> {
        self.records.lock()
    }

    /// Shows all waiters of these records what `change` makes of [`Seen`].
    fn show(&self, ids: &[RecordId], change: impl Fn(&mut Seen)) {
        let senders: Vec<_> = {
            let records = self.lock();
            let watched = ids.iter().filter_map(|id| records.get(id));
            watched.map(|watched| watched.seen.clone()).collect()
        };
        for sender in senders {
            sender.send_modify(&change);
        }
    }

    fn show_all(&self, change: impl Fn(&mut Seen)) {
        let ids: Vec<_> = self.lock().keys().copied().collect();
        self.show(&ids, change);
    }

    /// No notification arrives from now on: every waiter looks at its record.
    fn mark_disconnected(&self) {
        self.has_delivered.store(false, Ordering::Relaxed);
        self.show_all(|seen| {
            seen.listening = None;
            seen.changes += 1;
        });
    }
}

impl<L: Listen> WakeUps<L> {
    pub(crate) fn new(listen: L) -> Arc<Self> {
        Arc::new(Self {
            listen: Arc::new(listen),
            waiting: Arc::default(),
            asks: Mutex::default(),
        })
    }

    /// Returns once the server notifies of the record. If that takes too long,
    /// the subscription resolves by itself after [`POLL`].
    pub(crate) async fn subscribe(self: &Arc<Self>, id: &RecordId) -> Subscription {
        let mut waiter = self.enter(*id);
        let before = waiter.changes;
        let answered = waiter
            .seen
            .wait_for(|seen| seen.listening.is_some() || seen.changing || seen.changes != before);
        let seen = match timeout(ACKNOWLEDGED, answered).await {
            Ok(Ok(seen)) => *seen,
            _ => Seen::default(),
        };
        if seen.listening.is_none() {
            let is_changing = seen.changing && seen.changes == before;
            return Subscription::after(if is_changing { CHANGING_POLL } else { POLL });
        }
        let is_told =
            L::Channels::IS_RELIABLE || self.waiting.has_delivered.load(Ordering::Relaxed);
        let limit = if is_told { LISTENING_POLL } else { POLL };
        let mut seen = waiter.seen.clone();
        Subscription::new(Wait {
            change: Box::pin(async move {
                let change = seen.wait_for(|seen| seen.changes != before);
                let _ = timeout(limit, change).await;
            }),
            _waiter: waiter,
        })
    }

    fn enter(self: &Arc<Self>, id: RecordId) -> Waiter<L> {
        let (seen, now) = {
            let mut records = self.waiting.lock();
            let watched = records.entry(id).or_insert_with(|| Watched {
                waiters: 0,
                seen: watch::Sender::default(),
            });
            watched.waiters += 1;
            // `false`: nobody is woken while `records` is locked.
            watched.seen.send_if_modified(|seen| {
                seen.changing = false;
                false
            });
            let seen = watched.seen.subscribe();
            let now = *seen.borrow();
            (seen, now)
        };
        if now.listening.is_none_or(is_old::<L::Channels>) {
            self.ask(id);
        }
        Waiter {
            wake_ups: Arc::clone(self),
            id,
            seen,
            changes: now.changes,
        }
    }

    /// Has the task look whether anybody waits for this record.
    fn ask(&self, id: RecordId) {
        let mut asks = self.asks.lock();
        if asks.as_ref().is_some_and(|asks| asks.send(id).is_ok()) {
            return;
        }
        // This is the first waiter, or the runtime of the last task has ended.
        let (sender, receiver) = mpsc::unbounded_channel();
        sender.send(id).expect("the receiver is here");
        *asks = Some(sender);
        let task = Listening {
            listen: Arc::clone(&self.listen),
            waiting: Arc::clone(&self.waiting),
            asked: receiver,
        };
        tokio::spawn(task.run());
    }
}

struct Waiter<L: Listen> {
    wake_ups: Arc<WakeUps<L>>,
    id: RecordId,
    seen: watch::Receiver<Seen>,
    /// The number of changes when this waiter came.
    changes: u64,
}

impl<L: Listen> Drop for Waiter<L> {
    /// Without this the server would notify of the record for ever.
    fn drop(&mut self) {
        // Dropped after the lock is released, as said at `Waiting`.
        let _removed = {
            let mut records = self.wake_ups.waiting.lock();
            let Some(watched) = records.get_mut(&self.id) else {
                return;
            };
            watched.waiters -= 1;
            if watched.waiters > 0 {
                return;
            }
            records.remove(&self.id)
        };
        // A task that has ended has no connection that would notify.
        let asks = self.wake_ups.asks.lock();
        let _ = asks.as_ref().map(|asks| asks.send(self.id));
    }
}

/// Keeps its waiter until it is dropped, and so the notifications: a request
/// that was woken often waits again.
struct Wait<W> {
    change: Pin<Box<dyn Future<Output = ()> + Send>>,
    _waiter: W,
}

impl<W: Unpin> Future for Wait<W> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.change.as_mut().poll(cx)
    }
}

/// The task that owns the connection.
struct Listening<L> {
    listen: Arc<L>,
    waiting: Arc<Waiting>,
    asked: mpsc::UnboundedReceiver<RecordId>,
}

impl<L> Drop for Listening<L> {
    /// Also runs if the runtime drops the task: waiters on another runtime would
    /// otherwise wait for notifications that nobody reads.
    fn drop(&mut self) {
        self.waiting.mark_disconnected();
    }
}

/// Whether the server has to be asked again for notifications: half of the time is over for
/// which it notifies.
fn is_old<C: Channels>(asked: Instant) -> bool {
    C::LASTS.is_some_and(|lasts| asked.elapsed() >= lasts / 2)
}

/// The last handle was dropped.
struct Ended;

enum Event {
    Asked(Option<RecordId>),
    Notified(Notification),
}

impl<L: Listen> Listening<L> {
    async fn run(mut self) {
        let mut pause = PAUSE.0;
        while let Some(first) = self.asked.recv().await {
            match timeout(PATIENCE, self.listen.connect()).await {
                Ok(Ok(channels)) => match self.serve(channels, first).await {
                    Err(Ended) => return,
                    Ok(true) => pause = PAUSE.0,
                    Ok(false) => {}
                },
                Ok(Err(error)) => {
                    debug!(
                        error = cause(&*error),
                        "no connection for notifications, waiters poll"
                    );
                }
                Err(_) => debug!("no connection for notifications in time, waiters poll"),
            }
            self.waiting.mark_disconnected();
            if self.rest(pause).await.is_err() {
                return;
            }
            pause = PAUSE.1.min(pause * 2);
        }
    }

    /// Serves waiters until the connection is lost. Returns whether the server
    /// has confirmed anything on it.
    async fn serve(&mut self, mut channels: L::Channels, first: RecordId) -> Result<bool, Ended> {
        // When the server was asked to notify of a record.
        let mut listened = HashMap::new();
        let mut was_useful = false;
        let mut asked = vec![first];
        loop {
            // One request to the server for all waiters that came meanwhile.
            while let Ok(id) = self.asked.try_recv() {
                asked.push(id);
            }
            let settled = self.settle(&mut channels, &mut listened, &asked);
            match timeout(PATIENCE, settled).await {
                Ok(Ok(())) => was_useful = true,
                Ok(Err(error)) => {
                    debug!(
                        error = cause(&*error),
                        "the connection for notifications is lost, waiters poll"
                    );
                    return Ok(was_useful);
                }
                Err(_) => return Ok(was_useful),
            }
            asked.clear();
            while asked.is_empty() {
                // Notifications first: they may answer what was asked.
                let event = poll_fn(|cx| match channels.poll_notification(cx) {
                    Poll::Ready(notification) => Poll::Ready(Event::Notified(notification)),
                    Poll::Pending => self.asked.poll_recv(cx).map(Event::Asked),
                });
                match event.await {
                    Event::Notified(Notification::Disconnected) => return Ok(true),
                    Event::Notified(notification) => self.notify(&notification, &mut listened),
                    Event::Asked(Some(id)) => asked.push(id),
                    Event::Asked(None) => return Err(Ended),
                }
            }
        }
    }

    fn notify(&self, notification: &Notification, listened: &mut HashMap<RecordId, Instant>) {
        self.waiting.has_delivered.store(true, Ordering::Relaxed);
        let is_over = L::Channels::LASTS.is_some();
        let change = |seen: &mut Seen| {
            seen.changes += 1;
            if is_over {
                seen.listening = None;
            }
        };
        if let Notification::Changed(id) = notification {
            if is_over {
                listened.remove(id);
            }
            self.waiting.show(&[*id], change);
        } else {
            if is_over {
                listened.clear();
            }
            self.waiting.show_all(change);
        }
    }

    /// Asks the server to notify of the records that are waited for, and of no
    /// others.
    async fn settle(
        &self,
        channels: &mut L::Channels,
        listened: &mut HashMap<RecordId, Instant>,
        asked: &[RecordId],
    ) -> Result<(), BoxError> {
        let (wanted, unwanted): (Vec<RecordId>, Vec<RecordId>) = {
            let records = self.waiting.lock();
            asked.iter().partition(|id| records.contains_key(id))
        };
        let now = Instant::now();
        let mut new = Vec::new();
        for id in &wanted {
            let since = listened.get(id).copied();
            if since.is_none_or(is_old::<L::Channels>) {
                listened.insert(*id, now);
                new.push(*id);
            }
        }
        if !new.is_empty() {
            let changing = channels.listen(&new).await?;
            for id in &changing {
                listened.remove(id);
            }
            self.waiting.show(&changing, |seen| seen.changing = true);
        }
        for id in &wanted {
            if let Some(since) = listened.get(id).copied() {
                self.waiting
                    .show(&[*id], |seen| seen.listening = Some(since));
            }
        }
        let old: Vec<_> = unwanted
            .into_iter()
            .filter(|id| listened.remove(id).is_some())
            .collect();
        if !old.is_empty() {
            channels.leave(&old).await?;
        }
        Ok(())
    }

    /// Lets the server alone for a while. Waiters that come meanwhile are told to
    /// look at their records.
    async fn rest(&mut self, pause: Duration) -> Result<(), Ended> {
        let over = timeout(pause, async {
            while let Some(id) = self.asked.recv().await {
                self.waiting.show(&[id], |seen| seen.changes += 1);
            }
        });
        match over.await {
            Ok(()) => Err(Ended),
            Err(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod fleeting;

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::AtomicUsize;
    use std::task::{Wake, Waker};

    use super::*;

    type Hub = Server<true>;

    /// A server in this process. What it confirms may not arrive if it is not `RELIABLE`.
    #[derive(Clone, Default)]
    struct Server<const RELIABLE: bool>(Arc<HubState>);

    #[derive(Default)]
    struct HubState {
        down: AtomicBool,
        silent: AtomicBool,
        connections: AtomicUsize,
        listened: Mutex<Vec<RecordId>>,
        told: Mutex<Option<mpsc::UnboundedSender<RecordId>>>,
    }

    impl<const RELIABLE: bool> Server<RELIABLE> {
        fn tell(&self, id: RecordId) {
            let told = self.0.told.lock().unwrap();
            if self.0.listened.lock().unwrap().contains(&id) {
                told.as_ref().unwrap().send(id).unwrap();
            }
        }

        fn cut(&self) {
            self.0.listened.lock().unwrap().clear();
            self.0.told.lock().unwrap().take();
        }

        fn listened(&self) -> Vec<RecordId> {
            self.0.listened.lock().unwrap().clone()
        }

        fn connections(&self) -> usize {
            self.0.connections.load(Ordering::Relaxed)
        }
    }

    struct Line<const RELIABLE: bool>(Server<RELIABLE>, mpsc::UnboundedReceiver<RecordId>);

    impl<const RELIABLE: bool> Listen for Server<RELIABLE> {
        type Channels = Line<RELIABLE>;

        async fn connect(&self) -> Result<Line<RELIABLE>, BoxError> {
            self.0.connections.fetch_add(1, Ordering::Relaxed);
            if self.0.down.load(Ordering::Relaxed) {
                return Err("down".into());
            }
            let (sender, receiver) = mpsc::unbounded_channel();
            *self.0.told.lock().unwrap() = Some(sender);
            Ok(Line(self.clone(), receiver))
        }
    }

    impl<const RELIABLE: bool> Channels for Line<RELIABLE> {
        const LASTS: Option<Duration> = None;
        const IS_RELIABLE: bool = RELIABLE;

        async fn listen(&mut self, ids: &[RecordId]) -> Result<Vec<RecordId>, BoxError> {
            if self.0.0.silent.load(Ordering::Relaxed) {
                std::future::pending::<()>().await;
            }
            self.0.0.listened.lock().unwrap().extend(ids);
            Ok(Vec::new())
        }

        async fn leave(&mut self, ids: &[RecordId]) -> Result<(), BoxError> {
            self.0
                .0
                .listened
                .lock()
                .unwrap()
                .retain(|id| !ids.contains(id));
            Ok(())
        }

        fn poll_notification(&mut self, cx: &mut Context<'_>) -> Poll<Notification> {
            let told = self.1.poll_recv(cx);
            told.map(|id| id.map_or(Notification::Disconnected, Notification::Changed))
        }
    }

    fn id(byte: u8) -> RecordId {
        RecordId::from_bytes([byte; 32])
    }

    /// After how many milliseconds it resolves.
    async fn resolves(changed: Subscription) -> u128 {
        let start = Instant::now();
        changed.await;
        start.elapsed().as_millis()
    }

    async fn settle() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_wakes_all_who_wait_for_its_record_and_nobody_else() {
        let hub = Hub::default();
        let wake_ups = WakeUps::new(hub.clone());
        let one = wake_ups.subscribe(&id(1)).await;
        let another = wake_ups.subscribe(&id(1)).await;
        let other = wake_ups.subscribe(&id(2)).await;
        assert_eq!((hub.listened(), hub.connections()), (vec![id(1), id(2)], 1));
        hub.tell(id(1));
        assert_eq!(resolves(one).await, 0);
        assert_eq!(resolves(another).await, 0);
        assert_eq!(resolves(other).await, LISTENING_POLL.as_millis());
    }

    #[tokio::test(start_paused = true)]
    async fn a_channel_is_left_with_its_last_waiter_even_one_that_was_woken() {
        let hub = Hub::default();
        let wake_ups = WakeUps::new(hub.clone());
        let mut one = wake_ups.subscribe(&id(1)).await;
        let another = wake_ups.subscribe(&id(1)).await;
        hub.tell(id(1));
        (&mut one).await;
        drop(another);
        settle().await;
        assert_eq!(hub.listened(), [id(1)]);
        drop(one);
        settle().await;
        assert_eq!(hub.listened(), []);
        let again = wake_ups.subscribe(&id(1)).await;
        hub.tell(id(1));
        assert_eq!(resolves(again).await, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_connection_resolves_all_since_any_may_have_missed_something() {
        let hub = Hub::default();
        let wake_ups = WakeUps::new(hub.clone());
        let one = wake_ups.subscribe(&id(1)).await;
        let other = wake_ups.subscribe(&id(2)).await;
        hub.cut();
        assert_eq!((resolves(one).await, resolves(other).await), (0, 0));
        // Left alone for a moment, those who come meanwhile look themselves.
        let meanwhile = wake_ups.subscribe(&id(1)).await;
        assert_eq!(resolves(meanwhile).await, POLL.as_millis());
        let again = wake_ups.subscribe(&id(1)).await;
        hub.tell(id(1));
        assert_eq!(resolves(again).await, 0);
        assert_eq!(hub.connections(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_on_after_a_connection_is_lost_is_notified_by_the_next() {
        let hub = Hub::default();
        let wake_ups = WakeUps::new(hub.clone());
        let mut stays = wake_ups.subscribe(&id(1)).await;
        hub.cut();
        (&mut stays).await;
        tokio::time::sleep(PAUSE.0 * 2).await;
        let again = wake_ups.subscribe(&id(1)).await;
        hub.tell(id(1));
        assert_eq!(resolves(again).await, 0);
        assert_eq!(hub.connections(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_may_not_notify_is_relied_on_once_it_has() {
        let hub = Server::<false>::default();
        let wake_ups = WakeUps::new(hub.clone());
        for _ in 0..2 {
            let changed = wake_ups.subscribe(&id(1)).await;
            assert_eq!(resolves(changed).await, POLL.as_millis());
            let changed = wake_ups.subscribe(&id(1)).await;
            hub.tell(id(1));
            assert_eq!(resolves(changed).await, 0);
            let changed = wake_ups.subscribe(&id(1)).await;
            assert_eq!(resolves(changed).await, LISTENING_POLL.as_millis());
            // Nobody knows this of the next connection.
            hub.cut();
            tokio::time::sleep(PAUSE.0 * 2).await;
        }
        assert_eq!(hub.connections(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_is_down_is_asked_less_and_less() {
        let hub = Hub::default();
        hub.0.down.store(true, Ordering::Relaxed);
        let wake_ups = WakeUps::new(hub.clone());
        for _ in 0..240 {
            let changed = wake_ups.subscribe(&id(1)).await;
            assert_eq!(resolves(changed).await, POLL.as_millis());
        }
        // In a minute, with pauses that double until they are five seconds long.
        assert_eq!(hub.connections(), 17);
        hub.0.down.store(false, Ordering::Relaxed);
        tokio::time::sleep(PAUSE.1).await;
        let changed = wake_ups.subscribe(&id(1)).await;
        hub.tell(id(1));
        assert_eq!(resolves(changed).await, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_a_silent_server_soon_looks_by_itself() {
        let hub = Hub::default();
        hub.0.silent.store(true, Ordering::Relaxed);
        let wake_ups = WakeUps::new(hub);
        let start = Instant::now();
        let changed = wake_ups.subscribe(&id(1)).await;
        assert_eq!(start.elapsed(), ACKNOWLEDGED);
        assert_eq!(resolves(changed).await, POLL.as_millis());
    }

    #[tokio::test(start_paused = true)]
    async fn the_connection_ends_with_the_last_handle() {
        let hub = Hub::default();
        let wake_ups = WakeUps::new(hub.clone());
        let changed = wake_ups.subscribe(&id(1)).await;
        drop(wake_ups);
        settle().await;
        let ended = || hub.0.told.lock().unwrap().as_ref().unwrap().is_closed();
        assert!(!ended());
        drop(changed);
        settle().await;
        assert!(ended());
    }

    struct DropsOnWake(Mutex<Option<Subscription>>);

    impl Wake for DropsOnWake {
        fn wake(self: Arc<Self>) {
            drop(self.0.lock().unwrap().take());
        }
    }

    /// The waiters were once woken while they were locked: deadlock.
    #[tokio::test(start_paused = true)]
    async fn a_waker_can_drop_a_subscription_at_once() {
        let wake_ups = WakeUps::new(Hub::default());
        let mut one = wake_ups.subscribe(&id(1)).await;
        let other = wake_ups.subscribe(&id(1)).await;
        let waker = Waker::from(Arc::new(DropsOnWake(Mutex::new(Some(other)))));
        let mut cx = Context::from_waker(&waker);
        assert!(Pin::new(&mut one).poll(&mut cx).is_pending());
        let (done, is_done) = std::sync::mpsc::channel();
        let waiting = Arc::clone(&wake_ups.waiting);
        std::thread::spawn(move || {
            waiting.show(&[id(1)], |seen| seen.changes += 1);
            done.send(()).unwrap();
        });
        assert!(is_done.recv_timeout(Duration::from_secs(10)).is_ok());
        assert_eq!(wake_ups.waiting.lock().get(&id(1)).unwrap().waiters, 1);
    }

    #[test]
    fn a_runtime_that_ends_wakes_who_waits_on_another() {
        let runtime = || {
            let mut builder = tokio::runtime::Builder::new_current_thread();
            builder.enable_time().start_paused(true).build().unwrap()
        };
        let wake_ups = WakeUps::new(Hub::default());
        let first = runtime();
        let _stays = first.block_on(wake_ups.subscribe(&id(1)));
        let other = runtime();
        let changed = other.block_on(wake_ups.subscribe(&id(1)));
        drop(first);
        assert_eq!(other.block_on(resolves(changed)), 0);
    }

    #[test]
    fn a_runtime_that_ended_takes_no_wake_ups_with_it() {
        let hub = Hub::default();
        let wake_ups = WakeUps::new(hub.clone());
        for _ in 0..2 {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .build();
            runtime.unwrap().block_on(async {
                let changed = wake_ups.subscribe(&id(1)).await;
                hub.tell(id(1));
                let woken = timeout(Duration::from_millis(500), changed).await;
                assert!(woken.is_ok());
            });
        }
        assert_eq!(hub.connections(), 2);
    }
}
