//! What will happen, and what has happened.

use http::StatusCode;
use maud::{Markup, html};
use tower_idempotency::IdempotencyLayer;
use tower_idempotency::store::RecordState;

use super::record::{absent, state};
use super::{Frame, Problem};
use crate::action::{Action, Done, What};
use crate::respond::Reply;

/// The page that says what an action will do, before it does it.
pub(crate) async fn confirm(
    layer: &IdempotencyLayer,
    frame: &Frame<'_>,
    action: &Action,
) -> Result<Reply, Problem> {
    let record = layer
        .records()
        .look_up(&action.id)
        .await?
        .ok_or_else(absent)?;
    if record.version() != action.seen {
        return Err(moved(action));
    }
    let Some(consequence) = consequence(&action.what, &record.state) else {
        return Err(not_fitting(action));
    };
    let main = html! {
        p { "Nothing has been changed yet. The record is " strong { (state(&record.state)) } " at attempt "
            (record.attempt) "." }
        h2 { "This will happen" }
        (consequence)
        dl {
            dt { "Id" } dd { code.id { (action.id) } }
            dt { "Who" } dd { (action.who) }
            dt { "Why" } dd { (action.why) }
        }
        p.hint { "The decision is written to the log, with who and why. If the record moves on before you confirm, \
                  nothing is changed." }
        form method="post" action="?view=apply" autocomplete="off" {
            (frame.hidden())
            input type="hidden" name="id" value=(action.id);
            input type="hidden" name="seen" value=(action.seen);
            input type="hidden" name="action" value=(action.what.name());
            input type="hidden" name="who" value=(action.who);
            input type="hidden" name="why" value=(action.why);
            @if let What::Answer(answer) = &action.what {
                input type="hidden" name="status" value=(answer.status.as_u16());
                @if let Some(content_type) = &answer.content_type {
                    input type="hidden" name="content_type" value=(String::from_utf8_lossy(content_type.as_bytes()));
                }
                // A hidden field keeps line breaks as they are.
                input type="hidden" name="body" value=(answer.body);
            }
            button.grave type="submit" { (verb(&action.what)) }
            " "
            a href={ "?view=record&id=" (action.id) } { "Change nothing" }
        }
    };
    Ok(Reply::Page(
        StatusCode::OK,
        frame.page("Confirm", None, main),
    ))
}

fn verb(what: &What) -> &'static str {
    match what {
        What::Seal => "Seal the record",
        What::Answer(_) => "Record this response",
        What::Free => "Free the key",
        What::Forget => "Forget the record",
        What::Force => "Forget the record by force",
    }
}

/// What an action does to a record in this state; `None` if it can't be done to it.
fn consequence(what: &What, state: &RecordState) -> Option<Markup> {
    Some(match (what, state) {
        (What::Seal, RecordState::Lapsed { .. }) => html! {
            p { "The operation counts as done, and it does not run again. For the next 24 hours every retry with this key is refused with "
                code { "response-unavailable" } "." }
        },
        (What::Answer(answer), RecordState::Lapsed { .. }) => html! {
            p { "The operation counts as done, and it does not run again. For the next 24 hours every retry with this \
                 key gets this response:" }
            dl {
                dt { "Status" } dd { (answer.status.as_u16()) }
                dt { "Content type" } dd {
                    @if let Some(own) = &answer.content_type { (String::from_utf8_lossy(own.as_bytes())) }
                    @else { "none" }
                }
                dt { "Body, " (answer.body.len()) " B" } dd { pre tabindex="0" { (answer.body) } }
            }
        },
        (What::Free, RecordState::Lapsed { .. }) => html! {
            p { "The record is removed. The next request with this key " strong { "executes the operation" }
                ". If the operation did happen after all, it then happens twice." }
        },
        (What::Forget, RecordState::Completed { .. } | RecordState::Sealed { .. }) => html! {
            p { "The record of an operation that is done is removed, with its response. The next request with this key "
                strong { "executes the operation a second time" } "." }
        },
        (What::Force, RecordState::InFlight { .. }) => html! {
            p { "The record is removed though its owner may be alive. The next request with this key "
                strong { "executes the operation beside it" } ". The owner's response is recorded only if the owner ends \
                 before that." }
        },
        _ => return None,
    })
}

/// Does what was confirmed, and says what has happened.
pub(crate) async fn apply(
    layer: &IdempotencyLayer,
    frame: &Frame<'_>,
    action: &Action,
) -> Result<Reply, Problem> {
    let said = match action.apply(layer).await? {
        Done::Resolved => "The record has the outcome that you gave. Retries get it from now on.",
        Done::Forgotten => "The record is removed. A retry executes the operation.",
        Done::Absent => return Err(absent()),
        Done::Moved => return Err(moved(action)),
        Done::NotFitting => return Err(not_fitting(action)),
    };
    let main = html! {
        p.good role="status" { (said) }
        p { a href={ "?view=record&id=" (action.id) } { "Look at the record" } }
    };
    Ok(Reply::Page(StatusCode::OK, frame.page("Done", None, main)))
}

fn moved(action: &Action) -> Problem {
    let todo = "Another attempt or another person has changed it meanwhile, and what you know may be of the attempt \
                before. Nothing was changed by you. Look at the record again, and decide anew.";
    again(action, "The record has moved on since it was shown", todo)
}

fn not_fitting(action: &Action) -> Problem {
    let todo = "An operation in flight has an owner that may be alive, and one that is done needs no outcome. Nothing \
                was changed. Look at the record again.";
    again(action, "This can't be done to a record in its state", todo)
}

fn again(action: &Action, title: &str, todo: &str) -> Problem {
    let query = format!("?view=record&id={}", action.id);
    Problem::new(StatusCode::CONFLICT, title, todo).with_link(query, "Look at the record again")
}
