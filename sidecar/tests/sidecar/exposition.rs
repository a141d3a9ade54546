//! This module reads the text that Prometheus reads.

use std::collections::{BTreeMap, BTreeSet};

/// `Exposition` is the families of a text by their names.
#[derive(Debug)]
pub(crate) struct Exposition(pub(crate) BTreeMap<String, Family>);

/// `Family` is what one name says.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Family {
    pub(crate) kind: String,
    pub(crate) help: String,
    pub(crate) samples: Vec<Sample>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sample {
    /// The name has a suffix in a histogram.
    pub(crate) name: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) value: String,
}

impl Exposition {
    /// Each sample must come below the type of its family.
    pub(crate) fn of(text: &str) -> Self {
        let mut families = BTreeMap::<String, Family>::new();
        let mut last = String::new();
        for line in text.lines().filter(|line| !line.is_empty()) {
            if let Some(help) = line.strip_prefix("# HELP ") {
                let (name, help) = help.split_once(' ').unwrap();
                help.clone_into(&mut families.entry(name.to_owned()).or_default().help);
            } else if let Some(kind) = line.strip_prefix("# TYPE ") {
                let (name, kind) = kind.split_once(' ').unwrap();
                name.clone_into(&mut last);
                let family = families.entry(last.clone()).or_default();
                assert_eq!(family.kind, "", "{name} has two types");
                kind.clone_into(&mut family.kind);
            } else {
                let sample = Sample::of(line);
                let family = families.get_mut(&last).unwrap();
                let suffix = sample.name.strip_prefix(&last);
                let suffix = suffix.unwrap_or_else(|| panic!("{line} is below {last}"));
                let is_histogram = matches!(suffix, "_bucket" | "_sum" | "_count");
                assert_eq!(is_histogram, family.kind == "histogram", "{line}");
                assert!(is_histogram || suffix.is_empty(), "{line}");
                family.samples.push(sample);
            }
        }
        Self(families)
    }

    /// The samples of this name.
    pub(crate) fn samples(&self, name: &str) -> Vec<&Sample> {
        let samples = self.0.values().flat_map(|family| &family.samples);
        samples.filter(|own| own.name == name).collect()
    }

    /// What the samples of this name with these labels count together.
    pub(crate) fn count(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        let mut found = self.samples(name);
        found.retain(|own| own.has(labels));
        assert!(!found.is_empty(), "no {name} with {labels:?}");
        found
            .iter()
            .map(|own| own.value.parse::<u64>().unwrap())
            .sum()
    }
}

impl Family {
    /// The names of the labels, and of a histogram the bounds of its buckets.
    pub(crate) fn labels(&self) -> BTreeSet<String> {
        let labels = self.samples.iter().flat_map(|sample| &sample.labels);
        labels
            .map(|(name, value)| match &**name {
                "le" => format!("le={:?}", value.parse::<f64>().unwrap()),
                _ => name.clone(),
            })
            .collect()
    }
}

impl Sample {
    fn of(line: &str) -> Self {
        let (series, value) = line.rsplit_once(' ').unwrap();
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        let labels = labels.strip_suffix('}').unwrap();
        let labels = labels.split_terminator("\",").map(|label| {
            let (name, value) = label.split_once("=\"").unwrap();
            (name.to_owned(), value.trim_end_matches('"').to_owned())
        });
        Self {
            name: name.to_owned(),
            labels: labels.collect(),
            value: value.to_owned(),
        }
    }

    fn has(&self, labels: &[(&str, &str)]) -> bool {
        let mut labels = labels.iter();
        labels.all(|(name, value)| self.labels.get(*name).is_some_and(|own| own == value))
    }
}
