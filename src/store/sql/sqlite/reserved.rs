//! The records that transactions of this process are about to claim.
//!
//! SQLite has one writer at a time, so that a second transaction would wait for the first before it
//! could find out that both are of one operation.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::record::{Nonce, RecordId};
use crate::store::Claim;

/// The records that are reserved, each by the nonce of a request, which may reserve it several times.
#[derive(Default)]
pub(super) struct Reserved(Arc<Mutex<HashMap<RecordId, (Nonce, usize)>>>);

/// Gives the reservation back when it is dropped.
pub(super) struct Reserves {
    of: Arc<Mutex<HashMap<RecordId, (Nonce, usize)>>>,
    id: RecordId,
}

impl Reserved {
    /// `None` if a request with another nonce has reserved the record.
    pub(super) fn reserve(&self, claim: &Claim) -> Option<Reserves> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (nonce, times) = all.entry(claim.id).or_insert((claim.nonce, 0));
        if *nonce != claim.nonce {
            return None;
        }
        *times += 1;
        Some(Reserves {
            of: Arc::clone(&self.0),
            id: claim.id,
        })
    }
}

impl Drop for Reserves {
    fn drop(&mut self) {
        let mut all = self.of.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((_, times)) = all.get_mut(&self.id) else {
            return;
        };
        *times -= 1;
        if *times == 0 {
            all.remove(&self.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Fingerprint, ScopeDigest};

    fn claim(id: u8) -> Claim {
        let (scope, asked) = (ScopeDigest::from_bytes([2; 32]), [3; 32]);
        let id = RecordId::from_bytes([id; 32]);
        Claim::new(id, scope, Fingerprint::from_bytes(asked))
    }

    #[test]
    fn a_record_is_reserved_until_its_request_gives_back_each_reservation() {
        let reserved = Reserved::default();
        let (own, other) = (claim(1), claim(1));
        let first = reserved.reserve(&own).unwrap();
        let second = reserved.reserve(&own).unwrap();
        assert!(reserved.reserve(&other).is_none());
        assert!(reserved.reserve(&claim(2)).is_some());
        drop(first);
        assert!(reserved.reserve(&other).is_none());
        drop(second);
        assert!(reserved.reserve(&other).is_some());
        assert!(reserved.0.lock().unwrap().is_empty());
    }
}
