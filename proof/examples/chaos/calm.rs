//! This module finds the times in which nothing was broken.

use std::time::Duration;

use super::history::{Broken, Micros};

/// `Calm` knows the times in which a response must come.
pub(crate) struct Calm {
    /// The broken times do not overlap and are sorted.
    broken: Vec<Broken>,
    patience: Micros,
}

impl Calm {
    pub(crate) fn after(broken: &[Broken], patience: Duration) -> Self {
        let mut sorted = broken.to_vec();
        sorted.sort_by_key(|own| own.from);
        let mut broken: Vec<Broken> = Vec::new();
        for own in sorted {
            match broken.last_mut() {
                Some(last) if own.from <= last.to => last.to = last.to.max(own.to),
                _ => broken.push(own),
            }
        }
        let patience = u64::try_from(patience.as_micros()).unwrap_or(u64::MAX);
        Self { broken, patience }
    }

    /// Returns whether nothing was broken for longer than `patience`, at some time
    /// between `from` and `to`.
    pub(crate) fn waited_for(&self, from: Micros, to: Micros) -> bool {
        let mut calm_since = from;
        let within = self.broken.partition_point(|own| own.to < from);
        for own in &self.broken[within..] {
            if own.from > to {
                break;
            }
            if own.from.saturating_sub(calm_since) > self.patience {
                return true;
            }
            calm_since = own.to;
        }
        to.saturating_sub(calm_since) > self.patience
    }
}
