//! The last minute, and what is held now.

use maud::{Markup, html};
use tower_idempotency::Usage;

use crate::spoken::{bytes, precise};
use crate::traffic::{CALLS, Minute, OUTCOMES, SECONDS};

/// The height of the picture; its width is that of the seconds.
const HEIGHT: u64 = 120;
/// The width of a second.
const WIDTH: u64 = 10;

/// The class of each outcome, which gives it its colour.
const CLASSES: [&str; OUTCOMES.len()] = [
    "executed", "replayed", "rejected", "other", "observed", "other",
];

/// Requests a second by outcome, and latencies of the store.
pub(super) fn minute(minute: &Minute) -> Markup {
    let seconds = minute.seconds.len().max(1) as u64;
    html! {
        section aria-labelledby="minute" {
            h2 id="minute" { "The last minute" }
            (picture(minute))
            div.wide { table {
                thead { tr {
                    th scope="col" { "Outcome" } th.number scope="col" { "A second" } th.number scope="col" { "In all" }
                } }
                tbody {
                    @for (at, outcome) in OUTCOMES.iter().enumerate() {
                        @let count = minute.of(at);
                        @if at < 3 || count > 0 {
                            tr {
                                th scope="row" { (key(CLASSES[at])) " " (outcome) }
                                td.number { (per_second(count, seconds)) }
                                td.number { (count) }
                            }
                        }
                    }
                }
            } }
            h3 { "Latency of the store" }
            @if minute.failed > 0 {
                p.bad role="alert" { (minute.failed) " of " (minute.calls) " calls failed or timed out." }
            }
            div.wide { table {
                thead { tr {
                    th scope="col" { "Call" } th.number scope="col" { "Half within" }
                    th.number scope="col" { "99 % within" } th.number scope="col" { "Calls" }
                } }
                tbody {
                    @for (call, latency) in CALLS.iter().zip(&minute.latencies) {
                        tr {
                            th scope="row" { (call) }
                            @if latency.count == 0 { td.number { "–" } td.number { "–" } }
                            @else { td.number { (precise(latency.half)) } td.number { (precise(latency.most)) } }
                            td.number { (latency.count) }
                        }
                    }
                }
            } }
        }
    }
}

fn key(class: &str) -> Markup {
    html! { svg.key viewBox="0 0 10 10" aria-hidden="true" { rect class=(class) width="10" height="10" {} } }
}

fn per_second(count: u64, seconds: u64) -> String {
    let tenths = (count * 10).div_ceil(seconds);
    format!("{}.{}", tenths / 10, tenths % 10)
}

/// A bar for each second, with its outcomes on top of each other.
fn picture(minute: &Minute) -> Markup {
    let sums = minute
        .seconds
        .iter()
        .map(|own| own.iter().copied().map(u64::from).sum::<u64>());
    let highest = sums.max().unwrap_or(0);
    let empty = SECONDS - minute.seconds.len() as u64;
    let label = format!(
        "Requests a second by outcome within the last minute, {highest} in the busiest second"
    );
    html! {
        svg role="img" aria-label=(label) viewBox={ "0 0 " (SECONDS * WIDTH) " " (HEIGHT + 2) } {
            @for (at, second) in minute.seconds.iter().enumerate() {
                @let bars = bars(second, highest);
                @for (class, y, height) in bars {
                    rect class=(class) x=((empty + at as u64) * WIDTH) y=(y) width=(WIDTH - 2) height=(height) {}
                }
            }
            rect.axis x="0" y=(HEIGHT) width=(SECONDS * WIDTH) height="1" {}
        }
        p.hint { "The busiest second had " (highest) " requests." }
    }
}

/// The class, the upper end and the height of each part of a bar.
fn bars(second: &[u32; OUTCOMES.len()], highest: u64) -> Vec<(&'static str, u64, u64)> {
    let mut top = HEIGHT;
    let mut bars = Vec::new();
    for (class, count) in CLASSES.iter().zip(second) {
        if *count > 0 {
            // Also a single request can be seen.
            let height = (u64::from(*count) * HEIGHT / highest.max(1))
                .max(1)
                .min(top);
            top -= height;
            bars.push((*class, top, height));
        }
    }
    bars
}

/// What is held of each limit.
pub(super) fn held(usage: &Usage) -> Markup {
    html! {
        section aria-labelledby="held" {
            h2 id="held" { "Held against each limit" }
            div.wide { table {
                thead { tr {
                    th scope="col" { "Limit" } th scope="col" { "Held" } th.number scope="col" { "Of" }
                    th.number scope="col" { "One caller" }
                } }
                tbody {
                    @for limit in &usage.limits {
                        @let amount = |of: usize| amount(limit.option, of);
                        tr {
                            th scope="row" { code { (limit.option) } }
                            td { meter min="0" max=(limit.limit.max(1)) value=(limit.held)
                                aria-label={ "Held of " (limit.option) } { (limit.held) } " " (amount(limit.held)) }
                            td.number { (amount(limit.limit)) }
                            td.number {
                                @match limit.per_caller {
                                    Some(own) => (amount(own)),
                                    None => "7 × what is free",
                                }
                            }
                        }
                    }
                }
            } }
            @if let Some(store) = &usage.store {
                p { "The store has " (store.records) " records in about " (bytes(store.bytes as u64)) "." }
            }
        }
    }
}

fn amount(option: &str, of: usize) -> String {
    let is_bytes = option.ends_with("_bytes") || option == "max_read_ahead";
    if is_bytes {
        bytes(of as u64)
    } else {
        of.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_has_the_height_of_its_second_and_shows_a_single_request() {
        assert_eq!(
            bars(&[60, 30, 0, 0, 0, 30], 120),
            [("executed", 60, 60), ("replayed", 30, 30), ("other", 0, 30)]
        );
        assert_eq!(bars(&[1, 0, 0, 0, 0, 0], 100_000), [("executed", 119, 1)]);
        assert_eq!(bars(&[0; 6], 0), []);
        assert_eq!(
            (per_second(59, 60), per_second(120, 60)),
            ("1.0".to_owned(), "2.0".to_owned())
        );
    }
}
