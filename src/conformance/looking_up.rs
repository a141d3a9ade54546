//! Looking up records.

use tokio::time::{Instant, sleep};

use crate::store::{Claim, OnLapsedLease, Outcome, RecordState, Release};

use crate::conformance::answer::answer;
use crate::conformance::expect::{Checked, broken, ensure, held, in_flight, lapsed, sealed, state};
use crate::conformance::stage::{LONG, SHORT, SURELY, Stores, request, rival};
use crate::conformance::{Rule, rule};

pub(crate) fn rules() -> Vec<Rule> {
    vec![
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
        a.release(&claim, Release::OutcomeUnknown).await?,
    )?;
    lapsed("an unknown outcome", &there().await?, &owner)?;
    held("a release", a.release(&claim, Release::MayRunAgain).await?)?;
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
    let outcome = Outcome::Sealed { retention: LONG };
    held("sealing", a.complete(&owner, &outcome).await?)?;
    match b.look_up(&claim.id).await? {
        Some(record) => sealed("a sealed record", &record, &owner)?,
        None => broken!("expected a look-up to find the sealed record, it found nothing"),
    }

    let claim = request();
    let owner = a.acquire("the first claim of a third", &claim).await?;
    let outcome = Outcome::Sealed { retention: SHORT };
    held("sealing", a.complete(&owner, &outcome).await?)?;
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
