//! The steps that a record has.

use crate::store::RecordedStep;

use super::limits::STEP_BYTES;

/// The steps of one record, in the order in which they were recorded. A record without steps takes
/// nothing for them but the pointer.
#[derive(Default)]
#[expect(
    clippy::box_collection,
    reason = "a record has place for one pointer: most have no steps"
)]
pub(super) struct Steps(Option<Box<Vec<RecordedStep>>>);

impl Steps {
    /// About how many bytes the steps take.
    pub(super) fn weight(&self) -> usize {
        self.all().iter().map(weight).sum()
    }

    pub(super) fn to_vec(&self) -> Vec<RecordedStep> {
        self.all().to_vec()
    }

    fn all(&self) -> &[RecordedStep] {
        self.0.as_deref().map_or(&[], Vec::as_slice)
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.all().iter().any(|step| step.name == name)
    }

    pub(super) fn push(&mut self, step: RecordedStep) {
        self.0.get_or_insert_default().push(step);
    }
}

/// About how many bytes a step takes.
pub(super) fn weight(step: &RecordedStep) -> usize {
    STEP_BYTES + step.size()
}
