//! Calls whose results get lost, and calls that are dropped before they end.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;

use tokio::time::timeout;

use crate::store::{Claim, ForgetMode, Forgotten, Lease, Ownership, Release};

use crate::conformance::answer::answer;
use crate::conformance::expect::{Checked, Failure, ensure, held, in_flight, lost};
use crate::conformance::stage::{Handle, PATIENCE, Stores, request, rival};
use crate::conformance::{Rule, rule};

/// More calls than a pool commonly has connections: dropped calls must give
/// their connections back.
const DROPS: usize = 24;

pub(crate) fn rules() -> Vec<Rule> {
    vec![
        rule(
            "every-call-can-be-sent-again",
            "An operation whose every call was sent twice, from two handles, since the answer got \
             lost, ends like any other.",
            every_call_can_be_sent_again,
        ),
        rule(
            "a-release-sent-again-changes-nothing",
            "A release that is sent again never takes the record from whoever acquired it since.",
            a_release_sent_again_changes_nothing,
        ),
        rule(
            "a-claim-can-be-dropped",
            "Wherever the future of a claim is dropped, its nonce acquires the record after that as \
             attempt 1, nobody else does, and it completes.",
            a_claim_can_be_dropped,
        ),
        rule(
            "a-completion-can-be-dropped",
            "Wherever the future of a completion is dropped, the next one by its nonce is `Held`, and \
             its answer is found.",
            a_completion_can_be_dropped,
        ),
        rule(
            "a-renewal-can-be-dropped",
            "Wherever the future of a renewal is dropped, the next one is `Held` and the record stays \
             in flight.",
            a_renewal_can_be_dropped,
        ),
        rule(
            "a-release-can-be-dropped",
            "Wherever the future of a release is dropped, after the next one by its nonce another \
             claim acquires as attempt 2.",
            a_release_can_be_dropped,
        ),
        rule(
            "a-subscription-can-be-dropped",
            "Wherever a subscription is dropped, the others still resolve.",
            a_subscription_can_be_dropped,
        ),
        rule(
            "looking-up-and-forgetting-can-be-dropped",
            "Wherever the futures of look-ups and of forgetting are dropped, the next ones do their work.",
            looking_up_and_forgetting_can_be_dropped,
        ),
    ]
}

/// Polls a call this often, then drops it. Returns whether the call had ended.
async fn cut(store: &Handle, call: impl Future, polls: usize) -> bool {
    let _permit = store.calls.acquire().await.expect("it is never closed");
    let mut call = pin!(call);
    let mut left = polls;
    poll_fn(|cx| match call.as_mut().poll(cx) {
        Poll::Ready(_) => Poll::Ready(true),
        Poll::Pending => {
            left = left.saturating_sub(1);
            if left == 0 {
                Poll::Ready(false)
            } else {
                Poll::Pending
            }
        }
    })
    .await
}

/// How often each call is polled: once, twice, and so on until one ends; then
/// many calls once each.
#[derive(Default)]
struct Cuts {
    polls: usize,
    drops: usize,
    /// Whether a call has ended.
    ended: bool,
}

impl Cuts {
    fn next(&mut self) -> Option<usize> {
        self.drops += 1;
        self.polls = if self.ended { 1 } else { self.polls + 1 };
        (!self.ended || self.drops < DROPS).then_some(self.polls)
    }
}

async fn every_call_can_be_sent_again(stores: Stores) -> Checked {
    let Stores { a, b, c } = stores;
    let claim = request();
    let owner = a.acquire("a claim", &claim).await?;
    let again = b.acquire("the claim, sent again,", &claim).await?;
    ensure!(
        (owner.token, owner.attempt) == (again.token, again.attempt),
        "expected the same lease, token {} and attempt {} became {} and {}",
        owner.token,
        owner.attempt,
        again.token,
        again.attempt
    );
    for store in [&a, &b] {
        held("a renewal", store.renew(&owner).await?)?;
    }
    // The second call has nothing left to release.
    held("a release", a.release(&claim, Release::MayRunAgain).await?)?;
    lost(
        "the release, sent again,",
        b.release(&claim, Release::MayRunAgain).await?,
    )?;
    let next = rival(&claim);
    let owner = c.acquire("the next claim", &next).await?;
    ensure!(
        owner.attempt == 2,
        "expected attempt 2, it was {}",
        owner.attempt
    );
    let answer = answer();
    for store in [&a, &b] {
        held(
            "a completion",
            store.complete(&owner, &answer.outcome()).await?,
        )?;
    }
    let found = c
        .find("the claim, sent again after the completion,", &next)
        .await?;
    answer.is_found("what it found", &found, &owner)
}

async fn a_release_sent_again_changes_nothing(stores: Stores) -> Checked {
    let Stores { a, b, c } = stores;
    for how in [Release::MayRunAgain, Release::OutcomeUnknown] {
        let claim = request();
        a.acquire("the first claim", &claim).await?;
        held("a release", a.release(&claim, how).await?)?;
        let owner = b.acquire("the next claim", &rival(&claim)).await?;
        for again in [Release::MayRunAgain, Release::OutcomeUnknown] {
            lost("a release, sent again,", a.release(&claim, again).await?)?;
            let found = c.find("a third claim", &rival(&claim)).await?;
            in_flight("what a third claim found", &found, &owner)?;
        }
    }
    Ok(())
}

