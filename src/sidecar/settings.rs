//! What a file says about the process; what it says about idempotency is the
//! layer's.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use http::{HeaderName, Uri};
use ipnet::IpNet;

/// Each field is a key of the file, at its top level.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Required.
    pub(crate) listen: SocketAddr,
    /// Required: `http://` and an authority, without a path.
    pub(crate) upstream: Uri,
    /// HTTP/2 with prior knowledge instead of HTTP/1.1.
    pub(crate) upstream_http2: bool,
    pub(crate) connect_timeout: Duration,
    /// From the request's last byte to the head of its answer.
    pub(crate) upstream_timeout: Duration,
    pub(crate) authorize: Option<Authorize>,
    /// Whose `X-Forwarded-*` is believed.
    pub(crate) trusted_proxies: Vec<IpNet>,
    /// Where `/metrics` and `/healthz` are served.
    pub(crate) metrics: Option<SocketAddr>,
    /// A path on `listen`.
    pub(crate) healthz: Option<String>,
    /// A path on `listen` that answers with the contract.
    pub(crate) contract: Option<String>,
    pub(crate) drain_timeout: Duration,
    /// Patterns are matched against the path in lower case.
    pub(crate) ignore_path_case: bool,
}

/// Who is asked before anything is claimed or replayed.
#[derive(Clone)]
pub(crate) struct Authorize {
    /// `http://`, asked with GET.
    pub(crate) url: Uri,
    pub(crate) timeout: Duration,
    /// Copied from its answer into the request.
    pub(crate) headers: Vec<HeaderName>,
}

/// `listen` and `upstream` have no defaults: what stands here for them reaches
/// nothing.
impl Default for Settings {
    fn default() -> Self {
        Self {
            listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0),
            upstream: Uri::from_static("http://127.0.0.1:0"),
            upstream_http2: false,
            connect_timeout: Duration::from_secs(5),
            upstream_timeout: Duration::from_secs(60),
            authorize: None,
            trusted_proxies: Vec::new(),
            metrics: None,
            healthz: Some("/healthz".to_owned()),
            contract: None,
            drain_timeout: Duration::from_secs(30),
            ignore_path_case: false,
        }
    }
}

impl Authorize {
    pub(crate) const TIMEOUT: Duration = Duration::from_secs(5);
}

/// Its address may hold a credential.
impl fmt::Debug for Authorize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authorize")
            .field("timeout", &self.timeout)
            .field("headers", &self.headers)
            .finish_non_exhaustive()
    }
}
