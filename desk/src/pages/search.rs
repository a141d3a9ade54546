//! One record, by its caller and key.

use http::{Method, StatusCode, Uri};
use maud::{Markup, html};
use tower_idempotency::{FindError, IdempotencyLayer};

use super::record::{absent, state};
use super::{Frame, Problem};
use crate::fields::Fields;
use crate::respond::Reply;

pub(crate) fn search(frame: &Frame<'_>) -> Markup {
    let main = html! {
        p { "The record of a request is found by what tells it from others. What is written here is digested in \
             this process: it is neither stored nor logged, and stands in no address." }
        form.tall method="post" action="?view=search" autocomplete="off" {
            (frame.hidden())
            label { "Method" input name="method" value="POST" required; }
            label { "Path, as the layer sees it" input name="path" value="/" required; }
            label { "Key" input name="key" required; }
            label { "Caller, as the scope of the route tells it"
                textarea name="caller" rows="2" aria-describedby="caller-hint" {}
            }
            p.hint id="caller-hint" { "The value of the header that tells the caller (of several, one a line), an address, or the \
                caller's id. Where all callers share their keys, anything." }
            button type="submit" { "Find the record" }
        }
        h2 { "By the id of a record" }
        form.tall method="get" action="?" {
            input type="hidden" name="view" value="record";
            label { "Id, as logs and traces have it"
                input name="id" pattern="[0-9a-fA-F]{64}" title="64 hexadecimal digits" required;
            }
            button type="submit" { "Open the record" }
        }
    };
    frame.page("Find a record", None, main)
}

/// Leads to the record of the request that the form describes.
pub(crate) async fn found(
    layer: &IdempotencyLayer,
    frame: &Frame<'_>,
    form: &Fields,
) -> Result<Reply, Problem> {
    let method = form.get("method").trim().to_ascii_uppercase();
    let method = Method::from_bytes(method.as_bytes())
        .map_err(|_| wrong("The method is none", "Write one such as `POST`."))?;
    let path = form.get("path").trim();
    let uri = path.parse().ok().filter(|_| path.starts_with('/'));
    let uri: Uri = uri.ok_or_else(|| {
        wrong(
            "The path is none",
            "Write a path as it stands in a request, such as `/payments/17`.",
        )
    })?;
    // A form sends a line end as two characters.
    let caller = form.get("caller").trim().replace("\r\n", "\n");
    let records = layer.records();
    let found = records
        .find(&caller, form.get("key").trim(), &method, &uri)
        .await;
    let found = found.map_err(|error| match error {
        FindError::Store(error) => error.into(),
        FindError::Unprotected => {
            wrong("No route protects such a request", "Compare the method and the path.")
        }
        FindError::Key => wrong("Such a key has no record", "The layer refuses a request with it: compare the key."),
        _ => wrong(
            "There is no such caller",
            "Write what the scope of the route finds in a request. A scope of one's own is asked by `Scope::named`.",
        ),
    })?;
    match &*found {
        [] => Err(absent()),
        [(id, _)] => Ok(Reply::See(format!("?view=record&id={id}"))),
        several => {
            let main = html! {
                p { "Several callers or secrets fit." }
                ul { @for (id, record) in several {
                    li { a href={ "?view=record&id=" (id) } { code.id { (id) } } " " (state(&record.state)) }
                } }
            };
            Ok(Reply::Page(
                StatusCode::OK,
                frame.page("Several records", None, main),
            ))
        }
    }
}

fn wrong(title: &str, todo: &str) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, title, todo)
        .with_link("?view=search".to_owned(), "Back to the search")
}
