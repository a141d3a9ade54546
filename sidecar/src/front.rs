//! The steps that a request passes before the layer, in order.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Once};

use bytes::Bytes;
use http::header::ALLOW;
use http::{HeaderValue, Method, Request, Response, StatusCode, Version, request};
use http_body_util::{Either, Full};
use hyper::upgrade::OnUpgrade;
use ipnet::IpNet;
use tower_idempotency::for_sidecar::{
    GatewayCode, Limits, Refusal, Refusals, headers_read, refusals,
};
use tower_idempotency::scope::PeerAddr;
use tower_idempotency::{Idempotency, IdempotencyLayer, RequestBody, ResponseBody};
use tower_idempotency_desk::Desk;
use tower_layer::Layer;
use tower_service::Service;
use tracing::warn;

use crate::authorize::{Authorizer, NotAllowed};
use crate::bodies::{ForwardedBody, GuardedBody};
use crate::checks::{layer_header_names, methods};
use crate::connect::Connector;
use crate::contract::SidecarContract;
use crate::forwarded::{
    LayerHeaders, ReservedHeaders, can_be_tunnelled, client, forward, join_cookies,
    may_be_forwarded, sign, strip_hop_by_hop,
};
use crate::head::check;
use crate::metrics::{GaugeGuard, Numbers};
use crate::observed::{Seen, Summary};
use crate::options::Settings;
use crate::path::meant;
use crate::probes;
use crate::probes::Readiness;
use crate::problem::usual;
use crate::received::ReceivedBody;
use crate::tls;
use crate::upstream::{Protocol, Upstream};

/// The body of every response. Its guard counts the request until the last byte is sent.
pub(crate) type ServedBody<G> =
    GuardedBody<Either<ResponseBody<ForwardedBody>, Full<Bytes>>, (Option<GaugeGuard>, G)>;

/// Whether the process has told that a proxy may be missing in `trusted_proxies`.
static WARNED: Once = Once::new();

/// The other side of a client's connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer {
    pub(crate) address: SocketAddr,
    /// Whether the connection is one of TLS, which ends here.
    pub(crate) is_tls: bool,
}

/// The state that all connections share.
pub(crate) struct Front {
    layer: IdempotencyLayer,
    proxy: Idempotency<Upstream>,
    refusals: Refusals,
    reserved: ReservedHeaders,
    authorizer: Option<Authorizer>,
    trusted: Vec<IpNet>,
    callers_are_addresses: bool,
    ignore_path_case: bool,
    livez: Option<String>,
    readyz: Option<String>,
    healthz: Option<String>,
    readiness: Readiness,
    contract: Option<(String, SidecarContract)>,
    desk: Option<Desk>,
    /// The methods that some route protects.
    methods: Vec<Method>,
    /// The methods that some route observes.
    observed: Vec<Method>,
    summary: Arc<Summary>,
    limits: Limits,
    numbers: Arc<Numbers>,
    draining: AtomicBool,
}

impl Front {
    pub(crate) fn new(
        layer: IdempotencyLayer,
        desk: Option<Desk>,
        settings: &Settings,
        upstream: Option<tls::Connector>,
        of_authorizer: Option<tls::Connector>,
    ) -> Self {
        let numbers = Arc::<Numbers>::default();
        let authorize = settings.authorize.as_ref();
        let reserved = ReservedHeaders::new(authorize.map_or(&[], |authorize| &authorize.headers))
            .with_read(headers_read(&layer));
        let layer_headers = LayerHeaders::new(layer_header_names(&layer));
        let connector = Connector::new("upstream", settings.connect_timeout, upstream);
        let observed = methods(&layer, true);
        let upstream = Upstream::new(
            settings,
            !observed.is_empty(),
            connector,
            reserved.clone(),
            layer_headers,
            refusals(&layer),
            Arc::clone(&numbers),
        );
        let proxy = layer.layer(upstream);
        let contract = settings.contract.clone();
        let contract = contract.map(|path| (path, SidecarContract::new(&layer, settings)));
        Self {
            desk,
            methods: methods(&layer, false),
            observed,
            summary: Arc::default(),
            refusals: refusals(&layer),
            authorizer: authorize
                .map(|own| Authorizer::new(own, of_authorizer, &settings.limits, refusals(&layer))),
            layer,
            proxy,
            reserved,
            trusted: settings.trusted_proxies.clone(),
            callers_are_addresses: settings.callers_are_addresses,
            ignore_path_case: settings.ignore_path_case,
            livez: settings.livez.clone(),
            readyz: settings.readyz.clone(),
            healthz: settings.healthz.clone(),
            readiness: Readiness::default(),
            contract,
            limits: settings.limits.clone(),
            numbers,
            draining: AtomicBool::new(false),
        }
    }

