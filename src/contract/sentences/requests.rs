//! Requests: their keys, to whom a key belongs, and which requests are the same.

use crate::contract::sentences::{Sentences, gets, names, quoted};
use crate::contract::{Endpoint, can_mismatch};
use crate::display::{bytes, duration, header_name, join_with};
use crate::options::fingerprint::FingerprintBody;
use crate::options::json::JsonFingerprint;
use crate::options::json::member::MemberPointer;
use crate::options::key::KeySyntax;
use crate::options::{KeysPer, OnMismatch, Require};
use crate::rejection::RejectionCode;

/// How a client sends a key, and to whom the key belongs.
pub(in crate::contract) fn sending(endpoint: &Endpoint) -> Sentences {
    let options = &*endpoint.options;
    let keys = &options.keys;
    let headers = match &*keys.headers {
        [one] => format!("Send the key in the header `{}`, once.", header_name(one)),
        several => format!(
            "Send the key in one of the headers {}. If a request has more than one of them, the first \
             in this list counts.",
            names(several, "or")
        ),
    };
    let in_body = match &*keys.in_body {
        [] => String::new(),
        members => format!(
            "A JSON body may carry the key instead, as a string in its member {}{}. A request that has a \
             key in a header too must have the same one in both. The key of a body is its characters: \
             quotation marks and escapes are those of JSON.",
            quoted(members.iter(), "or"),
            if members.len() > 1 {
                "; the first in this list counts"
            } else {
                ""
            }
        ),
    };
    let need = if options.require == Require::Required {
        let gets = gets(endpoint, RejectionCode::KeyRequired);
        format!("Every request needs a key. A request without a key {gets}.")
    } else {
        "A request without a key is executed each time it is sent.".to_owned()
    };
    let length = match (keys.length.start(), keys.length.end()) {
        (least, most) if least == most => format!("{least}"),
        (least, most) => format!("{least} to {most}"),
    };
    let format = keys.format.name();
    let format = format.map_or(String::new(), |format| format!(" It must be {format}."));
    let syntax = match keys.syntax {
        KeySyntax::Lenient => {
            "A key may be sent as it is or as an RFC 8941 string: `abc` and `\"abc\"` are the same key. A \
             key with a comma is sent as a string."
        }
        KeySyntax::Strict => {
            "A key is sent as an RFC 8941 string, between quotation marks: `\"abc\"` is the key `abc`."
        }
        KeySyntax::Raw => "A key is read as it is sent. Quotation marks are a part of the key.",
    };
    let keys_per = match (options.keys_per, options.on_mismatch) {
        (KeysPer::Route, _) => {
            "Each endpoint (method and path) has its own keys: the same key on two endpoints is two \
             operations."
        }
        (KeysPer::Scope, OnMismatch::Reject) => {
            "Keys are shared by all endpoints: a key that was used on another endpoint is rejected."
        }
        (KeysPer::Scope, OnMismatch::Replay) => {
            "Keys are shared by all endpoints: on another endpoint a key still means the first operation."
        }
    };
    let body_limits = format!(
        "may have a body of up to {}, which must arrive within {}.",
        bytes(options.max_request_body),
        duration(options.body_timeout)
    );
    let with_key = if keys.in_body.is_empty() {
        "A request with a key"
    } else {
        "A request with a key or with a JSON body"
    };
    vec![
        headers,
        in_body,
        need,
        format!("A key has {length} printable ASCII characters.{format}"),
        syntax.to_owned(),
        "Make a new key for each operation. Store the key with the request before you send them, and send \
         both unchanged with every attempt."
            .to_owned(),
        format!("A key belongs to {}.", endpoint.scope),
        keys_per.to_owned(),
        format!("{with_key} {body_limits}"),
    ]
}

/// When two requests are the same, and what a different request gets.
pub(in crate::contract) fn reusing(endpoint: &Endpoint) -> Sentences {
    let options = &*endpoint.options;
    let mut parts = vec!["method".to_owned(), "path".to_owned()];
    if options.fingerprint.query {
        parts.push("query".to_owned());
    }
    for name in &options.fingerprint.headers {
        parts.push(format!("header `{}`", header_name(name)));
    }
    let body = match &options.fingerprint.body {
        FingerprintBody::Bytes => {
            parts.push("body".to_owned());
            "Bodies are compared byte by byte: keep the bytes that you sent, because serialising the same \
             data again can give other bytes."
                .to_owned()
        }
        FingerprintBody::Json(json) => {
            parts.push("body".to_owned());
            json_body(json, &options.keys.in_body)
        }
        FingerprintBody::None => "Bodies are not compared.".to_owned(),
    };
    let other = match options.on_mismatch {
        OnMismatch::Reject if can_mismatch(options) => format!(
            "A different request with a used key {}, even while the first request runs. Nothing is \
             executed.",
            gets(endpoint, RejectionCode::KeyReused)
        ),
        OnMismatch::Reject => {
            "Nothing else is compared, so a used key is never rejected because of another request."
                .to_owned()
        }
        OnMismatch::Replay => {
            "A different request with a used key gets the response to the first request. Nothing is \
             executed."
                .to_owned()
        }
    };
    vec![
        format!(
            "Two requests are the same if they have the same {}.",
            join_with(&parts, "and")
        ),
        body,
        other,
    ]
}

fn json_body(json: &JsonFingerprint, keys: &[MemberPointer]) -> String {
    let pointers = |own: &[String], before: &str| match own {
        [] => String::new(),
        own => format!(" {before}: {}.", quoted(own.iter(), "and")),
    };
    let key = if keys.is_empty() {
        ""
    } else {
        " The member with the key does not count."
    };
    format!(
        "Bodies are compared as JSON: white space and the order of members don't count.{}{}{key} A body \
         whose content type is not JSON, that is not strict JSON, or that has nothing else to compare, is \
         compared byte by byte.",
        pointers(&json.include, "Only these members count"),
        pointers(&json.exclude, "These members don't count")
    )
}
