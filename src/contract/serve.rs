//! The contract as an answer.

use bytes::Bytes;
use http::header::{
    ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, ETAG, IF_NONE_MATCH, VARY,
};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};

use crate::contract::Contract;
use crate::record::Hex;
use crate::record::digest::sha256;

/// A way to write it down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Markdown,
    Json,
    OpenApi,
}

/// The first is what a client gets that takes anything.
const FORMATS: [Format; 3] = [Format::Markdown, Format::Json, Format::OpenApi];

impl Format {
    fn media_type(self) -> &'static str {
        match self {
            Format::Markdown => "text/markdown",
            Format::Json => "application/json",
            Format::OpenApi => "application/vnd.oai.openapi+json",
        }
    }

    fn content_type(self) -> &'static str {
        match self {
            Format::Markdown => "text/markdown; charset=utf-8",
            Format::Json => "application/json",
            Format::OpenApi => "application/vnd.oai.openapi+json;version=3.1",
        }
    }

    fn named(name: &str) -> Option<Self> {
        match name {
            "markdown" => Some(Format::Markdown),
            "json" => Some(Format::Json),
            "openapi" => Some(Format::OpenApi),
            _ => None,
        }
    }
}

impl Contract {
    /// The answer to a request for this contract, whatever its path.
    ///
    /// The query `format=markdown`, `format=json` or `format=openapi` chooses;
    /// without it the header `Accept`: `text/markdown`, `application/json` or
    /// `application/vnd.oai.openapi+json`. Who takes none of them, or does not
    /// say, gets Markdown. GET and HEAD are answered, with an `ETag`; other
    /// methods get a 405.
    ///
    /// ```
    /// use http::Request;
    /// use tower_idempotency::{IdempotencyLayer, MemoryStore, scope};
    ///
    /// let layer = IdempotencyLayer::new(MemoryStore::new(), scope::shared());
    /// let (request, ()) = Request::get("/idempotency?format=json").body(()).unwrap().into_parts();
    /// let answer = layer.contract().respond(&request);
    /// assert_eq!(answer.headers()["content-type"], "application/json");
    /// ```
    #[must_use]
    pub fn respond(&self, request: &Parts) -> Response<Bytes> {
        if request.method != Method::GET && request.method != Method::HEAD {
            let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "This can only be read.\n");
            let allowed = HeaderValue::from_static("GET, HEAD");
            response.headers_mut().insert(ALLOW, allowed);
            return response;
        }
        let query = request.uri.query().unwrap_or_default();
        let asked = query
            .split('&')
            .find_map(|pair| pair.strip_prefix("format="));
        let format = match asked.map(Format::named) {
            Some(Some(format)) => format,
            Some(None) => {
                let allowed = "`format` is `markdown`, `json` or `openapi`.\n";
                return plain(StatusCode::BAD_REQUEST, allowed);
            }
            None => accepted(&request.headers),
        };
        let body = match format {
            Format::Markdown => self.markdown(),
            Format::Json => format!("{:#}\n", self.json()),
            Format::OpenApi => format!("{:#}\n", self.openapi()),
        };
        let tag = format!("\"{}\"", Hex(&sha256(body.as_bytes())[..16]));
        let unchanged = is_known(&request.headers, &tag);
        let tag = HeaderValue::try_from(tag).expect("hex digits in quotation marks");
        let length = HeaderValue::from(body.len());
        let sent = !unchanged && request.method == Method::GET;
        let mut response = Response::new(if sent { body.into() } else { Bytes::new() });
        let headers = response.headers_mut();
        headers.insert(ETAG, tag);
        headers.insert(VARY, HeaderValue::from_static("accept"));
        // It changes with the service's configuration, and not often.
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("max-age=300"));
        if unchanged {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
        } else {
            let content_type = HeaderValue::from_static(format.content_type());
            headers.insert(CONTENT_TYPE, content_type);
            headers.insert(CONTENT_LENGTH, length);
        }
        response
    }
}

fn plain(status: StatusCode, text: &'static str) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from_static(text.as_bytes()));
    *response.status_mut() = status;
    let content_type = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

/// The format that the client likes best; of those it likes equally, the first.
fn accepted(headers: &HeaderMap) -> Format {
    let mut best = (Format::Markdown, 0.0);
    for format in FORMATS {
        let liked = quality(headers, format.media_type());
        if liked > best.1 {
            best = (format, liked);
        }
    }
    best.0
}

/// What the most specific range says of this type (RFC 9110, section 12.5.1).
fn quality(headers: &HeaderMap, media_type: &str) -> f32 {
    let lines = headers.get_all(ACCEPT).iter();
    let ranges = lines.flat_map(|line| line.to_str().unwrap_or_default().split(','));
    let mut best = (0, 0.0);
    for range in ranges {
        let mut parts = range.split(';').map(str::trim);
        let range = parts.next().unwrap_or_default();
        let family = range.strip_suffix("/*").unwrap_or("");
        let specific = if range.eq_ignore_ascii_case(media_type) {
            3
        } else if family == "*" {
            1
        } else if media_type
            .split('/')
            .next()
            .is_some_and(|own| own.eq_ignore_ascii_case(family))
        {
            2
        } else {
            continue;
        };
        let weight = parts.find_map(|part| part.strip_prefix("q="));
        let weight = weight.map_or(1.0, |weight| weight.trim().parse().unwrap_or(0.0));
        if specific > best.0 {
            best = (specific, weight);
        }
    }
    best.1
}

fn is_known(headers: &HeaderMap, tag: &str) -> bool {
    let lines = headers.get_all(IF_NONE_MATCH).iter();
    let mut known = lines.flat_map(|line| line.to_str().unwrap_or_default().split(','));
    known.any(|own| {
        let own = own.trim();
        own == "*" || own.trim_start_matches("W/") == tag
    })
}
