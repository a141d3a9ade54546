//! What the requests of all callers may hold, and what those of one caller.

use std::fmt::Write;
use std::time::Duration;

use serde_json::{Map, Value};

use crate::contract::json::seconds;
use crate::display::{bytes, duration};
use crate::limits::{Limit, Resource};
use crate::request::core::Core;

/// The limits of a layer, as it was built.
#[derive(Clone)]
pub(super) struct LayerLimits {
    of_each: [(Resource, Limit); Resource::ALL.len()],
    /// Whether requests can have more than one caller.
    has_shares: bool,
    send_timeout: Duration,
}

impl LayerLimits {
    pub(super) fn of(layer: &Core) -> Self {
        let rules = &layer.rules;
        Self {
            of_each: Resource::ALL.map(|of| (of, layer.accounts.limit(of))),
            has_shares: !rules.scope.is_everyone() || rules.routes.have_scopes(),
            send_timeout: layer.send_timeout,
        }
    }

    pub(super) fn json(&self) -> Value {
        let mut limits = Map::new();
        for (of, limit) in &self.of_each {
            limits.insert(of.option().to_owned(), limit.sum.into());
            if self.has_shares {
                limits.insert(of.share_option().to_owned(), limit.per_caller.into());
            }
        }
        limits.insert("send_timeout".to_owned(), seconds(self.send_timeout));
        Value::Object(limits)
    }

    /// The section of the page for people.
    pub(super) fn write(&self, page: &mut String) {
        page.push_str(
            "\n## Limits\n\nWhat requests hold is limited. What is full refuses an operation before it \
             begins, and the error says what is full, and whether for this caller or for all. A \
             recorded response is sent whatever is full.\n\n",
        );
        page.push_str(if self.has_shares {
            "| limit | all callers | one caller | beyond it |\n| --- | --- | --- | --- |\n"
        } else {
            "| limit | all requests | beyond it |\n| --- | --- | --- |\n"
        });
        for (of, limit) in &self.of_each {
            let (what, beyond) = for_clients(*of);
            let amount = |amount: usize| match of {
                Resource::RequestBytes | Resource::ReadAheadBytes | Resource::UnsentBytes => {
                    bytes(amount)
                }
                Resource::Operations | Resource::Waiters | Resource::Background => {
                    amount.to_string()
                }
            };
            let share = limit
                .per_caller
                .map_or_else(|| "seven times what is free".to_owned(), amount);
            let sum = amount(limit.sum);
            let share = if self.has_shares {
                format!(" {share} |")
            } else {
                String::new()
            };
            writeln!(page, "| {what} | {sum} |{share} {beyond} |").expect("a string takes all");
        }
        write!(
            page,
            "\nA client that takes nothing of a response for {} is disconnected, and its operation goes \
             on.\n",
            duration(self.send_timeout)
        )
        .expect("a string takes all");
    }
}

/// What a limit counts, and what becomes of a request beyond it.
const fn for_clients(of: Resource) -> (&'static str, &'static str) {
    match of {
        Resource::Operations => ("operations at a time", "`over-capacity`"),
        Resource::RequestBytes => ("bodies of requests together", "`over-capacity`"),
        Resource::ReadAheadBytes => (
            "responses that wait to be recorded, together",
            "the response is not recorded",
        ),
        Resource::UnsentBytes => (
            "responses that their clients have not read yet, together",
            "`over-capacity`; a client that reads nothing is disconnected",
        ),
        Resource::Waiters => ("requests that wait for the first one", "`in-flight`"),
        Resource::Background => ("operations whose clients have left", "`over-capacity`"),
    }
}
