//! Waiting for changes that other processes make: who waits in this process,
//! and the one connection over which it is told of changes.

use std::collections::{HashMap, HashSet};
use std::error::Error;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tracing::debug;

use super::{POLL, Subscription};
use crate::record::RecordId;

/// How long connecting, or asking for a channel, may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long a waiter waits for its channel before it looks by itself instead.
const ACKNOWLEDGED: Duration = Duration::from_millis(500);
/// How often a waiter looks that would be told: a message can be lost.
const LISTENING_POLL: Duration = Duration::from_secs(1);
/// How long a lost connection is left alone, at first and at most.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

type BoxError = Box<dyn Error + Send + Sync>;

/// Where an engine tells of changes.
pub(crate) trait Listen: Send + Sync + 'static {
    type Channels: Channels;

    fn connect(&self) -> impl Future<Output = Result<Self::Channels, BoxError>> + Send;
}

/// A connection that tells of changes of the records it was asked for.
pub(crate) trait Channels: Send + 'static {
    /// Answers once no change of these can be missed any more.
    fn listen(&mut self, ids: &[RecordId]) -> impl Future<Output = Result<(), BoxError>> + Send;

    fn leave(&mut self, ids: &[RecordId]) -> impl Future<Output = Result<(), BoxError>> + Send;

    /// The next record that has changed; `None` once the connection is gone.
    fn poll_change(&mut self, cx: &mut Context<'_>) -> Poll<Option<RecordId>>;
}

/// Those who wait in this process. Its connection is made for the first of
/// them and ends with the last handle.
pub(crate) struct WakeUps<L> {
    listen: Arc<L>,
    waiting: Arc<Waiting>,
    /// To the task that has the connection.
    asks: Mutex<Option<mpsc::UnboundedSender<RecordId>>>,
}

/// What one record's waiters see.
#[derive(Clone, Copy, Default)]
struct Heard {
    /// No change can be missed from here on.
    listening: bool,
    /// Changes, and times at which one may have been missed.
    changes: u64,
}

#[derive(Default)]
struct Waiting(Mutex<HashMap<RecordId, Watched>>);

struct Watched {
    waiters: usize,
    heard: watch::Sender<Heard>,
}

