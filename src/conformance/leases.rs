//! How long an owner keeps a record, and which claim takes it over.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::store::{Claim, OnLapsedLease, Outcome, Ownership, RecordState, Release};

use crate::conformance::answer::{answer, answer_with};
use crate::conformance::expect::{Checked, ensure, held, in_flight, lapsed, lost, state};
use crate::conformance::stage::{LONG, SECOND, SHORT, SURELY, Stores, by_hand, request, rival};
use crate::conformance::{Rule, rule};

pub(crate) fn rules() -> Vec<Rule> {
    vec![
        rule(
            "a-live-lease-is-not-taken-over",
            "No claim acquires before the lease has lapsed.",
            a_live_lease_is_not_taken_over,
        ),
        rule(
            "a-lapsed-lease-is-taken-over",
            "Once the lease has lapsed, a claim for the same acquires, as the next attempt.",
            a_lapsed_lease_is_taken_over,
        ),
        rule(
            "refuse-leaves-a-lapsed-lease",
            "A claim under `OnLapsedLease::Refuse` finds a lapsed lease as that, and takes nothing over.",
            refuse_leaves_a_lapsed_lease,
        ),
        rule(
            "by-hand-takes-over-what-refuse-leaves",
            "A claim by hand takes over a lapsed lease whatever the policy says.",
            by_hand_takes_over_what_refuse_leaves,
        ),
        rule(
            "by-hand-spares-what-has-moved-on",
            "A claim by hand finds the record as it is, and changes nothing, once its version is \
             another, also if the attempt of both is the first.",
            by_hand_spares_what_has_moved_on,
        ),
        rule(
            "by-hand-makes-no-record",
            "A claim by hand finds `Released` where there is a tombstone, no record, or one that is \
             over, and acquires nothing.",
            by_hand_makes_no_record,
        ),
        rule(
            "claiming-again-puts-the-end-ahead",
            "A claim by the nonce that holds the record, lapsed or not, gives the same lease with its whole length.",
            claiming_again_puts_the_end_ahead,
        ),
        rule(
            "a-claim-by-a-stale-owner-is-a-rival",
            "A claim by a nonce that was taken over finds the new owner's record.",
            a_claim_by_a_stale_owner_is_a_rival,
        ),
        rule(
            "lengths-can-be-extreme",
            "Leases and retentions of one nanosecond up to `Duration::MAX` are accepted.",
            lengths_can_be_extreme,
        ),
    ]
}

const SHORTEST: Duration = Duration::from_nanos(1);

fn brief() -> Claim {
    Claim {
        lease: SHORT,
        ..request()
    }
}

async fn a_live_lease_is_not_taken_over(stores: Stores) -> Checked {
    let claim = Claim {
        lease: SECOND,
        ..request()
    };
    let sent = Instant::now();
    stores.a.acquire("the first claim", &claim).await?;
    stores
        .b
        .acquire_from_on(&rival(&claim), sent + claim.lease)
        .await?;
    Ok(())
}

async fn a_lapsed_lease_is_taken_over(stores: Stores) -> Checked {
    let claim = brief();
    let sent = Instant::now();
    let first = stores.a.acquire("the first claim", &claim).await?;
    let next = Claim {
        lease: LONG,
        ..rival(&claim)
    };
    let owner = stores.b.acquire_from_on(&next, sent + SHORT).await?;
    ensure!(
        owner.attempt == 2 && first.token < owner.token,
        "expected attempt 2 and a token above {}, they were {} and {}",
        first.token,
        owner.attempt,
        owner.token
    );
    let found = stores.c.find("a third claim", &rival(&claim)).await?;
    in_flight("what a third claim found", &found, &owner)
}

