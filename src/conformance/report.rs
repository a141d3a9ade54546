//! The results of the rules.

use std::fmt;

/// The result of [`check`](crate::conformance::check) for each rule.
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
    /// The store keeps the rule.
    Passed,
    /// The store breaks the rule: what was expected, and what came.
    Failed(String),
    /// The rule is about `look_up`, `forget`, `list` or `record_step`, which the store does
    /// not support.
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

    /// The names of the rules that the store breaks.
    pub fn failed(&self) -> impl Iterator<Item = &'static str> {
        self.of(|verdict| matches!(verdict, Verdict::Failed(_)))
    }

    /// The names of the rules about operations that the store does not support.
    pub fn unsupported(&self) -> impl Iterator<Item = &'static str> {
        self.of(|verdict| matches!(verdict, Verdict::Unsupported(_)))
    }

    fn of(&self, which: impl Fn(&Verdict) -> bool) -> impl Iterator<Item = &'static str> {
        self.findings
            .iter()
            .filter(move |finding| which(&finding.verdict))
            .map(|finding| finding.rule)
    }

    /// Accepts that the store does not support these rules. A rule that the
    /// store breaks still fails.
    ///
    /// # Panics
    /// If there is no rule of such a name.
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

    /// Whether every rule passed, apart from [excepted](Self::except) rules
    /// that are not supported.
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
    /// If a rule failed. The message lists the rules that failed, and why.
    #[track_caller]
    pub fn assert_passed(&self) {
        assert!(self.is_passed(), "{self}");
    }
}

/// The number of rules that passed, then each rule that failed, and why.
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
