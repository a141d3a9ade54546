//! Ending an operation with an outcome.

use tokio::task::yield_now;

use crate::record::FencingToken;
use crate::store::{Claimed, Lease, Outcome, Ownership, Release};

use crate::conformance::answer::{Answer, DAY, answer};
use crate::conformance::expect::{Checked, broken, ensure, held, in_flight, lost, sealed, told};
use crate::conformance::stage::{Stores, at_once, both, by_hand, request, rival};
use crate::conformance::{Rule, rule};

pub(crate) fn rules() -> Vec<Rule> {
    vec![
        rule(
            "a-completion-is-found",
            "After a completion every claim, also one by its own nonce, finds its answer, and \
             acquires nothing.",
            a_completion_is_found,
        ),
        rule(
            "completing-again-changes-nothing",
            "A completion by the nonce that completed is `Held`, from any handle, and the first \
             answer stays.",
            completing_again_changes_nothing,
        ),
        rule(
            "completions-at-once-keep-one-answer",
            "Of completions by one nonce at once, all are `Held`, and one of their answers is found \
             ever after.",
            completions_at_once_keep_one_answer,
        ),
        rule(
            "a-late-completion-counts",
            "A completion after the lapse of a lease that nobody took over is `Held`.",
            a_late_completion_counts,
        ),
        rule(
            "a-stale-completion-is-lost",
            "A completion by an owner that was taken over is `Lost`, while the new owner runs and \
             after it has completed.",
            a_stale_completion_is_lost,
        ),
        rule(
            "a-completion-or-a-takeover",
            "Of a late completion and a takeover at once, exactly one succeeds.",
            a_completion_or_a_takeover,
        ),
        rule(
            "a-completion-of-nothing-is-kept",
            "Where there is no record, a completion is `Held`, and makes one with the token, attempt \
             and fingerprint of its lease.",
            a_completion_of_nothing_is_kept,
        ),
        rule(
            "a-completion-yields-to-a-higher-token",
            "Over a tombstone, a completion is `Held` if the tombstone's token is not above its own, \
             else `Lost`.",
            a_completion_yields_to_a_higher_token,
        ),
        rule(
            "a-sealed-record-has-no-answer",
            "A sealed record is found sealed by every claim, and stays so.",
            a_sealed_record_has_no_answer,
        ),
    ]
}

async fn a_completion_is_found(stores: Stores) -> Checked {
    let claim = request();
    let owner = stores.a.acquire("the first claim", &claim).await?;
    let answer = answer();
    let tenure = stores.a.complete(&owner, &answer.outcome()).await?;
    held("the completion", tenure)?;
    for store in stores.in_turn().take(3) {
        let found = store.find("another claim", &rival(&claim)).await?;
        answer.is_found("what another claim found", &found, &owner)?;
        let found = store.find("a claim by its own nonce", &claim).await?;
        answer.is_found("what a claim by its own nonce found", &found, &owner)?;
        let found = store.find("a claim by hand", &by_hand(&owner)).await?;
        answer.is_found("what a claim by hand found", &found, &owner)?;
    }
    Ok(())
}

async fn completing_again_changes_nothing(stores: Stores) -> Checked {
    let Stores { a, b, c } = stores;
    let claim = request();
    let owner = a.acquire("the first claim", &claim).await?;
    let first = answer();
    held(
        "the completion",
        a.complete(&owner, &first.outcome()).await?,
    )?;
    for store in [&a, &b] {
        let again = store.complete(&owner, &first.outcome()).await?;
        held("the completion, sent again,", again)?;
        let again = store.complete(&owner, &answer().outcome()).await?;
        held("another completion by the same nonce", again)?;
        let sealing = Outcome::Sealed { retention: DAY };
        held(
            "sealing by the same nonce",
            store.complete(&owner, &sealing).await?,
        )?;
        let found = c.find("a claim after all that", &rival(&claim)).await?;
        first.is_found("what a claim after all that found", &found, &owner)?;
    }
    Ok(())
}

async fn completions_at_once_keep_one_answer(stores: Stores) -> Checked {
    let claim = request();
    let owner = stores.a.acquire("the first claim", &claim).await?;
    let answers: Vec<Answer> = std::iter::repeat_with(answer).take(9).collect();
    let completions = stores.in_turn().zip(&answers).map(|(store, answer)| {
        let (owner, outcome) = (owner.clone(), answer.outcome());
        async move { store.complete(&owner, &outcome).await }
    });
    for tenure in at_once(completions).await? {
        held("each of the completions at once", tenure)?;
    }
    let mut first = None;
    for store in stores.in_turn().take(3) {
        let found = store.find("a claim", &rival(&claim)).await?;
        let kept = answers
            .iter()
            .position(|answer| answer.is_found("", &found, &owner).is_ok());
        let Some(kept) = kept else {
            broken!(
                "expected one of the answers, found {}",
                told(&Claimed::Found(found))
            );
        };
        ensure!(
            *first.get_or_insert(kept) == kept,
            "expected every claim to find the same answer, they found two"
        );
    }
    Ok(())
}

async fn a_late_completion_counts(stores: Stores) -> Checked {
    let Stores { a, b, c } = stores;
    let owner = a.lapsed(&request()).await?;
    let answer = answer();
    held(
        "a completion after the lapse",
        b.complete(&owner, &answer.outcome()).await?,
    )?;
    let found = c.find("a later claim", &rival(&owner.claim)).await?;
    answer.is_found("what a later claim found", &found, &owner)
}