async fn refuse_leaves_a_lapsed_lease(stores: Stores) -> Checked {
    for on_lapsed_lease in [OnLapsedLease::Refuse, OnLapsedLease::Rerun] {
        let owner = stores
            .a
            .lapsed(&Claim {
                on_lapsed_lease,
                ..request()
            })
            .await?;
        let refusing = Claim {
            on_lapsed_lease: OnLapsedLease::Refuse,
            ..owner.claim.clone()
        };
        for store in stores.in_turn().take(3) {
            let found = store
                .find("a claim that refuses", &rival(&refusing))
                .await?;
            lapsed("what a claim that refuses found", &found, &owner)?;
        }
    }
    Ok(())
}

async fn by_hand_takes_over_what_refuse_leaves(stores: Stores) -> Checked {
    let Stores { a, b, c } = stores;
    let claim = Claim {
        on_lapsed_lease: OnLapsedLease::Refuse,
        ..request()
    };
    let first = a.lapsed(&claim).await?;
    let taking = by_hand(&first);
    let owner = b.acquire("a claim by hand", &taking).await?;
    let again = c.acquire("a claim by hand, sent again", &taking).await?;
    ensure!(
        (again.token, again.attempt) == (owner.token, owner.attempt),
        "expected a claim by hand that is sent again to get the same lease, it got another"
    );
    ensure!(
        owner.attempt == 2 && first.token < owner.token,
        "expected attempt 2 and a token above {}, they were {} and {}",
        first.token,
        owner.attempt,
        owner.token
    );
    lost(
        "the stale owner's completion",
        a.complete(&first, &answer().outcome()).await?,
    )?;
    let found = c.find("another claim", &rival(&claim)).await?;
    in_flight("what another claim found", &found, &owner)
}

async fn by_hand_spares_what_has_moved_on(stores: Stores) -> Checked {
    let Stores { a, b, c } = stores;
    let over_soon = Claim {
        retention: SHORT,
        ..request()
    };
    let (first, other) = (request(), request());
    let mut seen = Vec::new();
    for claim in [&first, &other, &over_soon] {
        seen.push(a.acquire("the first claim", claim).await?);
        held(
            "a release as unknown",
            a.release(claim, Release::OutcomeUnknown).await?,
        )?;
    }
    sleep(SHORT + SURELY).await;
    // The next attempt of a record, and the first one of a record that was forgotten meanwhile.
    for (claim, attempt) in [(&first, 2), (&over_soon, 1)] {
        let seen = seen.iter().find(|seen| seen.claim.id == claim.id);
        let taking = by_hand(seen.expect("each was acquired"));
        let now = Claim {
            retention: LONG,
            ..rival(claim)
        };
        let owner = b.acquire("a takeover", &now).await?;
        ensure!(
            owner.attempt == attempt,
            "expected attempt {attempt}, it was {}",
            owner.attempt
        );
        let found = c.find("a claim by hand", &taking).await?;
        in_flight("what a claim by hand found", &found, &owner)?;
        held(
            "a release as unknown",
            b.release(&now, Release::OutcomeUnknown).await?,
        )?;
        let found = c.find("a claim by hand", &taking).await?;
        lapsed("what a claim by hand found", &found, &owner)?;
        c.acquire("a claim by hand as it is", &by_hand(&owner))
            .await?;
    }
    let wrong = Claim {
        by_hand: by_hand(&seen[0]).by_hand,
        ..rival(&other)
    };
    let found = c.find("a claim by hand of another token", &wrong).await?;
    lapsed("what a claim by hand found", &found, &seen[1])
}

async fn by_hand_makes_no_record(stores: Stores) -> Checked {
    let Stores { a, b, c } = stores;
    let over_soon = Claim {
        retention: SHORT,
        ..request()
    };
    let released = request();
    let mut seen = Vec::new();
    for claim in [&over_soon, &released] {
        seen.push(a.acquire("the first claim", claim).await?);
        held(
            "a release as unknown",
            a.release(claim, Release::OutcomeUnknown).await?,
        )?;
    }
    held(
        "a release",
        a.release(&released, Release::MayRunAgain).await?,
    )?;
    sleep(SHORT + SURELY).await;
    let mut absent = seen[0].clone();
    absent.claim = request();
    for (what, seen, attempt) in [
        ("nothing", &absent, 1),
        ("what is over", &seen[0], 1),
        ("a tombstone", &seen[1], 2),
    ] {
        let found = b.find("a claim by hand", &by_hand(seen)).await?;
        ensure!(
            matches!(found.state, RecordState::Released),
            "expected a claim by hand of {what} to find Released, it found {}",
            state(&found.state)
        );
        let next = c.acquire("another claim", &rival(&seen.claim)).await?;
        ensure!(
            next.attempt == attempt,
            "expected attempt {attempt} after a claim by hand of {what}, it was {}",
            next.attempt
        );
    }
    Ok(())
}

