//! Renewing leases.

use tokio::time::{Instant, sleep};

use crate::store::{Claim, Claimed, Lease, Ownership, Release};

use crate::conformance::answer::answer;
use crate::conformance::expect::{Checked, ensure, held, in_flight, lost};
use crate::conformance::stage::{LONG, SECOND, SHORT, SLACK, Stores, request, rival};
use crate::conformance::{Rule, rule};

pub(crate) fn rules() -> Vec<Rule> {
    vec![
        rule(
            "a-renewal-puts-the-end-ahead",
            "After a renewal no claim acquires for the length of a lease.",
            a_renewal_puts_the_end_ahead,
        ),
        rule(
            "a-late-renewal-counts",
            "A renewal after the lapse of a lease that nobody took over is `Held`, and the lease lives again.",
            a_late_renewal_counts,
        ),
        rule(
            "a-stale-renewal-is-lost",
            "A renewal by an owner that was taken over is `Lost`, and does not put off the end of the new lease.",
            a_stale_renewal_is_lost,
        ),
        rule(
            "a-renewal-makes-no-record",
            "A renewal where there is no record is `Lost` and makes none.",
            a_renewal_makes_no_record,
        ),
        rule(
            "renewing-what-is-completed-is-held",
            "A renewal by the nonce that completed is `Held` and changes nothing.",
            renewing_what_is_completed_is_held,
        ),
        rule(
            "what-is-released-is-not-renewed",
            "A renewal by the nonce that released is `Lost` and brings nothing back.",
            what_is_released_is_not_renewed,
        ),
    ]
}

async fn a_renewal_puts_the_end_ahead(stores: Stores) -> Checked {
    let claim = Claim {
        lease: SECOND,
        // Each renewal also postpones the end of the record.
        retention: SECOND / 2,
        ..request()
    };
    let mut sent = Instant::now();
    let owner = stores.a.acquire("the first claim", &claim).await?;
    let next = Claim {
        lease: LONG,
        ..rival(&claim)
    };
    for _ in 0..5 {
        sleep(SECOND / 2).await;
        let before = sent;
        sent = Instant::now();
        let renewed = stores.b.renew(&owner).await?;
        if Instant::now() < before + SECOND {
            held("a renewal", renewed)?;
        } else if renewed == Ownership::Lost {
            // On a slow machine the record may have expired.
            return Ok(());
        }
        if renewed == Ownership::Lost {
            // On a slow machine the store may have removed the record.
            return Ok(());
        }
        if let Claimed::Acquired(_) = stores.c.claim(&next).await? {
            let early = (sent + SECOND).saturating_duration_since(Instant::now());
            ensure!(
                early <= SLACK,
                "expected no takeover after a renewal, it came {early:?} early"
            );
            // On a slow machine the lease may have lapsed.
            return Ok(());
        }
    }
    stores.c.acquire_from_on(&next, sent + SECOND).await?;
    Ok(())
}

async fn a_late_renewal_counts(stores: Stores) -> Checked {
    let Stores { a, b, c } = stores;
    let owner = a.lapsed(&request()).await?;
    held("a renewal after the lapse", b.renew(&owner).await?)?;
    let found = c.find("a claim after it", &rival(&owner.claim)).await?;
    in_flight("what a claim after it found", &found, &owner)
}

async fn a_stale_renewal_is_lost(stores: Stores) -> Checked {
    let Stores { a, b, c } = stores;
    // A long lease: if the call renewed anything, the rule would see it.
    let stale = a.lapsed(&request()).await?;
    let second = Claim {
        lease: SHORT,
        ..rival(&stale.claim)
    };
    let sent = Instant::now();
    b.acquire("a claim after the lapse", &second).await?;
    lost("a stale renewal", a.renew(&stale).await?)?;
    let owner = c
        .acquire_from_on(&rival(&stale.claim), sent + SHORT)
        .await?;
    lost("a stale renewal", a.renew(&stale).await?)?;
    let found = b.find("another claim", &rival(&stale.claim)).await?;
    in_flight("what another claim found", &found, &owner)
}

async fn a_renewal_makes_no_record(stores: Stores) -> Checked {
    let Stores { a, b, .. } = stores;
    let claim = request();
    let token = a.acquire("a claim elsewhere", &request()).await?.token;
    lost(
        "a renewal of nothing",
        a.renew(&Lease::new(&claim, token, 1)).await?,
    )?;
    let first = b.acquire("the first claim", &rival(&claim)).await?;
    ensure!(
        first.attempt == 1,
        "expected attempt 1, it was {}",
        first.attempt
    );
    Ok(())
}

async fn renewing_what_is_completed_is_held(stores: Stores) -> Checked {
    let Stores { a, b, c } = stores;
    let claim = request();
    let owner = a.acquire("the first claim", &claim).await?;
    let answer = answer();
    a.complete(&owner, &answer.outcome()).await?;
    for store in [&a, &b] {
        held("a renewal after the completion", store.renew(&owner).await?)?;
        let found = c.find("a claim after it", &rival(&claim)).await?;
        answer.is_found("what a claim after it found", &found, &owner)?;
    }
    Ok(())
}

async fn what_is_released_is_not_renewed(stores: Stores) -> Checked {
    let Stores { a, b, c } = stores;
    for how in [Release::MayRunAgain, Release::OutcomeUnknown] {
        let claim = request();
        let owner = a.acquire("the first claim", &claim).await?;
        held("the release", a.release(&claim, how).await?)?;
        for store in [&a, &b] {
            lost("a renewal of what was released", store.renew(&owner).await?)?;
        }
        let next = c.acquire("a claim after it", &rival(&claim)).await?;
        ensure!(
            next.attempt == 2,
            "expected attempt 2, it was {}",
            next.attempt
        );
        lost("a renewal of what another has", b.renew(&owner).await?)?;
    }
    Ok(())
}
