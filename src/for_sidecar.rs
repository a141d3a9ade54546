//! What the crate `tower-idempotency-sidecar` needs of this one's inside.
//!
//! No part of the API: any release may change these items.

use std::time::Duration;

use http::response::Parts;
use http::{HeaderName, Method};
use ipnet::IpNet;

#[cfg(feature = "config")]
pub use crate::config::sidecar::{AuthorizeEntry, Entries, Table, entries, located, wrong};
#[cfg(feature = "contract")]
use crate::contract::Contract;
use crate::error::ConfigError;
use crate::layer::IdempotencyLayer;
use crate::layer::builder::IdempotencyLayerBuilder;
use crate::message::media_type;
use crate::options::OnDisconnect;
use crate::options::route;
use crate::scope;

/// The options of one route that a proxy has to know.
#[derive(Clone, Copy, Debug)]
pub struct Route<'a> {
    /// The methods that the route protects.
    pub methods: &'a [Method],
    /// The pattern as it was given; `None` for every path that no other route matches.
    pub pattern: Option<&'a str>,
    /// The path of the pattern.
    pub path: Option<&'a str>,
    /// The headers that may carry the key.
    pub key_headers: &'a [HeaderName],
    /// The option `max_operation`.
    pub max_operation: Duration,
    /// The option `on_disconnect`.
    pub on_disconnect: OnDisconnect,
    /// The headers that the layer adds to responses of this route.
    pub marks: [Option<&'a HeaderName>; 3],
}

/// The routes of a layer, the defaults last.
pub fn routes(layer: &IdempotencyLayer) -> impl Iterator<Item = Route<'_>> {
    let listed = layer.core().rules.routes.listed().iter();
    listed.map(|listed| {
        let options = &*listed.options;
        Route {
            methods: &listed.methods,
            pattern: listed.pattern.as_deref(),
            path: listed.path.as_deref(),
            key_headers: &options.keys.headers,
            max_operation: options.max_operation,
            on_disconnect: options.on_disconnect,
            marks: [
                options.replayed_header.as_ref(),
                options.created_at_header.as_ref(),
                options.expires_at_header.as_ref(),
            ],
        }
    })
}

/// Whether patterns are matched against the path in lower case, for services
/// that take `/Orders` and `/orders` for one path. The fingerprint is made of the
/// path as it was sent all the same.
pub fn ignore_path_case(builder: IdempotencyLayerBuilder, ignore: bool) -> IdempotencyLayerBuilder {
    builder.ignore_path_case(ignore)
}

/// The headers of one connection (RFC 9110, section 7.6.1).
pub const HOP_BY_HOP: [HeaderName; 6] = media_type::HOP_BY_HOP;

/// A path in lower case, except for the digits of its escapes.
#[must_use]
pub fn lower_case(path: &str) -> String {
    route::lower_case(path)
}

/// Whether a response may have no end that could be waited for.
#[must_use]
pub fn never_ends(head: &Parts) -> bool {
    media_type::never_ends(head)
}

/// An IPv4 network that is written as IPv6, as IPv4.
#[must_use]
pub fn canonical(network: IpNet) -> IpNet {
    scope::canonical(network)
}

/// The contract of a layer behind an authorizer that sets the request headers
/// `verified`, whatever the client sends.
#[cfg(feature = "contract")]
#[must_use]
pub fn contract(layer: &IdempotencyLayer, verified: &[HeaderName]) -> Contract {
    Contract::of(layer.core(), verified)
}

/// An option of the layer that can't work in a proxy.
#[must_use]
pub fn config_error(option: &'static str, pattern: Option<&str>, message: &str) -> ConfigError {
    let error = ConfigError::new(option, message);
    match pattern {
        Some(pattern) => error.on_route(pattern),
        None => error,
    }
}
