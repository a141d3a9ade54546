//! How long a lapsed record stays.

use tokio::time::{Instant, sleep};

use crate::store::{Claim, OnLapsedLease, Release};

use crate::conformance::expect::{Checked, ensure, held, lapsed};
use crate::conformance::stage::{SECOND, SHORT, SURELY, Stores, by_hand, request, rival};
use crate::conformance::{Rule, rule};

pub(crate) fn rules() -> Vec<Rule> {
    vec![
        rule(
            "a-lapsed-record-is-kept-for-the-retention",
            "Under `OnLapsedLease::Rerun` a lapsed record is forgotten a retention after its lapse, \
             not before.",
            a_lapsed_record_is_kept_for_the_retention,
        ),
        rule(
            "refuse-keeps-a-lapsed-record",
            "Under `OnLapsedLease::Refuse` a record that lapsed, or whose outcome is unknown, stays \
             past its retention.",
            refuse_keeps_a_lapsed_record,
        ),
        rule(
            "unknown-is-kept-for-the-retention",
            "Under `OnLapsedLease::Rerun` a record whose outcome is unknown is forgotten a \
             retention after it was said so, not before.",
            unknown_is_kept_for_the_retention,
        ),
        rule(
            "a-takeover-brings-its-own-policy",
            "After a takeover, retention and lapse policy are those of the claim that took over.",
            a_takeover_brings_its_own_policy,
        ),
    ]
}

fn refusing(claim: &Claim) -> Claim {
    Claim {
        on_lapsed_lease: OnLapsedLease::Refuse,
        by_hand: None,
        ..rival(claim)
    }
}

async fn a_lapsed_record_is_kept_for_the_retention(stores: Stores) -> Checked {
    let Stores { a, b, .. } = stores;
    let claim = Claim {
        lease: SHORT,
        retention: SECOND,
        ..request()
    };
    let sent = Instant::now();
    a.acquire("the first claim", &claim).await?;
    let next = b
        .acquire_from_on(&refusing(&claim), sent + SHORT + SECOND)
        .await?;
    ensure!(
        next.attempt == 1,
        "expected attempt 1 once the record is forgotten, it was {}",
        next.attempt
    );
    Ok(())
}

async fn refuse_keeps_a_lapsed_record(stores: Stores) -> Checked {
    let Stores { a, b, c } = stores;
    let brief = || Claim {
        lease: SHORT,
        retention: SHORT,
        on_lapsed_lease: OnLapsedLease::Refuse,
        ..request()
    };
    let (silent, unknown, renewed) = (brief(), brief(), brief());
    let mut owners = Vec::new();
    for claim in [&silent, &unknown, &renewed] {
        owners.push(a.acquire("the first claim", claim).await?);
    }
    held(
        "a release as unknown",
        a.release(&unknown, Release::OutcomeUnknown).await?,
    )?;
    held("a renewal", b.renew(&owners[2]).await?)?;
    sleep(SHORT + SHORT + SURELY).await;
    for owner in owners {
        let found = b.find("a claim that refuses", &rival(&owner.claim)).await?;
        lapsed("what a claim that refuses found", &found, &owner)?;
        let next = c.acquire("a claim by hand", &by_hand(&owner)).await?;
        ensure!(
            next.attempt == 2,
            "expected attempt 2, it was {}",
            next.attempt
        );
    }
    Ok(())
}

async fn unknown_is_kept_for_the_retention(stores: Stores) -> Checked {
    let Stores { a, b, .. } = stores;
    let claim = Claim {
        retention: SECOND,
        ..request()
    };
    a.acquire("the first claim", &claim).await?;
    let sent = Instant::now();
    held(
        "a release as unknown",
        a.release(&claim, Release::OutcomeUnknown).await?,
    )?;
    let next = b.acquire_from_on(&refusing(&claim), sent + SECOND).await?;
    ensure!(
        next.attempt == 1,
        "expected attempt 1 once the record is forgotten, it was {}",
        next.attempt
    );
    Ok(())
}

async fn a_takeover_brings_its_own_policy(stores: Stores) -> Checked {
    let Stores { a, b, c } = stores;
    // From `Rerun` to `Refuse`, and the other way round.
    let mut takeovers = Vec::new();
    for (before, after) in [
        (OnLapsedLease::Rerun, OnLapsedLease::Refuse),
        (OnLapsedLease::Refuse, OnLapsedLease::Rerun),
    ] {
        let first = Claim {
            on_lapsed_lease: before,
            ..request()
        };
        let owner = a.acquire("the first claim", &first).await?;
        held(
            "a release as unknown",
            a.release(&first, Release::OutcomeUnknown).await?,
        )?;
        takeovers.push(Claim {
            lease: SHORT,
            retention: SHORT,
            on_lapsed_lease: after,
            ..by_hand(&owner)
        });
    }
    let [stays, goes] = &takeovers[..] else {
        unreachable!("one for each policy");
    };
    let owner = b.acquire("a takeover that refuses", stays).await?;
    let sent = Instant::now();
    b.acquire("a takeover that reruns", goes).await?;
    let next = c
        .acquire_from_on(&refusing(goes), sent + SHORT + SHORT)
        .await?;
    ensure!(
        next.attempt == 1,
        "expected attempt 1 once the record is forgotten, it was {}",
        next.attempt
    );
    sleep(SURELY).await;
    let found = c.find("a claim that refuses", &refusing(stays)).await?;
    lapsed("what a claim that refuses found", &found, &owner)
}
