//! Removing records by hand.

use tokio::time::sleep;

use crate::store::{Claim, ForgetMode, Forgotten, OnLapsedLease, Outcome, Release};

use crate::conformance::answer::answer;
use crate::conformance::expect::{Checked, ensure, held, in_flight, lost};
use crate::conformance::stage::{LONG, SHORT, SURELY, Stores, request, rival};
use crate::conformance::{Rule, rule};

pub(crate) fn rules() -> Vec<Rule> {
    vec![
        rule(
            "forgetting-spares-who-runs",
            "Forgetting a live record in flight answers `InFlight` and changes nothing, unless forced.",
            forgetting_spares_who_runs,
        ),
        rule(
            "forgetting-by-force-fences-the-owner",
            "After a live record was forgotten by force the next claim is attempt 1 with a higher \
             token, and its former owner can neither renew, complete nor release it.",
            forgetting_by_force_fences_the_owner,
        ),
        rule(
            "forgetting-removes-what-is-not-alive",
            "Lapsed and unknown records, completions, sealed records and tombstones are forgotten \
             without force, and the next claim is attempt 1.",
            forgetting_removes_what_is_not_alive,
        ),
        rule(
            "forgetting-nothing-is-absent",
            "Forgetting where there is no record, or one that is over, answers `Absent`.",
            forgetting_nothing_is_absent,
        ),
    ]
}

fn forgotten(what: &str, expected: Forgotten, came: Forgotten) -> Checked {
    ensure!(
        came == expected,
        "expected forgetting {what} to answer {expected:?}, it was {came:?}"
    );
    Ok(())
}

async fn forgetting_spares_who_runs(stores: Stores) -> Checked {
    let Stores { a, b, c } = stores;
    let claim = request();
    let owner = a.acquire("the first claim", &claim).await?;
    let came = b.forget(&claim.id, ForgetMode::UnlessAlive).await?;
    forgotten("a live record", Forgotten::InFlight, came)?;
    let found = c.find("another claim", &rival(&claim)).await?;
    in_flight("what another claim found", &found, &owner)?;
    held("the owner's renewal", a.renew(&owner).await?)
}

async fn forgetting_by_force_fences_the_owner(stores: Stores) -> Checked {
    let Stores { a, b, c } = stores;
    let claim = request();
    let stale = a.acquire("the first claim", &claim).await?;
    let came = b.forget(&claim.id, ForgetMode::Forced).await?;
    forgotten("a live record by force", Forgotten::Gone, came)?;
    lost("its former owner's renewal", a.renew(&stale).await?)?;
    lost(
        "its former owner's release",
        a.release(&claim, Release::MayRunAgain).await?,
    )?;
    let owner = c.acquire("the next claim", &rival(&claim)).await?;
    ensure!(
        owner.attempt == 1 && stale.token < owner.token,
        "expected attempt 1 and a token above {}, they were {} and {}",
        stale.token,
        owner.attempt,
        owner.token
    );
    lost("its former owner's renewal", a.renew(&stale).await?)?;
    lost(
        "its former owner's completion",
        a.complete(&stale, &answer().outcome()).await?,
    )?;
    lost(
        "its former owner's release",
        a.release(&claim, Release::OutcomeUnknown).await?,
    )?;
    let found = b.find("another claim", &rival(&claim)).await?;
    in_flight("what another claim found", &found, &owner)
}

async fn forgetting_removes_what_is_not_alive(stores: Stores) -> Checked {
    let Stores { a, b, c } = stores;
    let refuse = || Claim {
        on_lapsed_lease: OnLapsedLease::Refuse,
        ..request()
    };
    let lapsed = a.lapsed(&refuse()).await?.claim;
    let unknown = refuse();
    a.acquire("the first claim", &unknown).await?;
    held(
        "a release as unknown",
        a.release(&unknown, Release::OutcomeUnknown).await?,
    )?;
    let released = request();
    a.acquire("the first claim", &released).await?;
    held(
        "a release",
        a.release(&released, Release::MayRunAgain).await?,
    )?;
    let completed = request();
    let owner = a.acquire("the first claim", &completed).await?;
    held(
        "a completion",
        a.complete(&owner, &answer().outcome()).await?,
    )?;
    let sealed = request();
    let owner = a.acquire("the first claim", &sealed).await?;
    let outcome = Outcome::Sealed { retention: LONG };
    held("sealing", a.complete(&owner, &outcome).await?)?;
    for (what, claim) in [
        ("a lapsed record", lapsed),
        ("an unknown outcome", unknown),
        ("a tombstone", released),
        ("a completion", completed),
        ("a sealed record", sealed),
    ] {
        forgotten(
            what,
            Forgotten::Gone,
            b.forget(&claim.id, ForgetMode::UnlessAlive).await?,
        )?;
        forgotten(
            "it again",
            Forgotten::Absent,
            c.forget(&claim.id, ForgetMode::UnlessAlive).await?,
        )?;
        let next = c
            .acquire(&format!("a claim after {what}"), &rival(&claim))
            .await?;
        ensure!(
            next.attempt == 1,
            "expected attempt 1 after {what} was forgotten, it was {}",
            next.attempt
        );
    }
    Ok(())
}

async fn forgetting_nothing_is_absent(stores: Stores) -> Checked {
    let Stores { a, b, .. } = stores;
    let claim = request();
    for mode in [ForgetMode::UnlessAlive, ForgetMode::Forced] {
        let came = a.forget(&claim.id, mode).await?;
        forgotten("nothing", Forgotten::Absent, came)?;
    }
    let owner = a.acquire("the first claim", &claim).await?;
    let outcome = Outcome::Sealed { retention: SHORT };
    held("sealing", a.complete(&owner, &outcome).await?)?;
    sleep(SHORT + SURELY).await;
    let came = b.forget(&claim.id, ForgetMode::UnlessAlive).await?;
    forgotten("what is over", Forgotten::Absent, came)
}
