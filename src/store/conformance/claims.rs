//! Who gets a record, and what everybody else is told.

use crate::policy::OnMismatch;
use crate::record::{FencingToken, RecordId};
use crate::store::{Claim, Claimed, Lease, RecordState, Release, Tenure};

use super::expect::{Checked, broken, ensure, in_flight, lapsed, state, told};
use super::stage::{Stores, at_once, other_request, random, request, rival};
use super::{Rule, rule};

/// How often a race is run, and by how many.
const ROUNDS: usize = 6;
const RIVALS: usize = 12;

pub(super) fn rules() -> Vec<Rule> {
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
            "What a claim finds, in flight, lapsed or completed, has the fingerprint of the request \
             that made it, whatever the claim asks.",
            a_record_tells_its_request_from_others,
        ),
        rule(
            "a-lapsed-lease-is-kept-from-other-requests",
            "A claim of another fingerprint takes over a lapsed lease only under \
             `OnMismatch::Replay`, and then the record has its fingerprint.",
            a_lapsed_lease_is_kept_from_other_requests,
        ),
        rule(
            "tokens-increase",
            "Each acquisition has a token above all before, over releases and takeovers and on \
             whatever handle.",
            tokens_increase,
        ),
        rule(
            "tokens-keep-every-digit",
            "A token up to 2^53 - 1 is found as it was given, to the last digit.",
            tokens_keep_every_digit,
        ),
        rule(
            "attempts-are-counted",
            "The first acquisition is attempt 1, and each one after a release or a takeover is one more.",
            attempts_are_counted,
        ),
        rule(
            "ids-that-differ-in-one-bit-differ",
            "Ids that differ in a single bit are different records.",
            ids_that_differ_in_one_bit_differ,
        ),
        rule(
            "an-id-is-any-32-bytes",
            "An id can have any bytes: zeros, quotes, line ends and what is no text at all.",
            an_id_is_any_32_bytes,
        ),
        rule(
            "records-do-not-mix",
            "What is done to one record changes no other, and a nonce owns only the record that it \
             acquired.",
            records_do_not_mix,
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
            full @ Claimed::OverCapacity => {
                broken!("expected a lease or a record, got {}", told(&full))
            }
        }
    }
    let Some(winner) = winner else {
        broken!("expected one of {RIVALS} claims at once to acquire, none did");
    };
    for found in losers {
        // Who finds a record that is just being taken over may be told of it
        // as it was.
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
        stores.b.release(&owner.claim, Release::Tombstone).await?;
        owner = race(&stores, &claim).await?;
    }
    Ok(())
}

async fn one_claim_wins_a_lapsed_lease(stores: Stores) -> Checked {
    let claim = request();
    let mut owner = stores.a.acquire("the first claim", &claim).await?;
    for _ in 0..ROUNDS {
        // Lapses it without a wait.
        stores.b.release(&owner.claim, Release::Unknown).await?;
        owner = race(&stores, &claim).await?;
    }
    let owner = stores.a.lapsed(&request()).await?;
    race(&stores, &owner.claim).await?;
    Ok(())
}

