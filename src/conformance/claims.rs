//! Which claim acquires a record, and what the other claims find.

use crate::store::OnMismatch;
use crate::store::{Claim, Claimed, Lease, Outcome, RecordState, Release};

use crate::conformance::answer::{DAY, answer};
use crate::conformance::expect::{
    Checked, broken, ensure, held, in_flight, lapsed, sealed, state, told,
};
use crate::conformance::stage::{Stores, at_once, by_hand, other_request, request, rival};
use crate::conformance::{Rule, rule};

/// How often a race is run. `RIVALS` claims take part in each race.
const ROUNDS: usize = 6;
const RIVALS: usize = 12;

pub(crate) fn rules() -> Vec<Rule> {
    vec![
        rule(
            "one-claim-wins",
            "Of any number of claims at once, for a record that nobody has, exactly one acquires, \
             and the others find it in flight.",
            one_claim_wins,
        ),
        rule(
            "one-claim-wins-a-tombstone",
            "Of any number of claims at once, for a record that was released, exactly one acquires.",
            one_claim_wins_a_tombstone,
        ),
        rule(
            "one-claim-wins-a-lapsed-lease",
            "Of any number of claims at once, for a record whose lease has lapsed, exactly one acquires.",
            one_claim_wins_a_lapsed_lease,
        ),
        rule(
            "a-claim-sent-often-is-one-claim",
            "Claims by the nonce that holds the record, from anywhere and at once, all give the same \
             lease: one token, one attempt.",
            a_claim_sent_often_is_one_claim,
        ),
        rule(
            "a-live-lease-is-found-in-flight",
            "While a lease lives, every other claim finds the record in flight, with the token, \
             attempt and fingerprint of its owner, and not more time than its lease has.",
            a_live_lease_is_found_in_flight,
        ),
        rule(
            "a-record-tells-its-request-from-others",
            "What a claim finds, in flight, completed or sealed, has the fingerprint of the request \
             that made it, whatever the claim asks.",
            a_record_tells_its_request_from_others,
        ),
        rule(
            "a-lapsed-lease-is-kept-from-other-requests",
            "A claim of another fingerprint finds a lapsed lease with that of its request, and takes \
             it over only under `OnMismatch::Replay`: then the record has the new one.",
            a_lapsed_lease_is_kept_from_other_requests,
        ),
    ]
}

async fn race(stores: &Stores, claim: &Claim) -> Checked<Lease> {
    let claims = stores.in_turn().take(RIVALS).map(|store| {
        let claim = rival(claim);
        async move { store.claim(&claim).await }
    });
    let mut winner: Option<Lease> = None;
    let mut losers = Vec::new();
    for claimed in at_once(claims).await? {
        match claimed {
            Claimed::Acquired(lease) => {
                if let Some(first) = winner {
                    broken!(
                        "expected one of {RIVALS} claims at once to acquire, two did: \
                         token {}, attempt {} and token {}, attempt {}",
                        first.token,
                        first.attempt,
                        lease.token,
                        lease.attempt
                    );
                }
                winner = Some(lease);
            }
            Claimed::Found(record) => losers.push(record),
            full @ (Claimed::OverCapacity | Claimed::OverShare) => {
                broken!("expected a lease or a record, got {}", told(&full))
            }
        }
    }
    let Some(winner) = winner else {
        broken!("expected one of {RIVALS} claims at once to acquire, none did");
    };
    for found in losers {
        // A claim that finds a record while another claim takes it over may
        // find it as it was before.
        ensure!(
            matches!(found.state, RecordState::InFlight { .. }),
            "expected the other claims to find the record in flight, one found it {}",
            state(&found.state)
        );
    }
    Ok(winner)
}

async fn one_claim_wins(stores: Stores) -> Checked {
    for _ in 0..ROUNDS {
        let claim = request();
        let winner = race(&stores, &claim).await?;
        let found = stores.b.find("a later claim", &rival(&claim)).await?;
        in_flight("what a later claim found", &found, &winner)?;
    }
    Ok(())
}

