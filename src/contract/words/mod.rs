//! The terms of an endpoint in plain words.

use http::HeaderName;

use crate::contract::{RejectionExample, Terms};
use crate::display::{header_name, join_with};
use crate::rejection::RejectionCode;

mod answers;
mod requests;

pub(super) use answers::{not_kept, retrying, running};
pub(super) use requests::{reusing, sending};

/// What to say of one subject each; nothing where there is nothing to say.
pub(super) type Sentences = Vec<String>;

pub(super) fn paragraphs(mut said: Sentences) -> String {
    said.retain(|said| !said.is_empty());
    said.join("\n\n")
}

/// "gets 409 `in-flight`", with the status that it really has.
fn refused(terms: &Terms, code: RejectionCode) -> String {
    let status = terms
        .refusal(code)
        .map_or(code.default_status(), |refusal| refusal.status);
    format!("gets {} `{code}`", status.as_u16())
}

fn retry_after(refusal: Option<&RejectionExample>) -> Option<&str> {
    let value = refusal?.headers.get(http::header::RETRY_AFTER)?;
    value.to_str().ok()
}

fn names(names: &[HeaderName], conjunction: &str) -> String {
    let names: Vec<_> = names
        .iter()
        .map(|name| format!("`{}`", header_name(name)))
        .collect();
    join_with(&names, conjunction)
}
