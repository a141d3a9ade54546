//! Whether a caller may have an answer: asked before anything is claimed or
//! replayed, since a replay goes past the upstream's own check.

use std::error::Error;
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    CACHE_CONTROL, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue, RANGE, TE, WWW_AUTHENTICATE,
};
use http::request::Parts;
use http::{Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::time::timeout;
use tracing::warn;

use crate::BoxError;
use crate::connect::Connector;
use crate::forwarded::remove_spellings;
use crate::options::Authorize;
use crate::path::SentTarget;
use crate::problem::{NO_AUTHORIZER, NOT_ALLOWED, Problem};

const ORIGINAL_METHOD: HeaderName = HeaderName::from_static("x-original-method");
const ORIGINAL_URI: HeaderName = HeaderName::from_static("x-original-uri");
/// Of an answer's body, which is not looked at: so much is read for the sake of
/// the connection.
const READ: usize = 64 << 10;

pub(crate) struct Authorizer {
    client: Client<Connector, Empty<Bytes>>,
    url: Uri,
    timeout: Duration,
    headers: Vec<HeaderName>,
}

/// Why a request goes no further.
pub(crate) enum Refused {
    Denied(Response<Bytes>),
    Unknown(Response<Bytes>),
}

impl Authorizer {
    pub(crate) fn new(settings: &Authorize) -> Self {
        let connector = Connector {
            timeout: settings.timeout,
        };
        let client = Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(1))
            .build(connector);
        Self {
            client,
            url: settings.url.clone(),
            timeout: settings.timeout,
            headers: settings.headers.clone(),
        }
    }

    /// Asks about a request by its head, and puts into it what the answer says
    /// of its caller.
    pub(crate) async fn allow(&self, parts: &mut Parts) -> Result<(), Refused> {
        let asked = timeout(self.timeout, self.ask(parts)).await;
        let answer = match asked {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => {
                warn!(
                    error = &*error as &dyn Error,
                    "the authorizer gave no answer"
                );
                return Err(unknown());
            }
            Err(_) => {
                warn!("the authorizer did not answer in time");
                return Err(unknown());
            }
        };
        match answer.status() {
            status if status.is_success() => {
                for name in &self.headers {
                    parts.headers.remove(name);
                    for value in answer.headers().get_all(name) {
                        parts.headers.append(name, value.clone());
                    }
                }
                Ok(())
            }
            status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
                Err(denied(status, answer.headers()))
            }
            status => {
                warn!(%status, "the authorizer answered neither yes nor no");
                Err(unknown())
            }
        }
    }

    async fn ask(&self, parts: &Parts) -> Result<Response<()>, BoxError> {
        let mut request = Request::new(Empty::new());
        *request.uri_mut() = self.url.clone();
        *request.headers_mut() = question(parts)?;
        let (head, body) = self.client.request(request).await?.into_parts();
        // What comes after the head changes nothing.
        let _ = Limited::new(body, READ).collect().await;
        Ok(Response::from_parts(head, ()))
    }
}

/// What the client said, but nothing of a body, and no condition that the
/// authorizer would take for its own answer's.
fn question(parts: &Parts) -> Result<HeaderMap, BoxError> {
    let mut headers = parts.headers.clone();
    let left_out: Vec<_> = headers
        .keys()
        .filter(|name| {
            let name = name.as_str();
            name.starts_with("content-") || name.starts_with("if-")
        })
        .cloned()
        .chain([HOST, RANGE, EXPECT, TE])
        .collect();
    for name in left_out {
        headers.remove(name);
    }
    remove_spellings(&mut headers, &[ORIGINAL_METHOD, ORIGINAL_URI]);
    let sent = parts.extensions.get::<SentTarget>();
    let target = sent.map_or(&parts.uri, |SentTarget(uri)| uri);
    let target = target
        .path_and_query()
        .map_or("/", |target| target.as_str());
    headers.insert(ORIGINAL_METHOD, parts.method.as_str().parse()?);
    headers.insert(ORIGINAL_URI, HeaderValue::from_bytes(target.as_bytes())?);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(headers)
}

fn denied(status: StatusCode, headers: &HeaderMap) -> Refused {
    let problem = Problem {
        status,
        ..NOT_ALLOWED
    };
    let detail = "The caller may not do this. Nothing was executed, and nothing replayed.";
    let mut response = problem.answer(detail);
    for challenge in headers.get_all(WWW_AUTHENTICATE) {
        let challenge = challenge.clone();
        response.headers_mut().append(WWW_AUTHENTICATE, challenge);
    }
    Refused::Denied(response)
}

fn unknown() -> Refused {
    let detail = "Whether the caller may do this can't be told right now. Nothing was executed; \
                  send the same request again in a moment.";
    Refused::Unknown(NO_AUTHORIZER.answer(detail))
}
