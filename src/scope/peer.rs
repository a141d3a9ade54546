//! Callers by the address of their connection.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};
use std::sync::Once;

use bytes::Bytes;
use http::HeaderMap;
use http::header::FORWARDED;
use http::request::Parts;
use tracing::warn;

use super::address::address;
use super::{Caller, Scope, Value};

/// The address of the connection, as an extension of each request.
///
/// axum's `into_make_service_with_connect_info` inserts an extension of axum's own, which the
/// layer reads under the feature `axum`. A server that is made with hyper inserts this one.
#[derive(Clone, Copy, Debug)]
pub struct PeerAddr(pub SocketAddr);

/// The address of the connection: [`PeerAddr`] or, under the feature `axum`,
/// `ConnectInfo<SocketAddr>`. No header is read.
///
/// Behind a proxy all clients have the proxy's address, and are one caller: use
/// [`forwarded_ip`](super::forwarded_ip) there. The first request that a proxy seems to have forwarded
/// makes the process log a warning.
#[must_use]
pub fn peer_ip() -> PeerIp {
    PeerIp(())
}

/// The scope that [`peer_ip`] returns.
#[derive(Clone, Debug)]
pub struct PeerIp(());

/// Whether the process has told that `peer-ip` may stand behind a proxy.
static WARNED: Once = Once::new();

impl Scope for PeerIp {
    fn caller(&self, request: &Parts) -> Option<Caller> {
        let peer = peer(request)?;
        if !WARNED.is_completed() && is_forwarded(&request.headers, peer) {
            WARNED.call_once(|| {
                warn!(
                    "a request that a proxy has forwarded meets the scope `peer-ip`: if the proxy \
                     is yours, all its clients are one caller: use `scope::forwarded_ip` \
                     (`forwarded_ip` in a file), with the proxy in `trusted`"
                );
            });
        }
        Some(ip_caller(peer))
    }

    fn describe(&self) -> Cow<'static, str> {
        Cow::Borrowed("whoever calls from the same address")
    }

    fn mistake(&self, request: &Parts) -> Option<Cow<'static, str>> {
        no_peer(request)
    }

    fn named(&self, caller: &str) -> Vec<Caller> {
        named_ip(caller)
    }
}

pub(super) fn named_ip(caller: &str) -> Vec<Caller> {
    let ip = caller.trim().parse::<IpAddr>();
    ip.map_or_else(|_| Vec::new(), |ip| vec![ip_caller(ip.to_canonical())])
}

pub(super) fn ip_caller(ip: IpAddr) -> Caller {
    Caller {
        kind: Bytes::from_static(b"ip"),
        value: Value::Ip(ip),
    }
}

pub(super) fn peer(request: &Parts) -> Option<IpAddr> {
    let own = request.extensions.get::<PeerAddr>().map(|peer| peer.0);
    #[cfg(feature = "axum")]
    let own = own.or_else(|| {
        let info = request
            .extensions
            .get::<axum::extract::ConnectInfo<SocketAddr>>()?;
        Some(info.0)
    });
    own.map(|address| address.ip().to_canonical())
}

/// Whether the request says that it comes from elsewhere than from this peer. Any client can say so,
/// as well as a proxy. The sidecar removes what a stranger says, and names the peer itself.
pub(super) fn is_forwarded(headers: &HeaderMap, peer: IpAddr) -> bool {
    let lines = headers.get_all("x-forwarded-for").iter();
    let mut elements = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    let is_other = |element: &[u8]| {
        let element = str::from_utf8(element.trim_ascii()).unwrap_or("unknown");
        !element.is_empty() && address(element) != Some(peer)
    };
    headers.contains_key(FORWARDED) || elements.any(is_other)
}

/// The mistake that leaves a request without the address of its connection.
pub(super) fn no_peer(request: &Parts) -> Option<Cow<'static, str>> {
    let mend = if cfg!(feature = "axum") {
        "serve with axum's `into_make_service_with_connect_info::<SocketAddr>()`, or insert \
         `scope::PeerAddr`"
    } else {
        "insert `scope::PeerAddr`; axum's `ConnectInfo` is read only with the feature `axum` of \
         tower-idempotency"
    };
    let none = "no address of the connection (`peer-ip`) in the request's extensions";
    peer(request)
        .is_none()
        .then(|| Cow::Owned(format!("{none}: {mend}")))
}
