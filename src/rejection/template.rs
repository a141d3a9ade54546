//! The application's own bodies of rejections, as texts with placeholders.

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use serde::de::IgnoredAny;

use crate::display::uuid;
use crate::error::ConfigError;
use crate::message::media_type::is_json;
use crate::rejection::json_rpc::is_answer;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The word that stands in a file for all codes without a body of their own.
pub(crate) const DEFAULT: &str = "default";

/// The values of a rejection's placeholders.
#[derive(Clone, Copy, Debug)]
pub(super) struct Values<'a> {
    pub(super) code: &'a str,
    pub(super) title: &'a str,
    pub(super) detail: &'a str,
    pub(super) status: StatusCode,
    pub(super) retry: &'a str,
    pub(super) docs_url: &'a str,
}

/// A text with placeholders, and its content type. `new` checks both, so that `render` can't fail.
#[derive(Clone, Debug)]
pub(crate) struct Template {
    content_type: HeaderValue,
    is_json: bool,
    /// Whether the body is an answer of JSON-RPC.
    is_json_rpc: bool,
    pieces: Vec<Piece>,
}

#[derive(Clone, Debug)]
enum Piece {
    Text(String),
    Value(Placeholder),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Placeholder {
    Code,
    Title,
    Detail,
    Status,
    Retry,
    DocsUrl,
    RequestId,
}

impl Placeholder {
    const ALL: [(&'static str, Self); 7] = [
        ("code", Self::Code),
        ("title", Self::Title),
        ("detail", Self::Detail),
        ("status", Self::Status),
        ("retry", Self::Retry),
        ("docs_url", Self::DocsUrl),
        ("request_id", Self::RequestId),
    ];

    fn named(name: &str) -> Option<Self> {
        let mut all = Self::ALL.into_iter();
        all.find(|(own, _)| *own == name).map(|(_, own)| own)
    }

    /// Whether the placeholder is allowed in a body that is not JSON, where its value can't be
    /// escaped.
    fn is_plain(self) -> bool {
        !matches!(self, Self::Title | Self::Detail | Self::DocsUrl)
    }
}

impl Template {
    /// # Errors
    /// If the content type or the body is wrong. The option of the error is `content_type` or
    /// `body`.
    pub(crate) fn new(content_type: &str, body: &str) -> Result<Self, ConfigError> {
        let is_type = |own: &str| {
            let essence = own.split(';').next().unwrap_or_default().trim();
            essence
                .split_once('/')
                .is_some_and(|(kind, sub)| !kind.is_empty() && !sub.is_empty())
        };
        let wrong = || {
            let message = format!("has `{content_type}`, which is not a content type");
            ConfigError::new("content_type", message)
        };
        let wrong_body = |message| ConfigError::new("body", message);
        let value = HeaderValue::from_str(content_type).map_err(|_| wrong())?;
        if !is_type(content_type) {
            return Err(wrong());
        }
        let mut template = Self {
            content_type: value,
            is_json: is_json(content_type),
            is_json_rpc: false,
            pieces: pieces(body).map_err(wrong_body)?,
        };
        template.check().map_err(wrong_body)?;
        template.is_json_rpc = template.is_json && is_answer(&template.sample());
        Ok(template)
    }

    /// Whether clients of JSON-RPC get this body, too.
    pub(super) fn is_json_rpc(&self) -> bool {
        self.is_json_rpc
    }

    /// The body with values that stand for all others.
    fn sample(&self) -> String {
        self.fill(|placeholder| match placeholder {
            Placeholder::Status => "409".to_owned(),
            _ => "sample".to_owned(),
        })
    }

    fn check(&self) -> Result<(), String> {
        if self.is_json {
            // No escape, number or word of JSON begins with `sample`. So if the body is JSON with
            // `sample` in it, the placeholder is inside a string, and the body is JSON with every
            // escaped value.
            return match serde_json::from_str::<IgnoredAny>(&self.sample()) {
                Ok(_) => Ok(()),
                Err(error) => Err(format!(
                    "has a body that is not JSON, with its placeholders filled in: {error}"
                )),
            };
        }
        let mut placeholders = self.pieces.iter().filter_map(|piece| match piece {
            Piece::Value(placeholder) => Some(*placeholder),
            Piece::Text(_) => None,
        });
        match placeholders.find(|placeholder| !placeholder.is_plain()) {
            None => Ok(()),
            Some(unsafe_here) => {
                let mut all = Placeholder::ALL.iter();
                let name = all.find(|(_, own)| *own == unsafe_here);
                Err(format!(
                    "has `{{{}}}` in a body that is not JSON, where only `{{code}}`, `{{status}}`, \
                     `{{retry}}` and `{{request_id}}` can stand",
                    name.map_or("", |(name, _)| name)
                ))
            }
        }
    }

