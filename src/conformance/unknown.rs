//! Releasing an operation whose outcome is unknown.

use crate::store::{Claim, OnLapsedLease, Release};

use crate::conformance::answer::answer;
use crate::conformance::expect::{Checked, ensure, held, in_flight, lapsed, lost};
use crate::conformance::stage::{Stores, request, rival};
use crate::conformance::{Rule, rule};

pub(crate) fn rules() -> Vec<Rule> {
    vec![
        rule(
            "unknown-is-lapsed-at-once",
            "After a release as unknown the record is found lapsed by claims that refuse, and taken \
             over by claims that rerun.",
            unknown_is_lapsed_at_once,
        ),
        rule(
            "unknown-can-be-completed",
            "A completion by the nonce that released as unknown is `Held`, unless somebody took over.",
            unknown_can_be_completed,
        ),
        rule(
            "unknown-can-be-released",
            "A release by the nonce that released as unknown is `Held`, unless somebody took over.",
            unknown_can_be_released,
        ),
    ]
}

async fn unknown_is_lapsed_at_once(stores: Stores) -> Checked {
    let Stores { a, b, c } = stores;
    for on_lapsed_lease in [OnLapsedLease::Rerun, OnLapsedLease::Refuse] {
        let claim = Claim {
            on_lapsed_lease,
            ..request()
        };
        let owner = a.acquire("the first claim", &claim).await?;
        held(
            "the release",
            a.release(&claim, Release::OutcomeUnknown).await?,
        )?;
        let refusing = Claim {
            on_lapsed_lease: OnLapsedLease::Refuse,
            ..rival(&claim)
        };
        for store in [&a, &b] {
            let found = store.find("a claim that refuses", &refusing).await?;
            lapsed("what a claim that refuses found", &found, &owner)?;
        }
        let rerunning = Claim {
            on_lapsed_lease: OnLapsedLease::Rerun,
            ..rival(&claim)
        };
        let next = c.acquire("a claim that reruns", &rerunning).await?;
        ensure!(
            next.attempt == 2 && owner.token < next.token,
            "expected attempt 2 and a token above {}, they were {} and {}",
            owner.token,
            next.attempt,
            next.token
        );
    }
    Ok(())
}

async fn unknown_can_be_completed(stores: Stores) -> Checked {
    let Stores { a, b, c } = stores;
    for on_lapsed_lease in [OnLapsedLease::Rerun, OnLapsedLease::Refuse] {
        let claim = Claim {
            on_lapsed_lease,
            ..request()
        };
        let owner = a.acquire("the first claim", &claim).await?;
        held(
            "the release",
            a.release(&claim, Release::OutcomeUnknown).await?,
        )?;
        let answer = answer();
        held(
            "a completion of it",
            b.complete(&owner, &answer.outcome()).await?,
        )?;
        let found = c.find("a later claim", &rival(&claim)).await?;
        answer.is_found("what a later claim found", &found, &owner)?;
    }
    let claim = request();
    let owner = a.acquire("the first claim", &claim).await?;
    held(
        "the release",
        a.release(&claim, Release::OutcomeUnknown).await?,
    )?;
    let next = b.acquire("a claim after it", &rival(&claim)).await?;
    lost(
        "a completion after a takeover",
        a.complete(&owner, &answer().outcome()).await?,
    )?;
    let found = c.find("a third claim", &rival(&claim)).await?;
    in_flight("what a third claim found", &found, &next)
}

async fn unknown_can_be_released(stores: Stores) -> Checked {
    let Stores { a, b, c } = stores;
    let claim = Claim {
        on_lapsed_lease: OnLapsedLease::Refuse,
        ..request()
    };
    let owner = a.acquire("the first claim", &claim).await?;
    for _ in 0..2 {
        held(
            "a release as unknown",
            a.release(&claim, Release::OutcomeUnknown).await?,
        )?;
        let found = b.find("a claim that refuses", &rival(&claim)).await?;
        lapsed("what it found", &found, &owner)?;
    }
    held(
        "a release of it",
        b.release(&claim, Release::MayRunAgain).await?,
    )?;
    let next = c.acquire("a claim after it", &rival(&claim)).await?;
    ensure!(
        next.attempt == 2,
        "expected attempt 2, it was {}",
        next.attempt
    );
    lost(
        "a release after a takeover",
        a.release(&claim, Release::OutcomeUnknown).await?,
    )
}
