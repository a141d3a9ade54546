//! This module counts how often the faults caused what they are there for. A
//! guarantee that was never put to the test would hold too.

use crate::log::{Event, What};

#[derive(Debug, Default)]
pub(crate) struct Occurrences {
    executions: u64,
    executions_that_panic: u64,
    crashes: u64,
    requests_without_answer: u64,
    /// These claims took a record from an owner that let its lease lapse.
    takeovers: u64,
    /// These claims took a record that was released.
    claims_after_a_release: u64,
    renewals: u64,
    /// These completions came from owners that were overtaken.
    completions_in_vain: u64,
    renewals_in_vain: u64,
    releases_in_vain: u64,
    sealed: u64,
    replays: u64,
    unrecorded: u64,
    in_flight: u64,
    store_unavailable: u64,
    response_unavailable: u64,
    outcome_unknown: u64,
}

impl Occurrences {
    pub(crate) fn count(&mut self, events: &[Event]) {
        for event in events {
            match &event.what {
                What::Began { .. } => self.executions += 1,
                What::Ended { status: None, .. } => self.executions_that_panic += 1,
                What::Crashed => self.crashes += 1,
                What::Failed { .. } => self.requests_without_answer += 1,
                What::Acquired {
                    takes_over: true, ..
                } => self.takeovers += 1,
                What::Acquired { attempt, .. } if *attempt > 1 => self.claims_after_a_release += 1,
                What::Renewed { .. } => self.renewals += 1,
                What::Lost { asked, .. } => match *asked {
                    "complete" => self.completions_in_vain += 1,
                    "renew" => self.renewals_in_vain += 1,
                    _ => self.releases_in_vain += 1,
                },
                What::Completed { outcome, .. } => self.sealed += u64::from(outcome == "sealed"),
                What::Answered { answer, .. } => {
                    self.replays += u64::from(answer.replayed);
                    self.unrecorded += u64::from(answer.unrecorded);
                    match answer.code.as_deref() {
                        Some("in-flight") => self.in_flight += 1,
                        Some("store-unavailable") => self.store_unavailable += 1,
                        Some("response-unavailable") => self.response_unavailable += 1,
                        Some("outcome-unknown") => self.outcome_unknown += 1,
                        _ => {}
                    }
                }
                _ => {}
            }
        }
    }

    pub(crate) fn assert_everything_occurred(&self) {
        let all = [
            self.executions,
            self.executions_that_panic,
            self.crashes,
            self.requests_without_answer,
            self.takeovers,
            self.claims_after_a_release,
            self.renewals,
            self.completions_in_vain,
            self.renewals_in_vain,
            self.releases_in_vain,
            self.sealed,
            self.replays,
            self.unrecorded,
            self.in_flight,
            self.store_unavailable,
            self.response_unavailable,
            self.outcome_unknown,
        ];
        assert!(
            !all.contains(&0),
            "something was never put to the test: {self:#?}"
        );
    }
}