async fn one_claim_wins_a_tombstone(stores: Stores) -> Checked {
    let claim = request();
    let mut owner = stores.a.acquire("the first claim", &claim).await?;
    for _ in 0..ROUNDS {
        stores.b.release(&owner.claim, Release::MayRunAgain).await?;
        owner = race(&stores, &claim).await?;
    }
    Ok(())
}

async fn one_claim_wins_a_lapsed_lease(stores: Stores) -> Checked {
    let claim = request();
    let mut owner = stores.a.acquire("the first claim", &claim).await?;
    for _ in 0..ROUNDS {
        // Makes the record lapsed without waiting for the end of its lease.
        stores
            .b
            .release(&owner.claim, Release::OutcomeUnknown)
            .await?;
        owner = race(&stores, &claim).await?;
    }
    let owner = stores.a.lapsed(&request()).await?;
    race(&stores, &owner.claim).await?;
    Ok(())
}

async fn a_claim_sent_often_is_one_claim(stores: Stores) -> Checked {
    for _ in 0..ROUNDS {
        let claim = request();
        let claims = stores.in_turn().take(RIVALS).map(|store| {
            let claim = claim.clone();
            async move { store.acquire("the same claim, sent again", &claim).await }
        });
        let leases = at_once(claims).await?;
        for lease in &leases {
            ensure!(
                (lease.token, lease.attempt) == (leases[0].token, 1),
                "expected one lease with token {} and attempt 1, another has token {} and attempt {}",
                leases[0].token,
                lease.token,
                lease.attempt
            );
        }
    }
    Ok(())
}

async fn a_live_lease_is_found_in_flight(stores: Stores) -> Checked {
    let claim = request();
    let owner = stores.a.acquire("the first claim", &claim).await?;
    for store in stores.in_turn().take(3) {
        let found = store.find("another claim", &rival(&claim)).await?;
        in_flight("what another claim found", &found, &owner)?;
    }
    let found = stores.b.find("a claim by hand", &by_hand(&owner)).await?;
    in_flight("what a claim by hand found", &found, &owner)
}

async fn a_record_tells_its_request_from_others(stores: Stores) -> Checked {
    let Stores { a, b, .. } = stores;
    let (one, two) = (request(), request());
    let owner = a.acquire("the first claim", &one).await?;
    let other = a.acquire("the first claim of another", &two).await?;
    for asking in others(&one) {
        let found = b.find("another request, while in flight,", &asking).await?;
        in_flight("what another request found", &found, &owner)?;
    }
    let answer = answer();
    held(
        "the completion",
        a.complete(&owner, &answer.outcome()).await?,
    )?;
    for asking in others(&one) {
        let found = b.find("another request, when completed,", &asking).await?;
        answer.is_found("what another request found", &found, &owner)?;
    }
    let outcome = Outcome::Sealed { retention: DAY };
    held("sealing", a.complete(&other, &outcome).await?)?;
    for asking in others(&two) {
        let found = b.find("another request, when sealed,", &asking).await?;
        sealed("what another request found", &found, &other)?;
    }
    Ok(())
}

/// Claims with another fingerprint, under both values of `on_mismatch`.
fn others(claim: &Claim) -> [Claim; 2] {
    [OnMismatch::Reject, OnMismatch::Replay].map(|on_mismatch| Claim {
        on_mismatch,
        ..other_request(claim)
    })
}

async fn a_lapsed_lease_is_kept_from_other_requests(stores: Stores) -> Checked {
    let Stores { a, b, c } = stores;
    let claim = request();
    let owner = a.acquire("the first claim", &claim).await?;
    a.release(&claim, Release::OutcomeUnknown).await?;
    let rejecting = other_request(&claim);
    let found = b.find("another request", &rejecting).await?;
    lapsed("what another request found", &found, &owner)?;
    let other = Claim {
        by_hand: by_hand(&owner).by_hand,
        ..other_request(&claim)
    };
    let found = b.find("another request by hand", &other).await?;
    lapsed("what another request by hand found", &found, &owner)?;
    let replaying = Claim {
        on_mismatch: OnMismatch::Replay,
        ..other_request(&claim)
    };
    let owner = c
        .acquire("another request under Replay", &replaying)
        .await?;
    let found = a.find("the first request", &rival(&claim)).await?;
    in_flight("what the first request found", &found, &owner)
}
