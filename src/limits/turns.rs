//! Long work of one request, which holds up no other request.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::thread::available_parallelism;

use tokio::sync::Semaphore;

use crate::record::ScopeDigest;
use crate::runtime::{Handle, Mutex, run_blocking};

/// Runs long work on threads that serve no requests: as much at once as half of the cores can do, and
/// the callers in turns.
#[derive(Debug)]
pub(crate) struct Turns {
    at_once: usize,
    places: Arc<Semaphore>,
    /// The turns of each caller that has work: as many as there are places. Only work that has one of
    /// its caller's turns asks for a place, so that no caller's work waits for more than that of
    /// another caller.
    callers: Mutex<HashMap<Option<ScopeDigest>, Weak<Semaphore>>>,
}

impl Turns {
    pub(crate) fn new() -> Self {
        Self::at_once((available_parallelism().map_or(1, usize::from) / 2).max(1))
    }

    fn at_once(at_once: usize) -> Self {
        Self {
            at_once,
            places: Arc::new(Semaphore::new(at_once)),
            callers: Mutex::default(),
        }
    }

    /// Runs the work of a caller; of `None` where all callers are one. The result is `None` if there is
    /// no thread for the work: without a runtime, or while it shuts down.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        caller: Option<ScopeDigest>,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let runtime = Handle::try_current().ok()?;
        let turn = self.of(caller).acquire_owned().await;
        let place = Arc::clone(&self.places).acquire_owned().await;
        let held = (turn, place);
        // The work holds its place itself: work that has begun goes on if the request is dropped.
        let work = move || {
            let done = work();
            drop(held);
            done
        };
        run_blocking(&runtime, work).await
    }

    fn of(&self, caller: Option<ScopeDigest>) -> Arc<Semaphore> {
        let mut callers = self.callers.lock();
        if let Some(turns) = callers.get(&caller).and_then(Weak::upgrade) {
            return turns;
        }
        // Callers without work are forgotten before the map would grow.
        if callers.len() == callers.capacity() {
            callers.retain(|_, turns| turns.strong_count() > 0);
        }
        let turns = Arc::new(Semaphore::new(self.at_once));
        callers.insert(caller, Arc::downgrade(&turns));
        turns
    }
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use std::sync::mpsc;

    use tokio::task::yield_now;

    use super::*;

    fn caller(number: usize) -> ScopeDigest {
        let mut digest = [0; 32];
        digest[..8].copy_from_slice(&number.to_le_bytes());
        ScopeDigest::from_bytes(digest)
    }

    #[tokio::test]
    async fn work_of_a_second_caller_is_next_whatever_the_first_one_has_queued() {
        let turns = Arc::new(Turns::at_once(1));
        let (begin, begins) = mpsc::channel();
        let (done, order) = mpsc::channel();
        let queue = |own, work: Box<dyn FnOnce() + Send>| {
            let (turns, done) = (Arc::clone(&turns), done.clone());
            tokio::spawn(async move {
                let work = move || {
                    work();
                    done.send(own).unwrap();
                };
                turns.run(Some(caller(own)), work).await.unwrap();
            })
        };
        let mut queued = vec![queue(1, Box::new(move || begins.recv().unwrap()))];
        for _ in 0..4 {
            queued.push(queue(1, Box::new(|| {})));
        }
        yield_now().await;
        queued.push(queue(2, Box::new(|| {})));
        yield_now().await;
        begin.send(()).unwrap();
        for work in queued {
            work.await.unwrap();
        }
        let order: Vec<_> = order.try_iter().collect();
        assert_eq!(order, [1, 2, 1, 1, 1, 1]);
    }

    #[tokio::test]
    async fn work_goes_on_without_its_request_and_keeps_its_place() {
        let turns = Turns::at_once(1);
        let (end, ends) = mpsc::channel();
        let begun = Arc::new(Semaphore::new(0));
        let signal = Arc::clone(&begun);
        let work = move || {
            signal.add_permits(1);
            ends.recv().unwrap();
        };
        let left = Some(caller(1));
        tokio::select! {
            _ = turns.run(left, work) => unreachable!("the work waits"),
            _ = begun.acquire() => {}
        }
        assert_eq!(turns.places.available_permits(), 0);
        end.send(()).unwrap();
        assert_eq!(turns.run(Some(caller(2)), || 7).await, Some(7));
    }

    #[tokio::test]
    async fn callers_without_work_are_forgotten() {
        let turns = Turns::at_once(2);
        for number in 0..1000 {
            turns.run(Some(caller(number)), || ()).await.unwrap();
        }
        assert!(turns.callers.lock().len() < 10);
    }

    #[tokio::test]
    #[should_panic(expected = "of the work")]
    async fn a_panic_of_the_work_is_one_of_its_request() {
        Turns::new()
            .run(Some(caller(1)), || panic!("of the work"))
            .await;
    }
}
