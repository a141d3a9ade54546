//! What came of the rules.

use std::fmt;

/// What [`check`](crate::conformance::check) found, rule by rule.
#[derive(Clone, Debug)]
#[must_use = "a report that nobody reads passes"]
pub struct Report {
    findings: Vec<Finding>,
    excepted: Vec<String>,
}

/// One rule, and whether the store keeps it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Finding {
    /// The name of the rule, in kebab-case. It does not change.
    pub rule: &'static str,
    /// The rule, in a sentence.
    pub states: &'static str,
    /// Whether the store keeps it.
    pub verdict: Verdict,
}

/// Whether a store keeps a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// It does.
    Passed,
    /// It does not: what was expected, and what came.
    Failed(String),
    /// It has no such operation: `look_up` or `forget`.
    Unsupported(&'static str),
}

impl Report {
    pub(crate) fn new(findings: Vec<Finding>) -> Self {
        Self {
            findings,
            excepted: Vec::new(),
        }
    }

    /// Every rule, in the order of the documentation.
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// The names of the rules that the store keeps.
    pub fn passed(&self) -> impl Iterator<Item = &'static str> {
        self.of(|verdict| *verdict == Verdict::Passed)
    }

    /// The names of the rules that it breaks.
    pub fn failed(&self) -> impl Iterator<Item = &'static str> {
        self.of(|verdict| matches!(verdict, Verdict::Failed(_)))
    }

    /// The names of the rules about operations that it does not have.
    pub fn unsupported(&self) -> impl Iterator<Item = &'static str> {
        self.of(|verdict| matches!(verdict, Verdict::Unsupported(_)))
    }

    fn of(&self, which: impl Fn(&Verdict) -> bool) -> impl Iterator<Item = &'static str> {
        self.findings
            .iter()
            .filter(move |finding| which(&finding.verdict))
            .map(|finding| finding.rule)
    }

    /// Lets the store do without these rules' operations. A rule that it
    /// breaks is no exception.
    ///
    /// # Panics
    /// If there is no such rule.
    pub fn except<R: Into<String>>(mut self, rules: impl IntoIterator<Item = R>) -> Self {
        for rule in rules {
            let rule = rule.into();
            assert!(
                self.findings.iter().any(|finding| finding.rule == rule),
                "there is no rule `{rule}`"
            );
            self.excepted.push(rule);
        }
        self
    }

    /// Whether every rule passed, but those excepted that are not supported.
    #[must_use]
    pub fn is_passed(&self) -> bool {
        self.findings.iter().all(|finding| !self.is_wrong(finding))
    }

    fn is_wrong(&self, finding: &Finding) -> bool {
        match finding.verdict {
            Verdict::Passed => false,
            Verdict::Failed(_) => true,
            Verdict::Unsupported(_) => !self.excepted.iter().any(|rule| rule == finding.rule),
        }
    }

    /// Does nothing if every rule passed.
    ///
    /// # Panics
    /// With the list of those that did not, and why.
    #[track_caller]
    pub fn assert_passed(&self) {
        assert!(self.is_passed(), "{self}");
    }
}

/// How many rules passed, then each that did not, and why.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (passed, all) = (self.passed().count(), self.findings.len());
        write!(f, "the store keeps {passed} of {all} rules")?;
        for finding in &self.findings {
            let why = match &finding.verdict {
                Verdict::Passed => continue,
                Verdict::Failed(why) => why.clone(),
                Verdict::Unsupported(operation) if self.is_wrong(finding) => format!(
                    "the store has no `{operation}`: implement it, or except this rule by name"
                ),
                Verdict::Unsupported(operation) => {
                    format!("excepted, the store has no `{operation}`")
                }
            };
            write!(f, "\n\n{}: {}\n    {why}", finding.rule, finding.states)?;
        }
        Ok(())
    }
}
