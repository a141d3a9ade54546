//! What the suite reports about a store that can't be used.

use std::future::pending;
use std::panic::{AssertUnwindSafe, catch_unwind};

use tower_idempotency::MemoryStore;
use tower_idempotency::conformance::{Report, Verdict, check, check_only};
use tower_idempotency::store::{
    Claim, Claimed, Lease, Outcome, Ownership, Release, Store, StoreError, StoreErrorKind,
};
use tower_idempotency::store::{Nonce, RecordId};

/// A store with the four required operations and no others.
#[derive(Clone)]
struct Bare(MemoryStore);

impl Store for Bare {
    async fn claim(&self, claim: &Claim) -> Result<Claimed, StoreError> {
        self.0.claim(claim).await
    }

    async fn renew(&self, lease: &Lease) -> Result<Ownership, StoreError> {
        self.0.renew(lease).await
    }

    async fn complete(&self, lease: &Lease, outcome: &Outcome) -> Result<Ownership, StoreError> {
        self.0.complete(lease, outcome).await
    }

    async fn release(
        &self,
        id: &RecordId,
        nonce: &Nonce,
        how: Release,
    ) -> Result<Ownership, StoreError> {
        self.0.release(id, nonce, how).await
    }
}

fn message_of(report: &Report) -> String {
    let failed = catch_unwind(AssertUnwindSafe(|| report.assert_passed())).unwrap_err();
    *failed.downcast::<String>().unwrap()
}

#[tokio::test(start_paused = true)]
async fn what_a_store_does_not_have_passes_only_when_it_is_excepted_by_name() {
    let store = Bare(MemoryStore::new());
    let report = check(async || store.clone()).await;
    assert_eq!(report.failed().count(), 0);
    let (of_steps, unsupported): (Vec<_>, Vec<_>) =
        report.unsupported().partition(|rule| rule.contains("step"));
    // That it keeps none the store says itself, by `keeps_steps`.
    assert_eq!(of_steps.len(), 19);
    assert_eq!(
        unsupported,
        [
            "forgetting-wakes-every-waiter",
            "forgetting-spares-who-runs",
            "forgetting-by-force-fences-the-owner",
            "forgetting-removes-what-is-not-alive",
            "forgetting-spares-what-has-moved-on",
            "a-forgetting-or-a-takeover",
            "forgetting-nothing-is-absent",
            "a-look-up-says-what-is-there",
            "a-look-up-changes-nothing",
            "a-list-says-what-is-there",
            "a-list-keeps-to-its-caller",
            "a-list-keeps-to-the-age-of-the-attempt",
            "pages-reach-an-end-with-every-record",
            "a-record-that-stays-is-in-a-page",
            "what-is-over-is-in-no-list",
            "a-list-refuses-a-foreign-cursor",
            "looking-up-and-forgetting-can-be-dropped",
        ]
    );
    let message = message_of(&report);
    assert!(
        message.contains("the store has no `forget`: implement it, or except this rule by name"),
        "{message}"
    );
    let report = report.except(unsupported.iter().skip(1).copied());
    let message = message_of(&report);
    assert!(
        message.contains("forgetting-wakes-every-waiter: Every"),
        "{message}"
    );
    report
        .except(["forgetting-wakes-every-waiter"])
        .assert_passed();
}

#[tokio::test(start_paused = true)]
async fn a_rule_that_is_broken_is_no_exception() {
    let report = check_only(async || Failing(How::Refuses), ["one-claim-wins"]).await;
    let report = report.except(["one-claim-wins"]);
    assert!(!report.is_passed());
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "there is no rule `one-claim-looses`")]
async fn an_exception_for_a_rule_that_is_not_there_is_a_mistake() {
    let store = MemoryStore::new();
    let report = check_only(async || store.clone(), ["one-claim-wins"]).await;
    let _ = report.except(["one-claim-looses"]);
}

enum How {
    Refuses,
    IsBusy,
    Panics,
    Hangs,
    IsFull,
}

/// A store on which no operation succeeds.
struct Failing(How);

impl Failing {
    async fn answer<T>(&self) -> Result<T, StoreError> {
        match self.0 {
            How::Refuses => {
                let cause = std::io::Error::other("the table is missing");
                Err(StoreError::new(StoreErrorKind::Refused, cause))
            }
            How::IsBusy => Err(StoreError::new(StoreErrorKind::Contention, "later")),
            How::Panics => panic!("out of rows"),
            How::Hangs | How::IsFull => pending().await,
        }
    }
}

impl Store for Failing {
    async fn claim(&self, _: &Claim) -> Result<Claimed, StoreError> {
        if matches!(self.0, How::IsFull) {
            return Ok(Claimed::OverCapacity);
        }
        self.answer().await
    }

    async fn renew(&self, _: &Lease) -> Result<Ownership, StoreError> {
        self.answer().await
    }

    async fn complete(&self, _: &Lease, _: &Outcome) -> Result<Ownership, StoreError> {
        self.answer().await
    }

    async fn release(&self, _: &RecordId, _: &Nonce, _: Release) -> Result<Ownership, StoreError> {
        self.answer().await
    }
}

async fn verdict_of(how: fn() -> How) -> String {
    let report = check_only(async || Failing(how()), ["a-completion-is-found"]).await;
    let [finding] = report.findings() else {
        panic!("one rule, one finding")
    };
    assert_eq!(finding.rule, "a-completion-is-found");
    match &finding.verdict {
        Verdict::Failed(why) => why.clone(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_gives_no_answer_breaks_the_rule_that_asked() {
    assert_eq!(
        verdict_of(|| How::Refuses).await,
        "claim failed: the store refused the request: the table is missing"
    );
    assert_eq!(
        verdict_of(|| How::IsBusy).await,
        "claim failed: the store was too busy for the request: later"
    );
    assert_eq!(verdict_of(|| How::Panics).await, "it panicked: out of rows");
    assert_eq!(
        verdict_of(|| How::Hangs).await,
        "it has not ended after 120s"
    );
    assert_eq!(
        verdict_of(|| How::IsFull).await,
        "expected the first claim to acquire, it got OverCapacity"
    );
}
