//! The service inside the layer: it forwards requests to the upstream.

use std::convert::Infallible;
use std::error::Error;
use std::future::Future;
use std::net::Ipv4Addr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::header::{CONNECTION, RETRY_AFTER, UPGRADE};
use http::{HeaderValue, Request, Response, StatusCode, Uri, Version, request, response};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::time::{Instant, sleep};
use tower_idempotency::for_sidecar::{
    Asked, GatewayCode, Refusal, Refusals, caller, is_recorded, never_ends,
};
use tower_idempotency::recording::Recording;
use tower_idempotency::rejection::Retry;
use tower_idempotency::scope::PeerAddr;
use tower_idempotency::{IdempotencyContext, RequestBody, RequestTrailers};
use tower_service::Service;
use tracing::{debug, warn};

use crate::bodies::{ForwardedBody, Stall};
use crate::client::{Client, Failure};
use crate::connect::Connector;
use crate::forwarded::{
    ATTEMPT, ClientAddr, FENCING_TOKEN, LayerHeaders, ReservedHeaders, strip_hop_by_hop,
};
use crate::framing::settle_framing;
use crate::metrics::{Limit, Numbers};
use crate::options::Settings;
use crate::patience::Patience;
use crate::places::{Caller, NoPlace, Place, Places, Whose};
use crate::problem::{in_doubt_without_key, share_used_up, unreadable, usual};
use crate::received::ReceivedBody;
use crate::upload::{Outgoing, Upload};

/// The protocol that a client asks to upgrade to: an extension of the request.
#[derive(Clone, Debug)]
pub(crate) struct Protocol(pub(crate) HeaderValue);

/// Forwards every request. An error becomes a response, so this service never fails.
#[derive(Clone, Debug)]
pub(crate) struct Upstream(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    client: Client<Outgoing>,
    places: Arc<Places>,
    upstream: Uri,
    connect_timeout: Duration,
    timeout: Duration,
    client_timeout: Duration,
    unprotected_idle_timeout: Duration,
    reserved: ReservedHeaders,
    layer_headers: LayerHeaders,
    refusals: Refusals,
    numbers: Arc<Numbers>,
    /// Whether the layer judges responses to requests that it does not protect.
    observes: bool,
}

