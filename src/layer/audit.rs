//! Who changes a record by hand and why, and the event that says so in the log.

use std::error::Error;
use std::fmt::{self, Write as _};

use tracing::{Level, event};

use crate::record::RecordId;
use crate::store::{RecordVersion, StoreError};

/// Who changes a record by hand, why, and which version of the record they have seen.
///
/// Each call of [`Records`](crate::Records) that takes an `Audit` writes one event to the log under the
/// target `idempotency::audit`: `INFO` if the record was changed, `WARN` if it was not. The fields are
/// `action` (`resolve`, `free`, `forget`), `id`, `who`, `why`, `seen`, `result` (as
/// [`Resolved`](crate::Resolved) or [`Forgotten`](crate::store::Forgotten) says it, such as `in_flight`;
/// `failed` if the store did, and `abandoned` if nobody waited for the result), `token` and `attempt` (of the
/// record as it was found) and `error`.
///
/// ```
/// use tower_idempotency::Audit;
///
/// let audit = Audit::new("alice@example.com", "INC-7: the bank has booked it")?;
/// let audit = audit.seen("1764511250123456.1".parse()?);
/// assert!(Audit::new("", "because").is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Audit {
    who: String,
    why: String,
    pub(super) seen: Option<RecordVersion>,
}

impl Audit {
    /// The most characters of `who`.
    pub const LONGEST_WHO: usize = 200;
    /// The most characters of `why`.
    pub const LONGEST_WHY: usize = 1000;

    /// `who` changes a record, and `why`: words of a person, which the log gets with line ends, other
    /// control characters and invisible ones escaped.
    ///
    /// # Errors
    /// If one of them is empty or blank, or longer than [`LONGEST_WHO`](Self::LONGEST_WHO) or
    /// [`LONGEST_WHY`](Self::LONGEST_WHY).
    pub fn new(who: impl AsRef<str>, why: impl AsRef<str>) -> Result<Self, AuditError> {
        Ok(Self {
            who: bounded("who", who.as_ref(), Self::LONGEST_WHO)?,
            why: bounded("why", why.as_ref(), Self::LONGEST_WHY)?,
            seen: None,
        })
    }

    /// The record was seen in this version: if it has moved on since, nothing is changed.
    #[must_use]
    pub fn seen(mut self, version: RecordVersion) -> Self {
        self.seen = Some(version);
        self
    }
}

fn bounded(name: &'static str, text: &str, longest: usize) -> Result<String, AuditError> {
    let text = text.trim();
    let problem = match text.chars().count() {
        0 => "is missing".to_owned(),
        count if count > longest => {
            format!("has {count} characters, and {longest} are the most")
        }
        _ => return Ok(escaped(text)),
    };
    Err(AuditError { name, problem })
}

/// Escapes the characters that end a line, move a cursor, change the order of a text or can't be
/// seen, so that no reader of a log takes a part of the text for something else.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for char in text.chars() {
        let debug = char.escape_debug();
        // Backslashes are escaped too, so that what was typed can be told from what was escaped.
        if matches!(char, '\'' | '"') || debug.len() == 1 {
            out.push(char);
        } else {
            write!(out, "{debug}").expect("a string takes all");
        }
    }
    out
}

/// A `who` or a `why` that no [`Audit`] can have.
#[derive(Clone, Debug)]
pub struct AuditError {
    name: &'static str,
    problem: String,
}

impl AuditError {
    /// What is wrong: `who` or `why`.
    #[must_use]
    pub fn field(&self) -> &'static str {
        self.name
    }
}

impl fmt::Display for AuditError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` {}", self.name, self.problem)
    }
}

impl Error for AuditError {}

/// One action on a record. The event is written when this value is dropped, so that an action that
/// nobody waits for any more, which may have changed the record, is in the log as well.
pub(super) struct Action<'a> {
    name: &'static str,
    id: &'a RecordId,
    audit: &'a Audit,
    /// The version of the record before the action.
    pub(super) found: Option<RecordVersion>,
    result: &'static str,
    is_done: bool,
    error: Option<String>,
}

impl<'a> Action<'a> {
    pub(super) fn new(name: &'static str, id: &'a RecordId, audit: &'a Audit) -> Self {
        Self {
            name,
            id,
            audit,
            found: None,
            result: "abandoned",
            is_done: false,
            error: None,
        }
    }

    /// Ends the action with what came of it: its word in the log, and whether the record was changed.
    pub(super) fn end<T: Copy>(
        mut self,
        result: Result<T, StoreError>,
        word: impl Fn(T) -> (&'static str, bool),
    ) -> Result<T, StoreError> {
        match &result {
            Ok(value) => (self.result, self.is_done) = word(*value),
            Err(error) => {
                self.result = "failed";
                self.error = Some(chain(error));
            }
        }
        result
    }
}

impl Drop for Action<'_> {
    fn drop(&mut self) {
        let Audit { who, why, seen } = self.audit;
        let (who, why) = (&**who, &**why);
        let seen = seen.map(|seen| seen.to_string());
        let token = self.found.map(|found| found.token.get());
        let attempt = self.found.map(|found| found.attempt);
        // The level of an event is a constant.
        macro_rules! write {
            ($level:expr) => {
                event!(
                    target: "idempotency::audit",
                    $level,
                    action = self.name,
                    id = %self.id,
                    who,
                    why,
                    seen,
                    result = self.result,
                    token,
                    attempt,
                    error = self.error,
                    "a record by hand"
                )
            };
        }
        if self.is_done {
            write!(Level::INFO);
        } else {
            write!(Level::WARN);
        }
    }
}

fn chain(error: &StoreError) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_a_person_are_bounded() {
        let long = "w".repeat(200);
        assert!(Audit::new(&long, "y".repeat(1000)).is_ok());
        for (who, why, says) in [
            ("", "y", "`who` is missing"),
            ("w", " \n", "`why` is missing"),
            (
                &*format!("{long}w"),
                "y",
                "`who` has 201 characters, and 200 are the most",
            ),
            (
                "w",
                &"y".repeat(1001),
                "`why` has 1001 characters, and 1000 are the most",
            ),
        ] {
            let error = Audit::new(who, why).unwrap_err();
            assert_eq!(error.to_string(), says);
        }
    }

    #[test]
    fn nothing_in_the_words_of_a_person_ends_a_line_or_hides() {
        for (typed, logged) in [
            ("J\u{fc}rgen \"Jo\" O'Neil", "J\u{fc}rgen \"Jo\" O'Neil"),
            ("a\nb\r\tc", "a\\nb\\r\\tc"),
            ("\u{1b}[31mred", "\\u{1b}[31mred"),
            ("a\\nb", "a\\\\nb"),
            (
                "a\u{202e}b\u{2028}c\u{200b}d\u{85}e",
                "a\\u{202e}b\\u{2028}c\\u{200b}d\\u{85}e",
            ),
        ] {
            assert_eq!(escaped(typed), logged);
        }
    }
}
