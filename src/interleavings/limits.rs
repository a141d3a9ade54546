//! Callers that take and give back at the same moment.

use super::*;
use crate::limits::{Limit, Limits};
use crate::record::ScopeDigest;

/// Two requests of one caller have one account between them, whoever comes and goes: together
/// they never have more than the caller's share, and at the end nothing is held or remembered.
#[test]
fn requests_of_a_caller_share_one_account_while_others_come_and_go() {
    explore(|| {
        let limit = Limit {
            sum: 3,
            per_caller: Some(1),
        };
        let limits = Limits::new(|_| limit);
        let holds = Arc::new(AtomicUsize::new(0));
        let requests = [1, 1, 1, 2].map(|caller| {
            let (limits, holds) = (Arc::clone(&limits), Arc::clone(&holds));
            spawn(async move {
                let caller_digest = ScopeDigest::from_bytes([caller; 32]);
                for _ in 0..2 {
                    let account = limits.account(Some(&caller_digest));
                    let taken = account.take(Resource::Operations, 1);
                    drop(account);
                    if let Ok(held) = taken {
                        if caller == 1 {
                            let others = holds.fetch_add(1, Ordering::SeqCst);
                            assert_eq!(others, 0, "one share, not one for each request");
                        }
                        yield_now().await;
                        if caller == 1 {
                            holds.fetch_sub(1, Ordering::SeqCst);
                        }
                        drop(held);
                    }
                }
            })
        });
        for request in requests {
            block_on(request).unwrap();
        }
        assert_eq!(limits.total(Resource::Operations), 0);
        assert_eq!(limits.callers(), 0);
    });
}

/// A caller that is refused does not take room from another one, not even for a moment.
#[test]
fn a_refused_caller_leaves_the_last_place_to_another() {
    explore(|| {
        let limit = Limit {
            sum: 2,
            per_caller: Some(1),
        };
        let limits = Limits::new(|_| limit);
        let account = limits.account(Some(&ScopeDigest::from_bytes([1; 32])));
        let _first = account.take(Resource::Waiters, 1).unwrap();
        let greedy = spawn(async move {
            for _ in 0..3 {
                assert!(account.take(Resource::Waiters, 1).is_err());
            }
        });
        let other = limits.account(Some(&ScopeDigest::from_bytes([2; 32])));
        assert!(other.take(Resource::Waiters, 1).is_ok());
        block_on(greedy).unwrap();
    });
}