async fn a_claim_can_be_dropped(stores: Stores) -> Checked {
    let Stores { a, b, c } = stores;
    let mut cuts = Cuts::default();
    while let Some(polls) = cuts.next() {
        let claim = request();
        cuts.ended |= cut(&a, a.store.claim(&claim), polls).await;
        let owner = b
            .acquire("a claim by the nonce of a dropped one", &claim)
            .await?;
        ensure!(
            owner.attempt == 1,
            "expected attempt 1, it was {}",
            owner.attempt
        );
        for store in [&a, &c] {
            let found = store.find("another claim", &rival(&claim)).await?;
            in_flight("what another claim found", &found, &owner)?;
        }
        completes(&a, &c, &owner).await?;
    }
    Ok(())
}

/// Completes the operation like any other.
async fn completes(store: &Handle, other: &Handle, owner: &Lease) -> Checked {
    let answer = answer();
    held(
        "the completion",
        store.complete(owner, &answer.outcome()).await?,
    )?;
    let found = other.find("a claim after it", &rival(&owner.claim)).await?;
    answer.is_found("what a claim after it found", &found, owner)
}

async fn a_completion_can_be_dropped(stores: Stores) -> Checked {
    let Stores { a, b, c } = stores;
    let mut cuts = Cuts::default();
    while let Some(polls) = cuts.next() {
        let claim = request();
        let owner = a.acquire("the first claim", &claim).await?;
        let answer = answer();
        let outcome = answer.outcome();
        cuts.ended |= cut(&a, a.store.complete(&owner, &outcome), polls).await;
        held(
            "the completion, sent again,",
            b.complete(&owner, &outcome).await?,
        )?;
        for store in [&a, &c] {
            let found = store.find("a claim after it", &rival(&claim)).await?;
            answer.is_found("what a claim after it found", &found, &owner)?;
        }
    }
    Ok(())
}

async fn a_renewal_can_be_dropped(stores: Stores) -> Checked {
    let Stores { a, b, c } = stores;
    let claim = request();
    let owner = a.acquire("the first claim", &claim).await?;
    let mut cuts = Cuts::default();
    while let Some(polls) = cuts.next() {
        cuts.ended |= cut(&a, a.store.renew(&owner), polls).await;
        held("the renewal, sent again,", a.renew(&owner).await?)?;
        let found = b.find("another claim", &rival(&claim)).await?;
        in_flight("what another claim found", &found, &owner)?;
    }
    completes(&b, &c, &owner).await
}

async fn a_release_can_be_dropped(stores: Stores) -> Checked {
    let Stores { a, b, c } = stores;
    let mut cuts = Cuts::default();
    while let Some(polls) = cuts.next() {
        let claim = request();
        a.acquire("the first claim", &claim).await?;
        let Claim { id, nonce, .. } = &claim;
        cuts.ended |= cut(&a, a.store.release(id, nonce, Release::MayRunAgain), polls).await;
        // `Held`, or `Lost` because the store has executed the first call.
        let _: Ownership = a.release(&claim, Release::MayRunAgain).await?;
        // A store may execute the dropped call late. While it looks at the record, a claim may find
        // the record in flight.
        let owner = b
            .acquire_in_time("a claim after it", &rival(&claim))
            .await?;
        ensure!(
            owner.attempt == 2,
            "expected attempt 2, it was {}",
            owner.attempt
        );
        completes(&b, &c, &owner).await?;
    }
    Ok(())
}

async fn a_subscription_can_be_dropped(stores: Stores) -> Checked {
    let Stores { a, b, .. } = stores;
    let mut cuts = Cuts::default();
    let mut waiting = Vec::new();
    while let Some(polls) = cuts.next() {
        let claim = request();
        let owner = a.acquire("the first claim", &claim).await?;
        cuts.ended |= cut(&b, b.store.subscribe(&claim.id), polls).await;
        let stays = b.subscribe(&claim.id).await?;
        let mut leaves = b.subscribe(&claim.id).await?;
        cut(&b, &mut leaves, 1).await;
        drop(leaves);
        let tenure = a.complete(&owner, &answer().outcome()).await?;
        held("the completion", tenure)?;
        waiting.push(stays);
    }
    for stays in waiting {
        ensure!(
            timeout(PATIENCE, stays).await.is_ok(),
            "expected the other subscription to resolve, after {PATIENCE:?} it had not"
        );
    }
    Ok(())
}

async fn looking_up_and_forgetting_can_be_dropped(stores: Stores) -> Checked {
    let Stores { a, b, .. } = stores;
    // Reports the rule as unsupported if the store can't forget.
    a.look_up(&request().id).await?;
    let mut cuts = Cuts::default();
    while let Some(polls) = cuts.next() {
        let claim = request();
        let owner = a.acquire("the first claim", &claim).await?;
        completes(&a, &b, &owner).await?;
        let Some(_) = a.look_up(&claim.id).await? else {
            return Err(Failure::Broken(
                "expected a look-up to find the record".into(),
            ));
        };
        let looked = cut(&a, a.store.look_up(&claim.id), polls).await;
        let forgot = cut(
            &a,
            a.store.forget(&claim.id, ForgetMode::UnlessAlive),
            polls,
        )
        .await;
        cuts.ended |= looked && forgot;
        let came = b.forget(&claim.id, ForgetMode::UnlessAlive).await?;
        ensure!(
            came != Forgotten::InFlight,
            "expected a completion to be forgotten"
        );
        // No other record with this id: a dropped call may still reach the
        // store, and would rightly remove that record.
        ensure!(
            a.look_up(&claim.id).await?.is_none(),
            "expected the record to be gone"
        );
    }
    Ok(())
}
