//! The desk, a page for those who run the sidecar, on the listener of `/metrics`.

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{Request, Response, Uri};
use http_body_util::Full;
use tower_idempotency::IdempotencyLayer;
use tower_idempotency_desk::{Access, Desk, DeskObserver};
use tower_service::Service;
use tracing::{Instrument as _, info_span};

use crate::front::Peer;
use crate::options::Settings;
use crate::received::ReceivedBody;

/// Under which path the desk is served.
const PREFIX: &str = "/desk";

/// The desk, if the file has one. The file was checked: without a token, `metrics` is reached by this
/// machine alone, or by those who show a certificate.
pub(crate) fn desk(
    layer: &IdempotencyLayer,
    settings: &Settings,
    observer: Option<DeskObserver>,
) -> Option<Desk> {
    let own = settings.desk.as_ref()?;
    let tls = settings.metrics_tls.as_ref();
    let access = match &own.token {
        Some(token) => Access::token(token).expect("the file was checked"),
        None if tls.is_some_and(|files| files.client_ca.is_some()) => Access::verified(),
        None => Access::loopback(),
    };
    let builder = Desk::builder(layer, access).show_bodies(own.show_bodies);
    Some(builder.observer(observer?).build())
}

/// Whether this is a path of the desk.
pub(crate) fn is_desk(path: &str) -> bool {
    inner(path).is_some()
}

/// Responds to a request whose path is one of the desk.
pub(crate) async fn respond(
    desk: &Desk,
    mut request: Request<ReceivedBody>,
    peer: Peer,
) -> Response<Full<Bytes>> {
    let mut parts = request.uri().clone().into_parts();
    let path = inner(request.uri().path()).unwrap_or_default();
    let query = request.uri().query().map(|query| format!("?{query}"));
    let target = format!(
        "/{}{}",
        path.trim_start_matches('/'),
        query.unwrap_or_default()
    );
    // A part of a path and query is one itself.
    parts.path_and_query = PathAndQuery::try_from(target).ok();
    if let Ok(uri) = Uri::from_parts(parts) {
        *request.uri_mut() = uri;
    }
    let span = info_span!("desk", peer = %peer.address.ip());
    match desk.clone().call(request).instrument(span).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}

/// What comes after the prefix.
fn inner(path: &str) -> Option<&str> {
    let rest = path.strip_prefix(PREFIX)?;
    (rest.is_empty() || rest.starts_with('/')).then_some(rest)
}
