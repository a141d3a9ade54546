//! Records in a state, page by page: the work list of unknown outcomes.

use std::num::NonZeroU16;
use std::time::{Duration, Instant};

use http::StatusCode;
use maud::{Markup, html};
use tower_idempotency::store::{ListQuery, ListedRecord, ListedState, RecordPage, StoreError};

use super::{Frame, Problem};
use crate::Inner;
use crate::fields::Fields;
use crate::respond::Reply;
use crate::spoken::{age, date};

/// How many records a page has.
const ROWS: NonZeroU16 = NonZeroU16::new(50).expect("50 is not zero");
/// How many steps of the store, and how much time, a page may take.
const STEPS: usize = 256;
const WITHIN: Duration = Duration::from_millis(500);

pub(crate) async fn list(
    desk: &Inner,
    frame: &Frame<'_>,
    fields: &Fields,
) -> Result<Reply, Problem> {
    let state = match fields.get("state") {
        "" => ListedState::Unknown,
        text => text.parse().map_err(|_| wrong("There is no such state"))?,
    };
    let mut query = ListQuery::new().state(state).limit(ROWS);
    let older = fields.get("older").trim();
    if !older.is_empty() {
        let minutes: u32 = older
            .parse()
            .map_err(|_| wrong("The age is no number of minutes"))?;
        query = query.older_than(Duration::from_secs(u64::from(minutes) * 60));
    }
    let cursor = fields.get("cursor");
    if !cursor.is_empty() {
        let cursor = cursor
            .parse()
            .map_err(|_| wrong("The page is none of this list"))?;
        query = query.cursor(cursor);
    }
    let page = gather(desk, query).await?;
    let main = html! {
        (filter(state, older))
        p.hint { (meaning(state)) }
        @if page.records.is_empty() {
            @if page.next.is_some() { p { "No such record is on this page. There is another page." } }
            @else { p { "There is no such record." } }
        } @else { (rows(&page.records)) }
        nav.pages aria-label="Pages" {
            @if !cursor.is_empty() { a href={ "?view=list&state=" (state) "&older=" (older) } { "First page" } }
            @if let Some(next) = &page.next {
                a rel="next" href={ "?view=list&state=" (state) "&older=" (older) "&cursor=" (next) } { "Next page" }
            }
        }
    };
    Ok(Reply::Page(
        StatusCode::OK,
        frame.page(title(state), None, main),
    ))
}

/// As many records as the query asks for, if they are found within some steps of the store. One step of
/// it may find none although there are others.
pub(super) async fn gather(desk: &Inner, mut query: ListQuery) -> Result<RecordPage, StoreError> {
    let began = Instant::now();
    let mut page = RecordPage::default();
    for _ in 0..STEPS {
        let left = usize::from(query.page_size()).saturating_sub(page.records.len());
        let left = u16::try_from(left).ok().and_then(NonZeroU16::new);
        let Some(left) = left.filter(|_| began.elapsed() < WITHIN) else {
            break;
        };
        let step = query.clone().limit(left);
        let step = desk.layer.records().list(&step).await?;
        page.records.extend(step.records);
        page.next = step.next;
        match &page.next {
            Some(next) => query = query.cursor(next.clone()),
            None => break,
        }
    }
    Ok(page)
}

fn filter(state: ListedState, older: &str) -> Markup {
    html! {
        form.row method="get" action="?" {
            input type="hidden" name="view" value="list";
            label { "State"
                select name="state" {
                    @for own in ListedState::ALL {
                        option value=(own) selected[own == state] { (title(own)) }
                    }
                }
            }
            label { "Older than, in minutes" input name="older" inputmode="numeric" pattern="[0-9]{0,9}" value=(older); }
            button type="submit" { "Show" }
        }
    }
}

fn rows(records: &[ListedRecord]) -> Markup {
    html! {
        table.cards {
            thead { tr {
                th scope="col" { "Record" } th scope="col" { "Age" } th scope="col" { "Route" }
                th.number scope="col" { "Attempt" } th scope="col" { "Trace" }
            } }
            tbody {
                @for record in records {
                    tr {
                        th scope="row" {
                            a href={ "?view=record&id=" (record.id) } { code { (record.id.to_string()[..12]) "…" } }
                        }
                        td data-label="Age" {
                            @match record.claimed_at {
                                Some(when) => span title=(date(when)) { (age(when)) },
                                None => "unknown",
                            }
                        }
                        td data-label="Route" { (record.origin.route.as_deref().unwrap_or("unknown")) }
                        td.number data-label="Attempt" { (record.attempt) }
                        td data-label="Trace" {
                            @match &record.origin.trace {
                                Some(trace) => code.id { (trace) },
                                None => "none",
                            }
                        }
                    }
                }
            }
        }
    }
}

pub(super) fn title(state: ListedState) -> &'static str {
    match state {
        ListedState::InFlight => "In flight",
        ListedState::Lapsed => "Lapsed",
        ListedState::Unknown => "Outcome unknown",
        ListedState::Sealed => "Sealed",
        ListedState::Completed => "Completed",
        ListedState::Released => "Released",
        _ => "Of a later version",
    }
}

fn meaning(state: ListedState) -> &'static str {
    match state {
        ListedState::InFlight => "An owner executes each of these operations.",
        ListedState::Lapsed => {
            "The owners of these operations were lost. Where a route refuses retries then, each waits for a decision; \
             elsewhere a retry executes."
        }
        ListedState::Unknown => "Each of these operations waits for a decision.",
        ListedState::Sealed => "These operations are done, and their responses were not kept.",
        ListedState::Completed => "These operations are done, and retries get their responses.",
        _ => "A retry executes these operations.",
    }
}

fn wrong(title: &str) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, title, "Begin again at the list.")
        .with_link("?view=list".to_owned(), "To the list")
}
