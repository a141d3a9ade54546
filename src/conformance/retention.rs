//! How long a record stays, by the store's clock.

use std::time::{Duration, SystemTime};

use tokio::time::{Instant, sleep};

use crate::store::{Claim, Outcome, Release};

use crate::conformance::answer::{Answer, answer_with};
use crate::conformance::expect::{Checked, ensure, held, lost, sealed};
use crate::conformance::stage::{LONG, SECOND, SHORT, SURELY, Stores, request, rival};
use crate::conformance::{Rule, rule};

const YEARS: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

pub(crate) fn rules() -> Vec<Rule> {
    vec![
        rule(
            "a-completion-is-kept-for-its-retention",
            "A completion, sealed or not, is found until its own retention is over, and then the \
             next claim acquires as attempt 1.",
            a_completion_is_kept_for_its_retention,
        ),
        rule(
            "a-completion-outlives-its-claim",
            "A completion is kept for its own retention, even if that of its claim and the lease \
             are over before.",
            a_completion_outlives_its_claim,
        ),
        rule(
            "completing-again-keeps-the-end",
            "A completion by the nonce that completed, and a renewal, do not put off the end of the \
             retention.",
            completing_again_keeps_the_end,
        ),
        rule(
            "a-tombstone-is-kept-for-the-retention",
            "A tombstone counts attempts on for the retention of its claim, and then the next \
             attempt is 1.",
            a_tombstone_is_kept_for_the_retention,
        ),
        rule(
            "what-is-over-is-absent",
            "Past its end a record is as good as absent: renewals and releases are `Lost`, a \
             completion is stored.",
            what_is_over_is_absent,
        ),
        rule(
            "tokens-increase-past-the-end",
            "The token of a claim is above all before, also those of records that are over, and of \
             completions where there was no record.",
            tokens_increase_past_the_end,
        ),
        rule(
            "the-clocks-of-callers-do-not-count",
            "A completion whose times are years off is kept for its retention by the store's clock.",
            the_clocks_of_callers_do_not_count,
        ),
    ]
}

fn kept_for(retention: Duration) -> Answer {
    answer_with(|kept| kept.retention = retention)
}

async fn a_completion_is_kept_for_its_retention(stores: Stores) -> Checked {
    let Stores { a, b, c } = stores;
    let sealing = Outcome::Sealed { retention: SECOND };
    for outcome in [kept_for(SECOND).outcome(), sealing] {
        let claim = request();
        let owner = a.acquire("the first claim", &claim).await?;
        let sent = Instant::now();
        held("the completion", a.complete(&owner, &outcome).await?)?;
        let next = b.acquire_from_on(&rival(&claim), sent + SECOND).await?;
        ensure!(
            next.attempt == 1,
            "expected attempt 1 after the retention, it was {}",
            next.attempt
        );
        lost("a stale renewal", c.renew(&owner).await?)?;
    }
    Ok(())
}

async fn a_completion_outlives_its_claim(stores: Stores) -> Checked {
    let Stores { a, b, c } = stores;
    let brief = || Claim {
        lease: SHORT,
        retention: SHORT,
        ..request()
    };
    let (first, second) = (brief(), brief());
    let owner = a.acquire("the first claim", &first).await?;
    let answer = kept_for(LONG);
    held(
        "the completion",
        a.complete(&owner, &answer.outcome()).await?,
    )?;
    let other = a.acquire("the first claim of another", &second).await?;
    let sealing = Outcome::Sealed { retention: LONG };
    held("sealing", a.complete(&other, &sealing).await?)?;
    sleep(SHORT + SHORT + SURELY).await;
    let found = b
        .find("a claim after lease and retention", &rival(&first))
        .await?;
    answer.is_found("what it found", &found, &owner)?;
    let found = c
        .find("a claim after lease and retention", &rival(&second))
        .await?;
    sealed("what it found", &found, &other)
}