async fn a_claim_sent_often_is_one_claim(stores: Stores) -> Checked {
    for _ in 0..ROUNDS {
        let claim = request();
        let claims = stores
            .in_turn()
            .take(RIVALS)
            .map(|store| async move { store.acquire("the same claim, sent again", &claim).await });
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
    let by_hand = Claim {
        by_hand: true,
        ..rival(&claim)
    };
    let found = stores.b.find("a claim by hand", &by_hand).await?;
    in_flight("what a claim by hand found", &found, &owner)
}

async fn a_record_tells_its_request_from_others(stores: Stores) -> Checked {
    let Stores { a, b, .. } = stores;
    let claim = request();
    let owner = a.acquire("the first claim", &claim).await?;
    for on_mismatch in [OnMismatch::Reject, OnMismatch::Replay] {
        let other = Claim {
            on_mismatch,
            ..other_request(&claim)
        };
        let found = b.find("another request, while in flight,", &other).await?;
        in_flight("what another request found", &found, &owner)?;
    }
    let answer = super::completing::answer();
    let tenure = a.complete(&owner, &answer.outcome()).await?;
    ensure!(tenure == Tenure::Held, "expected the completion to be Held");
    for on_mismatch in [OnMismatch::Reject, OnMismatch::Replay] {
        let other = Claim {
            on_mismatch,
            ..other_request(&claim)
        };
        let found = b.find("another request, when completed,", &other).await?;
        answer.is_found("what another request found", &found, &owner)?;
    }
    Ok(())
}

async fn a_lapsed_lease_is_kept_from_other_requests(stores: Stores) -> Checked {
    let Stores { a, b, c } = stores;
    let claim = request();
    let owner = a.acquire("the first claim", &claim).await?;
    a.release(&claim, Release::Unknown).await?;
    let rejecting = other_request(&claim);
    let found = b.find("another request", &rejecting).await?;
    lapsed("what another request found", &found, &owner)?;
    let by_hand = Claim {
        by_hand: true,
        ..other_request(&claim)
    };
    let found = b.find("another request by hand", &by_hand).await?;
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

async fn tokens_increase(stores: Stores) -> Checked {
    let claim = request();
    let mut last: Option<FencingToken> = None;
    for (turn, store) in stores.in_turn().take(12).enumerate() {
        let owner = store.acquire("a claim", &rival(&claim)).await?;
        if let Some(last) = last {
            ensure!(
                last < owner.token,
                "expected a token above {last}, it was {}",
                owner.token
            );
        }
        last = Some(owner.token);
        let how = [Release::Tombstone, Release::Unknown][turn % 2];
        store.release(&owner.claim, how).await?;
    }
    Ok(())
}

async fn tokens_keep_every_digit(stores: Stores) -> Checked {
    let Stores { a, b, .. } = stores;
    for below in 1..=3 {
        let claim = request();
        let token = FencingToken::new(FencingToken::LIMIT - below).expect("below the limit");
        let owner = Lease::new(&claim, token, 1);
        let answer = super::completing::answer();
        // There is no record: the finished answer is stored all the same.
        a.complete(&owner, &answer.outcome()).await?;
        let found = b.find("a claim after a completion", &rival(&claim)).await?;
        answer.is_found("what it found", &found, &owner)?;
    }
    Ok(())
}

async fn attempts_are_counted(stores: Stores) -> Checked {
    let claim = request();
    for (attempt, store) in (1..=6).zip(stores.in_turn()) {
        let owner = store.acquire("a claim", &rival(&claim)).await?;
        ensure!(
            owner.attempt == attempt,
            "expected attempt {attempt}, it was {}",
            owner.attempt
        );
        let how = if attempt % 2 == 0 {
            Release::Tombstone
        } else {
            Release::Unknown
        };
        store.release(&owner.claim, how).await?;
    }
    Ok(())
}

async fn ids_that_differ_in_one_bit_differ(stores: Stores) -> Checked {
    let claim = request();
    stores.a.acquire("the first claim", &claim).await?;
    for byte in 0..32 {
        let mut id = *claim.id.as_bytes();
        id[byte] ^= 1 << (byte % 8);
        let other = Claim {
            id: RecordId::from_bytes(id),
            ..rival(&claim)
        };
        let what = format!("the claim of an id that differs in a bit of byte {byte}");
        stores.b.acquire(&what, &other).await?;
    }
    Ok(())
}

async fn an_id_is_any_32_bytes(stores: Stores) -> Checked {
    let Stores { a, b, .. } = stores;
    for bytes in [
        *b"\0\0\0\0\0\0\0\0",
        *b"'\"`;--\\%",
        *b"\r\n\t {}*?",
        [0xff; 8],
        *b"\xc3\x28\xa0\xa1\x80\xfe\xf0\x90",
    ] {
        for at in [0, 24] {
            let mut id = random();
            id[at..at + 8].copy_from_slice(&bytes);
            let claim = Claim {
                id: RecordId::from_bytes(id),
                ..request()
            };
            let owner = a.acquire("the first claim", &claim).await?;
            let found = b.find("another claim", &rival(&claim)).await?;
            in_flight("what another claim found", &found, &owner)?;
        }
    }
    Ok(())
}

async fn records_do_not_mix(stores: Stores) -> Checked {
    let Stores { a, b, c } = stores;
    let (one, two, three) = (request(), request(), request());
    let first = a.acquire("the claim of one record", &one).await?;
    let second = b.acquire("the claim of another", &two).await?;
    let third = c.acquire("the claim of a third", &three).await?;
    // The owner of one is nobody to the other.
    let stranger = Claim {
        nonce: one.nonce,
        ..two
    };
    let tenure = a.release(&stranger, Release::Tombstone).await?;
    ensure!(
        tenure == Tenure::Lost,
        "expected a release by the nonce of another record to be Lost"
    );
    let tenure = a.renew(&Lease::new(&stranger, first.token, 1)).await?;
    ensure!(
        tenure == Tenure::Lost,
        "expected a renewal by the nonce of another record to be Lost"
    );
    let answer = super::completing::answer();
    a.complete(&first, &answer.outcome()).await?;
    b.release(&three, Release::Tombstone).await?;
    let found = c
        .find("a claim of the completed record", &rival(&one))
        .await?;
    answer.is_found("the completed record", &found, &first)?;
    let found = c
        .find("a claim of the record in flight", &rival(&two))
        .await?;
    in_flight("the record in flight", &found, &second)?;
    let again = c
        .acquire("a claim of the released record", &rival(&three))
        .await?;
    ensure!(
        again.attempt == 2 && again.token > third.token,
        "expected attempt 2 of the released record, it was {}",
        again.attempt
    );
    Ok(())
}
