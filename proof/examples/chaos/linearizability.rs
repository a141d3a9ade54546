//! Whether a key looked to its clients as if each request happened in one
//! instant between when it was sent and when its answer came, in an order
//! that explains what they were told and what the ledger says.
//!
//! The search is that of Wing and Gong, with a memory of where it has been
//! (as Lowe's), so that a history without an explanation ends as soon as one
//! with. stateright's tester does the same without that memory: eight clients
//! that retry are too many for it. It also takes one outcome for what a
//! request without an answer did, and here nobody knows; and it brings a model
//! checker with its web server along.

use std::collections::HashSet;

use super::history::{Attempt, Entry, Micros, Saw};
use super::plan::Body;

/// Of more attempts, so many orders are possible that it takes too long.
const MOST: usize = 24;

/// What is so, to whoever asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum State {
    NotDone,
    /// By that body, with this answer, once it has been seen.
    Done(Body, Option<[u8; 32]>),
}

impl State {
    /// What is so after this, if it can happen at all.
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
            // Nobody knows what became of it.
            (_, Self::NotDone) => Some(Self::Done(own.body, None)),
            (_, Self::Done(..)) => None,
        }
    }
}

/// Refusals that say how things are, and that nothing came of the request.
fn is_told(code: &str) -> bool {
    ["in-flight", "key-reused"].contains(&code)
}

/// `None` if the key is not a small one.
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
    /// Whether the rest can be explained, with these (a bit each) done.
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
            // Something else was over before this was sent.
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

    /// How many entries there are is another rule.
    fn is_what_the_ledger_says(&self, state: State) -> bool {
        match state {
            State::NotDone => self.entries.is_empty(),
            State::Done(body, _) => self.entries.iter().any(|own| own.body == body),
        }
    }
}

/// Whether it was over when it ended. A request whose client is gone may still
/// be carried out, at any time.
fn has_an_end(own: &Attempt) -> bool {
    match &own.saw {
        Saw::Answer(_) => true,
        Saw::Refused(code) => is_told(code),
        Saw::Failed(_) | Saw::Cut | Saw::Late => false,
    }
}