impl Upstream {
    pub(crate) fn new(
        settings: &Settings,
        observes: bool,
        connector: Connector,
        reserved: ReservedHeaders,
        layer_headers: LayerHeaders,
        refusals: Refusals,
        numbers: Arc<Numbers>,
    ) -> Self {
        Self(Arc::new(Shared {
            client: Client::new(
                connector,
                &settings.upstream,
                settings.upstream_http2,
                settings.upstream_keep_alive,
            ),
            places: Places::new(&settings.limits, settings.connect_timeout),
            upstream: settings.upstream.clone(),
            connect_timeout: settings.connect_timeout,
            timeout: settings.upstream_timeout,
            client_timeout: settings.limits.client_timeout,
            unprotected_idle_timeout: settings.limits.unprotected_idle_timeout,
            reserved,
            layer_headers,
            refusals,
            numbers,
            observes,
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
        Box::pin(Arc::clone(&self.0).forward(request))
    }
}

impl Shared {
    async fn forward(
        self: Arc<Self>,
        request: Request<RequestBody<ReceivedBody>>,
    ) -> Result<Response<ForwardedBody>, Infallible> {
        let (mut parts, body) = request.into_parts();
        let upgrade = parts
            .extensions
            .remove::<OnUpgrade>()
            .zip(parts.extensions.remove::<Protocol>());
        let exchange = Exchange {
            asked: self.refusals.asked(&parts.headers),
            context: parts.extensions.remove(),
        };
        let is_protected = exchange.is_protected();
        let place = match self.places.take(exchange.caller(&parts)).await {
            Ok(place) => Arc::new(place),
            Err(no_place) => return Ok(self.full(no_place, &exchange)),
        };
        if let Some(context) = &exchange.context {
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
        let trailers = trailers.map(|read| read.0);
        let patience = Patience::new(self.client_timeout);
        let patience = (patience, Arc::clone(&self.numbers));
        let reserved = self.reserved.clone();
        let upload = Upload::new(body, is_protected, trailers, reserved, patience);
        let mut head = Request::new(());
        *head.method_mut() = parts.method;
        *head.uri_mut() = self.target(&parts.uri);
        *head.headers_mut() = parts.headers;
        let mut bodies = || upload.attempt();
        let sent = {
            let too_late = pin!(self.too_late(&upload, is_protected));
            self.client.send(head, &mut bodies, too_late, &place).await
        };
        Ok(match sent {
            Ok(response) => {
                upload.is_answered();
                let client = upgrade.map(|(client, _)| client);
                self.respond(response, client, upload, place, &exchange)
            }
            Err(failure) => self.failed(failure, &exchange),
        })
    }

    /// Completes when the upstream has had the whole request for `upstream_timeout` without responding.
    async fn too_late(&self, upload: &Upload, is_protected: bool) {
        let began = Instant::now();
        let mut left = self.timeout;
        // The last byte wakes nobody. The time that it was sent is asked for at the earliest moment that
        // could be the end, and most requests have their response by then.
        loop {
            sleep(left).await;
            let mut waited = upload.time_since_sent();
            if is_protected {
                // The layer has read the whole body into memory, so sending it takes no longer
                // than connecting, unless the upstream does not read.
                waited = waited.max(began.elapsed().saturating_sub(self.connect_timeout));
            }
            left = self.timeout.saturating_sub(waited);
            if left.is_zero() {
                return;
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
        upload: Upload,
        place: Arc<Place>,
        exchange: &Exchange,
    ) -> Response<ForwardedBody> {
        let (mut head, body) = response.into_parts();
        let may_be_cut = head.version == Version::HTTP_2;
        // The version of the upstream's connection says nothing to the client.
        head.version = Version::HTTP_11;
        if !settle_framing(&mut head.headers) {
            let coded = "its body has a transfer coding other than `chunked`";
            return self.failed(Failure::Unreadable(head.status, coded.into()), exchange);
        }
        let protocol = strip_hop_by_hop(&mut head.headers);
        self.layer_headers.strip_from(&mut head.headers);
        let upstream = head.extensions.remove::<OnUpgrade>();
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            let (Some(client), Some(upstream), Some(protocol)) = (client, upstream, protocol)
            else {
                let unasked = "it changes to a protocol that was not asked for";
                return self.failed(Failure::Broken(unasked.into()), exchange);
            };
            let connection = HeaderValue::from_static("upgrade");
            head.headers.insert(CONNECTION, connection);
            head.headers.insert(UPGRADE, protocol);
            tokio::spawn(tunnel(client, upstream, Arc::clone(&place)));
        }
        if self.observes || exchange.is_protected() {
            head.extensions.insert(recording(&head));
        }
        // An event stream sends nothing for as long as nothing happens.
        let stall = (!never_ends(&head)).then(|| {
            if exchange.is_protected() {
                Stall::Upstream(Patience::new(self.timeout))
            } else {
                Stall::Both(Patience::new(self.unprotected_idle_timeout), upload)
            }
        });
        let body = ForwardedBody::Upstream {
            body,
            layer_headers: self.layer_headers.clone(),
            stall,
            _place: place,
            _stream: head.extensions.remove(),
            numbers: Arc::clone(&self.numbers),
            may_be_cut,
        };
        Response::from_parts(head, body)
    }

    fn failed(&self, failure: Failure, exchange: &Exchange) -> Response<ForwardedBody> {
        match failure {
            Failure::Unreached(error) => {
                self.numbers.unreached.inc();
                warn!(
                    error = &*error as &dyn Error,
                    "the upstream was not reached"
                );
                let refusal = usual(GatewayCode::UpstreamUnreachable);
                self.here(&refusal, exchange, Recording::Skip)
            }
            Failure::Broken(error) => {
                self.numbers.broken.inc();
                warn!(error = &*error as &dyn Error, "the upstream broke off");
                self.in_doubt(GatewayCode::UpstreamBroken, exchange)
            }
            Failure::Unreadable(status, error) => {
                self.numbers.broken.inc();
                warn!(
                    %status,
                    error = &*error as &dyn Error,
                    "the upstream's response can't be read"
                );
                match &exchange.context {
                    Some(context) if is_recorded(context, status) => {
                        self.here(&unreadable(), exchange, Recording::Seal)
                    }
                    _ => self.in_doubt(GatewayCode::UpstreamBroken, exchange),
                }
            }
            Failure::TimedOut => {
                self.numbers.timed_out.inc();
                warn!("the upstream did not respond in time");
                self.in_doubt(GatewayCode::UpstreamTimeout, exchange)
            }
            Failure::Client(error) => {
                debug!(error = &*error as &dyn Error, "a request's body broke off");
                let refusal = usual(GatewayCode::BodyUnreadable);
                self.here(&refusal, exchange, Recording::InDoubt)
            }
        }
    }

    /// The response to a request that was not sent, since there are too many.
    fn full(&self, no_place: NoPlace, exchange: &Exchange) -> Response<ForwardedBody> {
        let (limit, whose) = match no_place {
            NoPlace::TooLate(whose) => (Limit::UpstreamRequests, whose),
            NoPlace::QueueFull(whose) => (Limit::UpstreamQueue, whose),
        };
        self.numbers.refused(limit);
        let usual = match whose {
            Whose::Caller => share_used_up(),
            Whose::All => usual(GatewayCode::OverCapacity),
        };
        let refusal = Refusal {
            retry: exchange.is_protected().then_some(Retry::SameKey),
            ..usual
        };
        self.here(&refusal, exchange, Recording::Skip)
    }

    /// A response for a request that the upstream may have executed, or may still execute.
    fn in_doubt(&self, code: GatewayCode, exchange: &Exchange) -> Response<ForwardedBody> {
        let refusal = if exchange.is_protected() {
            usual(code)
        } else {
            in_doubt_without_key(code)
        };
        self.here(&refusal, exchange, Recording::InDoubt)
    }

    fn here(
        &self,
        refusal: &Refusal<'_>,
        exchange: &Exchange,
        recording: Recording,
    ) -> Response<ForwardedBody> {
        let response = self.refusals.response(refusal, &exchange.asked);
        let mut response = response.map(|data| ForwardedBody::Here { data });
        response.extensions_mut().insert(recording);
        response
    }
}

/// What the response to a request depends on.
struct Exchange {
    asked: Asked,
    /// The operation of a protected request.
    context: Option<IdempotencyContext>,
}

impl Exchange {
    fn is_protected(&self) -> bool {
        self.context.is_some()
    }

    fn caller(&self, head: &request::Parts) -> Caller {
        if let Some(context) = &self.context {
            return Caller::Of(caller(context));
        }
        let peer = || head.extensions.get::<PeerAddr>().map(|peer| peer.0.ip());
        let client = || head.extensions.get::<ClientAddr>().map(|client| client.0);
        let address = client().or_else(peer);
        Caller::At(address.unwrap_or(Ipv4Addr::UNSPECIFIED.into()))
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
async fn tunnel(client: OnUpgrade, upstream: OnUpgrade, place: Arc<Place>) {
    let ended = async {
        let (client, upstream) = tokio::try_join!(client, upstream)?;
        let (mut client, mut upstream) = (TokioIo::new(client), TokioIo::new(upstream));
        tokio::io::copy_bidirectional(&mut client, &mut upstream).await?;
        Ok::<_, Box<dyn Error + Send + Sync>>(())
    };
    if let Err(error) = ended.await {
        debug!(error = &*error as &dyn Error, "a tunnel broke off");
    }
    drop(place);
}
