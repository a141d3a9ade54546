//! Completions that differ from all others.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::StatusCode;

use crate::record::Completion;
use crate::store::{Lease, Outcome, Record};

use crate::conformance::expect::{Checked, completed};
use crate::conformance::stage::random;

pub(crate) const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A completion that differs from every other one, so that a rule can recognise
/// it.
pub(crate) struct Answer(pub(crate) Arc<Completion>);

pub(crate) fn answer() -> Answer {
    let mut completion = Completion::new(StatusCode::CREATED, random().to_vec(), SystemTime::now());
    completion
        .headers
        .insert("x-answer", "1".parse().expect("a header"));
    completion.retention = DAY;
    Answer(Arc::new(completion))
}

impl Answer {
    pub(crate) fn outcome(&self) -> Outcome {
        Outcome::Completed(Arc::clone(&self.0))
    }

    pub(crate) fn is_found(&self, what: &str, record: &Record, lease: &Lease) -> Checked {
        completed(what, record, lease, &self.0)
    }
}

/// Makes a completion like [`answer`], and changes it.
pub(crate) fn answer_with(change: impl FnOnce(&mut Completion)) -> Answer {
    let mut completion = (*answer().0).clone();
    change(&mut completion);
    Answer(Arc::new(completion))
}
