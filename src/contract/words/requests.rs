//! Requests: their keys, whose they are, and which are the same.

use crate::contract::Terms;
use crate::contract::words::{Sentences, names, refused};
use crate::display::{bytes, duration, header_name, join_with};
use crate::options::fingerprint::{FingerprintBody, JsonFingerprint};
use crate::options::key::KeySyntax;
use crate::options::{KeysPer, OnMismatch};
use crate::rejection::RejectionCode;

/// How to send a key, and whose it is.
pub(in crate::contract) fn sending(terms: &Terms) -> Sentences {
    let headers = match &*terms.header {
        [one] => format!("Send the key in the header `{}`, once.", header_name(one)),
        several => format!(
            "Send the key in one of the headers {}; if a request has several of them, the first of \
             this list counts.",
            names(several, "or")
        ),
    };
    let need = if terms.key_required {
        let refused = refused(terms, RejectionCode::KeyRequired);
        format!("Every request needs a key: one without {refused}.")
    } else {
        "A request without a key is executed each time it is sent.".to_owned()
    };
    let length = match (terms.key_length.start(), terms.key_length.end()) {
        (least, most) if least == most => format!("{least}"),
        (least, most) => format!("{least} to {most}"),
    };
    let format = terms.key_format.as_deref();
    let format = format.map_or(String::new(), |format| format!(" It must be {format}."));
    let syntax = match terms.key_syntax {
        KeySyntax::Lenient => {
            "A key may be sent as it is or as an RFC 8941 string: `abc` and `\"abc\"` are one key."
        }
        KeySyntax::Strict => {
            "A key is sent as an RFC 8941 string, between quotation marks: `\"abc\"` is the key `abc`."
        }
        KeySyntax::Raw => "A key is taken as it stands, quotation marks included.",
    };
    let scope = &terms.scope;
    let keys_per = match (terms.keys_per, terms.on_mismatch) {
        (KeysPer::Route, _) => {
            "Each endpoint (method and path) has keys of its own: the same key on two endpoints is two \
             operations."
        }
        (KeysPer::Scope, OnMismatch::Reject) => {
            "A key counts for its owner, not for an endpoint: one that was used on another endpoint is \
             not taken again."
        }
        (KeysPer::Scope, OnMismatch::Replay) => {
            "A key counts for its owner, not for an endpoint: on another endpoint it still means the \
             first operation."
        }
    };
    vec![
        headers,
        need,
        format!("A key has {length} printable ASCII characters.{format}"),
        syntax.to_owned(),
        "Make a new key for each operation, store it with the request before you send it, and send both \
         unchanged with every attempt."
            .to_owned(),
        format!("A key belongs to {scope}."),
        keys_per.to_owned(),
        format!(
            "With a key, a request may have a body of up to {}, and {} to send it.",
            bytes(terms.max_request_body),
            duration(terms.body_timeout)
        ),
    ]
}

/// What makes a request the same, and what another one gets.
pub(in crate::contract) fn reusing(terms: &Terms) -> Sentences {
    let mut parts = vec!["the method".to_owned(), "the path".to_owned()];
    if terms.fingerprint_query {
        parts.push("the query".to_owned());
    }
    for name in &terms.fingerprint_headers {
        parts.push(format!("the header `{}`", header_name(name)));
    }
    let body = match &terms.fingerprint_body {
        FingerprintBody::Bytes => {
            parts.push("the body".to_owned());
            "Bodies are compared byte by byte: keep what you sent, and don't write it anew."
                .to_owned()
        }
        FingerprintBody::Json(json) => {
            parts.push("the body".to_owned());
            json_body(json)
        }
        FingerprintBody::None => "Bodies are not compared.".to_owned(),
    };
    let other = match terms.on_mismatch {
        OnMismatch::Reject if terms.can_mismatch() => format!(
            "A key that was used for another request {}, also while the first one runs. Nothing is executed.",
            refused(terms, RejectionCode::KeyReused)
        ),
        OnMismatch::Reject => {
            "Nothing else tells two requests apart, so a key is never refused for another one."
                .to_owned()
        }
        OnMismatch::Replay => {
            "A key that comes with another request gets the first request's answer, \
             whatever is asked this time. Nothing is executed."
                .to_owned()
        }
    };
    vec![
        format!(
            "Two requests are the same if they have in common: {}.",
            join_with(&parts, "and")
        ),
        body,
        other,
    ]
}

fn json_body(json: &JsonFingerprint) -> String {
    let pointers = |own: &[String], says: &str| {
        let own: Vec<_> = own.iter().map(|pointer| format!("`{pointer}`")).collect();
        match &*own {
            [] => String::new(),
            own => format!(" {says}: {}.", join_with(own, "and")),
        }
    };
    format!(
        "Bodies are compared as JSON: white space and the order of members don't count.{}{} What is not \
         strict JSON is compared byte by byte.",
        pointers(&json.include, "Only these members count"),
        pointers(&json.exclude, "These members don't count")
    )
}
