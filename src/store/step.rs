//! Steps: named parts of an operation whose results are kept until the operation ends (G12).

use std::fmt;

use bytes::Bytes;

/// The result of a step: a named part of an operation that a later attempt does not run again.
///
/// A store keeps both fields as they are, and reads neither.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecordedStep {
    /// The name of the step: any string, and another one for each step of an operation.
    pub name: String,
    /// The result, as the layer writes it: JSON with the fingerprint of the request behind it, or an
    /// envelope of both. A result may be empty.
    pub result: Bytes,
}

impl RecordedStep {
    /// The result of the step `name`.
    #[must_use]
    pub fn new(name: impl Into<String>, result: impl Into<Bytes>) -> Self {
        Self {
            name: name.into(),
            result: result.into(),
        }
    }

    /// How many bytes the name and the result have.
    #[must_use]
    pub fn size(&self) -> usize {
        self.name.len() + self.result.len()
    }
}

/// Shows lengths alone: a result is the application's data, and a name may contain some of it.
impl fmt::Debug for RecordedStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecordedStep")
            .field("name_bytes", &self.name.len())
            .field("result_bytes", &self.result.len())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_a_step_is_shown_but_its_lengths() {
        let step = RecordedStep::new("mail-bob", "\"4242\"");
        assert_eq!(step.size(), 14);
        let shown = format!("{step:?}");
        assert_eq!(shown, "RecordedStep { name_bytes: 8, result_bytes: 6 }");
    }
}
