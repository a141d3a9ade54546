//! Tests with a server that notifies of the next change of a record only, and not for ever.

use std::sync::atomic::AtomicUsize;

use super::*;

const LASTS: Duration = Duration::from_secs(10);

/// A server in this process.
#[derive(Clone, Default)]
struct Hub(Arc<HubState>);

#[derive(Default)]
struct HubState {
    /// Whether every record is changing while the server is asked for notifications.
    changing: AtomicBool,
    /// How many records the server was asked to notify of.
    asked: AtomicUsize,
    listened: Mutex<Vec<RecordId>>,
    told: Mutex<Option<mpsc::UnboundedSender<Option<RecordId>>>>,
}

impl Hub {
    fn send(&self, notification: Option<RecordId>) {
        let told = self.0.told.lock();
        told.as_ref().unwrap().send(notification).unwrap();
    }

    /// Notifies of a change, and forgets the record.
    fn tell(&self, id: RecordId) {
        let listened = std::mem::take(&mut *self.0.listened.lock());
        let (told, others) = listened.into_iter().partition(|listened| *listened == id);
        *self.0.listened.lock() = others;
        if !Vec::is_empty(&told) {
            self.send(Some(id));
        }
    }

    /// Forgets all records, and says that any may have changed.
    fn tell_all(&self) {
        self.0.listened.lock().clear();
        self.send(None);
    }

    fn asked(&self) -> usize {
        self.0.asked.load(Ordering::Relaxed)
    }
}

struct Line(Hub, mpsc::UnboundedReceiver<Option<RecordId>>);

impl Listen for Hub {
    type Channels = Line;

    async fn connect(&self) -> Result<Line, BoxError> {
        let (sender, receiver) = mpsc::unbounded_channel();
        *self.0.told.lock() = Some(sender);
        Ok(Line(self.clone(), receiver))
    }
}

impl Channels for Line {
    const LASTS: Option<Duration> = Some(LASTS);
    const IS_RELIABLE: bool = true;

    async fn listen(&mut self, ids: &[RecordId]) -> Result<Vec<RecordId>, BoxError> {
        let Self(hub, _) = self;
        hub.0.asked.fetch_add(ids.len(), Ordering::Relaxed);
        if hub.0.changing.load(Ordering::Relaxed) {
            return Ok(ids.to_vec());
        }
        hub.0.listened.lock().extend(ids);
        Ok(Vec::new())
    }

    async fn leave(&mut self, ids: &[RecordId]) -> Result<(), BoxError> {
        self.0.0.listened.lock().retain(|id| !ids.contains(id));
        Ok(())
    }

    fn poll_notification(&mut self, cx: &mut Context<'_>) -> Poll<Notification> {
        self.1.poll_recv(cx).map(|told| match told {
            Some(Some(id)) => Notification::Changed(id),
            Some(None) => Notification::Anything,
            None => Notification::Disconnected,
        })
    }
}

fn id(byte: u8) -> RecordId {
    RecordId::from_bytes([byte; 32])
}

async fn resolves(changed: Subscription) -> u128 {
    let start = Instant::now();
    changed.await;
    start.elapsed().as_millis()
}

#[tokio::test(start_paused = true)]
async fn the_server_is_asked_again_after_the_notification_that_was_its_last() {
    let hub = Hub::default();
    let wake_ups = WakeUps::new(hub.clone());
    // This waiter stays, so that the record is waited for all the time.
    let mut stays = wake_ups.subscribe(&id(1)).await;
    for round in 1..4 {
        hub.tell(id(1));
        (&mut stays).await;
        let again = wake_ups.subscribe(&id(1)).await;
        assert_eq!(hub.asked(), 2 * round);
        hub.tell(id(1));
        assert_eq!(resolves(again).await, 0);
        stays = wake_ups.subscribe(&id(1)).await;
        assert_eq!(hub.asked(), 2 * round + 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_says_that_anything_may_have_changed_is_asked_for_everything_again() {
    let hub = Hub::default();
    let wake_ups = WakeUps::new(hub.clone());
    let mut one = wake_ups.subscribe(&id(1)).await;
    let mut other = wake_ups.subscribe(&id(2)).await;
    hub.tell_all();
    let start = Instant::now();
    (&mut one).await;
    (&mut other).await;
    assert_eq!(start.elapsed(), Duration::ZERO);
    let again = wake_ups.subscribe(&id(1)).await;
    hub.tell(id(1));
    assert_eq!(resolves(again).await, 0);
}

#[tokio::test(start_paused = true)]
async fn the_server_is_asked_again_after_half_the_time_for_which_it_notifies() {
    let hub = Hub::default();
    let wake_ups = WakeUps::new(hub.clone());
    let _stays = wake_ups.subscribe(&id(1)).await;
    let moment = Duration::from_millis(1);
    tokio::time::sleep(Duration::from_millis(4_999)).await;
    drop(wake_ups.subscribe(&id(1)).await);
    assert_eq!(hub.asked(), 1);
    tokio::time::sleep(moment).await;
    drop(wake_ups.subscribe(&id(1)).await);
    tokio::time::sleep(moment).await;
    assert_eq!(hub.asked(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_record_that_was_changing_is_asked_for_again() {
    let hub = Hub::default();
    hub.0.changing.store(true, Ordering::Relaxed);
    let wake_ups = WakeUps::new(hub.clone());
    let changing = wake_ups.subscribe(&id(1)).await;
    hub.0.changing.store(false, Ordering::Relaxed);
    // The task has not seen yet that the first waiter has gone.
    let changed = wake_ups.subscribe(&id(1)).await;
    hub.tell(id(1));
    assert_eq!(resolves(changed).await, 0);
    assert_eq!(resolves(changing).await, CHANGING_POLL.as_millis());
}

#[tokio::test(start_paused = true)]
async fn records_that_are_waited_for_at_once_are_all_asked_for() {
    let hub = Hub::default();
    let wake_ups = WakeUps::new(hub.clone());
    let ids = [id(1), id(2), id(3)];
    let all = tokio::join!(
        wake_ups.subscribe(&ids[0]),
        wake_ups.subscribe(&ids[1]),
        wake_ups.subscribe(&ids[2]),
    );
    assert_eq!(*hub.0.listened.lock(), ids);
    drop(all);
}

#[tokio::test(start_paused = true)]
async fn a_record_that_is_no_longer_changing_is_notified_of_again() {
    let hub = Hub::default();
    let wake_ups = WakeUps::new(hub.clone());
    // This waiter stays, so that the record is waited for all the time.
    let mut stays = wake_ups.subscribe(&id(1)).await;
    hub.tell(id(1));
    (&mut stays).await;
    hub.0.changing.store(true, Ordering::Relaxed);
    let changing = wake_ups.subscribe(&id(1)).await;
    assert_eq!(resolves(changing).await, CHANGING_POLL.as_millis());
    hub.0.changing.store(false, Ordering::Relaxed);
    let again = wake_ups.subscribe(&id(1)).await;
    hub.tell(id(1));
    assert_eq!(resolves(again).await, 0);
}
