//! The options of an endpoint, in plain words.

use http::HeaderName;

use crate::contract::Endpoint;
use crate::display::{header_name, join_with};
use crate::rejection::RejectionCode;

mod requests;
mod responses;

pub(super) use requests::{reusing, sending};
pub(super) use responses::{not_recorded, retrying, running};

/// One paragraph for each subject. Empty if an endpoint has nothing to say about
/// the subject.
pub(super) type Sentences = Vec<String>;

pub(super) fn paragraphs(mut sentences: Sentences) -> String {
    sentences.retain(|sentence| !sentence.is_empty());
    sentences.join("\n\n")
}

/// "gets 409 `in-flight`", with the status that this endpoint sends.
fn gets(endpoint: &Endpoint, code: RejectionCode) -> String {
    let status = endpoint
        .rejection(code)
        .map_or(code.default_status(), |example| example.status);
    format!("gets {} `{code}`", status.as_u16())
}

pub(super) fn names(names: &[HeaderName], conjunction: &str) -> String {
    quoted(names.iter().map(header_name), conjunction)
}

/// "`a`, `b` and `c`".
fn quoted(texts: impl Iterator<Item = impl std::fmt::Display>, conjunction: &str) -> String {
    let quoted: Vec<_> = texts.map(|text| format!("`{text}`")).collect();
    join_with(&quoted, conjunction)
}
