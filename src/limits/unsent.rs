//! Responses that wait for their clients, by caller.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Weak};

use crate::runtime::Mutex;

/// How many clients that read are spared before one of them is let go.
const SPARED: usize = 8;

/// A response that is there as a whole, and waits for its client.
pub(crate) trait Unsent: Send + Sync {
    /// Lets the client go, unless it is spared.
    fn make_room(&self, spares: bool) -> LetGo;
}

/// What came of letting a client go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LetGo {
    /// Nothing waits for the client any more.
    Gone,
    /// The client has taken data since this was asked last, or nothing waits for it just now.
    Spared,
}

/// The responses of one caller, the one that waits longest first.
#[derive(Default)]
pub(super) struct UnsentBodies(Mutex<VecDeque<Weak<dyn Unsent>>>);

impl UnsentBodies {
    pub(super) fn add(&self, body: Weak<dyn Unsent>) {
        let mut bodies = self.0.lock();
        // Responses that were sent are forgotten before the list would grow: each keeps its
        // allocation until then.
        if bodies.len() == bodies.capacity() {
            bodies.retain(|body| body.strong_count() > 0);
        }
        bodies.push_back(body);
    }

    /// Lets one client go: the one whose response waits longest, of those that do not read. If all
    /// read, it is one of those. Returns whether there was one.
    pub(super) fn let_one_go(&self) -> bool {
        for looked_at in 0..=2 * SPARED {
            let Some(body) = self.oldest() else {
                return false;
            };
            // The list is not locked: the drop of what waited may run any code.
            match body.make_room(looked_at < SPARED) {
                LetGo::Gone => return true,
                LetGo::Spared => self.0.lock().push_back(Arc::downgrade(&body)),
            }
        }
        false
    }

    fn oldest(&self) -> Option<Arc<dyn Unsent>> {
        let mut bodies = self.0.lock();
        std::iter::from_fn(|| bodies.pop_front()).find_map(|body| body.upgrade())
    }
}

impl fmt::Debug for UnsentBodies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UnsentBodies").finish_non_exhaustive()
    }
}
