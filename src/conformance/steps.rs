//! The results of steps, and what keeps and drops them.

use tokio::time::sleep;

use crate::store::{
    Claim, ForgetMode, Forgotten, Lease, OnLapsedLease, Outcome, Ownership, RecordedStep, Release,
};

use crate::conformance::answer::{answer, answer_with};
use crate::conformance::expect::{Checked, ensure, held, in_flight, lost};
use crate::conformance::stage::{
    Handle, LONG, SHORT, SURELY, Stores, at_once, both, by_hand, other_request, request, rival,
};
use crate::conformance::{Rule, rule};

const WAYS: [Release; 2] = [Release::MayRunAgain, Release::OutcomeUnknown];

pub(crate) fn rules() -> Vec<Rule> {
    let mut rules = about_recording();
    rules.extend(about_keeping());
    rules
}

fn about_recording() -> Vec<Rule> {
    vec![
        rule(
            "a-takeover-brings-the-steps",
            "A claim that takes over a lapsed record has its steps, in the order in which they were \
             recorded; a claim of a new record has none.",
            a_takeover_brings_the_steps,
        ),
        rule(
            "a-tombstone-keeps-the-steps",
            "A claim after a release has the steps, whatever its fingerprint is.",
            a_tombstone_keeps_the_steps,
        ),
        rule(
            "an-unknown-outcome-keeps-the-steps",
            "A claim that takes over a record whose outcome is unknown, by hand or under `Rerun`, \
             has the steps.",
            an_unknown_outcome_keeps_the_steps,
        ),
        rule(
            "steps-add-up",
            "The steps of one attempt follow those of the attempts before it.",
            steps_add_up,
        ),
        rule(
            "a-claim-sent-again-has-the-steps",
            "A claim by the nonce that holds the record has the same steps again.",
            a_claim_sent_again_has_the_steps,
        ),
        rule(
            "recording-a-step-again-changes-nothing",
            "A step of a name that the record has already is `Held`, from any handle and at once, \
             and the first result stays.",
            recording_a_step_again_changes_nothing,
        ),
        rule(
            "steps-at-once-are-all-kept",
            "Steps of several names, recorded at once, are all `Held` and all there.",
            steps_at_once_are_all_kept,
        ),
        rule(
            "a-late-step-counts",
            "A step recorded after the lapse of a lease that nobody took over is `Held`, and does \
             not renew the lease.",
            a_late_step_counts,
        ),
        rule(
            "a-stale-step-is-lost",
            "A step of an owner that was taken over, or of a stranger, is `Lost` and adds nothing.",
            a_stale_step_is_lost,
        ),
        rule(
            "a-step-or-a-takeover",
            "Of a late step and a takeover at once, the step is `Held` if the takeover has it, and \
             else `Lost`.",
            a_step_or_a_takeover,
        ),
        rule(
            "what-is-released-records-no-step",
            "A step recorded by the nonce that released, either way, is `Lost` and adds nothing.",
            what_is_released_records_no_step,
        ),
        rule(
            "what-is-completed-records-no-step",
            "A step recorded by the nonce that completed or sealed is `Lost`, and the outcome \
             stays.",
            what_is_completed_records_no_step,
        ),
        rule(
            "a-step-makes-no-record",
            "A step recorded where there is no record is `Lost` and makes none.",
            a_step_makes_no_record,
        ),
    ]
}

fn about_keeping() -> Vec<Rule> {
    vec![
        rule(
            "steps-go-with-the-outcome",
            "The steps of a record that was completed or sealed do not come back once its \
             retention is over.",
            steps_go_with_the_outcome,
        ),
        rule(
            "steps-go-with-the-retention",
            "The steps of a tombstone, and of a lapsed record under `Rerun`, are gone a retention \
             later.",
            steps_go_with_the_retention,
        ),
        rule(
            "steps-go-when-they-are-forgotten",
            "The steps of a record that was forgotten do not come back.",
            steps_go_when_they_are_forgotten,
        ),
        rule(
            "a-step-is-any-name-and-any-bytes",
            "Names of any characters are told apart to the last one, and results of any bytes, \
             also of none, are found as they were.",
            a_step_is_any_name_and_any_bytes,
        ),
        rule(
            "steps-are-kept-up-to-the-limits",
            "64 steps, and 256 KiB in few steps or many, are found whole.",
            steps_are_kept_up_to_the_limits,
        ),
        rule(
            "steps-do-not-mix",
            "Steps that are recorded for several records at once, under the same names, stay \
             apart.",
            steps_do_not_mix,
        ),
    ]
}