impl Waiting {
    fn lock(&self) -> MutexGuard<'_, HashMap<RecordId, Watched>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changed(&self, id: &RecordId) {
        if let Some(watched) = self.lock().get(id) {
            watched.heard.send_modify(|heard| heard.changes += 1);
        }
    }

    fn listening(&self, ids: &[RecordId]) {
        let waiting = self.lock();
        for id in ids {
            if let Some(watched) = waiting.get(id) {
                watched.heard.send_modify(|heard| heard.listening = true);
            }
        }
    }

    /// Nobody is told any more: all look by themselves.
    fn deaf(&self) {
        for watched in self.lock().values() {
            watched.heard.send_modify(|heard| {
                heard.listening = false;
                heard.changes += 1;
            });
        }
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

    /// Answers once the record's channel is listened to; if that takes too
    /// long, with a subscription that resolves soon by itself.
    pub(crate) async fn subscribe(self: &Arc<Self>, id: &RecordId) -> Subscription {
        let mut waiter = self.enter(*id);
        let seen = waiter.seen;
        let told = waiter
            .heard
            .wait_for(|heard| heard.listening || heard.changes != seen);
        let told = timeout(ACKNOWLEDGED, told).await;
        if !told.is_ok_and(|heard| heard.is_ok_and(|heard| heard.listening)) {
            return Subscription::after(POLL);
        }
        let mut heard = waiter.heard.clone();
        Subscription::new(Wait {
            change: Box::pin(async move {
                let change = heard.wait_for(|heard| heard.changes != seen);
                let _ = timeout(LISTENING_POLL, change).await;
            }),
            _waiter: waiter,
        })
    }

    fn enter(self: &Arc<Self>, id: RecordId) -> Waiter<L> {
        let (heard, asks) = {
            let mut waiting = self.waiting.lock();
            let watched = waiting.entry(id).or_insert_with(|| Watched {
                waiters: 0,
                heard: watch::Sender::default(),
            });
            watched.waiters += 1;
            let heard = watched.heard.subscribe();
            let asks = !heard.borrow().listening;
            (heard, asks)
        };
        let seen = heard.borrow().changes;
        if asks {
            self.ask(id);
        }
        Waiter {
            wake_ups: Arc::clone(self),
            id,
            heard,
            seen,
        }
    }

    /// Has the task look whether anybody waits for this record.
    fn ask(&self, id: RecordId) {
        let mut asks = self.asks.lock().unwrap_or_else(PoisonError::into_inner);
        if asks.as_ref().is_some_and(|asks| asks.send(id).is_ok()) {
            return;
        }
        // The first, or the runtime of the task before has ended.
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
    heard: watch::Receiver<Heard>,
    /// The changes before it came.
    seen: u64,
}

impl<L: Listen> Drop for Waiter<L> {
    fn drop(&mut self) {
        let mut waiting = self.wake_ups.waiting.lock();
        let Some(watched) = waiting.get_mut(&self.id) else {
            return;
        };
        watched.waiters -= 1;
        if watched.waiters == 0 {
            waiting.remove(&self.id);
            drop(waiting);
            let asks = &self.wake_ups.asks;
            let asks = asks.lock().unwrap_or_else(PoisonError::into_inner);
            // A task that has ended listens to nothing.
            let _ = asks.as_ref().map(|asks| asks.send(self.id));
        }
    }
}

/// Keeps its waiter until it is dropped, and with it the channel, since who
/// was woken often waits again.
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

/// The task that has the connection.
struct Listening<L> {
    listen: Arc<L>,
    waiting: Arc<Waiting>,
    asked: mpsc::UnboundedReceiver<RecordId>,
}

impl<L> Drop for Listening<L> {
    /// However it ends, and be it with its runtime.
    fn drop(&mut self) {
        self.waiting.deaf();
    }
}

/// No handle is left.
struct Ended;

enum Event {
    Asked(Option<RecordId>),
    Changed(Option<RecordId>),
}

impl<L: Listen> Listening<L> {
    async fn run(mut self) {
        let mut pause = PAUSE.0;
        // Whoever comes first wants a connection.
        while let Some(first) = self.asked.recv().await {
            match timeout(PATIENCE, self.listen.connect()).await {
                Ok(Ok(channels)) => match self.serve(channels, first).await {
                    Err(Ended) => return,
                    Ok(true) => pause = PAUSE.0,
                    Ok(false) => {}
                },
                Ok(Err(error)) => debug!(error, "no connection for wake-ups, waiters poll"),
                Err(_) => debug!("no connection for wake-ups in time, waiters poll"),
            }
            self.waiting.deaf();
            if self.rest(pause).await.is_err() {
                return;
            }
            pause = PAUSE.1.min(pause * 2);
        }
    }

    /// Until the connection is gone. Says whether it was of any use.
    async fn serve(&mut self, mut channels: L::Channels, first: RecordId) -> Result<bool, Ended> {
        let mut listened = HashSet::new();
        let mut asked = vec![first];
        loop {
            // All that came meanwhile, in one request.
            while let Ok(id) = self.asked.try_recv() {
                asked.push(id);
            }
            let settled = self.settle(&mut channels, &mut listened, &asked);
            match timeout(PATIENCE, settled).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    debug!(error, "the connection for wake-ups is lost, waiters poll");
                    return Ok(!listened.is_empty());
                }
                Err(_) => return Ok(!listened.is_empty()),
            }
            asked.clear();
            while asked.is_empty() {
                let event = poll_fn(|cx| {
                    if let Poll::Ready(changed) = channels.poll_change(cx) {
                        return Poll::Ready(Event::Changed(changed));
                    }
                    self.asked.poll_recv(cx).map(Event::Asked)
                });
                match event.await {
                    Event::Changed(Some(id)) => self.waiting.changed(&id),
                    Event::Changed(None) => return Ok(true),
                    Event::Asked(Some(id)) => asked.push(id),
                    Event::Asked(None) => return Err(Ended),
                }
            }
        }
    }

    /// Listens to what somebody waits for, and to nothing else.
    async fn settle(
        &self,
        channels: &mut L::Channels,
        listened: &mut HashSet<RecordId>,
        asked: &[RecordId],
    ) -> Result<(), BoxError> {
        let (wanted, unwanted): (Vec<RecordId>, Vec<RecordId>) = {
            let waiting = self.waiting.lock();
            asked.iter().partition(|id| waiting.contains_key(id))
        };
        let new: Vec<_> = wanted
            .iter()
            .copied()
            .filter(|id| listened.insert(*id))
            .collect();
        if !new.is_empty() {
            channels.listen(&new).await?;
        }
        self.waiting.listening(&wanted);
        let old: Vec<_> = unwanted
            .into_iter()
            .filter(|id| listened.remove(id))
            .collect();
        if !old.is_empty() {
            channels.leave(&old).await?;
        }
        Ok(())
    }

    /// Without a connection for a while: who comes is told at once.
    async fn rest(&mut self, pause: Duration) -> Result<(), Ended> {
        let over = timeout(pause, async {
            while let Some(id) = self.asked.recv().await {
                self.waiting.changed(&id);
            }
        });
        match over.await {
            Ok(()) => Err(Ended),
            Err(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use tokio::time::Instant;

    use super::*;

    /// A server in this process.
    #[derive(Clone, Default)]
    struct Hub(Arc<HubState>);

    #[derive(Default)]
    struct HubState {
        down: AtomicBool,
        silent: AtomicBool,
        connections: AtomicUsize,
        listened: Mutex<Vec<RecordId>>,
        told: Mutex<Option<mpsc::UnboundedSender<RecordId>>>,
    }

    impl Hub {
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

    struct Line(Hub, mpsc::UnboundedReceiver<RecordId>);

    impl Listen for Hub {
        type Channels = Line;

        async fn connect(&self) -> Result<Line, BoxError> {
            self.0.connections.fetch_add(1, Ordering::Relaxed);
            if self.0.down.load(Ordering::Relaxed) {
                return Err("down".into());
            }
            let (sender, receiver) = mpsc::unbounded_channel();
            *self.0.told.lock().unwrap() = Some(sender);
            Ok(Line(self.clone(), receiver))
        }
    }

    impl Channels for Line {
        async fn listen(&mut self, ids: &[RecordId]) -> Result<(), BoxError> {
            if self.0.0.silent.load(Ordering::Relaxed) {
                std::future::pending::<()>().await;
            }
            self.0.0.listened.lock().unwrap().extend(ids);
            Ok(())
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

        fn poll_change(&mut self, cx: &mut Context<'_>) -> Poll<Option<RecordId>> {
            self.1.poll_recv(cx)
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
    async fn a_server_that_is_down_is_asked_less_and_less() {
        let hub = Hub::default();
        hub.0.down.store(true, Ordering::Relaxed);
        let wake_ups = WakeUps::new(hub.clone());
        for _ in 0..240 {
            let changed = wake_ups.subscribe(&id(1)).await;
            assert_eq!(resolves(changed).await, POLL.as_millis());
        }
        // In a minute.
        assert!(
            (10..=20).contains(&hub.connections()),
            "{}",
            hub.connections()
        );
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
