//! When a store gives up its connections and makes new ones.
//!
//! A server that refuses to serve may no longer be the primary, and the address of the store
//! may lead to another server by now. A connection stays with the server to which it was
//! made, so the store has to give it up.

use std::future::Future;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::runtime::Mutex;

/// How long a store keeps new connections on which the server refuses again. Without this
/// pause every request to a server that stays read-only would make a connection.
const PAUSE: Duration = Duration::from_millis(250);

/// What a store does with its connections after an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Redial {
    /// It keeps them: they were made a moment ago.
    None,
    /// It gives up the connection of the error, which is older than the last new one.
    #[cfg_attr(not(feature = "_sql"), allow(dead_code))]
    One,
    /// It gives up all of them.
    All,
}

/// When a store has given up its connections.
#[derive(Debug, Default)]
pub(super) struct Redials {
    last: Mutex<Last>,
    all_given_up: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct Last {
    at: Option<Instant>,
    /// How many connections of that time were in use, and have met no error since.
    in_use: usize,
}

impl Last {
    fn after_error(&mut self, in_use: usize) -> Redial {
        if self.at.is_none_or(|at| at.elapsed() >= PAUSE) {
            *self = Self {
                at: Some(Instant::now()),
                in_use,
            };
            return Redial::All;
        }
        match self.in_use.checked_sub(1) {
            Some(left) => {
                self.in_use = left;
                Redial::One
            }
            None => Redial::None,
        }
    }
}

impl Redials {
    /// Decides what becomes of the connections, one of which met an error. `in_use` counts
    /// the other connections that are in use.
    pub(super) fn after_error(&self, in_use: usize) -> Redial {
        let redial = self.last.lock().after_error(in_use);
        // After the lock is released: a waker may run any code.
        if redial == Redial::All {
            self.all_given_up.send_replace(());
        }
        redial
    }

    /// All connections were given up, since the server is another one by now.
    #[cfg(feature = "redis")]
    pub(super) fn give_up_all(&self) {
        *self.last.lock() = Last {
            at: Some(Instant::now()),
            in_use: 0,
        };
        self.all_given_up.send_replace(());
    }

    /// Completes when the store gives up its connections the next time.
    pub(super) fn next(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut given_up = self.all_given_up.subscribe();
        async move {
            // An error says that the store was dropped.
            let _ = given_up.changed().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_server_that_refuses_all_the_time_is_not_dialed_at_each_request() {
        let redials = Redials::default();
        let mut next = Box::pin(redials.next());
        assert_eq!(redials.after_error(0), Redial::All);
        next.as_mut().await;
        for _ in 0..10 {
            assert_eq!(redials.after_error(3), Redial::None);
        }
        tokio::time::advance(PAUSE).await;
        assert_eq!(redials.after_error(0), Redial::All);
    }

    #[tokio::test(start_paused = true)]
    async fn every_connection_that_was_in_use_is_given_up_at_its_own_error() {
        let redials = Redials::default();
        let given_up: Vec<_> = (0..5).map(|_| redials.after_error(2)).collect();
        let [first, second, third, ..] = given_up[..] else {
            unreachable!()
        };
        assert_eq!(
            (first, second, third),
            (Redial::All, Redial::One, Redial::One)
        );
        assert_eq!(given_up[3..], [Redial::None, Redial::None]);
    }
}