/// A step of this name, with a result of its own.
fn step(name: &str) -> RecordedStep {
    RecordedStep::new(
        name,
        format!("{{\"{name}\":\"{:x}\"}}", rand::random::<u64>()),
    )
}

async fn record(handle: &Handle, lease: &Lease, steps: &[RecordedStep]) -> Checked {
    for step in steps {
        let recorded = handle.record_step(lease, step).await?;
        held("recording a step", recorded)?;
    }
    Ok(())
}

fn has(what: &str, lease: &Lease, steps: &[RecordedStep]) -> Checked {
    let differ = lease.steps.iter().zip(steps);
    let differ = differ.take_while(|(came, expected)| came == expected);
    let (alike, came) = (differ.count(), lease.steps.len());
    ensure!(
        lease.steps == steps,
        "expected {what} to have {} steps, it has {came}, of which the first {alike} are as they \
         were recorded",
        steps.len()
    );
    Ok(())
}

/// Two steps, and the lapsed lease under which they were recorded.
async fn lapsed_with_steps(handle: &Handle, claim: &Claim) -> Checked<(Lease, [RecordedStep; 2])> {
    let steps = ["reserve", "charge"].map(step);
    let lease = handle.lapsed(claim).await?;
    record(handle, &lease, &steps).await?;
    Ok((lease, steps))
}

async fn a_takeover_brings_the_steps(stores: Stores) -> Checked {
    let Stores { a, b, c } = stores;
    let claim = Claim {
        lease: SHORT,
        ..request()
    };
    let owner = a.acquire("the first claim", &claim).await?;
    has("the first claim", &owner, &[])?;
    // The order of the steps is not that of their names.
    let steps = ["ship", "charge", "reserve"].map(step);
    record(&a, &owner, &steps).await?;
    sleep(SHORT + SURELY).await;
    let next = Claim {
        lease: SHORT,
        ..rival(&claim)
    };
    let next = b.acquire("a claim after the lapse", &next).await?;
    has("a claim after the lapse", &next, &steps)?;
    sleep(SHORT + SURELY).await;
    let third = c.acquire("a third claim", &rival(&claim)).await?;
    has(
        "a third claim, after an attempt without steps,",
        &third,
        &steps,
    )
}

async fn a_tombstone_keeps_the_steps(stores: Stores) -> Checked {
    let Stores { a, b, c } = stores;
    let claim = request();
    let owner = a.acquire("the first claim", &claim).await?;
    let steps = ["reserve", "charge"].map(step);
    record(&a, &owner, &steps).await?;
    held("a release", b.release(&claim, Release::MayRunAgain).await?)?;
    let next = rival(&claim);
    let owner = c.acquire("a claim after the release", &next).await?;
    has("a claim after the release", &owner, &steps)?;
    held("a release", c.release(&next, Release::MayRunAgain).await?)?;
    let owner = a.acquire("another request", &other_request(&claim)).await?;
    has("a claim for another request", &owner, &steps)
}

async fn an_unknown_outcome_keeps_the_steps(stores: Stores) -> Checked {
    let Stores { a, b, c } = stores;
    for on_lapsed_lease in [OnLapsedLease::Rerun, OnLapsedLease::Refuse] {
        let claim = Claim {
            on_lapsed_lease,
            ..request()
        };
        let owner = a.acquire("the first claim", &claim).await?;
        let steps = ["reserve", "charge"].map(step);
        record(&b, &owner, &steps).await?;
        let released = a.release(&claim, Release::OutcomeUnknown).await?;
        held("a release as unknown", released)?;
        let next = match on_lapsed_lease {
            OnLapsedLease::Rerun => rival(&claim),
            OnLapsedLease::Refuse => by_hand(&owner),
        };
        let next = c.acquire("a claim after that", &next).await?;
        has("a claim after a release as unknown", &next, &steps)?;
    }
    Ok(())
}

async fn steps_add_up(stores: Stores) -> Checked {
    let mut handles = stores.in_turn();
    let mut take = || handles.next().expect("there is always another");
    let claim = request();
    let mut steps = Vec::new();
    for name in ["reserve", "charge", "ship", "mail"] {
        let (handle, next) = (take(), rival(&claim));
        let owner = handle.acquire("the next claim", &next).await?;
        has("the next claim", &owner, &steps)?;
        let step = step(name);
        record(&take(), &owner, std::slice::from_ref(&step)).await?;
        steps.push(step);
        let released = handle.release(&next, Release::MayRunAgain).await?;
        held("a release", released)?;
    }
    Ok(())
}

