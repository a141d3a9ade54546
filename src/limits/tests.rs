use super::*;

use proptest::prelude::*;

const RESOURCE: Resource = Resource::Waiters;

fn limits(limit: Limit) -> Arc<Limits> {
    Limits::new(|_| limit)
}

fn caller(number: u8) -> ScopeDigest {
    ScopeDigest::from_bytes([number; 32])
}

/// Takes one after another until nothing more is given.
fn take_all(account: &Arc<Account>) -> (Vec<Holding>, Whose) {
    let mut taken = Vec::new();
    loop {
        match account.take(RESOURCE, 1) {
            Ok(one) => taken.push(one),
            Err(full) => return (taken, full.whose),
        }
    }
}

#[test]
fn a_caller_alone_has_seven_eighths_and_the_next_one_seven_eighths_of_the_rest() {
    let limits = limits(Limit::of(6400));
    let (first, whose) = take_all(&limits.account(Some(&caller(1))));
    assert_eq!((first.len(), whose), (5600, Whose::Caller));
    let (second, whose) = take_all(&limits.account(Some(&caller(2))));
    assert_eq!((second.len(), whose), (700, Whose::Caller));
    // What is given back is there for others at once.
    drop(first);
    let (third, _) = take_all(&limits.account(Some(&caller(3))));
    assert_eq!(third.len(), (6400 - 700) * 7 / 8 + 1);
    drop((second, third));
    assert_eq!((limits.total(RESOURCE), limits.callers()), (0, 0));
}

#[test]
fn where_all_callers_are_one_there_are_no_shares() {
    let limits = limits(Limit::of(64));
    let (first, whose) = take_all(&limits.account(None));
    assert_eq!((first.len(), whose), (64, Whose::Service));
    assert_eq!(take_all(&limits.account(None)).0.len(), 0);
}

#[test]
fn a_share_that_the_operator_sets_is_that_number() {
    let three = limits(Limit {
        sum: 4,
        per_caller: Some(3),
    });
    let (first, whose) = take_all(&three.account(Some(&caller(1))));
    assert_eq!((first.len(), whose), (3, Whose::Caller));
    let (second, whose) = take_all(&three.account(Some(&caller(2))));
    assert_eq!((second.len(), whose), (1, Whose::Service));
    let all = limits(Limit {
        sum: 4,
        per_caller: Some(4),
    });
    let (first, whose) = take_all(&all.account(Some(&caller(1))));
    assert_eq!((first.len(), whose), (4, Whose::Service));
}

#[test]
fn what_is_taken_anyway_counts_and_is_given_back() {
    let limits = limits(Limit::of(2));
    let account = limits.account(Some(&caller(1)));
    let mut forced = account.take_anyway(RESOURCE, 5);
    assert_eq!(take_all(&account).1, Whose::Caller);
    assert!(account.has_room(RESOURCE).is_err());
    forced.shrink(4);
    assert_eq!(limits.total(RESOURCE), 1);
    assert!(account.has_room(RESOURCE).is_ok());
    let other = limits.account(Some(&caller(2)));
    forced.shrink(100);
    assert_eq!(forced.amount(), 0);
    assert!(other.take(RESOURCE, 2).is_ok());
}

/// What has begun goes on whether there is room or not, and no other caller is refused for it.
#[test]
fn what_a_caller_takes_anyway_beyond_the_sum_is_no_part_of_the_sum() {
    let limits = limits(Limit::of(64));
    let greedy = limits.account(Some(&caller(1)));
    let held: Vec<_> = (0..1000).map(|_| greedy.take_anyway(RESOURCE, 1)).collect();
    assert_eq!(limits.total(RESOURCE), 1000);
    assert_eq!(greedy.has_room(RESOURCE).unwrap_err().whose, Whose::Caller);
    // Another one that does the same leaves as much to the third as it would without that.
    let second = limits.account(Some(&caller(2)));
    let more: Vec<_> = (0..1000).map(|_| second.take_anyway(RESOURCE, 1)).collect();
    assert_eq!(second.has_room(RESOURCE).unwrap_err().whose, Whose::Caller);
    let third = limits.account(Some(&caller(3)));
    assert!(third.has_room(RESOURCE).is_ok());
    drop(held);
    // The room that the greedy caller held is free again.
    let (taken, whose) = take_all(&greedy);
    assert!(taken.len() > 40, "{}", taken.len());
    assert_eq!(whose, Whose::Caller);
    drop((taken, more));
    assert_eq!((limits.total(RESOURCE), limits.within(RESOURCE)), (0, 0));
    // Where all callers are one, it is their sum.
    let everyone = limits.account(None);
    let held: Vec<_> = (0..1000)
        .map(|_| everyone.take_anyway(RESOURCE, 1))
        .collect();
    assert_eq!(limits.within(RESOURCE), 1000);
    drop(held);
}

/// A share shrinks as others ask. What a caller has taken before stays taken, and nothing more is
/// needed for a frame of a body that has its room already, or for a body without a byte.
#[test]
fn who_takes_nothing_more_is_never_refused() {
    let limits = limits(Limit::of(64));
    let account = limits.account(Some(&caller(1)));
    let mut body = account.take(RESOURCE, 50).unwrap();
    let other = limits.account(Some(&caller(2))).take(RESOURCE, 10).unwrap();
    assert_eq!(account.take(RESOURCE, 1).unwrap_err().whose, Whose::Caller);
    assert_eq!(body.grow(0), Ok(()));
    assert!(account.take(RESOURCE, 0).is_ok());
    drop((body, other));
    assert_eq!((limits.total(RESOURCE), limits.callers()), (0, 1));
}

#[test]
fn each_resource_is_counted_for_itself() {
    let limits = limits(Limit::of(1));
    let account = limits.account(Some(&caller(1)));
    let held: Vec<_> = Resource::ALL.map(|of| account.take(of, 1).unwrap()).into();
    for of in Resource::ALL {
        let full = account.take(of, 1).unwrap_err();
        assert_eq!(full.of, of);
    }
    drop(held);
}

proptest! {
    /// Callers that take and give back as they like.
    #[test]
    fn no_sum_is_exceeded_and_a_caller_that_holds_nothing_is_refused_only_without_room(
        sum in 1_usize..2000,
        steps in prop::collection::vec((0_u8..20, 0_usize..40, any::<bool>()), 0..300),
    ) {
        let limits = limits(Limit::of(sum));
        let mut held: Vec<(u8, Holding)> = Vec::new();
        for (who, amount, gives) in steps {
            if gives && !held.is_empty() {
                held.swap_remove(amount % held.len());
                continue;
            }
            let total = limits.total(RESOURCE);
            let own: usize = held.iter().filter(|(by, _)| *by == who).map(|(_, h)| h.amount()).sum();
            let taken = limits.account(Some(&caller(who))).take(RESOURCE, amount);
            let fits = total + amount <= sum;
            let within = amount == 0 || own + amount <= 7 * (sum - total);
            match taken {
                Ok(holding) => {
                    prop_assert!(fits && within);
                    held.push((who, holding));
                }
                Err(Full { whose: Whose::Service, .. }) => prop_assert!(!fits),
                Err(Full { whose: Whose::Caller, .. }) => {
                    prop_assert!(fits && !within);
                    // The share of a caller that holds nothing is at least what is free.
                    prop_assert!(own > 0);
                }
            }
            let all: usize = held.iter().map(|(_, holding)| holding.amount()).sum();
            prop_assert_eq!(limits.total(RESOURCE), all);
        }
        drop(held);
        prop_assert_eq!((limits.total(RESOURCE), limits.callers()), (0, 0));
    }
}
