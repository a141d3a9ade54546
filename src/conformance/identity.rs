//! Telling records, owners and attempts apart.

use crate::record::{FencingToken, RecordId};
use crate::store::{Claim, Lease, Ownership, Release};

use crate::conformance::answer::answer;
use crate::conformance::expect::{Checked, ensure, in_flight};
use crate::conformance::stage::{Stores, random, request, rival};
use crate::conformance::{Rule, rule};

pub(crate) fn rules() -> Vec<Rule> {
    vec![
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
        let how = [Release::MayRunAgain, Release::OutcomeUnknown][turn % 2];
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
        let answer = answer();
        // There is no record: the completion is stored all the same.
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
            Release::MayRunAgain
        } else {
            Release::OutcomeUnknown
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
    // The owner of one record does not own the other.
    let stranger = Claim {
        nonce: one.nonce,
        ..two.clone()
    };
    let tenure = a.release(&stranger, Release::MayRunAgain).await?;
    ensure!(
        tenure == Ownership::Lost,
        "expected a release by the nonce of another record to be Lost"
    );
    let tenure = a.renew(&Lease::new(&stranger, first.token, 1)).await?;
    ensure!(
        tenure == Ownership::Lost,
        "expected a renewal by the nonce of another record to be Lost"
    );
    let answer = answer();
    a.complete(&first, &answer.outcome()).await?;
    b.release(&three, Release::MayRunAgain).await?;
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
