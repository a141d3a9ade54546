//! This module checks whether each request of a key looks to the clients as if the
//! request happened in one instant between its sending and its response, in an
//! order that explains what the clients saw and what the ledger holds.
//!
//! The search is the algorithm of Wing and Gong, with Lowe's set of visited states,
//! so that a history without an explanation ends as fast as one with an
//! explanation. stateright's tester does the same without that set, and is too slow
//! for eight clients that retry. That tester also assumes one outcome for a request
//! without a response, although the outcome is unknown here, and it depends on a
//! model checker with a web server.

use std::collections::HashSet;

use super::history::{Attempt, Entry, Micros, Saw};
use super::plan::Body;

/// More attempts than this have too many possible orders to search.
const MOST: usize = 24;

/// `State` is what a request finds under the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum State {
    NotDone,
    /// A request with that body was executed; the digest is that of its response,
    /// once a client has seen the response.
    Done(Body, Option<[u8; 32]>),
}

impl State {
    /// Returns the state after this attempt, or `None` if the attempt cannot happen
    /// in this state.
    fn after(self, own: &Attempt) -> Option<Self> {
        match (&own.saw, self) {
            (Saw::Answer(answer), Self::NotDone) => Some(Self::Done(own.body, Some(answer.digest))),
            (Saw::Answer(answer), Self::Done(body, seen)) => {
                let same = seen.is_none_or(|seen| seen == answer.digest);
                (body == own.body && same).then_some(Self::Done(body, Some(answer.digest)))
            }
            (Saw::Refused(code), Self::NotDone) if is_told(code) => Some(Self::NotDone),
            (Saw::Refused(code), Self::Done(body, _)) if code == "key-reused" => {
                (body != own.body).then_some(self)
            }
            (Saw::Refused(code), _) if is_told(code) => None,
            // The client does not know what became of this request.
            (_, Self::NotDone) => Some(Self::Done(own.body, None)),
            (_, Self::Done(..)) => None,
        }
    }
}

/// Returns whether the rejection with this code reports the state of the key and
/// means that the request did nothing.
fn is_told(code: &str) -> bool {
    ["in-flight", "key-reused"].contains(&code)
}

/// Returns `None` if the key has too many attempts to search.
pub(crate) fn linearizable(attempts: &[&Attempt], entries: &[&Entry]) -> Option<bool> {
    if attempts.len() > MOST {
        return None;
    }
    let search = Search { attempts, entries };
    let mut seen = HashSet::new();
    Some(search.goes_on(0, State::NotDone, &mut seen))
}

struct Search<'a> {
    attempts: &'a [&'a Attempt],
    entries: &'a [&'a Entry],
}

impl Search<'_> {
    /// Returns whether the remaining attempts can be explained, after the attempts
    /// in `done` (one bit each).
    fn goes_on(&self, done: u32, state: State, seen: &mut HashSet<(u32, State)>) -> bool {
        if !seen.insert((done, state)) {
            return false;
        }
        let left = |at: &usize| done & (1 << at) == 0;
        let pending = (0..self.attempts.len()).filter(left);
        let told = pending.clone().filter(|at| has_an_end(self.attempts[*at]));
        let first_end = told.map(|at| self.attempts[at].ended).min();
        if first_end.is_none() && self.is_what_the_ledger_says(state) {
            return true;
        }
        let first_end: Micros = first_end.unwrap_or(Micros::MAX);
        for at in pending {
            let own = self.attempts[at];
            // This attempt was sent after another pending attempt had ended, so the
            // other attempt comes first.
            if own.sent > first_end {
                continue;
            }
            if let Some(next) = state.after(own)
                && self.goes_on(done | 1 << at, next, seen)
            {
                return true;
            }
        }
        false
    }

    /// This rule does not count entries; another rule does.
    fn is_what_the_ledger_says(&self, state: State) -> bool {
        match state {
            State::NotDone => self.entries.is_empty(),
            State::Done(body, _) => self.entries.iter().any(|own| own.body == body),
        }
    }
}

/// Returns whether the request had no effect after its end. A server may still
/// execute a request whose client is gone, at any time.
fn has_an_end(own: &Attempt) -> bool {
    match &own.saw {
        Saw::Answer(_) => true,
        Saw::Refused(code) => is_told(code),
        Saw::Failed(_) | Saw::Cut | Saw::Late => false,
    }
}
