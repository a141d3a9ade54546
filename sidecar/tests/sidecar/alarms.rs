//! The files in `deploy/` ask for what the sidecar serves, and the runbook says what to do.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::exposition::Exposition;
use crate::support::{Client, File, get, nobody};

const ALARMS: &str = include_str!("../../../deploy/prometheus/alerts.yaml");
const TESTS: &str = include_str!("../../../deploy/prometheus/alerts.test.yaml");
const DASHBOARD: &str = include_str!("../../../deploy/grafana/dashboard.json");
const RUNBOOK: &str = include_str!("../../../docs/runbook.md");

/// Prometheus adds these.
const OF_THE_TARGET: [&str; 2] = ["job", "instance"];

/// A name with what its labels are compared with.
#[derive(Debug, PartialEq)]
struct Selector<'a> {
    name: &'a str,
    matchers: Vec<(&'a str, &'a str)>,
}

/// Returns the selectors of a text with expressions of `PromQL`.
fn selectors(text: &str) -> Vec<Selector<'_>> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let starts = text.match_indices("idempotency_").map(|(at, _)| at);
    let starts = starts.filter(|at| !text[..*at].ends_with(is_name));
    starts
        .map(|at| {
            let text = &text[at..];
            let (name, rest) = text.split_at(text.find(|c| !is_name(c)).unwrap_or(text.len()));
            let matchers = rest.strip_prefix('{').map(|rest| {
                let (matchers, _) = rest.split_once('}').unwrap();
                let matchers = matchers.split_terminator("\",").map(|matcher| {
                    let (label, value) = matcher.split_once('"').unwrap();
                    let label = label.trim().trim_end_matches(['=', '~', '!']);
                    (label, value.trim_end_matches('"'))
                });
                matchers.collect()
            });
            Selector {
                name,
                matchers: matchers.unwrap_or_default(),
            }
        })
        .collect()
}

/// Returns the expressions of the dashboard, by their panels.
fn panels(dashboard: &Value) -> Vec<(&str, &str)> {
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels.flat_map(|panel| {
        let title = panel["title"].as_str().unwrap();
        let targets = panel["targets"].as_array().into_iter().flatten();
        targets.map(move |target| (title, target["expr"].as_str().unwrap()))
    });
    targets.collect()
}

async fn served() -> Exposition {
    let file = File::new(nobody())
        .top("metrics = '127.0.0.1:0'")
        .route("POST /tried", "mode = 'observe'");
    let sidecar = file.start().await;
    let mut client = Client::connect(sidecar.metrics.unwrap()).await;
    client.send(&get("/metrics")).await;
    Exposition::of(client.answer().await.text())
}

/// Fails unless there is such a series, for each value that a matcher names.
fn assert_served(served: &Exposition, Selector { name, matchers }: &Selector<'_>, whose: &str) {
    let samples = served.samples(name);
    assert!(!samples.is_empty(), "{whose}: no {name} is served");
    for (label, values) in matchers {
        if OF_THE_TARGET.contains(label) {
            continue;
        }
        for value in values.split('|') {
            let mut own = samples
                .iter()
                .filter_map(|sample| sample.labels.get(*label));
            let found = own.any(|own| own == value);
            assert!(found, "{whose}: no {name} has {label}=\"{value}\"");
        }
    }
}

#[tokio::test]
async fn every_series_that_the_alarms_and_the_dashboard_ask_for_is_served() {
    let served = served().await;
    let alarms: Vec<_> = ALARMS
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'))
        .collect();
    let alarms = alarms.join("\n");
    let of_alarms = selectors(&alarms);
    assert!(of_alarms.len() > 20, "{of_alarms:?}");
    for selector in &of_alarms {
        assert_served(&served, selector, "alerts.yaml");
    }
    let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
    let mut shown = BTreeSet::new();
    for (title, expression) in panels(&dashboard) {
        for selector in selectors(expression) {
            assert_served(&served, &selector, title);
            shown.insert(selector.name.to_owned());
        }
    }
    // Nothing is served that an operator does not see.
    for (name, family) in &served.0 {
        let mut samples = family.samples.iter();
        assert!(samples.any(|own| shown.contains(&own.name)), "{name}");
    }
}

#[test]
fn a_selector_is_a_name_and_what_its_labels_are_compared_with() {
    let found = selectors(r#"sum(rate(idempotency_a{b="c", d!~"e|f"}[5m])) / idempotency_g"#);
    let selector = |name, matchers| Selector { name, matchers };
    assert_eq!(
        found,
        [
            selector("idempotency_a", vec![("b", "c"), ("d", "e|f")]),
            selector("idempotency_g", vec![]),
        ]
    );
}

/// Returns what comes after a beginning, of each line that has it.
fn after<'a>(text: &'a str, beginning: &str) -> Vec<&'a str> {
    let lines = text.lines().map(str::trim);
    lines
        .filter_map(|line| line.strip_prefix(beginning))
        .collect()
}

#[test]
fn the_runbook_has_a_heading_for_each_alarm_and_each_alarm_points_to_it() {
    let alarms = after(ALARMS, "- alert: ");
    assert!(alarms.len() > 10, "{alarms:?}");
    assert_eq!(after(RUNBOOK, "## Idempotency"), {
        let names = alarms.iter();
        let names = names.map(|name| name.strip_prefix("Idempotency").unwrap());
        names.collect::<Vec<_>>()
    });
    let anchors = alarms
        .iter()
        .map(|name| format!("docs/runbook.md#{}", name.to_lowercase()));
    assert_eq!(
        after(ALARMS, "runbook_url: "),
        anchors.collect::<Vec<_>>(),
        "in the order of the alarms"
    );
}

/// `scripts/test` runs these tests by promtool.
#[test]
fn each_alarm_is_tested_firing_and_not_firing() {
    for alarm in after(ALARMS, "- alert: ") {
        let silent = format!("{{ alertname: {alarm}, eval_time: ");
        let is_silent = |line: &&str| line.ends_with("exp_alerts: [] }");
        assert!(
            after(TESTS, &format!("- {silent}")).iter().any(is_silent),
            "{alarm} is never expected not to fire"
        );
        let mut fires = after(TESTS, "- alertname: ").into_iter();
        assert!(
            fires.any(|own| own == alarm),
            "{alarm} is never expected to fire"
        );
    }
}
