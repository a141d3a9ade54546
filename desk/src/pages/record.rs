//! One record's life, and what can be done with it.

use http::StatusCode;
use maud::{Markup, html};
use tower_idempotency::store::{Completion, Record, RecordId, RecordState};

use super::{Frame, Problem};
use crate::Inner;
use crate::respond::Reply;
use crate::spoken::{age, bytes, date, spoken};

/// The most of a body that is shown, in bytes.
const SHOWN: usize = 16 << 10;

pub(crate) async fn record(
    desk: &Inner,
    frame: &Frame<'_>,
    id: &RecordId,
) -> Result<Reply, Problem> {
    let found = desk.layer.records().look_up(id).await?;
    let record = found.ok_or_else(absent)?;
    let main = html! {
        dl {
            dt { "Id" } dd { code.id { (id) } }
            dt { "State" } dd { strong { (state(&record.state)) } }
            dt { "Attempt" } dd { (record.attempt) }
            dt { "Fencing token" } dd { (record.token) }
            dt { "Route" } dd { (record.origin.route.as_deref().unwrap_or("unknown")) }
            dt { "Trace" } dd {
                @match &record.origin.trace {
                    Some(trace) => code.id { (trace) },
                    None => "none",
                }
            }
            @if let Some(claimed) = record.claimed_at { dt { "This attempt began" } dd { (when(claimed)) } }
            (details(&record.state))
        }
        @if let RecordState::Completed { completion, .. } = &record.state {
            (response(completion, desk.show_bodies))
        }
        (decisions(frame, id, &record))
    };
    Ok(Reply::Page(
        StatusCode::OK,
        frame.page("Record", None, main),
    ))
}

pub(crate) fn absent() -> Problem {
    let todo = "It was forgotten, its retention has ended, or the caller, the key or the path was another: compare \
                them. A retry with such a key executes the operation.";
    Problem::new(StatusCode::NOT_FOUND, "There is no such record", todo)
        .with_link("?view=search".to_owned(), "Find another record")
}

pub(crate) fn state(state: &RecordState) -> &'static str {
    match state {
        RecordState::InFlight { .. } => "In flight",
        RecordState::Lapsed { .. } => "Outcome unknown",
        RecordState::Completed { .. } => "Completed",
        RecordState::Sealed { .. } => "Sealed",
        RecordState::Released => "Released",
        _ => "Unknown to this version of the desk",
    }
}

fn details(state: &RecordState) -> Markup {
    html! {
        @match state {
            RecordState::InFlight { lapses_in, .. } => {
                dt { "Meaning" } dd { "An owner executes the operation. Retries wait or get " code { "in-flight" } "." }
                dt { "Lease" } dd {
                    // The owner lives in this process: the lease does not lapse by time.
                    @if lapses_in.as_secs() > 1 << 30 { "held by this process" }
                    @else { "lapses in " (spoken(*lapses_in)) ", unless it is renewed" }
                }
            }
            RecordState::Lapsed { .. } => {
                dt { "Meaning" } dd { "An owner began the operation, and nobody knows how it ended. Find out what \
                    happened, then decide below." }
            }
            RecordState::Completed { completion, .. } => {
                dt { "Meaning" } dd { "The operation is done. Every retry gets the recorded response." }
                dt { "Began" } dd { (when(completion.began_at)) }
                dt { "Ended" } dd { (when(completion.completed_at)) }
                @if let Some(until) = completion.kept_until() {
                    dt { "Kept until" } dd { (date(until)) }
                }
            }
            RecordState::Sealed { .. } => {
                dt { "Meaning" } dd { "The operation is done, and its response was not kept: retries get "
                    code { "response-unavailable" } "." }
            }
            _ => { dt { "Meaning" } dd { "A retry executes the operation." } }
        }
    }
}

fn when(when: std::time::SystemTime) -> Markup {
    html! { (date(when)) " (" (age(when)) " ago)" }
}

fn response(completion: &Completion, is_shown: bool) -> Markup {
    let body = &completion.body;
    html! {
        section aria-labelledby="response" {
            h2 id="response" { "Recorded response" }
            dl {
                dt { "Status" } dd { (completion.status.as_u16()) }
                dt { "Body" } dd { (bytes(body.len() as u64)) }
            }
            @if is_shown {
                div.wide { table {
                    thead { tr { th scope="col" { "Header" } th scope="col" { "Value" } } }
                    tbody {
                        @for (name, value) in &completion.headers {
                            tr { th scope="row" { (name) } td { (String::from_utf8_lossy(value.as_bytes())) } }
                        }
                    }
                } }
                pre tabindex="0" aria-label="Body" { (String::from_utf8_lossy(&body[..body.len().min(SHOWN)])) }
                @if body.len() > SHOWN { p.hint { "The first " (bytes(SHOWN as u64)) " are shown." } }
            } @else {
                p.hint { "Headers and body are not shown: the option " code { "show_bodies" } " is off." }
            }
        }
    }
}

/// The forms. Each leads to a page that says what will happen.
fn decisions(frame: &Frame<'_>, id: &RecordId, record: &Record) -> Markup {
    let hidden = html! {
        (frame.hidden())
        input type="hidden" name="id" value=(id);
        input type="hidden" name="seen" value=(record.version());
    };
    let reason = html! {
        label { "Who decides" input name="who" maxlength="200" required; }
        label { "Why" input name="why" maxlength="1000" required; }
    };
    let form = |title: &str, fields: Markup| {
        html! {
            details {
                summary { (title) }
                form.tall method="post" action="?view=confirm" autocomplete="off" {
                    (hidden) (fields) (reason)
                    button type="submit" { "Continue" }
                }
            }
        }
    };
    let choice = |name: &str| html! { input type="hidden" name="action" value=(name); };
    html! {
        section aria-labelledby="decide" {
            h2 id="decide" { "Decide" }
            @match record.state {
                RecordState::InFlight { .. } => {
                    p { "While the owner is alive, wait for its outcome." }
                    (form("Forget it though its owner may be alive", choice("force")))
                }
                RecordState::Lapsed { .. } => {
                    (form("It happened: retries get no response", choice("seal")))
                    (form("It happened: retries get a response", html! {
                        (choice("answer"))
                        label { "Status" input name="status" inputmode="numeric" value="200" required; }
                        label { "Content type" input name="content_type" value="application/json"; }
                        label { "Body" textarea name="body" rows="6" {} }
                    }))
                    (form("It did not happen: a retry executes", choice("free")))
                }
                RecordState::Released => p { "There is nothing to decide: a retry executes." },
                _ => (form("Forget it: a retry executes again", choice("forget"))),
            }
        }
    }
}
