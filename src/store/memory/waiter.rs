//! The future of one waiter.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use crate::record::RecordId;
use crate::store::Subscription;

use super::records::Records;
use super::waiters::Ticket;

impl Records {
    /// A subscription of the next change of this record.
    pub(super) fn subscribe(records: &Arc<Self>, id: &RecordId) -> Subscription {
        Subscription::new(Waiter {
            records: Arc::clone(records),
            id: *id,
            ticket: records.waiters.enter(*id),
        })
    }
}

/// Waits for a change. Its ticket is removed when it is woken.
struct Waiter {
    records: Arc<Records>,
    id: RecordId,
    ticket: Ticket,
}

impl Future for Waiter {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let waiters = &self.records.waiters;
        if waiters.waits(&self.id, self.ticket, cx.waker()) {
            Poll::Pending
        } else {
            Poll::Ready(())
        }
    }
}

impl Drop for Waiter {
    /// Passes a wake-up on that the dropped waiter did not use: without this the
    /// other waiters of a released record would not learn of the release.
    ///
    /// The chain of wake-ups ends: each wake-up removes a ticket, and a request takes another
    /// ticket only after its claim found the record in flight. A record in flight can't be
    /// claimed, and its owner wakes the other waiters later.
    fn drop(&mut self) {
        let woken = !self.records.waiters.leave(&self.id, self.ticket);
        // The record is read before `wake_one` reads `count`; `Waiters::count` says why this order
        // is needed.
        if woken && self.records.is_claimable(&self.id) {
            self.records.waiters.wake_one(&self.id);
        }
    }
}
