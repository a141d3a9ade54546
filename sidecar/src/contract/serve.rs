//! The contract over HTTP.

use std::hash::{DefaultHasher, Hash, Hasher};

use bytes::Bytes;
use http::header::{
    ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, ETAG, IF_NONE_MATCH, VARY,
};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};

use super::SidecarContract;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Markdown,
    Json,
    OpenApi,
}

/// A client that accepts every format gets the first.
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

impl SidecarContract {
    /// The response to a request for the contract, whatever its path.
    ///
    /// The query `format=markdown`, `format=json` or `format=openapi` chooses the
    /// format; without the query, the header `Accept` chooses between
    /// `text/markdown`, `application/json` and `application/vnd.oai.openapi+json`.
    /// A client that accepts none of them, or sends no `Accept`, gets Markdown. GET
    /// and HEAD get the contract, with an `ETag`; other methods get a 405.
    pub(crate) fn respond(&self, request: &Parts) -> Response<Bytes> {
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
        let mut hasher = DefaultHasher::new();
        body.hash(&mut hasher);
        let tag = format!("\"{:016x}\"", hasher.finish());
        let unchanged = is_known(&request.headers, &tag);
        let tag = HeaderValue::try_from(tag).expect("hex digits in quotation marks");
        let length = HeaderValue::from(body.len());
        let sent = !unchanged && request.method == Method::GET;
        let mut response = Response::new(if sent { body.into() } else { Bytes::new() });
        let headers = response.headers_mut();
        headers.insert(ETAG, tag);
        headers.insert(VARY, HeaderValue::from_static("accept"));
        // The contract changes only with the configuration of the sidecar.
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

/// The format with the highest quality in `Accept`; of equal ones, the first.
fn accepted(headers: &HeaderMap) -> Format {
    let mut best = (Format::Markdown, 0.0);
    for format in FORMATS {
        let quality = quality(headers, format.media_type());
        if quality > best.1 {
            best = (format, quality);
        }
    }
    best.0
}

/// The quality of this media type, by the most specific range in `Accept` that
/// matches the media type (RFC 9110, section 12.5.1).
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

/// Whether `If-None-Match` lists this tag.
fn is_known(headers: &HeaderMap, tag: &str) -> bool {
    let lines = headers.get_all(IF_NONE_MATCH).iter();
    let mut known = lines.flat_map(|line| line.to_str().unwrap_or_default().split(','));
    known.any(|own| {
        let own = own.trim();
        own == "*" || own.trim_start_matches("W/") == tag
    })
}