async fn completing_again_keeps_the_end(stores: Stores) -> Checked {
    let Stores { a, b, c } = stores;
    let claim = request();
    let owner = a.acquire("the first claim", &claim).await?;
    let sent = Instant::now();
    let outcome = kept_for(SECOND).outcome();
    held("the completion", a.complete(&owner, &outcome).await?)?;
    let again = b.complete(&owner, &kept_for(LONG).outcome()).await?;
    held("another completion by the same nonce", again)?;
    b.renew(&owner).await?;
    if sent + SECOND <= Instant::now() {
        // On a slow machine the first record may have expired.
        return Ok(());
    }
    c.acquire_from_on(&rival(&claim), sent + SECOND).await?;
    Ok(())
}

async fn a_tombstone_is_kept_for_the_retention(stores: Stores) -> Checked {
    let Stores { a, b, .. } = stores;
    let (soon, late) = (
        Claim {
            retention: SHORT,
            ..request()
        },
        Claim {
            retention: LONG,
            ..request()
        },
    );
    for claim in [&soon, &late] {
        a.acquire("the first claim", claim).await?;
        held("the release", a.release(claim, Release::MayRunAgain).await?)?;
    }
    sleep(SHORT + SURELY).await;
    for (claim, expected) in [(&soon, 1), (&late, 2)] {
        let next = b.acquire("a claim after the wait", &rival(claim)).await?;
        ensure!(
            next.attempt == expected,
            "expected attempt {expected} with a tombstone kept for {:?}, it was {}",
            claim.retention,
            next.attempt
        );
    }
    Ok(())
}

async fn what_is_over_is_absent(stores: Stores) -> Checked {
    let Stores { a, b, c } = stores;
    let brief = |lease| Claim {
        lease,
        retention: SHORT,
        ..request()
    };
    let (lapses, completes) = (brief(SHORT), brief(LONG));
    let lapsed = a.acquire("the first claim", &lapses).await?;
    let completed = a.acquire("the first claim of another", &completes).await?;
    let outcome = kept_for(SHORT).outcome();
    held("the completion", a.complete(&completed, &outcome).await?)?;
    sleep(SHORT + SHORT + SURELY).await;
    for owner in [lapsed, completed] {
        lost("a renewal of what is over", b.renew(&owner).await?)?;
        for how in [Release::OutcomeUnknown, Release::MayRunAgain] {
            lost(
                "a release of what is over",
                b.release(&owner.claim, how).await?,
            )?;
        }
        let answer = kept_for(LONG);
        let tenure = c.complete(&owner, &answer.outcome()).await?;
        held("a completion of what is over", tenure)?;
        let found = b.find("a claim after it", &rival(&owner.claim)).await?;
        answer.is_found("what a claim after it found", &found, &owner)?;
    }
    Ok(())
}

async fn tokens_increase_past_the_end(stores: Stores) -> Checked {
    let Stores { a, b, c } = stores;
    let claim = Claim {
        lease: SHORT,
        retention: SHORT,
        ..request()
    };
    let first = a.acquire("the first claim", &claim).await?;
    sleep(SHORT + SHORT + SURELY).await;
    let outcome = kept_for(SHORT).outcome();
    held(
        "a completion of what is over",
        b.complete(&first, &outcome).await?,
    )?;
    let second = c
        .acquire_in_time("a claim after it", &rival(&claim))
        .await?;
    ensure!(
        first.token < second.token,
        "expected a token above {}, it was {}",
        first.token,
        second.token
    );
    Ok(())
}

async fn the_clocks_of_callers_do_not_count(stores: Stores) -> Checked {
    let Stores { a, b, c } = stores;
    let now = SystemTime::now();
    for (completed_at, retention) in [
        (now - YEARS, LONG),
        (now + YEARS, LONG),
        (now - YEARS, SECOND),
        (now + YEARS, SECOND),
    ] {
        let answer = answer_with(|kept| {
            kept.began_at = completed_at - SECOND;
            kept.completed_at = completed_at;
            kept.retention = retention;
        });
        let claim = request();
        let owner = a.acquire("the first claim", &claim).await?;
        let sent = Instant::now();
        held(
            "the completion",
            a.complete(&owner, &answer.outcome()).await?,
        )?;
        if retention == LONG {
            let found = b.find("a later claim", &rival(&claim)).await?;
            answer.is_found("what a later claim found", &found, &owner)?;
        } else {
            c.acquire_from_on(&rival(&claim), sent + retention).await?;
        }
    }
    Ok(())
}
