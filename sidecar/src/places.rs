//! Which requests are at the upstream, and who comes next when there are too many.
//!
//! 1. There is a limit for all requests together. A kept part of it is left to the requests that are
//!    not protected, and as much to those that are: none of the two kinds waits for the other.
//! 2. A caller may have seven times as many places as are free for its kind, or as many as the file
//!    says. What has a place keeps it.
//! 3. Who gets no place waits. The two kinds take turns, and in each kind the callers do.
//! 4. A wait is bounded, and so is the number of those who wait: of each kind, and of each caller.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;
use tower_idempotency::for_sidecar::Limits;

use crate::connections::SHARE;

/// Whose request it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Caller {
    /// The digest of the caller of a protected request.
    Of([u8; 32]),
    /// The client that a request without protection comes from: the peer, or whom a trusted proxy
    /// names.
    At(IpAddr),
}

impl Caller {
    fn kind(self) -> usize {
        match self {
            Self::Of(_) => 0,
            Self::At(_) => 1,
        }
    }
}

/// Why a request has no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoPlace {
    /// Too many wait already.
    QueueFull(Whose),
    /// None was free in time.
    TooLate(Whose),
}

/// Whose part is used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whose {
    Caller,
    All,
}

/// The places of one upstream.
#[derive(Debug)]
pub(crate) struct Places {
    most: usize,
    per_caller: Option<usize>,
    most_waiting: usize,
    wait: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// How many places each caller has.
    held: HashMap<Caller, usize>,
    /// How many places, and how many waiters, each kind has.
    taken: [usize; 2],
    waiting: [usize; 2],
    /// The callers that wait, in the order of their turns.
    turns: [VecDeque<Caller>; 2],
    waiters: HashMap<Caller, VecDeque<Waiter>>,
    /// The kind whose turn it is.
    next: usize,
    /// The number of the next waiter.
    number: u64,
}

#[derive(Debug)]
struct Waiter {
    number: u64,
    tell: oneshot::Sender<Place>,
}

/// A place at the upstream, until this is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    places: Arc<Places>,
    caller: Caller,
}

/// A waiter that leaves the queue when this is dropped.
struct Waiting<'a> {
    places: &'a Places,
    caller: Caller,
    number: u64,
}

impl Places {
    pub(crate) fn new(limits: &Limits, wait: Duration) -> Arc<Self> {
        Arc::new(Self {
            most: limits.max_upstream_requests,
            per_caller: limits.max_upstream_requests_per_caller,
            most_waiting: limits.max_upstream_queue,
            wait,
            state: Mutex::default(),
        })
    }

    /// Takes a place, or waits for one.
    pub(crate) async fn take(self: &Arc<Self>, caller: Caller) -> Result<Place, NoPlace> {
        let (waiting, told) = {
            let mut state = self.state();
            if self.may_have(&state, caller) {
                state.begin(caller);
                return Ok(self.place(caller));
            }
            let (tell, told) = oneshot::channel();
            (self.enqueue(&mut state, caller, tell)?, told)
        };
        let told = timeout(self.wait, told).await;
        drop(waiting);
        if let Ok(Ok(place)) = told {
            return Ok(place);
        }
        let free = self.free(&self.state(), caller.kind());
        Err(NoPlace::TooLate(whose(free)))
    }

    /// Rule 1: how many places are free for this kind.
    fn free(&self, state: &State, kind: usize) -> usize {
        let kept = self.most.div_ceil(SHARE + 1);
        let of_all = self.most.saturating_sub(state.taken[0] + state.taken[1]);
        let of_kind = (self.most - kept).saturating_sub(state.taken[kind]);
        of_all.min(of_kind)
    }

    /// Rules 1 and 2.
    fn may_have(&self, state: &State, caller: Caller) -> bool {
        let free = self.free(state, caller.kind());
        let share = self.per_caller.unwrap_or(SHARE.saturating_mul(free));
        let held = state.held.get(&caller).copied().unwrap_or_default();
        free > 0 && held < share
    }

    fn place(self: &Arc<Self>, caller: Caller) -> Place {
        Place {
            places: Arc::clone(self),
            caller,
        }
    }