async fn a_claim_sent_again_has_the_steps(stores: Stores) -> Checked {
    let Stores { a, b, c } = stores;
    let (first, steps) = lapsed_with_steps(&a, &request()).await?;
    let claim = rival(&first.claim);
    let owner = b.acquire("a claim after the lapse", &claim).await?;
    has("a claim after the lapse", &owner, &steps)?;
    let again = c.acquire("the same claim again", &claim).await?;
    has("the same claim again", &again, &steps)
}

async fn recording_a_step_again_changes_nothing(stores: Stores) -> Checked {
    let claim = request();
    let owner = stores.a.acquire("the first claim", &claim).await?;
    let steps = ["reserve", "charge"].map(step);
    record(&stores.a, &owner, &steps).await?;
    let again = stores.in_turn().take(6).enumerate();
    let again = again.map(|(at, handle)| {
        let (owner, mut step) = (owner.clone(), steps[at % 2].clone());
        if at > 1 {
            step.result = "\"another\"".into();
        }
        async move { handle.record_step(&owner, &step).await }
    });
    for recorded in at_once(again).await? {
        held("recording a step again", recorded)?;
    }
    let released = stores.b.release(&claim, Release::MayRunAgain).await?;
    held("a release", released)?;
    let next = stores.c.acquire("the next claim", &rival(&claim)).await?;
    has("the next claim", &next, &steps)?;
    // The first result of a step stands, also if a later attempt records another one.
    let other = RecordedStep::new("charge", "\"another\"");
    let recorded = stores.a.record_step(&next, &other).await?;
    held("recording the step of an earlier attempt", recorded)?;
    let again = stores
        .b
        .acquire("the same claim again", &next.claim)
        .await?;
    has("the same claim again", &again, &steps)
}

async fn steps_at_once_are_all_kept(stores: Stores) -> Checked {
    let claim = request();
    let owner = stores.a.acquire("the first claim", &claim).await?;
    let steps: Vec<_> = (0..12).map(|at| step(&format!("ship-{at}"))).collect();
    let recorded = steps.iter().cloned().zip(stores.in_turn());
    let recorded = recorded.map(|(step, handle)| {
        let owner = owner.clone();
        async move { handle.record_step(&owner, &step).await }
    });
    for recorded in at_once(recorded).await? {
        held("recording one of several steps at once", recorded)?;
    }
    let released = stores.b.release(&claim, Release::MayRunAgain).await?;
    held("a release", released)?;
    let mut next = stores.c.acquire("the next claim", &rival(&claim)).await?;
    let place = |step: &RecordedStep| steps.iter().position(|one| one.name == step.name);
    next.steps.sort_by_key(place);
    has("the next claim", &next, &steps)
}

async fn a_late_step_counts(stores: Stores) -> Checked {
    let Stores { a, b, c } = stores;
    let (first, steps) = lapsed_with_steps(&a, &request()).await?;
    // The steps were recorded after the lapse, and the lease has lapsed still.
    let next = b
        .acquire("a claim after late steps", &rival(&first.claim))
        .await?;
    has("a claim after late steps", &next, &steps)?;
    let found = c.find("another claim", &rival(&first.claim)).await?;
    in_flight("the record", &found, &next)
}

async fn a_stale_step_is_lost(stores: Stores) -> Checked {
    let Stores { a, b, c } = stores;
    let (stale, steps) = lapsed_with_steps(&a, &request()).await?;
    let owner = b
        .acquire("a claim after the lapse", &rival(&stale.claim))
        .await?;
    let mut stranger = owner.clone();
    stranger.claim = rival(&owner.claim);
    for (who, lease) in [("a stale owner", &stale), ("a stranger", &stranger)] {
        for name in ["ship", "charge"] {
            let recorded = a.record_step(lease, &step(name)).await?;
            lost(&format!("a step of {who}"), recorded)?;
        }
    }
    let ship = [step("ship")];
    record(&b, &owner, &ship).await?;
    let again = c.acquire("the owner's claim again", &owner.claim).await?;
    has(
        "the owner's claim again",
        &again,
        &[&steps[..], &ship[..]].concat(),
    )
}

