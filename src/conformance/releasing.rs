//! Ending an operation without an outcome.

use crate::store::{Claim, OnLapsedLease, Release};

use crate::conformance::answer::answer;
use crate::conformance::expect::{Checked, ensure, held, in_flight, lapsed, lost};
use crate::conformance::stage::{Stores, other_request, request, rival};
use crate::conformance::{Rule, rule};

const WAYS: [Release; 2] = [Release::MayRunAgain, Release::OutcomeUnknown];

pub(crate) fn rules() -> Vec<Rule> {
    vec![
        rule(
            "a-release-lets-the-next-claim-in",
            "After a release the next claim acquires at once, with any fingerprint and any \
             options, and its attempt is one more.",
            a_release_lets_the_next_claim_in,
        ),
        rule(
            "a-release-by-a-stranger-is-lost",
            "A release by a nonce that does not hold the record is `Lost` and changes nothing.",
            a_release_by_a_stranger_is_lost,
        ),
        rule(
            "a-stale-release-is-lost",
            "A release by an owner that was taken over is `Lost` and changes nothing.",
            a_stale_release_is_lost,
        ),
        rule(
            "a-late-release-counts",
            "A release after the lapse of a lease that nobody took over is `Held`.",
            a_late_release_counts,
        ),
        rule(
            "a-release-makes-no-record",
            "A release where there is no record is `Lost` and makes none.",
            a_release_makes_no_record,
        ),
        rule(
            "a-release-never-touches-a-completion",
            "A release after the completion, by its own nonce, is `Lost`, and the answer stays.",
            a_release_never_touches_a_completion,
        ),
        rule(
            "what-is-released-is-claimed-anew",
            "A claim by the nonce that released a record, as that or as unknown, does not get the \
             old lease back.",
            what_is_released_is_claimed_anew,
        ),
    ]
}

async fn a_release_lets_the_next_claim_in(stores: Stores) -> Checked {
    let Stores { a, b, c } = stores;
    for on_lapsed_lease in [OnLapsedLease::Rerun, OnLapsedLease::Refuse] {
        let claim = Claim {
            on_lapsed_lease,
            ..request()
        };
        let first = a.acquire("the first claim", &claim).await?;
        // Another handle can release the record, because only the nonce counts.
        held(
            "the release",
            b.release(&claim, Release::MayRunAgain).await?,
        )?;
        let next = c
            .acquire(
                "the next claim, for something else,",
                &other_request(&claim),
            )
            .await?;
        ensure!(
            next.attempt == 2 && first.token < next.token,
            "expected attempt 2 and a token above {}, they were {} and {}",
            first.token,
            next.attempt,
            next.token
        );
        let found = a.find("a third claim", &rival(&claim)).await?;
        in_flight("what a third claim found", &found, &next)?;
    }
    Ok(())
}

async fn a_release_by_a_stranger_is_lost(stores: Stores) -> Checked {
    let Stores { a, b, c } = stores;
    let claim = request();
    let owner = a.acquire("the first claim", &claim).await?;
    for how in WAYS {
        lost(
            "a stranger's release",
            b.release(&rival(&claim), how).await?,
        )?;
        let found = c.find("another claim", &rival(&claim)).await?;
        in_flight("the record after a stranger's release", &found, &owner)?;
    }
    held("the owner's renewal", a.renew(&owner).await?)
}

async fn a_stale_release_is_lost(stores: Stores) -> Checked {
    let Stores { a, b, c } = stores;
    let stale = a.lapsed(&request()).await?;
    let claim = rival(&stale.claim);
    let owner = b.acquire("a claim after the lapse", &claim).await?;
    for how in WAYS {
        lost("a stale release", a.release(&stale.claim, how).await?)?;
        let found = c.find("another claim", &rival(&claim)).await?;
        in_flight("the record after a stale release", &found, &owner)?;
    }
    let answer = answer();
    held(
        "the new owner's completion",
        b.complete(&owner, &answer.outcome()).await?,
    )?;
    for how in WAYS {
        lost("a stale release", a.release(&stale.claim, how).await?)?;
        let found = c.find("another claim", &rival(&claim)).await?;
        answer.is_found("the record after a stale release", &found, &owner)?;
    }
    Ok(())
}

async fn a_late_release_counts(stores: Stores) -> Checked {
    let Stores { a, b, c } = stores;
    let claim = Claim {
        on_lapsed_lease: OnLapsedLease::Refuse,
        ..request()
    };
    let owner = a.lapsed(&claim).await?;
    let found = b.find("a claim that refuses", &rival(&claim)).await?;
    lapsed("what it found", &found, &owner)?;
    held(
        "a release after the lapse",
        a.release(&claim, Release::MayRunAgain).await?,
    )?;
    let next = c
        .acquire("a claim after the release", &rival(&claim))
        .await?;
    ensure!(
        next.attempt == 2,
        "expected attempt 2, it was {}",
        next.attempt
    );
    Ok(())
}

async fn a_release_makes_no_record(stores: Stores) -> Checked {
    let Stores { a, b, .. } = stores;
    for how in WAYS {
        let claim = request();
        lost("a release of nothing", a.release(&claim, how).await?)?;
        let first = b.acquire("the first claim", &rival(&claim)).await?;
        ensure!(
            first.attempt == 1,
            "expected attempt 1 after a release of nothing, it was {}",
            first.attempt
        );
    }
    Ok(())
}

async fn a_release_never_touches_a_completion(stores: Stores) -> Checked {
    let Stores { a, b, c } = stores;
    let claim = request();
    let owner = a.acquire("the first claim", &claim).await?;
    let answer = answer();
    held(
        "the completion",
        a.complete(&owner, &answer.outcome()).await?,
    )?;
    for how in WAYS {
        for store in [&a, &b] {
            lost(
                "a release of what is completed",
                store.release(&claim, how).await?,
            )?;
            let found = c.find("a claim after it", &rival(&claim)).await?;
            answer.is_found("what a claim after it found", &found, &owner)?;
        }
    }
    Ok(())
}

async fn what_is_released_is_claimed_anew(stores: Stores) -> Checked {
    let Stores { a, b, .. } = stores;
    for how in WAYS {
        let claim = request();
        let first = a.acquire("the first claim", &claim).await?;
        held("the release", a.release(&claim, how).await?)?;
        let next = b
            .acquire("a claim by the nonce that released", &claim)
            .await?;
        ensure!(
            next.attempt == 2 && first.token < next.token,
            "expected a new lease with attempt 2 and a token above {}, they were {} and {}",
            first.token,
            next.attempt,
            next.token
        );
    }
    let refusing = Claim {
        on_lapsed_lease: OnLapsedLease::Refuse,
        ..request()
    };
    let owner = a.acquire("the first claim", &refusing).await?;
    held(
        "the release",
        a.release(&refusing, Release::OutcomeUnknown).await?,
    )?;
    let what = "a claim by the nonce that released as unknown, under refuse,";
    let found = b.find(what, &refusing).await?;
    lapsed("what it found", &found, &owner)
}
