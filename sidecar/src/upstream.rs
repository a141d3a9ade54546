//! The service inside the layer: it forwards requests to the upstream.

use std::convert::Infallible;
use std::error::Error;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::header::{CONNECTION, RETRY_AFTER, UPGRADE};
use http::{HeaderValue, Request, Response, StatusCode, Uri, Version, response};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::time::{sleep, timeout};
use tower_idempotency::for_sidecar::{Asked, GatewayCode, Refusal, Refusals, never_ends};
use tower_idempotency::recording::Recording;
use tower_idempotency::{IdempotencyContext, RequestBody, RequestTrailers};
use tower_service::Service;
use tracing::{debug, warn};

use crate::bodies::{ForwardedBody, Outgoing, Patience};
use crate::client::{Client, Failure};
use crate::forwarded::{ATTEMPT, FENCING_TOKEN, LayerHeaders, ReservedHeaders, strip_hop_by_hop};
use crate::metrics::Numbers;
use crate::options::Settings;
use crate::problem::{in_doubt_without_key, usual};
use crate::received::ReceivedBody;

/// The protocol that a client asks to upgrade to: an extension of the request.
#[derive(Clone, Debug)]
pub(crate) struct Protocol(pub(crate) HeaderValue);

/// Forwards every request. An error becomes a response, so this service never fails.
#[derive(Clone, Debug)]
pub(crate) struct Upstream(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    client: Client,
    upstream: Uri,
    connect_timeout: Duration,
    timeout: Duration,
    reserved: ReservedHeaders,
    layer_headers: LayerHeaders,
    refusals: Refusals,
    numbers: Arc<Numbers>,
}

impl Upstream {
    pub(crate) fn new(
        settings: &Settings,
        reserved: ReservedHeaders,
        layer_headers: LayerHeaders,
        refusals: Refusals,
        numbers: Arc<Numbers>,
    ) -> Self {
        Self(Arc::new(Shared {
            client: Client::new(settings),
            upstream: settings.upstream.clone(),
            connect_timeout: settings.connect_timeout,
            timeout: settings.upstream_timeout,
            reserved,
            layer_headers,
            refusals,
            numbers,
        }))
    }
}

impl Service<Request<RequestBody<ReceivedBody>>> for Upstream {
    type Response = Response<ForwardedBody>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<RequestBody<ReceivedBody>>) -> Self::Future {
        let shared = Arc::clone(&self.0);
        Box::pin(async move { Ok(shared.forward(request).await) })
    }
}

impl Shared {
    async fn forward(
        &self,
        request: Request<RequestBody<ReceivedBody>>,
    ) -> Response<ForwardedBody> {
        let (mut parts, body) = request.into_parts();
        let upgrade = parts
            .extensions
            .remove::<OnUpgrade>()
            .zip(parts.extensions.remove::<Protocol>());
        let context = parts.extensions.remove::<IdempotencyContext>();
        let protected = context.is_some();
        let asked = self.refusals.asked(&parts.headers);
        if let Some(context) = &context {
            let token = context.fencing_token().get();
            parts.headers.insert(ATTEMPT, context.attempt().into());
            parts.headers.insert(FENCING_TOKEN, token.into());
        }
        if let Some((_, Protocol(protocol))) = &upgrade {
            let connection = HeaderValue::from_static("upgrade");
            parts.headers.insert(CONNECTION, connection);
            parts.headers.insert(UPGRADE, protocol.clone());
        }
        let trailers = parts.extensions.remove::<RequestTrailers>();
        let (body, mut taken) =
            Outgoing::new(body, trailers.map(|read| read.0), self.reserved.clone());
        let mut forwarded = Request::new(body);
        *forwarded.method_mut() = parts.method;
        *forwarded.uri_mut() = self.target(&parts.uri);
        *forwarded.headers_mut() = parts.headers;

        let response = self.client.send(forwarded);
        let too_late = async {
            // `taken` never holds a value: it fails when the upstream has the request's last byte.
            if protected {
                // The layer has read the whole body into memory, so sending it takes no longer
                // than connecting, unless the upstream does not read.
                let _ = timeout(self.connect_timeout, &mut taken).await;
            } else {
                let _ = (&mut taken).await;
            }
            sleep(self.timeout).await;
        };
        // The branch that ends second is dropped: after the timeout, the request to the upstream is
        // cancelled.
        tokio::select! {
            response = response => match response {
                Ok(response) => self.respond(response, upgrade.map(|(client, _)| client), protected, &asked),
                Err(failure) => self.failed(failure, protected, &asked),
            },
            () = too_late => {
                self.numbers.timed_out.add();
                warn!("the upstream did not respond in time");
                self.in_doubt(GatewayCode::UpstreamTimeout, protected, &asked)
            }
        }
    }