async fn a_step_or_a_takeover(stores: Stores) -> Checked {
    let Stores { a, b, .. } = stores;
    for turn in 0..4 {
        let (stale, steps) = lapsed_with_steps(&a, &request()).await?;
        let late = step("ship");
        let recording = {
            let (a, stale, late) = (a.clone(), stale.clone(), late.clone());
            async move { a.record_step(&stale, &late).await }
        };
        let taking_over = {
            let (b, next) = (b.clone(), rival(&stale.claim));
            async move { b.acquire_in_time("a claim after the lapse", &next).await }
        };
        // In this process the one that is not spawned begins.
        let (recorded, next) = if turn % 2 == 0 {
            both(recording, taking_over).await?
        } else {
            let (next, recorded) = both(taking_over, recording).await?;
            (recorded, next)
        };
        if recorded == Ownership::Held {
            let all = [&steps[..], &[late]].concat();
            has("a takeover after a step that was held", &next, &all)?;
        } else {
            has("a takeover before a step that was lost", &next, &steps)?;
        }
    }
    Ok(())
}

async fn what_is_released_records_no_step(stores: Stores) -> Checked {
    let Stores { a, b, c } = stores;
    for how in WAYS {
        let claim = request();
        let owner = a.acquire("the first claim", &claim).await?;
        let steps = [step("reserve")];
        record(&a, &owner, &steps).await?;
        held("a release", a.release(&claim, how).await?)?;
        for name in ["charge", "reserve"] {
            let recorded = b.record_step(&owner, &step(name)).await?;
            lost("a step after the release", recorded)?;
        }
        let next = c.acquire("the next claim", &rival(&claim)).await?;
        has("the next claim", &next, &steps)?;
    }
    Ok(())
}

async fn what_is_completed_records_no_step(stores: Stores) -> Checked {
    let Stores { a, b, c } = stores;
    let answer = answer();
    let sealed = Outcome::Sealed { retention: LONG };
    for (outcome, is_kept) in [(answer.outcome(), true), (sealed, false)] {
        let claim = request();
        let owner = a.acquire("the first claim", &claim).await?;
        record(&a, &owner, &[step("reserve")]).await?;
        held("the completion", a.complete(&owner, &outcome).await?)?;
        for name in ["charge", "reserve"] {
            let recorded = b.record_step(&owner, &step(name)).await?;
            lost("a step after the completion", recorded)?;
        }
        let found = c.find("another claim", &rival(&claim)).await?;
        if is_kept {
            answer.is_found("the record after a late step", &found, &owner)?;
        }
    }
    Ok(())
}

async fn a_step_makes_no_record(stores: Stores) -> Checked {
    let Stores { a, b, .. } = stores;
    let claim = request();
    let owner = a
        .acquire("the first claim of another record", &claim)
        .await?;
    let mut elsewhere = owner;
    elsewhere.claim.id = request().id;
    let recorded = b.record_step(&elsewhere, &step("reserve")).await?;
    lost("a step of no record", recorded)?;
    let first = a
        .acquire("the first claim", &rival(&elsewhere.claim))
        .await?;
    ensure!(
        first.attempt == 1,
        "expected attempt 1, it was {}",
        first.attempt
    );
    has("the first claim", &first, &[])
}

async fn steps_go_with_the_outcome(stores: Stores) -> Checked {
    let Stores { a, b, c } = stores;
    let answer = answer_with(|kept| kept.retention = SHORT);
    let sealed = Outcome::Sealed { retention: SHORT };
    for outcome in [answer.outcome(), sealed] {
        let claim = request();
        let owner = a.acquire("the first claim", &claim).await?;
        record(&a, &owner, &[step("reserve")]).await?;
        held("the completion", b.complete(&owner, &outcome).await?)?;
        sleep(SHORT + SURELY).await;
        let next = c
            .acquire("a claim after the retention", &rival(&claim))
            .await?;
        has("a claim after the retention", &next, &[])?;
    }
    Ok(())
}

async fn steps_go_with_the_retention(stores: Stores) -> Checked {
    let Stores { a, b, .. } = stores;
    for releases in [true, false] {
        let claim = Claim {
            // A slow server may take longer than a short lease for all until the release.
            lease: if releases { LONG } else { SHORT },
            retention: SHORT,
            ..request()
        };
        let owner = a.acquire("the first claim", &claim).await?;
        record(&a, &owner, &[step("reserve")]).await?;
        if releases {
            held("a release", a.release(&claim, Release::MayRunAgain).await?)?;
        }
        sleep(SHORT + SHORT + SURELY).await;
        let next = b
            .acquire("a claim after the retention", &rival(&claim))
            .await?;
        has("a claim after the retention", &next, &[])?;
    }
    Ok(())
}

