//! Removing records by hand.

use tokio::time::sleep;

use crate::store::{
    Claim, ForgetMode, Forgotten, Lease, OnLapsedLease, Outcome, RecordVersion, Release,
};

use crate::conformance::answer::answer;
use crate::conformance::completing::give_turns;
use crate::conformance::expect::{Checked, ensure, held, in_flight, lost, state};
use crate::conformance::stage::{Handle, LONG, SHORT, SURELY, Stores, both, request, rival};
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
            "forgetting-spares-what-has-moved-on",
            "Forgetting one version of a record answers `Moved` and changes nothing, forced or not, \
             once another claim has acquired the record or its late owner has completed it.",
            forgetting_spares_what_has_moved_on,
        ),
        rule(
            "a-forgetting-or-a-takeover",
            "Of a takeover and the forgetting of the version before it at once, the forgetting \
             never removes the record that the takeover has acquired.",
            a_forgetting_or_a_takeover,
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

/// Both modes for this version of a record.
fn unchanged(version: RecordVersion) -> [ForgetMode; 2] {
    [
        ForgetMode::Unchanged(version),
        ForgetMode::ForcedUnchanged(version),
    ]
}

async fn forgetting_spares_what_has_moved_on(stores: Stores) -> Checked {
    let Stores { a, b, c } = stores;
    let version_of = |lease: &Lease, done| RecordVersion {
        token: lease.token,
        attempt: lease.attempt,
        done,
    };
    let (claim, outcome) = (request(), answer().outcome());
    let first = a.acquire("the first claim", &claim).await?;
    a.release(&claim, Release::OutcomeUnknown).await?;
    let second = b.acquire("a takeover", &rival(&claim)).await?;
    for mode in unchanged(version_of(&first, false)) {
        let came = c.forget(&claim.id, mode).await?;
        forgotten("an attempt that was taken over", Forgotten::Moved, came)?;
    }
    held("the new owner's renewal", b.renew(&second).await?)?;
    let seen = version_of(&second, false);
    let came = c.forget(&claim.id, ForgetMode::Unchanged(seen)).await?;
    forgotten("a live record as it is", Forgotten::InFlight, came)?;

    b.release(&second.claim, Release::OutcomeUnknown).await?;
    held("a late completion", b.complete(&second, &outcome).await?)?;
    for mode in unchanged(seen) {
        let came = c.forget(&claim.id, mode).await?;
        forgotten("what was completed meanwhile", Forgotten::Moved, came)?;
    }
    answer_stays(&c, &claim, &second).await?;
    let done = version_of(&second, true);
    let other = RecordVersion {
        attempt: done.attempt + 1,
        ..done
    };
    let came = a.forget(&claim.id, ForgetMode::Unchanged(other)).await?;
    forgotten("another attempt", Forgotten::Moved, came)?;
    let came = a.forget(&claim.id, ForgetMode::Unchanged(done)).await?;
    forgotten("a completion as it is", Forgotten::Gone, came)?;
    for mode in unchanged(done) {
        let came = b.forget(&claim.id, mode).await?;
        forgotten("it again", Forgotten::Absent, came)?;
    }

    let forced = a.acquire("another first claim", &claim).await?;
    let mode = ForgetMode::ForcedUnchanged(version_of(&forced, false));
    let came = b.forget(&claim.id, mode).await?;
    forgotten("a live record as it is, by force", Forgotten::Gone, came)
}

async fn answer_stays(store: &Handle, claim: &Claim, owner: &Lease) -> Checked {
    let found = store.find("another claim", &rival(claim)).await?;
    ensure!(
        found.token == owner.token && found.version().done,
        "expected the completion to stay, it was {}",
        state(&found.state)
    );
    Ok(())
}

async fn a_forgetting_or_a_takeover(stores: Stores) -> Checked {
    for turn in 0..16 {
        let Stores { a, b, c } = stores.clone();
        let claim = request();
        let first = a.acquire("the first claim", &claim).await?;
        a.release(&claim, Release::OutcomeUnknown).await?;
        let seen = RecordVersion {
            token: first.token,
            attempt: first.attempt,
            done: false,
        };
        let (taking, id) = (rival(&claim), claim.id);
        // The pauses put the two calls into different orders.
        let (early, late) = (turn % 4, turn / 4);
        let forgetting = async move {
            give_turns(early).await;
            a.forget(&id, ForgetMode::ForcedUnchanged(seen)).await
        };
        let taking_over = async move {
            give_turns(late).await;
            b.acquire_in_time("the takeover", &taking).await
        };
        let (came, owner) = both(forgetting, taking_over).await?;
        let expected = match owner.attempt {
            1 => Forgotten::Gone,
            _ => Forgotten::Moved,
        };
        forgotten("the version before a takeover", expected, came)?;
        held("the new owner's renewal", c.renew(&owner).await?)?;
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
