//! What happens now.

use std::time::{Duration, Instant};

use maud::{Markup, html};
use tower_idempotency::Counts;
use tower_idempotency::rejection::RejectionCode;
use tower_idempotency::store::{ListQuery, ListedState, RecordId, StoreErrorKind};

use super::list::gather;
use super::{Frame, traffic};
use crate::Inner;
use crate::fields::Fields;
use crate::spoken::precise;

/// How often a page that is watched is loaded again, in seconds.
const EVERY: u32 = 5;

pub(crate) async fn overview(desk: &Inner, frame: &Frame<'_>, query: &Fields) -> Markup {
    let is_paused = query.get("refresh") == "off";
    let counts = desk.layer.counts();
    let health = Health::of(desk).await;
    let main = html! {
        p.hint {
            @if is_paused { "Paused. " a href="?" { "Refresh every " (EVERY) " s" } }
            @else { "Refreshed every " (EVERY) " s. " a href="?refresh=off" { "Pause" } }
        }
        (health.section())
        (waiting(desk).await)
        @if let Some(observer) = &desk.observer { (traffic::minute(&observer.last_minute())) }
        (traffic::held(&desk.layer.usage()))
        (outcomes(&counts))
        (refusals(&counts))
    };
    frame.page("Overview", (!is_paused).then_some(EVERY), main)
}

/// What the store says to a question for a record that nobody has.
struct Health {
    error: Option<StoreErrorKind>,
    took: Duration,
}

impl Health {
    async fn of(desk: &Inner) -> Self {
        let asked = Instant::now();
        let answer = desk
            .layer
            .records()
            .look_up(&RecordId::from_bytes([0; 32]))
            .await;
        let error = answer.err().map(|error| error.kind());
        Self {
            // A store that can't look anything up has answered too.
            error: error.filter(|kind| *kind != StoreErrorKind::Unsupported),
            took: asked.elapsed(),
        }
    }

    fn section(&self) -> Markup {
        html! {
            section aria-labelledby="store" {
                h2 id="store" { "Store" }
                @match self.error {
                    None => p.good { "The store answers, in " (precise(self.took)) "." },
                    Some(kind) => p.bad role="alert" {
                        "The store gives no usable answer (" (format!("{kind:?}")) "). "
                        "Protected requests are refused until it does, unless a route says otherwise: see the log."
                    },
                }
            }
        }
    }
}

/// How many operations wait for a decision.
async fn waiting(desk: &Inner) -> Markup {
    let query = ListQuery::new().state(ListedState::Unknown);
    let Ok(page) = gather(desk, query).await else {
        // The section of the store tells what is wrong with it, or it has no lists.
        return html! {};
    };
    let count = page.records.len();
    html! {
        section aria-labelledby="waiting" {
            h2 id="waiting" { "Decisions" }
            @if count == 0 && page.next.is_none() { p.good { "No operation waits for a decision." } }
            @else {
                p.bad {
                    @if page.next.is_some() { "At least " }
                    a href="?view=list" { (count) " operations with an unknown outcome" } " wait for a decision."
                }
            }
        }
    }
}

fn outcomes(counts: &Counts) -> Markup {
    let rows = [
        (
            "Executed",
            counts.executed,
            "operations whose handlers began",
        ),
        (
            "Run again",
            counts.rerun,
            "among them, later attempts of their keys",
        ),
        (
            "Replayed",
            counts.replayed,
            "recorded responses given to retries",
        ),
        (
            "Recorded",
            counts.recorded,
            "operations whose responses were recorded",
        ),
        (
            "Sealed",
            counts.sealed,
            "operations done whose responses were not kept",
        ),
        (
            "Released",
            counts.released,
            "operations that a retry executes again",
        ),
        (
            "Outcome unknown",
            counts.outcome_unknown,
            "operations that wait for a decision",
        ),
        (
            "In doubt",
            counts.in_doubt,
            "operations left in flight until their leases lapse",
        ),
        (
            "Overtaken",
            counts.overtaken,
            "responses discarded for a later owner's",
        ),
        (
            "Unrecorded",
            counts.unrecorded,
            "responses sent before they were recorded",
        ),
        (
            "Unprotected",
            counts.unprotected,
            "operations run while the store was down",
        ),
    ];
    html! {
        section aria-labelledby="outcomes" {
            h2 id="outcomes" { "Since this process began" }
            div.wide { table {
                thead { tr { th scope="col" { "Outcome" } th.number scope="col" { "Count" } th scope="col" { "Meaning" } } }
                tbody {
                    @for (name, count, meaning) in rows {
                        tr { th scope="row" { (name) } td.number { (count) } td { (meaning) } }
                    }
                }
            } }
        }
    }
}

fn refusals(counts: &Counts) -> Markup {
    let codes = RejectionCode::ALL
        .iter()
        .map(|code| (code, counts.rejected(*code)));
    let codes: Vec<_> = codes.filter(|(_, count)| *count > 0).collect();
    html! {
        section aria-labelledby="refusals" {
            h2 id="refusals" { "Refusals by code" }
            @if codes.is_empty() { p { "No request was refused." } }
            @else {
                div.wide { table {
                    thead { tr { th scope="col" { "Code" } th.number scope="col" { "Count" } } }
                    tbody {
                        @for (code, count) in codes {
                            tr { th scope="row" { code { (code) } } td.number { (count) } }
                        }
                    }
                } }
            }
        }
    }
}
