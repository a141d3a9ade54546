//! Looking at records by hand, and removing them.

use tokio::time::{Instant, sleep};

use crate::store::{Claim, Forgotten, OnLapsedLease, Outcome, RecordState, Release};

use super::completing::answer;
use super::expect::{Checked, broken, ensure, held, in_flight, lapsed, lost, sealed, state};
use super::stage::{LONG, SHORT, SURELY, Stores, request, rival};
use super::{Rule, rule};

pub(super) fn rules() -> Vec<Rule> {
    vec![
        rule(
            "forgetting-spares-who-runs",
            "Forgetting a live record in flight answers InFlight and changes nothing, unless forced.",
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
            "Forgetting where there is no record, or one that is over, answers Absent.",
            forgetting_nothing_is_absent,
        ),
        rule(
            "a-look-up-says-what-is-there",
            "A look-up finds a record in each of its states, and nothing where there is none.",
            a_look_up_says_what_is_there,
        ),
        rule(
            "a-look-up-changes-nothing",
            "However often a record is looked up, it lapses and ends as it would have.",
            a_look_up_changes_nothing,
        ),
    ]
}

async fn forgotten(what: &str, expected: Forgotten, came: Forgotten) -> Checked {
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
    let came = b.forget(&claim.id, false).await?;
    forgotten("a live record", Forgotten::InFlight, came).await?;
    let found = c.find("another claim", &rival(&claim)).await?;
    in_flight("what another claim found", &found, &owner)?;
    held("the owner's renewal", a.renew(&owner).await?)
}

async fn forgetting_by_force_fences_the_owner(stores: Stores) -> Checked {
    let Stores { a, b, c } = stores;
    let claim = request();
    let stale = a.acquire("the first claim", &claim).await?;
    let came = b.forget(&claim.id, true).await?;
    forgotten("a live record by force", Forgotten::Gone, came).await?;
    lost("its former owner's renewal", a.renew(&stale).await?)?;
    lost(
        "its former owner's release",
        a.release(&claim, Release::Tombstone).await?,
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
        a.release(&claim, Release::Unknown).await?,
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
        a.release(&unknown, Release::Unknown).await?,
    )?;
    let released = request();
    a.acquire("the first claim", &released).await?;
    held("a release", a.release(&released, Release::Tombstone).await?)?;
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
        forgotten(what, Forgotten::Gone, b.forget(&claim.id, false).await?).await?;
        forgotten(
            "it again",
            Forgotten::Absent,
            c.forget(&claim.id, false).await?,
        )
        .await?;
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
    for force in [false, true] {
        let came = a.forget(&claim.id, force).await?;
        forgotten("nothing", Forgotten::Absent, came).await?;
    }
    let owner = a.acquire("the first claim", &claim).await?;
    let outcome = Outcome::Sealed { retention: SHORT };
    held("sealing", a.complete(&owner, &outcome).await?)?;
    sleep(SHORT + SURELY).await;
    let came = b.forget(&claim.id, false).await?;
    forgotten("what is over", Forgotten::Absent, came).await
}

async fn a_look_up_says_what_is_there(stores: Stores) -> Checked {
    let Stores { a, b, .. } = stores;
    let claim = Claim {
        on_lapsed_lease: OnLapsedLease::Refuse,
        ..request()
    };
    let nothing = b.look_up(&claim.id).await?;
    ensure!(
        nothing.is_none(),
        "expected nothing before the first claim, found a record"
    );
    let there = async || match b.look_up(&claim.id).await? {
        Some(record) => Ok(record),
        None => broken!("expected a look-up to find the record, it found nothing"),
    };
    let owner = a.acquire("the first claim", &claim).await?;
    in_flight("a record in flight", &there().await?, &owner)?;
    held(
        "a release as unknown",
        a.release(&claim, Release::Unknown).await?,
    )?;
    lapsed("an unknown outcome", &there().await?, &owner)?;
    held("a release", a.release(&claim, Release::Tombstone).await?)?;
    let tombstone = there().await?;
    ensure!(
        matches!(tombstone.state, RecordState::Released)
            && (tombstone.token, tombstone.attempt) == (owner.token, 1),
        "expected a tombstone with token {} and attempt 1, it is {} with token {} and attempt {}",
        owner.token,
        state(&tombstone.state),
        tombstone.token,
        tombstone.attempt
    );
    let owner = a.acquire("the next claim", &rival(&claim)).await?;
    let answer = answer();
    held("a completion", a.complete(&owner, &answer.outcome()).await?)?;
    answer.is_found("a completion", &there().await?, &owner)?;

    let claim = request();
    let owner = a.acquire("the first claim of another", &claim).await?;
    let outcome = Outcome::Sealed { retention: SHORT };
    held("sealing", a.complete(&owner, &outcome).await?)?;
    let sent = Instant::now();
    match b.look_up(&claim.id).await? {
        Some(record) => sealed("a sealed record", &record, &owner)?,
        None => ensure!(
            Instant::now() >= sent + SHORT / 2,
            "expected a look-up to find the sealed record, it found nothing"
        ),
    }
    sleep(SHORT + SURELY).await;
    ensure!(
        b.look_up(&claim.id).await?.is_none(),
        "expected nothing of what is over, found a record"
    );
    let owner = a.lapsed(&request()).await?;
    match b.look_up(&owner.claim.id).await? {
        Some(record) => lapsed("a lapsed record", &record, &owner),
        None => broken!("expected a look-up to find the lapsed record, it found nothing"),
    }
}

async fn a_look_up_changes_nothing(stores: Stores) -> Checked {
    let Stores { a, b, c } = stores;
    let claim = Claim {
        lease: SHORT,
        ..request()
    };
    a.acquire("the first claim", &claim).await?;
    let looked = Instant::now();
    while looked.elapsed() < SHORT + SURELY {
        b.look_up(&claim.id).await?;
        sleep(SHORT / 4).await;
    }
    let next = c.acquire("a claim after the lapse", &rival(&claim)).await?;
    ensure!(
        next.attempt == 2,
        "expected attempt 2, it was {}",
        next.attempt
    );
    Ok(())
}
