//! Callers by the address of their connection.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use http::request::Parts;

use super::{Caller, Scope, Value};

/// The address of the connection, as an extension of each request.
///
/// axum's `into_make_service_with_connect_info` inserts an extension of axum's own, which the
/// layer reads under the feature `axum`. A server that is made with hyper inserts this one.
#[derive(Clone, Copy, Debug)]
pub struct PeerAddr(pub SocketAddr);

/// The address of the connection: [`PeerAddr`] or, under the feature `axum`,
/// `ConnectInfo<SocketAddr>`. No header is read.
#[must_use]
pub fn peer_ip() -> PeerIp {
    PeerIp(())
}

/// The scope that [`peer_ip`] returns.
#[derive(Clone, Debug)]
pub struct PeerIp(());

impl Scope for PeerIp {
    fn caller(&self, request: &Parts) -> Option<Caller> {
        peer(request).map(ip_caller)
    }

    fn describe(&self) -> Cow<'static, str> {
        Cow::Borrowed("whoever calls from the same address")
    }

    fn mistake(&self, request: &Parts) -> Option<Cow<'static, str>> {
        no_peer(request)
    }
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