async fn a_stale_completion_is_lost(stores: Stores) -> Checked {
    let Stores { a, b, c } = stores;
    let stale = a.lapsed(&request()).await?;
    let claim = rival(&stale.claim);
    let owner = b.acquire("a claim after the lapse", &claim).await?;
    for outcome in [answer().outcome(), Outcome::Sealed { retention: DAY }] {
        lost("a stale completion", a.complete(&stale, &outcome).await?)?;
        let found = c.find("another claim", &rival(&claim)).await?;
        in_flight("the record after a stale completion", &found, &owner)?;
    }
    let late = answer().outcome();
    let answer = answer();
    let tenure = b.complete(&owner, &answer.outcome()).await?;
    held("the new owner's completion", tenure)?;
    lost(
        "a stale completion of what is completed",
        a.complete(&stale, &late).await?,
    )?;
    let found = c.find("another claim", &rival(&claim)).await?;
    answer.is_found("the record after a stale completion", &found, &owner)
}

async fn a_completion_or_a_takeover(stores: Stores) -> Checked {
    for turn in 0..16 {
        let Stores { a, b, c } = stores.clone();
        let claim = request();
        let owner = a.acquire("the first claim", &claim).await?;
        // The record has lapsed, and its nonce may still complete it.
        a.release(&claim, Release::OutcomeUnknown).await?;
        let answer = answer();
        let taking = rival(&claim);
        // The pauses put the two calls into different orders.
        let (early, late) = (turn % 4, turn / 4);
        let completing = {
            let (owner, outcome) = (owner.clone(), answer.outcome());
            async move {
                give_turns(early).await;
                a.complete(&owner, &outcome).await
            }
        };
        let taking_over = async move {
            give_turns(late).await;
            b.claim(&taking).await
        };
        let (completed, taken) = both(completing, taking_over).await?;
        match (completed, taken) {
            // The claim may have found the record while it was still in flight.
            (Ownership::Held, Claimed::Found(_)) => {
                let found = c.find("a third claim", &rival(&claim)).await?;
                answer.is_found("what a third claim found", &found, &owner)?;
            }
            (Ownership::Lost, Claimed::Acquired(new)) => {
                let found = c.find("a third claim", &rival(&claim)).await?;
                in_flight("what a third claim found", &found, &new)?;
            }
            (tenure, claimed) => broken!(
                "expected either the completion or the takeover to succeed, \
                 the completion was {tenure:?} and the claim got {}",
                told(&claimed)
            ),
        }
    }
    Ok(())
}

pub(crate) async fn give_turns(turns: usize) {
    for _ in 0..turns {
        yield_now().await;
    }
}

async fn a_completion_of_nothing_is_kept(stores: Stores) -> Checked {
    let Stores { a, b, .. } = stores;
    let kept = answer();
    let sealing = Outcome::Sealed { retention: DAY };
    for (attempt, outcome) in [(3, kept.outcome()), (1, sealing)] {
        let claim = request();
        // The token of a new record is as large as any token that the store has made.
        let token = a.acquire("a claim elsewhere", &request()).await?.token;
        let owner = Lease::new(&claim, token, attempt);
        held(
            "a completion of nothing",
            a.complete(&owner, &outcome).await?,
        )?;
        let found = b.find("a later claim", &rival(&claim)).await?;
        match outcome {
            Outcome::Completed(_) => kept.is_found("what it found", &found, &owner)?,
            Outcome::Sealed { .. } => sealed("what it found", &found, &owner)?,
        }
        held(
            "the completion, sent again,",
            b.complete(&owner, &outcome).await?,
        )?;
    }
    Ok(())
}

async fn a_completion_yields_to_a_higher_token(stores: Stores) -> Checked {
    let Stores { a, b, c } = stores;
    let beside = |token: FencingToken, by: i64| {
        FencingToken::new(token.get().saturating_add_signed(by)).expect("tokens are far from ends")
    };
    for (by, stranger) in [(0, false), (0, true), (1, true), (-1, true)] {
        let claim = request();
        let mut owner = a.acquire("the first claim", &claim).await?;
        held(
            "the release",
            a.release(&claim, Release::MayRunAgain).await?,
        )?;
        if stranger {
            owner.claim = rival(&claim);
        }
        owner.token = beside(owner.token, by);
        let answer = answer();
        let tenure = b.complete(&owner, &answer.outcome()).await?;
        if by < 0 {
            lost("a completion over a tombstone with a higher token", tenure)?;
            let next = c.acquire("a claim after it", &rival(&claim)).await?;
            ensure!(
                next.attempt == 2,
                "expected the tombstone to stay and attempt 2, it was {}",
                next.attempt
            );
        } else {
            held("a completion over a tombstone with no higher token", tenure)?;
            let found = c.find("a claim after it", &rival(&claim)).await?;
            answer.is_found("what a claim after it found", &found, &owner)?;
        }
    }
    Ok(())
}

async fn a_sealed_record_has_no_answer(stores: Stores) -> Checked {
    let claim = request();
    let owner = stores.a.acquire("the first claim", &claim).await?;
    let outcome = Outcome::Sealed { retention: DAY };
    held("sealing", stores.a.complete(&owner, &outcome).await?)?;
    for store in stores.in_turn().take(3) {
        let found = store.find("a claim", &rival(&claim)).await?;
        sealed("what a claim found", &found, &owner)?;
        let late = store.complete(&owner, &answer().outcome()).await?;
        held("a completion of what the nonce has sealed", late)?;
        lost(
            "releasing it",
            store.release(&claim, Release::MayRunAgain).await?,
        )?;
    }
    Ok(())
}