async fn claiming_again_puts_the_end_ahead(stores: Stores) -> Checked {
    let Stores { a, b, c } = stores;
    // A record in flight, and a lapsed one.
    let alive = a.acquire("the first claim", &request()).await?;
    let lapsed = a.lapsed(&request()).await?;
    for owner in [alive, lapsed] {
        let claim = Claim {
            lease: SECOND,
            ..owner.claim.clone()
        };
        let sent = Instant::now();
        let again = b.acquire("a claim by the same nonce", &claim).await?;
        ensure!(
            (again.token, again.attempt) == (owner.token, owner.attempt),
            "expected the same lease (token {}, attempt {}), it was token {} and attempt {}",
            owner.token,
            owner.attempt,
            again.token,
            again.attempt
        );
        c.acquire_from_on(&rival(&owner.claim), sent + claim.lease)
            .await?;
    }
    Ok(())
}

async fn a_claim_by_a_stale_owner_is_a_rival(stores: Stores) -> Checked {
    let Stores { a, b, .. } = stores;
    let stale = a.lapsed(&request()).await?;
    let owner = b
        .acquire("a claim after the lapse", &rival(&stale.claim))
        .await?;
    let found = a.find("the stale owner's claim", &stale.claim).await?;
    in_flight("what it found", &found, &owner)
}

async fn lengths_can_be_extreme(stores: Stores) -> Checked {
    let Stores { a, b, c } = stores;
    let endless = Claim {
        lease: Duration::MAX,
        retention: Duration::MAX,
        ..request()
    };
    let owner = a.acquire("a claim with an endless lease", &endless).await?;
    held("its renewal", a.renew(&owner).await?)?;
    a.acquire("the same claim again", &endless).await?;
    let found = b.find("another claim", &rival(&endless)).await?;
    in_flight("what another claim found", &found, &owner)?;
    let kept = answer_with(|kept| kept.retention = Duration::MAX);
    held(
        "a completion kept for good",
        a.complete(&owner, &kept.outcome()).await?,
    )?;
    let found = c.find("another claim", &rival(&endless)).await?;
    kept.is_found("what another claim found", &found, &owner)?;

    let sealed = Claim {
        retention: SHORTEST,
        ..request()
    };
    let owner = a.acquire("a claim", &sealed).await?;
    for retention in [Duration::MAX, SHORTEST] {
        let tenure = a.complete(&owner, &Outcome::Sealed { retention }).await?;
        ensure!(
            tenure == Ownership::Held,
            "expected sealing for {retention:?} to be Held"
        );
    }
    let fleeting = Claim {
        lease: SHORTEST,
        ..request()
    };
    a.acquire("a claim with a fleeting lease", &fleeting)
        .await?;
    b.acquire_in_time("a claim after it", &rival(&fleeting))
        .await?;
    let gone = Claim {
        lease: SHORTEST,
        retention: SHORTEST,
        ..request()
    };
    a.acquire("a claim that is soon forgotten", &gone).await?;
    b.acquire_in_time("a claim after it", &rival(&gone)).await?;
    let soon = Outcome::Sealed {
        retention: SHORTEST,
    };
    let claim = request();
    let owner = a.acquire("a claim", &claim).await?;
    held("sealing for a moment", a.complete(&owner, &soon).await?)?;
    b.acquire_in_time("a claim after it", &rival(&claim))
        .await?;
    Ok(())
}