async fn steps_go_when_they_are_forgotten(stores: Stores) -> Checked {
    let Stores { a, b, c } = stores;
    for releases in [true, false] {
        let claim = request();
        let owner = a.acquire("the first claim", &claim).await?;
        record(&a, &owner, &[step("reserve")]).await?;
        if releases {
            held("a release", a.release(&claim, Release::MayRunAgain).await?)?;
        }
        let forgotten = b.forget(&claim.id, ForgetMode::Forced).await?;
        ensure!(
            forgotten == Forgotten::Gone,
            "expected forgetting to answer Gone, it was {forgotten:?}"
        );
        let next = c.acquire("the next claim", &rival(&claim)).await?;
        has("the next claim", &next, &[])?;
        lost(
            "a step of before",
            a.record_step(&owner, &step("charge")).await?,
        )?;
    }
    Ok(())
}

async fn a_step_is_any_name_and_any_bytes(stores: Stores) -> Checked {
    let Stores { a, b, c } = stores;
    let every_byte: Vec<u8> = (0..=u8::MAX).collect();
    let long = "long".repeat(256);
    let names = [
        "",
        " ",
        "a",
        "A",
        "a ",
        "a\0",
        "\0",
        "\u{e4}",
        "a\u{308}",
        "ß",
        "ss",
        "支付",
        "\u{1f4b3}",
        "line\nend\r\n",
        "'\"\\; DROP TABLE",
        "{}:[%s]$1?",
        &long,
    ];
    let results: [&[u8]; 4] = [b"", b"null", &every_byte, b"\0"];
    let results = results.into_iter().cycle();
    let steps = names.into_iter().zip(results);
    let steps: Vec<_> = steps
        .map(|(name, result)| RecordedStep::new(name, result.to_vec()))
        .collect();
    let claim = request();
    let owner = a.acquire("the first claim", &claim).await?;
    record(&a, &owner, &steps).await?;
    held("a release", b.release(&claim, Release::MayRunAgain).await?)?;
    let next = c.acquire("the next claim", &rival(&claim)).await?;
    has("the next claim", &next, &steps)
}

async fn steps_are_kept_up_to_the_limits(stores: Stores) -> Checked {
    let Stores { a, b, c } = stores;
    for (count, total) in [(4, 256 * 1024), (64, 256 * 1024), (64, 64 * 10)] {
        let each = total / count;
        let steps: Vec<_> = (0..count)
            .map(|at| {
                let name = format!("step-{at:03}");
                let seed: u8 = rand::random();
                let result: Vec<u8> = (0..each - name.len())
                    .map(|at| u8::try_from(at * 31 / 7 % 251).expect("below 251") ^ seed)
                    .collect();
                RecordedStep::new(name, result)
            })
            .collect();
        let claim = request();
        let owner = a.acquire("the first claim", &claim).await?;
        record(&b, &owner, &steps).await?;
        held("a release", a.release(&claim, Release::MayRunAgain).await?)?;
        let next = c.acquire("the next claim", &rival(&claim)).await?;
        has("the next claim", &next, &steps)?;
    }
    Ok(())
}

async fn steps_do_not_mix(stores: Stores) -> Checked {
    let each = stores.in_turn().take(6).map(|handle| async move {
        let claim = request();
        let owner = handle.acquire("the first claim", &claim).await?;
        let steps = ["reserve", "charge", "ship"].map(step);
        record(&handle, &owner, &steps).await?;
        held(
            "a release",
            handle.release(&claim, Release::MayRunAgain).await?,
        )?;
        let next = handle.acquire("the next claim", &rival(&claim)).await?;
        has("the next claim", &next, &steps)
    });
    at_once(each).await?;
    // One nonce may own several records, whose steps are kept apart.
    let claim = request();
    let owner = stores.a.acquire("the first claim", &claim).await?;
    let other = Claim {
        nonce: claim.nonce,
        ..request()
    };
    let other = stores
        .b
        .acquire("a claim of another record", &other)
        .await?;
    record(&stores.c, &owner, &[step("reserve")]).await?;
    let again = stores
        .b
        .acquire("the claim of the other again", &other.claim)
        .await?;
    has("the other record", &again, &[])
}
