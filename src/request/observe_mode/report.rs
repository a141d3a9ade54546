//! Saying what the layer would have done.

use std::fmt;
use std::sync::Arc;

use http::Method;
use tracing::{debug, info};

use crate::observer::Would;
use crate::options::RouteOptions;
use crate::request::core::Core;

/// In the extensions of a request: is told what the layer would have done with it, or that nobody can
/// say.
#[derive(Clone)]
pub struct OnObserved(pub Arc<dyn Fn(Option<Would>) + Send + Sync>);

impl fmt::Debug for OnObserved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OnObserved(..)")
    }
}

pub(super) fn tell(told: Option<&OnObserved>, would: Option<Would>) {
    if let Some(OnObserved(told)) = told {
        told(would);
    }
}

/// Says what the layer would have done, in counts and in the log. Neither holds the key, the caller
/// or the path.
pub(super) fn report(core: &Core, options: &RouteOptions, method: &Method, would: Would) {
    core.leases.counts.observed(would);
    let route = options.pattern.as_deref().unwrap_or("every other path");
    let method = method.as_str();
    match would {
        Would::Reject(code) => {
            info!(
                would = "reject",
                code = code.as_str(),
                method,
                route,
                "observed"
            );
        }
        Would::Replay => info!(would = "replay", method, route, "observed"),
        Would::Execute | Would::Pass => {
            debug!(would = would.as_str(), method, route, "observed");
        }
    }
}
