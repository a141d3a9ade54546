//! An answer to be told from all others.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::StatusCode;

use crate::record::Completion;
use crate::store::{Lease, Outcome, Record};

use super::expect::{Checked, completed};
use super::stage::random;

pub(super) const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// An answer unlike all others, to be told from them.
pub(super) struct Answer(pub(super) Arc<Completion>);

pub(super) fn answer() -> Answer {
    let mut completion = Completion::new(StatusCode::CREATED, random().to_vec(), SystemTime::now());
    completion
        .headers
        .insert("x-answer", "1".parse().expect("a header"));
    completion.retention = DAY;
    Answer(Arc::new(completion))
}

impl Answer {
    pub(super) fn outcome(&self) -> Outcome {
        Outcome::Completed(Arc::clone(&self.0))
    }

    pub(super) fn is_found(&self, what: &str, record: &Record, lease: &Lease) -> Checked {
        completed(what, record, lease, &self.0)
    }
}

/// As [`answer`], changed.
pub(super) fn answer_with(change: impl FnOnce(&mut Completion)) -> Answer {
    let mut completion = (*answer().0).clone();
    change(&mut completion);
    Answer(Arc::new(completion))
}