    /// The upstream's address with the client's path and query.
    fn target(&self, asked: &Uri) -> Uri {
        let mut parts = self.upstream.clone().into_parts();
        if let Some(target) = asked.path_and_query() {
            parts.path_and_query = Some(target.clone());
        }
        Uri::from_parts(parts).expect("scheme and authority stay, and there is a path")
    }

    fn respond(
        &self,
        response: Response<Incoming>,
        client: Option<OnUpgrade>,
        protected: bool,
        asked: &Asked,
    ) -> Response<ForwardedBody> {
        let (mut head, body) = response.into_parts();
        // The version of the upstream's connection says nothing to the client.
        head.version = Version::HTTP_11;
        let protocol = strip_hop_by_hop(&mut head.headers);
        self.layer_headers.strip_from(&mut head.headers);
        let upstream = head.extensions.remove::<OnUpgrade>();
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            let (Some(client), Some(upstream), Some(protocol)) = (client, upstream, protocol)
            else {
                let unasked = "it changes to a protocol that was not asked for";
                return self.failed(Failure::Broken(unasked.into()), protected, asked);
            };
            let connection = HeaderValue::from_static("upgrade");
            head.headers.insert(CONNECTION, connection);
            head.headers.insert(UPGRADE, protocol);
            tokio::spawn(tunnel(client, upstream));
        }
        head.extensions.insert(recording(&head));
        // An event stream sends nothing for as long as nothing happens.
        let may_rest = !protected || never_ends(&head);
        let patience = (!may_rest).then(|| Patience::new(self.timeout, Arc::clone(&self.numbers)));
        let body = ForwardedBody::Upstream {
            body,
            layer_headers: self.layer_headers.clone(),
            patience,
        };
        Response::from_parts(head, body)
    }

    fn failed(&self, failure: Failure, protected: bool, asked: &Asked) -> Response<ForwardedBody> {
        match failure {
            Failure::Unreached(error) => {
                self.numbers.unreached.add();
                warn!(
                    error = &*error as &dyn Error,
                    "the upstream was not reached"
                );
                let refusal = usual(GatewayCode::UpstreamUnreachable);
                self.here(&refusal, asked, Recording::Skip)
            }
            Failure::Broken(error) => {
                self.numbers.broken.add();
                warn!(error = &*error as &dyn Error, "the upstream broke off");
                self.in_doubt(GatewayCode::UpstreamBroken, protected, asked)
            }
            Failure::Client(error) => {
                debug!(error = &*error as &dyn Error, "a request's body broke off");
                let refusal = usual(GatewayCode::BodyUnreadable);
                self.here(&refusal, asked, Recording::InDoubt)
            }
        }
    }

    /// A response for a request that the upstream may have executed, or may still execute.
    fn in_doubt(
        &self,
        code: GatewayCode,
        protected: bool,
        asked: &Asked,
    ) -> Response<ForwardedBody> {
        let refusal = if protected {
            usual(code)
        } else {
            in_doubt_without_key(code)
        };
        self.here(&refusal, asked, Recording::InDoubt)
    }

    fn here(
        &self,
        refusal: &Refusal<'_>,
        asked: &Asked,
        recording: Recording,
    ) -> Response<ForwardedBody> {
        let response = self.refusals.response(refusal, asked);
        let mut response = response.map(|data| ForwardedBody::Here { data });
        response.extensions_mut().insert(recording);
        response
    }
}

/// A response is recorded if all of it arrives. A 409 with `Retry-After` is not recorded: a layer
/// in the upstream says with it that the operation still runs.
fn recording(head: &response::Parts) -> Recording {
    if head.status == StatusCode::CONFLICT && head.headers.contains_key(RETRY_AFTER) {
        return Recording::Skip;
    }
    Recording::IfComplete
}

/// Copies bytes in both directions until one side closes.
async fn tunnel(client: OnUpgrade, upstream: OnUpgrade) {
    let ended = async {
        let (client, upstream) = tokio::try_join!(client, upstream)?;
        let (mut client, mut upstream) = (TokioIo::new(client), TokioIo::new(upstream));
        tokio::io::copy_bidirectional(&mut client, &mut upstream).await?;
        Ok::<_, Box<dyn Error + Send + Sync>>(())
    };
    if let Err(error) = ended.await {
        debug!(error = &*error as &dyn Error, "a tunnel broke off");
    }
}
