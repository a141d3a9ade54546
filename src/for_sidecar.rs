//! Items that only the crate `tower-idempotency-sidecar` needs.
//!
//! These items are not part of the API: any release may change them.

use std::time::Duration;

use http::header::CONTENT_TYPE;
use http::response::Parts;
use http::{HeaderMap, HeaderName, Method, StatusCode};
use ipnet::IpNet;

#[cfg(feature = "config")]
pub use crate::config::desk::DeskEntry;
#[cfg(feature = "config")]
pub use crate::config::limits::Limits;
#[cfg(feature = "config")]
pub use crate::config::process::Listen;
#[cfg(feature = "config")]
pub use crate::config::sidecar::{
    AuthorizeEntry, Entries, Table, all_of, builder, entries, in_force, located, wrong,
};
#[cfg(feature = "config")]
pub use crate::config::tls::{ClientFiles, ServerFiles};
#[cfg(feature = "contract")]
use crate::contract::Contract;
use crate::error::ConfigError;
use crate::layer::IdempotencyLayer;
use crate::message::media_type;
use crate::options::recording::{RecordRule, ResponseHead};
pub use crate::options::target::NormalPath;
use crate::options::{Mode, OnDisconnect};
use crate::record::RecordId;
pub use crate::rejection::gateway::{Asked, GatewayCode, Refusal, Refusals};
use crate::request::context::IdempotencyContext;
pub use crate::request::observe_mode::OnObserved;
use crate::scope::{self, Scope};
use crate::store::StoreErrorKind;
pub use crate::telemetry::series::{
    lapse_series, limit_series, operation_series, request_series, store_series,
};

/// The options of one route that a proxy has to know.
#[derive(Clone, Copy, Debug)]
pub struct Route<'a> {
    /// The methods that the route protects.
    pub methods: &'a [Method],
    /// The pattern as the application wrote it; `None` for every path that no other route matches.
    pub pattern: Option<&'a str>,
    /// The path of the pattern.
    pub path: Option<&'a str>,
    /// Whether the route's requests pass and are only observed.
    pub is_observed: bool,
    /// The headers that may carry the key.
    pub key_headers: &'a [HeaderName],
    /// The option `max_operation`.
    pub max_operation: Duration,
    /// The option `on_disconnect`.
    pub on_disconnect: OnDisconnect,
    /// The headers that the layer adds to responses of this route.
    pub marks: [Option<&'a HeaderName>; 3],
}

/// Returns the routes of a layer, and last the default options if they protect a method.
pub fn routes(layer: &IdempotencyLayer) -> impl Iterator<Item = Route<'_>> {
    let listed = layer.core().rules.routes.listed().iter();
    listed.map(|listed| {
        let options = &*listed.options;
        Route {
            methods: &listed.methods,
            pattern: listed.pattern.as_deref(),
            path: listed.path.as_deref(),
            is_observed: options.mode == Mode::Observe,
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

/// Returns what makes the responses of the sidecar's own refusals, with the statuses and bodies that
/// the layer's file has for them.
#[must_use]
pub fn refusals(layer: &IdempotencyLayer) -> Refusals {
    Refusals::new(&layer.core().rules.rejections)
}

/// The request headers that a layer reads: those of keys, of callers and of fingerprints.
pub fn headers_read(layer: &IdempotencyLayer) -> Vec<HeaderName> {
    let rules = &layer.core().rules;
    let mut names = rules.scope.headers();
    for listed in rules.routes.listed() {
        let options = &listed.options;
        names.extend(options.scope.iter().flat_map(Scope::headers));
        names.extend_from_slice(&options.keys.headers);
        names.extend_from_slice(&options.fingerprint.headers);
        if !options.keys.in_body.is_empty() {
            names.push(CONTENT_TYPE);
        }
    }
    names
}

/// Whether a response with this status would be recorded, as far as its status tells: the operation
/// has happened, also if the rest of the response can't be read.
#[must_use]
pub fn is_recorded(context: &IdempotencyContext, status: StatusCode) -> bool {
    let options = &context.0.options;
    let fields = HeaderMap::new();
    let head = ResponseHead::new(status, &fields, None);
    options.record.records(&head) && !options.in_doubt.records(&head)
}

/// The digest that tells the caller of a protected request from others.
#[must_use]
pub fn caller(context: &IdempotencyContext) -> [u8; 32] {
    *context.0.scope.as_bytes()
}

/// Whether the store of a layer answers. It is asked for a record that does not exist, which writes
/// nothing; the option `store_timeout` limits the time.
pub async fn store_is_reached(layer: &IdempotencyLayer) -> bool {
    let nobodys = RecordId::from_bytes([0; 32]);
    let answer = layer.core().leases.store.look_up(&nobodys).await;
    // A store that can't look anything up has answered too.
    answer.map_or_else(
        |error| error.kind() == StoreErrorKind::Unsupported,
        |_| true,
    )
}

/// The headers that belong to one connection (RFC 9110, section 7.6.1).
pub const HOP_BY_HOP: [HeaderName; 6] = media_type::HOP_BY_HOP;

/// Whether the body of a response may never end, so that nothing can wait for its end.
#[must_use]
pub fn never_ends(head: &Parts) -> bool {
    media_type::never_ends(head)
}

/// Returns the IPv4 network for a network of IPv4 addresses in IPv6 form, and any other network
/// unchanged.
#[must_use]
pub fn canonical(network: IpNet) -> IpNet {
    scope::canonical(network)
}

/// Returns the contract of a layer behind an authorizer. The authorizer sets the request headers
/// `verified`, so a client can't choose them.
#[cfg(feature = "contract")]
#[must_use]
pub fn contract(layer: &IdempotencyLayer, verified: &[HeaderName]) -> Contract {
    Contract::of(layer.core(), verified)
}

/// Makes the error for an option of the layer that can't work in a proxy. `pattern` names the
/// route, if the option is one of a route.
#[must_use]
pub fn config_error(option: &'static str, pattern: Option<&str>, message: &str) -> ConfigError {
    let error = ConfigError::new(option, message);
    match pattern {
        Some(pattern) => error.on_route(pattern),
        None => error,
    }
}