    /// Rule 4.
    fn enqueue(
        &self,
        state: &mut State,
        caller: Caller,
        tell: oneshot::Sender<Place>,
    ) -> Result<Waiting<'_>, NoPlace> {
        let kind = caller.kind();
        let free = self.most_waiting.saturating_sub(state.waiting[kind]);
        let own = state.waiters.get(&caller).map_or(0, VecDeque::len);
        if own >= SHARE.saturating_mul(free) {
            return Err(NoPlace::QueueFull(whose(free)));
        }
        state.number += 1;
        let number = state.number;
        state.waiting[kind] += 1;
        let of_caller = state.waiters.entry(caller).or_default();
        if of_caller.is_empty() {
            state.turns[kind].push_back(caller);
        }
        of_caller.push_back(Waiter { number, tell });
        Ok(Waiting {
            places: self,
            caller,
            number,
        })
    }

    /// Gives the places that are free to those whose turn it is.
    fn give(self: &Arc<Self>) {
        loop {
            let next = self.next(&mut self.state());
            let Some((caller, tell)) = next else { return };
            // The lock is not held here: a waiter that has just left drops the place, which gives it
            // to another.
            let _ = tell.send(self.place(caller));
        }
    }

    /// Rule 3: who gets a place now. Callers that may have none keep their turns.
    fn next(&self, state: &mut State) -> Option<(Caller, oneshot::Sender<Place>)> {
        for kind in [state.next, 1 - state.next] {
            let mut turns = state.turns[kind].iter();
            let Some(at) = turns.position(|caller| self.may_have(state, *caller)) else {
                continue;
            };
            let caller = state.turns[kind].remove(at)?;
            let mut of_caller = state.waiters.remove(&caller)?;
            let waiter = of_caller.pop_front()?;
            if !of_caller.is_empty() {
                state.waiters.insert(caller, of_caller);
                state.turns[kind].push_back(caller);
            }
            state.waiting[kind] -= 1;
            state.begin(caller);
            state.next = 1 - kind;
            return Some((caller, waiter.tell));
        }
        None
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whose part is used up, if so much is free.
fn whose(free: usize) -> Whose {
    if free > 0 { Whose::Caller } else { Whose::All }
}

impl State {
    fn begin(&mut self, caller: Caller) {
        self.taken[caller.kind()] += 1;
        *self.held.entry(caller).or_default() += 1;
    }

    fn end(&mut self, caller: Caller) {
        self.taken[caller.kind()] -= 1;
        if let Some(held) = self.held.get_mut(&caller) {
            *held -= 1;
            if *held == 0 {
                self.held.remove(&caller);
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.places.state();
        state.end(self.caller);
        if state.waiting != [0; 2] {
            drop(state);
            self.places.give();
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut state = self.places.state();
        let Some(of_caller) = state.waiters.get_mut(&self.caller) else {
            return;
        };
        // A waiter that was given a place has left the queue.
        let Some(at) = of_caller.iter().position(|own| own.number == self.number) else {
            return;
        };
        of_caller.remove(at);
        let kind = self.caller.kind();
        if of_caller.is_empty() {
            state.waiters.remove(&self.caller);
            state.turns[kind].retain(|caller| *caller != self.caller);
        }
        state.waiting[kind] -= 1;
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const PEER: Caller = Caller::At(IpAddr::V4(Ipv4Addr::LOCALHOST));

    fn caller(number: u8) -> Caller {
        Caller::Of([number; 32])
    }

    fn places(most: usize, per_caller: Option<usize>) -> Arc<Places> {
        let limits = Limits {
            max_upstream_requests: most,
            max_upstream_requests_per_caller: per_caller,
            max_upstream_queue: 8,
            ..Limits::default()
        };
        Places::new(&limits, Duration::from_secs(1))
    }

    /// Takes places until the caller would have to wait.
    async fn all_of(places: &Arc<Places>, caller: Caller) -> Vec<Place> {
        let mut held = Vec::new();
        while let Ok(Ok(place)) = timeout(Duration::ZERO, places.take(caller)).await {
            held.push(place);
        }
        held
    }

    #[tokio::test(start_paused = true)]
    async fn neither_kind_waits_for_the_other_and_no_caller_has_all() {
        let places = places(64, None);
        let first = all_of(&places, caller(1)).await;
        let second = all_of(&places, caller(2)).await;
        let unprotected = all_of(&places, PEER).await;
        assert_eq!(
            (first.len(), second.len(), unprotected.len()),
            (49, 7, 7),
            "of 64"
        );
        drop((first, second, unprotected));
        let state = places.state();
        assert!(state.held.is_empty() && state.waiters.is_empty());
        assert_eq!((state.taken, state.waiting), ([0; 2], [0; 2]));
    }

    #[tokio::test(start_paused = true)]
    async fn the_smallest_upstream_has_a_place_for_each_kind() {
        let places = places(2, None);
        assert_eq!(all_of(&places, caller(1)).await.len(), 1);
        let protected = all_of(&places, caller(1)).await;
        let others = all_of(&places, PEER).await;
        assert_eq!((protected.len(), others.len()), (1, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn callers_and_kinds_take_turns() {
        let places = places(8, Some(8));
        let mut held = all_of(&places, caller(1)).await;
        held.extend(all_of(&places, PEER).await);
        assert_eq!(held.len(), 8);
        let order = Arc::<Mutex<Vec<Caller>>>::default();
        let ask = |caller: Caller| {
            let (places, order) = (Arc::clone(&places), Arc::clone(&order));
            tokio::spawn(async move {
                let place = places.take(caller).await.unwrap();
                order.lock().unwrap().push(caller);
                drop(place);
            })
        };
        let mut asked = Vec::new();
        for caller in [caller(1), caller(1), caller(1), caller(2), PEER, PEER] {
            asked.push(ask(caller));
            tokio::task::yield_now().await;
        }
        drop(held.remove(0));
        for asked in asked {
            asked.await.unwrap();
        }
        let expected = [caller(1), PEER, caller(2), PEER, caller(1), caller(1)];
        assert_eq!(*order.lock().unwrap(), expected);
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_is_bounded_in_time_and_in_length() {
        let places = places(8, None);
        let held = all_of(&places, caller(1)).await;
        let waits: Vec<_> = (0..7)
            .map(|_| {
                let places = Arc::clone(&places);
                tokio::spawn(async move { places.take(caller(1)).await.map(drop) })
            })
            .collect();
        tokio::task::yield_now().await;
        let refused = places.take(caller(1)).await.map(drop);
        assert_eq!(refused, Err(NoPlace::QueueFull(Whose::Caller)));
        // Another caller still finds room to wait.
        let other = places.take(caller(2)).await.map(drop);
        assert_eq!(other, Err(NoPlace::TooLate(Whose::All)));
        for wait in waits {
            assert_eq!(wait.await.unwrap(), Err(NoPlace::TooLate(Whose::All)));
        }
        drop(held);
        assert_eq!(places.state().waiting, [0; 2]);
    }
}
