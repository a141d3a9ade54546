//! The options `record` and `in_doubt`: sets of statuses, as lists of words.

use std::ops::RangeInclusive;

use schemars::JsonSchema;
use serde::Deserialize;

use super::field::text;
use super::value::{List, Plain, Setting, values};
use crate::options::recording::Statuses;

/// The option `record`.
#[derive(Clone, Deserialize, JsonSchema)]
#[serde(try_from = "List<Rule>")]
#[schemars(with = "List<Rule>")]
pub(super) struct Record(pub(super) Statuses);

impl Setting for Record {
    type Set = Statuses;

    fn set(&self) -> Statuses {
        self.0.clone()
    }
}

values! {
    /// One entry of the list.
    Rule(Statement): "`all`, `default`, a class such as `2xx`, a status such as `201`, a range such \
        as `200-299`, codes of gRPC such as `grpc:5` or `grpc:1-4`, or `!401` for what is not \
        recorded",
        {
            "type": "string",
            "pattern": "^(all|default|!?([1-9]xx|[1-9][0-9]{2}(-[1-9][0-9]{2})?|grpc:[0-9]{1,2}(-[0-9]{1,2})?))$",
        },
        |plain| {
            let text = text(&plain)?;
            let (but, rest) = match text.strip_prefix('!') {
                Some(rest) => (true, rest),
                None => (false, text),
            };
            let set = match rest {
                "all" if !but => Some(Set::All),
                "default" if !but => Some(Set::Default),
                _ => numbers(rest),
            };
            Some(Statement { but, set: set? })
        };
    /// One entry of the list `in_doubt`.
    Doubt(Set): "a status such as `502`, a class such as `5xx`, a range such as `502-504`, or codes \
        of gRPC such as `grpc:4`",
        { "anyOf": [
            { "type": "integer", "minimum": 100, "maximum": 999 },
            {
                "type": "string",
                "pattern": "^([1-9]xx|[1-9][0-9]{2}(-[1-9][0-9]{2})?|grpc:[0-9]{1,2}(-[0-9]{1,2})?)$",
            },
        ]},
        |plain| match plain {
            Plain::Text(text) => numbers(text),
            Plain::Number(status @ 100..=999) => {
                let status = u16::try_from(status).ok()?;
                Some(Set::Http(status..=status))
            }
            _ => None,
        };
}

/// The option `in_doubt`.
#[derive(Clone, Deserialize, JsonSchema)]
#[serde(from = "Vec<Doubt>")]
#[schemars(with = "Vec<Doubt>")]
pub(super) struct InDoubt(Statuses);

impl From<Vec<Doubt>> for InDoubt {
    fn from(entries: Vec<Doubt>) -> Self {
        let none = Statuses::none();
        Self(entries.into_iter().fold(none, |all, Doubt(set)| match set {
            Set::Http(range) => all.with(range),
            Set::Grpc(range) => all.with_grpc(range),
            Set::All | Set::Default => all,
        }))
    }
}

impl Setting for InDoubt {
    type Set = Statuses;

    fn set(&self) -> Statuses {
        self.0.clone()
    }
}

#[derive(Clone)]
pub(super) struct Statement {
    /// Whether the entry begins with `!`: the statuses of `set` are not recorded.
    but: bool,
    set: Set,
}

#[derive(Clone, PartialEq, Eq)]
pub(super) enum Set {
    All,
    Default,
    Http(RangeInclusive<u16>),
    Grpc(RangeInclusive<u16>),
}

/// Reads statuses of HTTP, or codes of gRPC.
fn numbers(text: &str) -> Option<Set> {
    match text.strip_prefix("grpc:") {
        Some(codes) => range(codes, 0..=16).map(Set::Grpc),
        None => class(text)
            .or_else(|| range(text, 100..=999))
            .map(Set::Http),
    }
}

/// Reads a class such as `2xx`.
fn class(text: &str) -> Option<RangeInclusive<u16>> {
    let [first @ b'1'..=b'9', b'x', b'x'] = text.as_bytes() else {
        return None;
    };
    let first = u16::from(first - b'0') * 100;
    Some(first..=first + 99)
}

/// Reads a number such as `201` or a range such as `200-299`, within `known`.
fn range(text: &str, known: RangeInclusive<u16>) -> Option<RangeInclusive<u16>> {
    let number = |text: &str| {
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse()
            .ok()
            .filter(|own| digits && known.contains(own))
    };
    let (from, to) = text.split_once('-').unwrap_or((text, text));
    let (from, to) = (number(from)?, number(to)?);
    (from <= to).then_some(from..=to)
}

/// Collects the entries without `!`, and then removes the entries with `!`. The order of the list
/// does not matter.
impl TryFrom<List<Rule>> for Record {
    type Error = &'static str;

    fn try_from(List(rules): List<Rule>) -> Result<Self, &'static str> {
        let lists = |is: fn(&Set) -> bool, but| {
            rules.iter().any(|Rule(own)| own.but == but && is(&own.set))
        };
        let http = |set: &Set| matches!(set, Set::Http(_));
        let grpc = |set: &Set| matches!(set, Set::Grpc(_));
        let all = lists(|set| *set == Set::All, false);
        let default = lists(|set| *set == Set::Default, false);
        let mut statuses = if all {
            Statuses::all()
        } else {
            Statuses::default()
        };
        if !all && !default {
            match (lists(http, false), lists(http, true)) {
                (true, _) => statuses = statuses.without(..),
                (false, true) => {
                    return Err("only says what is not recorded: begin with `default` or `all`");
                }
                (false, false) => {}
            }
            // HTTP statuses and gRPC codes are separate sets, so an entry for one set does not
            // change the other.
            if lists(grpc, false) {
                statuses = statuses.without_grpc(..);
            }
        }
        for but in [false, true] {
            for Rule(rule) in rules.iter().filter(|Rule(own)| own.but == but) {
                statuses = match (rule.set.clone(), but) {
                    (Set::All | Set::Default, _) => statuses,
                    (Set::Http(range), false) => statuses.with(range),
                    (Set::Http(range), true) => statuses.without(range),
                    (Set::Grpc(range), false) => statuses.with_grpc(range),
                    (Set::Grpc(range), true) => statuses.without_grpc(range),
                };
            }
        }
        Ok(Self(statuses))
    }
}
