//! The authorizer: the service that says whether a caller may send a request. The
//! sidecar asks it before the layer claims or replays anything, since a replay never
//! reaches the upstream's own check.

use std::error::Error;
use std::future::pending;
use std::net::Ipv4Addr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    CACHE_CONTROL, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue, RANGE, TE, WWW_AUTHENTICATE,
};
use http::request::Parts;
use http::{Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use tokio::time::timeout;
use tower_idempotency::for_sidecar::{GatewayCode, Limits, Refusal, Refusals};
use tower_idempotency::scope::PeerAddr;
use tracing::warn;

use crate::BoxError;
use crate::client::{Client, Failure, KEEP_ALIVE};
use crate::connect::Connector;
use crate::forwarded::remove_spellings;
use crate::options::Authorize;
use crate::places::{Caller, Places};
use crate::problem::usual;
use crate::tls;

const ORIGINAL_METHOD: HeaderName = HeaderName::from_static("x-original-method");
const ORIGINAL_URI: HeaderName = HeaderName::from_static("x-original-uri");
/// How many bytes of the authorizer's response body are read. The sidecar does not
/// use the body; a body that is read to its end lets the connection be used again.
const READ: usize = 64 << 10;

pub(crate) struct Authorizer {
    client: Client<Empty<Bytes>>,
    places: Arc<Places>,
    url: Uri,
    timeout: Duration,
    headers: Vec<HeaderName>,
    refusals: Refusals,
}

/// Why a request does not reach the layer. Each variant holds the response to it.
pub(crate) enum NotAllowed {
    Denied(Response<Bytes>),
    Unknown(Response<Bytes>),
}

impl Authorizer {
    pub(crate) fn new(
        settings: &Authorize,
        tls: Option<tls::Connector>,
        limits: &Limits,
        refusals: Refusals,
    ) -> Self {
        let connector = Connector::new("authorize", settings.timeout, tls);
        Self {
            client: Client::new(connector, &settings.url, None, KEEP_ALIVE),
            places: Places::new(limits, settings.timeout),
            url: settings.url.clone(),
            timeout: settings.timeout,
            headers: settings.headers.clone(),
            refusals,
        }
    }

    /// Sends the request's head to the authorizer. If the authorizer allows the request,
    /// its response's `headers` of the option `authorize` replace those of the request.
    pub(crate) async fn allow(&self, parts: &mut Parts) -> Result<(), NotAllowed> {
        let response = timeout(self.timeout, self.ask(parts)).await;
        let response = match response {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => {
                warn!(
                    error = &*error as &dyn Error,
                    "the authorizer gave no response"
                );
                return Err(self.unknown(parts));
            }
            Err(_) => {
                warn!("the authorizer did not respond in time");
                return Err(self.unknown(parts));
            }
        };
        match response.status() {
            status if status.is_success() => {
                for name in &self.headers {
                    parts.headers.remove(name);
                    for value in response.headers().get_all(name) {
                        parts.headers.append(name, value.clone());
                    }
                }
                Ok(())
            }
            status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
                Err(self.denied(parts, status, response.headers()))
            }
            status => {
                warn!(%status, "the authorizer responded with neither yes nor no");
                Err(self.unknown(parts))
            }
        }
    }

    async fn ask(&self, parts: &Parts) -> Result<Response<()>, BoxError> {
        let headers = authorization_headers(parts)?;
        let mut head = Request::new(());
        head.uri_mut().clone_from(&self.url);
        *head.headers_mut() = headers;
        let mut bodies = || Some(Empty::new());
        let peer = parts.extensions.get::<PeerAddr>();
        let peer = peer.map_or(Ipv4Addr::UNSPECIFIED.into(), |peer| peer.0.ip());
        let place = self.places.take(Caller::At(peer)).await;
        let place = Arc::new(place.map_err(|_| "too many requests wait for the authorizer")?);
        // `allow` limits the time.
        let forever = pin!(pending());
        let response = self.client.send(head, &mut bodies, forever, &place).await;
        let (head, body) = response.map_err(Failure::into_error)?.into_parts();
        // The status and the headers decide; an error in the body changes nothing.
        let _ = Limited::new(body, READ).collect().await;
        Ok(Response::from_parts(head, ()))
    }

    fn denied(&self, parts: &Parts, status: StatusCode, headers: &HeaderMap) -> NotAllowed {
        let refusal = Refusal {
            status,
            ..usual(GatewayCode::NotAuthorized)
        };
        let asked = self.refusals.asked(&parts.headers);
        let mut response = self.refusals.response(&refusal, &asked);
        for challenge in headers.get_all(WWW_AUTHENTICATE) {
            let challenge = challenge.clone();
            response.headers_mut().append(WWW_AUTHENTICATE, challenge);
        }
        NotAllowed::Denied(response)
    }

    fn unknown(&self, parts: &Parts) -> NotAllowed {
        let refusal = usual(GatewayCode::AuthorizerUnavailable);
        let asked = self.refusals.asked(&parts.headers);
        NotAllowed::Unknown(self.refusals.response(&refusal, &asked))
    }
}

/// The client's headers, without those that describe a body, and without conditions and
/// ranges, which the authorizer would apply to its own response.
fn authorization_headers(parts: &Parts) -> Result<HeaderMap, BoxError> {
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
    let target = parts
        .uri
        .path_and_query()
        .map_or("/", |target| target.as_str());
    headers.insert(ORIGINAL_METHOD, parts.method.as_str().parse()?);
    headers.insert(ORIGINAL_URI, HeaderValue::from_bytes(target.as_bytes())?);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(headers)
}
