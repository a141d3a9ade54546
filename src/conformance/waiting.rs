//! Waiting for the end of an operation.

use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::record::RecordId;
use crate::store::{
    Claim, Claimed, ForgetMode, Forgotten, Outcome, RecordState, Release, Subscription,
};

use crate::conformance::answer::answer;
use crate::conformance::expect::{Checked, broken, ensure, held, state, told};
use crate::conformance::stage::{
    Handle, LONG, PATIENCE, SHORT, Stores, at_once, both, request, rival,
};
use crate::conformance::{Rule, rule};

pub(crate) fn rules() -> Vec<Rule> {
    vec![
        rule(
            "a-completion-wakes-every-waiter",
            "Every subscription resolves after the record was completed or sealed.",
            a_completion_wakes_every_waiter,
        ),
        rule(
            "unknown-wakes-every-waiter",
            "Every subscription resolves after the outcome was said to be unknown.",
            unknown_wakes_every_waiter,
        ),
        rule(
            "a-release-wakes-a-waiter",
            "One subscription at least resolves after a release, and if it is dropped without a \
             claim, another one does, until all have.",
            a_release_wakes_a_waiter,
        ),
        rule(
            "forgetting-wakes-every-waiter",
            "Every subscription resolves after the record was forgotten.",
            forgetting_wakes_every_waiter,
        ),
        rule(
            "a-waiter-may-come-before-the-record",
            "A subscription made before there is a record resolves after its completion.",
            a_waiter_may_come_before_the_record,
        ),
        rule(
            "a-change-before-the-first-poll-is-seen",
            "A subscription resolves after what changed once it was answered, even if it was not \
             polled before.",
            a_change_before_the_first_poll_is_seen,
        ),
        rule(
            "waiters-get-their-turn",
            "Of many that subscribe, claim, wait and claim again, each acquires in the end, if \
             each releases.",
            waiters_get_their_turn,
        ),
    ]
}

/// Six waiters of three handles, which have begun to wait.
async fn waiters(stores: &Stores, id: &RecordId) -> Checked<Vec<Subscription>> {
    let mut waiters = Vec::new();
    for store in stores.in_turn().take(6) {
        let mut waiter = store.subscribe(id).await?;
        // The subscription may resolve early: no change is missed then.
        let _ = timeout(Duration::ZERO, &mut waiter).await;
        waiters.push(waiter);
    }
    Ok(waiters)
}

async fn all_wake(what: &str, waiters: Vec<Subscription>) -> Checked {
    let all = waiters.len();
    for (woken, waiter) in waiters.into_iter().enumerate() {
        ensure!(
            timeout(PATIENCE, waiter).await.is_ok(),
            "expected {all} subscriptions to resolve {what}, after {PATIENCE:?} {woken} had"
        );
    }
    Ok(())
}

async fn a_completion_wakes_every_waiter(stores: Stores) -> Checked {
    let sealing = Outcome::Sealed { retention: LONG };
    for outcome in [answer().outcome(), sealing] {
        let claim = request();
        let owner = stores.a.acquire("the first claim", &claim).await?;
        let waiters = waiters(&stores, &claim.id).await?;
        held("the completion", stores.a.complete(&owner, &outcome).await?)?;
        all_wake("after a completion", waiters).await?;
    }
    Ok(())
}

async fn unknown_wakes_every_waiter(stores: Stores) -> Checked {
    let claim = request();
    stores.a.acquire("the first claim", &claim).await?;
    let waiters = waiters(&stores, &claim.id).await?;
    held(
        "the release",
        stores.b.release(&claim, Release::OutcomeUnknown).await?,
    )?;
    all_wake("after a release as unknown", waiters).await
}

async fn a_release_wakes_a_waiter(stores: Stores) -> Checked {
    let claim = request();
    stores.a.acquire("the first claim", &claim).await?;
    let mut waiting = JoinSet::new();
    for mut waiter in waiters(&stores, &claim.id).await? {
        waiting.spawn(async move {
            (&mut waiter).await;
            Some(waiter)
        });
    }
    held(
        "the release",
        stores.b.release(&claim, Release::MayRunAgain).await?,
    )?;
    for gone in 0..6 {
        match timeout(PATIENCE, waiting.join_next()).await {
            // The waiter gives up, and another waiter gets its wake-up.
            Ok(woken) => drop(woken),
            Err(_) => broken!(
                "expected a subscription to resolve after a release, {PATIENCE:?} after {gone} \
                 were dropped none had"
            ),
        }
    }
    Ok(())
}

