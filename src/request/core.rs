//! What all requests of one layer share.

use std::sync::Arc;
use std::time::Duration;

use http::request::Parts;
use tracing::warn;

use crate::lease::Leases;
use crate::limits::{Accounts, Turns};
use crate::message::observed_body::ObservedBodies;
use crate::options::RouteOptions;
use crate::options::route::Routes;
use crate::record::digest::Digests;
use crate::rejection::{Rejection, RejectionRules};
use crate::scope::{Caller, Scope};

/// What all requests of one layer share: its rules, its leases, and its limits.
pub(crate) struct Core {
    pub(crate) rules: Rules,
    pub(crate) leases: Arc<Leases>,
    /// What requests hold, in sum and by caller.
    pub(crate) accounts: Accounts,
    /// How long data of a response wait for a client that reads nothing.
    pub(crate) send_timeout: Duration,
    /// The digests of large bodies.
    pub(crate) turns: Turns,
}

/// What is fixed when the layer is built.
pub(crate) struct Rules {
    pub(crate) scope: Arc<dyn Scope>,
    pub(crate) namespace: String,
    pub(crate) digests: Digests,
    /// The digests under secrets that are being rotated out.
    pub(crate) old_digests: Vec<Digests>,
    pub(crate) routes: Routes,
    pub(crate) rejections: RejectionRules,
    /// The types of request bodies that can be observed.
    pub(crate) observed_bodies: ObservedBodies,
}

impl Rules {
    /// The digests under one of the layer's secrets: 0 is the current one, and the old ones follow.
    pub(crate) fn digests_under(&self, secret: usize) -> &Digests {
        match secret.checked_sub(1) {
            None => &self.digests,
            Some(old) => &self.old_digests[old],
        }
    }

    /// Step 3: the caller, by the route's own scope or else by the layer's.
    pub(crate) fn caller(&self, options: &RouteOptions, parts: &Parts) -> Option<Caller> {
        self.scope_of(options).caller(parts)
    }

    /// The rejection of a request without a caller.
    #[cold]
    pub(crate) fn without_caller(&self, options: &RouteOptions, parts: &Parts) -> Rejection {
        self.warn_of_mistake(options, parts);
        Rejection::scope_missing()
    }

    /// Logs the application's mistake by which a request has no caller, if there is one. Every
    /// request then shows that mistake, so that a layer logs it once a minute at most.
    fn warn_of_mistake(&self, options: &RouteOptions, parts: &Parts) {
        if let Some(mistake) = self.scope_of(options).mistake(parts)
            && self.routes.may_warn()
        {
            warn!(
                path = parts.uri.path(),
                "a request was rejected with scope-missing: {mistake}"
            );
        }
    }

    pub(crate) fn scope_of<'a>(&'a self, options: &'a RouteOptions) -> &'a Arc<dyn Scope> {
        options.scope.as_ref().unwrap_or(&self.scope)
    }
}