    fn fill(&self, value: impl Fn(Placeholder) -> String) -> String {
        self.pieces
            .iter()
            .map(|piece| match piece {
                Piece::Text(text) => text.clone(),
                Piece::Value(placeholder) => value(*placeholder),
            })
            .collect()
    }

    /// Puts the body and its headers into `response`. `request_id` is that of the request, if it has
    /// one.
    pub(super) fn render(
        &self,
        values: &Values<'_>,
        request_id: Option<&HeaderValue>,
        mut response: Response<Bytes>,
    ) -> Response<Bytes> {
        let id = self
            .names(Placeholder::RequestId)
            .then(|| id_of(request_id));
        let body = self.fill(|placeholder| {
            let value = match placeholder {
                Placeholder::Code => values.code,
                Placeholder::Title => values.title,
                Placeholder::Detail => values.detail,
                Placeholder::Status => values.status.as_str(),
                Placeholder::Retry => values.retry,
                Placeholder::DocsUrl => values.docs_url,
                Placeholder::RequestId => id.as_ref().map_or("", |(text, _)| text),
            };
            if self.is_json {
                escaped(value)
            } else if is_safe(value) {
                value.to_owned()
            } else {
                String::new()
            }
        });
        *response.body_mut() = body.into();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, self.content_type.clone());
        if let Some((_, id)) = id {
            headers.insert(REQUEST_ID, id);
        }
        response
    }

