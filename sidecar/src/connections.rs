//! How many connections of clients there are: in all, and of each peer.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tower_idempotency::for_sidecar::Limits;

use crate::metrics::{Limit, Numbers};

/// How many times as many connections a peer may have as are free, if the file says nothing. One peer
/// alone then reaches seven eighths of all, and its share shrinks as others come (Choudhury and Hahne,
/// 1998).
pub(crate) const SHARE: usize = 7;

/// Counts the connections of one listener.
#[derive(Debug)]
pub(crate) struct Connections {
    /// What is accepted has a permit. What is beyond stays in the queue of the system.
    places: Arc<Semaphore>,
    per_peer: Option<usize>,
    by_peer: Mutex<HashMap<IpAddr, usize>>,
    /// What is counted when there are too many in all, and of one peer.
    refusals: [Limit; 2],
    numbers: Arc<Numbers>,
}

/// A connection that counts until this is dropped.
#[derive(Debug)]
pub(crate) struct Counted {
    connections: Arc<Connections>,
    peer: IpAddr,
    _place: OwnedSemaphorePermit,
}

impl Connections {
    /// The connections on `listen`.
    pub(crate) fn of_clients(limits: &Limits, numbers: &Arc<Numbers>) -> Arc<Self> {
        let refusals = [Limit::Connections, Limit::ConnectionsPerPeer];
        let per_peer = limits.max_connections_per_peer;
        Self::new(limits.max_connections, per_peer, refusals, numbers)
    }

    /// The connections on `metrics`.
    pub(crate) fn of_metrics(limits: &Limits, numbers: &Arc<Numbers>) -> Arc<Self> {
        let refusals = [Limit::MetricsConnections; 2];
        Self::new(limits.max_metrics_connections, None, refusals, numbers)
    }

    fn new(
        most: usize,
        per_peer: Option<usize>,
        refusals: [Limit; 2],
        numbers: &Arc<Numbers>,
    ) -> Arc<Self> {
        Arc::new(Self {
            places: Arc::new(Semaphore::new(most.min(Semaphore::MAX_PERMITS))),
            per_peer,
            by_peer: Mutex::default(),
            refusals,
            numbers: Arc::clone(numbers),
        })
    }

    /// Waits until there may be another connection.
    pub(crate) async fn place(&self) -> OwnedSemaphorePermit {
        if let Ok(place) = Arc::clone(&self.places).try_acquire_owned() {
            return place;
        }
        self.numbers.refused(self.refusals[0]);
        let place = Arc::clone(&self.places).acquire_owned().await;
        place.expect("the semaphore is never closed")
    }

    /// Counts an accepted connection, unless its peer has its share.
    pub(crate) fn count(
        self: &Arc<Self>,
        place: OwnedSemaphorePermit,
        peer: IpAddr,
    ) -> Option<Counted> {
        let peer = of_one(peer);
        let mut by_peer = self.by_peer();
        let held = by_peer.entry(peer).or_default();
        let free = self.places.available_permits() + 1;
        if *held >= self.per_peer.unwrap_or(SHARE.saturating_mul(free)) {
            self.numbers.refused(self.refusals[1]);
            return None;
        }
        *held += 1;
        Some(Counted {
            connections: Arc::clone(self),
            peer,
            _place: place,
        })
    }

    fn by_peer(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.by_peer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut by_peer = self.connections.by_peer();
        if let Some(held) = by_peer.get_mut(&self.peer) {
            *held -= 1;
            if *held == 0 {
                by_peer.remove(&self.peer);
            }
        }
    }
}

/// The address that stands for a peer: one IPv4 address, or the network of an IPv6 address, since
/// one site has all addresses with the same first 64 bits (RFC 4291, 2.5.1).
fn of_one(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(address) => {
            let network = u128::from(address) >> 64 << 64;
            IpAddr::V6(Ipv6Addr::from(network))
        }
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn admitted(connections: &Arc<Connections>, peer: &str) -> Option<Counted> {
        let place = connections.place().await;
        connections.count(place, peer.parse().unwrap())
    }

    fn connections(most: usize, per_peer: Option<usize>) -> Arc<Connections> {
        let limits = Limits {
            max_connections: most,
            max_connections_per_peer: per_peer,
            ..Limits::default()
        };
        Connections::of_clients(&limits, &Arc::default())
    }

    #[tokio::test]
    async fn a_peer_alone_has_seven_eighths_and_others_have_room() {
        let connections = connections(64, None);
        let mut held = Vec::new();
        while let Some(own) = admitted(&connections, "10.0.0.1").await {
            held.push(own);
        }
        assert_eq!(held.len(), 56);
        let mut of_another = Vec::new();
        while let Some(own) = admitted(&connections, "10.0.0.2").await {
            of_another.push(own);
        }
        assert_eq!(of_another.len(), 7);
        // What ends is free for all, and a peer without a connection takes no memory.
        drop(held);
        assert!(admitted(&connections, "10.0.0.2").await.is_some());
        drop(of_another);
        assert!(connections.by_peer().is_empty());
    }

    #[tokio::test]
    async fn a_peer_is_an_address_of_version_4_or_a_network_of_version_6() {
        let connections = connections(9, Some(1));
        let _own = admitted(&connections, "2001:db8::1").await.unwrap();
        assert!(admitted(&connections, "2001:db8::ff:1").await.is_none());
        let _near = admitted(&connections, "2001:db8:0:1::1").await.unwrap();
        let _v4 = admitted(&connections, "10.0.0.1").await.unwrap();
        assert!(admitted(&connections, "::ffff:10.0.0.1").await.is_none());
    }
}