    pub(crate) fn layer(&self) -> &IdempotencyLayer {
        &self.layer
    }

    pub(crate) fn desk(&self) -> Option<&Desk> {
        self.desk.as_ref()
    }

    pub(crate) fn numbers(&self) -> &Arc<Numbers> {
        &self.numbers
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    pub(crate) fn begin_draining(&self) {
        // Relaxed: only probes read the flag, and nothing else is published with it.
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Responds to a request. `guard` lives as long as the response's body.
    pub(crate) async fn respond<G>(
        &self,
        request: Request<ReceivedBody>,
        peer: Peer,
        guard: G,
    ) -> Response<ServedBody<G>> {
        let counted = self.numbers.request();
        let mut seen = None;
        let response = match self
            .admit(request, peer)
            .await
            .map(|request| self.see(request, &mut seen))
        {
            Ok(request) => match self.proxy.clone().call(request).await {
                Ok(response) => response.map(Either::Left),
                Err(never) => match never {},
            },
            Err(here) => here.map(|data| Either::Right(Full::new(data))),
        };
        if let Some(seen) = seen {
            seen.responded();
        }
        response.map(|body| GuardedBody::new(body, (Some(counted), guard)))
    }

    /// Notes a request that some route may observe.
    fn see<B>(&self, request: Request<B>, seen: &mut Option<Seen>) -> Request<B> {
        if !self.observed.contains(request.method()) {
            return request;
        }
        let (mut parts, body) = request.into_parts();
        *seen = Some(self.summary.begin(&mut parts));
        Request::from_parts(parts, body)
    }

    /// A configuration for what was observed. `None` if no route observes.
    pub(crate) fn suggestion(&self) -> Option<String> {
        (!self.observed.is_empty()).then(|| self.summary.suggestion())
    }

    /// The request as the layer gets it, or the response that the sidecar gives instead.
    async fn admit(
        &self,
        request: Request<ReceivedBody>,
        peer: Peer,
    ) -> Result<Request<RequestBody<ReceivedBody>>, Response<Bytes>> {
        let (mut parts, body) = request.into_parts();
        if parts.method == Method::CONNECT {
            return Err(self.refused(&usual(GatewayCode::ConnectRefused), &parts));
        }
        check(&mut parts).map_err(|refusal| self.refused(&refusal, &parts))?;
        strip(&mut parts, &self.reserved);
        if let Some(here) = self.served_here(&parts).await {
            return Err(here);
        }
        if !may_be_forwarded(&mut parts) {
            return Err(last(&parts.method));
        }
        if forward(&mut parts, peer, &self.trusted) && self.callers_are_addresses {
            WARNED.call_once(|| {
                warn!(
                    "a request that a proxy has forwarded comes from an address that \
                     `trusted_proxies` does not list: if it is that of a proxy of yours, all \
                     clients of the proxy are one caller to `scope`: list it there, and use \
                     {{ forwarded_ip = \"x-forwarded-for\", trusted = [\"…\"] }}"
                );
            });
        }
        parts.extensions.insert(PeerAddr(peer.address));
        if !self.trusted.is_empty() {
            let client = client(&parts.headers, peer, &self.trusted);
            parts.extensions.insert(client);
        }
        self.read_path(&mut parts)
            .map_err(|(code, detail)| self.refused(&Refusal::new(code, &detail), &parts))?;
        if let Some(authorizer) = &self.authorizer
            && self.layer.protects(&parts)
        {
            // This box, and that of `readiness`, keep the future of every other request small.
            Box::pin(self.authorize(authorizer, &mut parts)).await?;
        }
        sign(&mut parts);
        Ok(Request::from_parts(parts, RequestBody::new(body)))
    }

    /// The response to a request that the sidecar refuses.
    fn refused(&self, refusal: &Refusal<'_>, parts: &request::Parts) -> Response<Bytes> {
        let asked = self.refusals.asked(&parts.headers);
        self.refusals.response(refusal, &asked)
    }

    async fn served_here(&self, parts: &request::Parts) -> Option<Response<Bytes>> {
        if !matches!(parts.method, Method::GET | Method::HEAD) {
            return None;
        }
        let path = parts.uri.path();
        if self.healthz.as_deref() == Some(path) {
            return Some(self.health());
        }
        if self.livez.as_deref() == Some(path) {
            return Some(alive());
        }
        if self.readyz.as_deref() == Some(path) {
            return Some(Box::pin(self.readiness()).await);
        }
        match &self.contract {
            Some((own, contract)) if own == path => Some(contract.respond(parts)),
            _ => None,
        }
    }

    /// Whether the sidecar lives and is not shutting down.
    pub(crate) fn health(&self) -> Response<Bytes> {
        if self.draining.load(Ordering::Relaxed) {
            probes::answer(false, "draining\n")
        } else {
            probes::answer(true, "ok\n")
        }
    }

    /// Whether the sidecar should get requests.
    pub(crate) async fn readiness(&self) -> Response<Bytes> {
        let health = self.health();
        if !health.status().is_success() || self.readiness.store_is_reached(&self.layer).await {
            return health;
        }
        probes::answer(false, "the store can't be reached\n")
    }

    /// Finds the normal spelling of the path, if some route protects the method. The layer finds
    /// the route by that spelling; for everything else the path stays as it was sent.
    fn read_path(&self, parts: &mut request::Parts) -> Result<(), (GatewayCode, String)> {
        if !self.methods.contains(&parts.method) {
            let sent = parts.method.as_str();
            let alike = |own: &Method| own.as_str().eq_ignore_ascii_case(sent);
            // Some frameworks read `post` as POST; the layer would let such a request pass unprotected.
            if self.methods.iter().any(alike) {
                let usual = usual(GatewayCode::MethodInvalid);
                return Err((usual.code, usual.detail.to_owned()));
            }
            // What is only observed passes, also on a path that servers may read differently.
            if self.observed.contains(&parts.method)
                && let Ok(Some(path)) = meant(parts.uri.path(), self.ignore_path_case)
            {
                parts.extensions.insert(path);
            }
            return Ok(());
        }
        match meant(parts.uri.path(), self.ignore_path_case) {
            Ok(None) => Ok(()),
            Ok(Some(path)) => {
                parts.extensions.insert(path);
                Ok(())
            }
            Err(why) => {
                self.numbers.ambiguous.inc();
                let detail = format!(
                    "The path {why}, so that servers may read it differently. Nothing was \
                     executed; send the request to the path as it is documented."
                );
                Err((GatewayCode::PathAmbiguous, detail))
            }
        }
    }

    async fn authorize(
        &self,
        authorizer: &Authorizer,
        parts: &mut request::Parts,
    ) -> Result<(), Response<Bytes>> {
        authorizer
            .allow(parts)
            .await
            .map_err(|reason| match reason {
                NotAllowed::Denied(response) => {
                    self.numbers.denied.inc();
                    response
                }
                NotAllowed::Unknown(response) => {
                    self.numbers.authorizer_failed.inc();
                    response
                }
            })
    }
}

/// Says that the process lives, which it does if it responds at all.
pub(crate) fn alive() -> Response<Bytes> {
    probes::answer(true, "ok\n")
}

/// The response to an OPTIONS or TRACE request that ends here. The sidecar reflects no TRACE, which
/// could show credentials that proxies have added.
fn last(method: &Method) -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = StatusCode::NO_CONTENT;
    if *method == Method::TRACE {
        *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
        response
            .headers_mut()
            .insert(ALLOW, HeaderValue::from_static("OPTIONS"));
    }
    response
}

/// Removes the headers of this connection, and those that only the sidecar sets.
fn strip(parts: &mut request::Parts, reserved: &ReservedHeaders) {
    let upgrade = strip_hop_by_hop(&mut parts.headers);
    match upgrade {
        Some(protocol) if parts.version == Version::HTTP_11 && can_be_tunnelled(&protocol) => {
            parts.extensions.insert(Protocol(protocol));
        }
        _ => {
            parts.extensions.remove::<OnUpgrade>();
        }
    }
    reserved.strip_from(&mut parts.headers);
    if parts.version == Version::HTTP_2 {
        join_cookies(&mut parts.headers);
    }
}