async fn forgetting_wakes_every_waiter(stores: Stores) -> Checked {
    for mode in [ForgetMode::UnlessAlive, ForgetMode::Forced] {
        let claim = request();
        stores.a.acquire("the first claim", &claim).await?;
        let waiters = waiters(&stores, &claim.id).await?;
        if mode == ForgetMode::UnlessAlive {
            held(
                "the release",
                stores.b.release(&claim, Release::MayRunAgain).await?,
            )?;
        }
        let forgotten = stores.b.forget(&claim.id, mode).await?;
        ensure!(
            forgotten == Forgotten::Gone,
            "expected forgetting to answer Gone, it was {forgotten:?}"
        );
        all_wake("after the record was forgotten", waiters).await?;
    }
    Ok(())
}

async fn a_waiter_may_come_before_the_record(stores: Stores) -> Checked {
    let claim = request();
    let waiters = waiters(&stores, &claim.id).await?;
    let owner = stores.a.acquire("the first claim", &claim).await?;
    held(
        "the completion",
        stores.a.complete(&owner, &answer().outcome()).await?,
    )?;
    all_wake("after a completion", waiters).await
}

async fn a_change_before_the_first_poll_is_seen(stores: Stores) -> Checked {
    let claim = request();
    let owner = stores.a.acquire("the first claim", &claim).await?;
    let mut waiters = Vec::new();
    for store in stores.in_turn().take(6) {
        waiters.push(store.subscribe(&claim.id).await?);
    }
    held(
        "the completion",
        stores.a.complete(&owner, &answer().outcome()).await?,
    )?;
    all_wake("after a completion", waiters).await
}

async fn waiters_get_their_turn(stores: Stores) -> Checked {
    const WAITERS: u64 = 6;
    let claim = request();
    stores.a.acquire("the first claim", &claim).await?;
    let turns = stores.in_turn().take(6).map(|store| {
        let claim = rival(&claim);
        async move { turn(&store, &claim).await }
    });
    let releasing = async {
        // The waiters wait by now.
        sleep(SHORT).await;
        held(
            "the release",
            stores.b.release(&claim, Release::MayRunAgain).await?,
        )
    };
    let all = at_once(turns.collect::<Vec<_>>());
    match timeout(2 * PATIENCE, both(all, releasing)).await {
        Ok(ended) => ended?,
        Err(_) => broken!(
            "expected each of {WAITERS} waiters to acquire, after {:?} not all had",
            2 * PATIENCE
        ),
    };
    let last = stores
        .c
        .acquire("a claim after all", &rival(&claim))
        .await?;
    ensure!(
        last.attempt == WAITERS + 2,
        "expected attempt {} after {WAITERS} waiters, it was {}",
        WAITERS + 2,
        last.attempt
    );
    Ok(())
}

/// Waits as the layer does, and releases the record once it has acquired it.
async fn turn(store: &Handle, claim: &Claim) -> Checked {
    let mut own_turn = None;
    loop {
        let mut changed = store.subscribe(&claim.id).await?;
        let claimed = store.claim(claim).await?;
        drop(own_turn.take());
        match claimed {
            Claimed::Acquired(_) => {
                // Keeps the record long enough that the other waiters have to
                // wait.
                sleep(SHORT / 10).await;
                return held(
                    "a release",
                    store.release(claim, Release::MayRunAgain).await?,
                );
            }
            Claimed::Found(record) => match record.state {
                RecordState::InFlight { lapses_in, .. } => {
                    let _ = timeout(lapses_in.min(LONG), &mut changed).await;
                    own_turn = Some(changed);
                }
                other => broken!(
                    "expected a waiter to find it in flight, it is {}",
                    state(&other)
                ),
            },
            other @ (Claimed::OverCapacity | Claimed::OverShare) => {
                broken!("expected a record, got {}", told(&other))
            }
        }
    }
}
