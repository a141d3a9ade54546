//! The keys of records.

use std::sync::Arc;

use crate::record::RecordId;

/// The prefix of every key and every channel.
#[derive(Clone, Debug)]
pub(super) struct Keys(Arc<str>);

impl Keys {
    pub(super) fn new(prefix: &str) -> Self {
        Self(prefix.into())
    }

    pub(super) fn of(&self, id: &RecordId) -> String {
        format!("{}{id}", self.0)
    }

    /// The pattern of all keys, in which the characters of the prefix mean themselves.
    pub(super) fn pattern(&self) -> String {
        let mut pattern = String::with_capacity(self.0.len() + 1);
        for char in self.0.chars() {
            if "*?[]^-\\".contains(char) {
                pattern.push('\\');
            }
            pattern.push(char);
        }
        pattern + "*"
    }

    pub(super) fn id(&self, key: &str) -> Option<RecordId> {
        RecordId::from_hex(key.strip_prefix(&*self.0)?)
    }
}