    fn names(&self, placeholder: Placeholder) -> bool {
        let is_it = |piece: &Piece| matches!(piece, Piece::Value(own) if *own == placeholder);
        self.pieces.iter().any(is_it)
    }
}

/// Splits a body at its placeholders. `{name}` is a placeholder; every other brace is text,
/// because JSON contains many braces.
fn pieces(body: &str) -> Result<Vec<Piece>, String> {
    let mut pieces = Vec::new();
    let mut text = String::new();
    let mut rest = body;
    while let Some(at) = rest.find('{') {
        text.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        let name = &after[..after
            .find(|char: char| !(char.is_ascii_lowercase() || char == '_'))
            .unwrap_or(after.len())];
        if name.is_empty() || !after[name.len()..].starts_with('}') {
            text.push('{');
            rest = after;
            continue;
        }
        let Some(placeholder) = Placeholder::named(name) else {
            let known: Vec<_> = Placeholder::ALL
                .iter()
                .map(|(name, _)| format!("`{{{name}}}`"))
                .collect();
            return Err(format!(
                "has the unknown placeholder `{{{name}}}`; there are {}",
                known.join(", ")
            ));
        };
        pieces.push(Piece::Text(std::mem::take(&mut text)));
        pieces.push(Piece::Value(placeholder));
        rest = &after[name.len() + 1..];
    }
    text.push_str(rest);
    pieces.push(Piece::Text(text));
    Ok(pieces)
}

/// Returns the value of the request's `x-request-id`.
pub(super) fn request_id(headers: &HeaderMap) -> Option<&HeaderValue> {
    headers.get(REQUEST_ID)
}

/// Returns this id as text and as a header, or a new UUID if there is none.
fn id_of(own: Option<&HeaderValue>) -> (String, HeaderValue) {
    let own = own.and_then(|value| Some((value.to_str().ok()?, value)));
    if let Some((text, value)) = own.filter(|(text, _)| !text.is_empty()) {
        return (text.to_owned(), value.clone());
    }
    let id = uuid(rand::random(), 4);
    let value = HeaderValue::from_str(&id).expect("a UUID is hex digits and hyphens");
    (id, value)
}

/// Escapes `value` for the inside of a JSON string.
fn escaped(value: &str) -> String {
    let quoted = serde_json::Value::from(value).to_string();
    quoted[1..quoted.len() - 1].to_owned()
}

fn is_safe(value: &str) -> bool {
    value.len() <= 128
        && value
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::rejection::{Rejection, RejectionCode, RejectionRules};

    fn rejection() -> Rejection {
        let rules = RejectionRules {
            docs_url: Some("https://a.example/?a=\"b\"".into()),
            ..RejectionRules::default()
        };
        Rejection::new(RejectionCode::InFlight, "Say \"please\"\n\\ now.")
            .settle(&rules, Duration::from_secs(1))
    }

    fn rendered(template: &Template, id: Option<&str>) -> Response<Bytes> {
        let rejection = rejection();
        let id = id.map(|id| HeaderValue::from_str(id).unwrap());
        let response = rejection.answer("", Bytes::new());
        template.render(&rejection.values(), id.as_ref(), response)
    }

    fn body(content_type: &str, body: &str, id: Option<&str>) -> String {
        let template = Template::new(content_type, body).unwrap();
        let response = rendered(&template, id);
        String::from_utf8(response.into_body().to_vec()).unwrap()
    }

    #[test]
    fn every_placeholder_is_filled_in_and_escaped_in_json() {
        let filled = body(
            "application/vnd.api+json; charset=utf-8",
            r#"{"a":{},"c":"{code}","t":"{title}","d":"{detail}","s":{status},"r":"{retry}","u":"{docs_url}","i":"{request_id}","{":"}"}"#,
            Some("a \"quoted\" id"),
        );
        let filled: serde_json::Value = serde_json::from_str(&filled).unwrap();
        let expected = serde_json::json!({
            "a": {}, "c": "in-flight", "t": "Request still in flight",
            "d": "Say \"please\"\n\\ now.", "s": 409, "r": "same-key",
            "u": "https://a.example/?a=\"b\"", "i": "a \"quoted\" id", "{": "}",
        });
        assert_eq!(filled, expected);
    }

    #[test]
    fn a_request_id_is_sent_back_and_made_where_there_is_none() {
        let template = Template::new("text/plain", "id={request_id}").unwrap();
        let response = rendered(&template, Some("r-1"));
        assert_eq!(response.headers()["x-request-id"], "r-1");
        assert_eq!(response.headers()["content-type"], "text/plain");
        assert_eq!(response.headers()["retry-after"], "1");
        assert_eq!(response.body(), "id=r-1");
        for none in [None, Some("")] {
            let response = rendered(&template, none);
            let id = response.headers()["x-request-id"].to_str().unwrap();
            assert_eq!(*response.body(), format!("id={id}"));
            let id = uuid::Uuid::parse_str(id).unwrap();
            assert_eq!(id.get_version_num(), 4);
            let other = rendered(&template, none);
            assert_ne!(other.body(), response.body());
        }
        let without = Template::new("text/plain", "no").unwrap();
        let response = rendered(&without, Some("r-1"));
        assert!(!response.headers().contains_key("x-request-id"));
    }

    #[test]
    fn only_safe_values_are_put_into_other_types() {
        let longest = "a".repeat(128);
        assert_eq!(body("text/html", "{request_id}", Some(&longest)), longest);
        let long = "a".repeat(129);
        for id in ["<script>", "a b", "a\"b", "a;b", &long] {
            assert_eq!(
                body("text/html", "<p>{request_id}</p>", Some(id)),
                "<p></p>"
            );
        }
        assert_eq!(
            body(
                "text/html",
                "{code} {status} {retry} {request_id}",
                Some("A-1._")
            ),
            "in-flight 409 same-key A-1._"
        );
    }

    #[test]
    fn what_could_not_be_rendered_is_refused_when_it_is_made() {
        for (content_type, body, why) in [
            ("json", "{}", "not a content type"),
            ("/json", "{}", "not a content type"),
            ("application/", "{}", "not a content type"),
            ("a\nb/c", "{}", "not a content type"),
            (
                "application/json",
                "{\"a\":\"{codes}\"}",
                "unknown placeholder `{codes}`",
            ),
            ("text/plain", "{x}", "unknown placeholder `{x}`"),
            ("application/json", "{\"a\":{detail}}", "not JSON"),
            ("application/json", "{\"a\":\"\\{detail}\"}", "not JSON"),
            ("application/problem+json", "", "not JSON"),
            ("application/json", "{\"a\":1}}", "not JSON"),
            (
                "text/plain",
                "{detail}",
                "`{detail}` in a body that is not JSON",
            ),
            (
                "text/html",
                "<a href=\"{docs_url}\">",
                "`{docs_url}` in a body",
            ),
        ] {
            let error = Template::new(content_type, body).unwrap_err();
            let is_type = why == "not a content type";
            let option = if is_type { "content_type" } else { "body" };
            assert_eq!(error.option(), option, "{error}");
            assert!(
                error.message().contains(why),
                "{content_type} {body}: {error}"
            );
        }
    }
}
