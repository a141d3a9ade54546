//! The contract of a layer that runs in a proxy.

use http::{HeaderName, StatusCode};

use crate::contract::{Contract, GatewayError};
use crate::display::header_name;

impl Contract {
    /// With what a proxy adds: its own errors, and the request headers that it
    /// has from an authoriser, whatever a client says in them.
    pub(crate) fn of_gateway(mut self, errors: Vec<GatewayError>, known: &[HeaderName]) -> Self {
        self.gateway = errors;
        let endpoints = self.endpoints.iter_mut();
        for terms in endpoints.filter_map(|endpoint| endpoint.terms.as_mut()) {
            terms.forwarded = true;
            for name in known {
                let sent = format!("whoever sends the same header `{}`", header_name(name));
                let verified = format!(
                    "whoever this API's authorisation knows by the same `{}`",
                    header_name(name)
                );
                terms.scope = terms.scope.replace(&sent, &verified);
            }
        }
        self
    }
}

impl GatewayError {
    /// For the sidecar alone.
    #[doc(hidden)]
    #[must_use]
    pub fn new(code: &str, status: StatusCode, when: &str, advice: &str) -> Self {
        Self {
            code: code.to_owned(),
            status,
            when: when.to_owned(),
            advice: advice.to_owned(),
        }
    }
}
