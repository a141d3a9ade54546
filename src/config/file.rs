//! All entries of a file. The comments on them are their descriptions in the JSON Schema.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::amount::{Size, Time};
use super::choice::{
    Body, Encrypting, Exactly, Format, Headers, Lengths, MemberName, Preset, Replayed, SkipMember,
    Tools, Waiting,
};
use super::credential::Credential;
use super::desk::DeskTable;
use super::field::{BodyStatus, HeaderSwitch, MediaType, Name, SkipHeader, StatusName, Verb};
use super::limits::LimitsTable;
use super::process::{Address, Authorize, ServedPath, Upstream};
use super::record::{InDoubt, Record};
use super::rejections::{self, Rejections};
use super::scopes::{Net, Scopes};
use super::tls::{ClientTls, ServerTls};
use super::value::{List, Setting, Word};
use crate::options::key::KeySyntax;
use crate::options::{
    EventStreams, KeysPer, Mode, OnDisconnect, OnMismatch, OnOversize, OnStoreError, Require,
    RouteOptions, route_options,
};
use crate::store::OnLapsedLease;

/// The options of tower-idempotency, which makes HTTP operations safe to retry.
#[derive(Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "tower-idempotency")]
pub(super) struct File {
    /// Where the schema of this file is, for editors.
    #[serde(rename = "$schema")]
    #[allow(dead_code, reason = "for editors")]
    pub(super) schema: Option<String>,

    /// Sidecar, required: where it serves: an address or a name with a port, `unix:PATH`, or `fd:3`.
    pub(super) listen: Option<Address>,
    /// Sidecar: the certificate with which it speaks TLS on `listen`.
    pub(super) tls: Option<ServerTls>,
    /// Sidecar, required: the service behind it.
    pub(super) upstream: Option<Upstream>,
    /// Sidecar: the authorities and the certificate with which an `upstream` of https is spoken to.
    pub(super) upstream_tls: Option<ClientTls>,
    /// Sidecar: whether the service is spoken to in HTTP/2 instead of HTTP/1.1: over http with prior
    /// knowledge. Without it a service of https chooses by ALPN.
    pub(super) upstream_http2: Option<bool>,
    /// Sidecar: how long an idle connection to the service is kept over HTTP/1.1; `0s` for a
    /// connection of its own for each request.
    #[schemars(extend("default" = "1s"))]
    pub(super) upstream_keep_alive: Option<Time>,
    /// Sidecar: how long a connection to the service may take, and how long a request waits for its
    /// turn.
    #[schemars(extend("default" = "5s"))]
    pub(super) connect_timeout: Option<Time>,
    /// Sidecar: how long the service may take from the request's last byte to the head of its
    /// response.
    #[schemars(extend("default" = "60s"))]
    pub(super) upstream_timeout: Option<Time>,
    /// Sidecar: the URL that is asked with each request's head before anything is claimed or
    /// replayed, since a replay bypasses the service's own check. `env:NAME` reads a variable.
    pub(super) authorize: Option<Authorize>,
    /// Sidecar: networks of proxies whose `X-Forwarded-*` headers are trusted.
    #[schemars(extend("default" = []))]
    pub(super) trusted_proxies: Option<Vec<Net>>,
    /// Sidecar: the address on which `/metrics` (Prometheus), `/livez`, `/readyz` and `/healthz` are
    /// served.
    pub(super) metrics: Option<Address>,
    /// Sidecar: the certificate with which it speaks TLS on `metrics`.
    pub(super) metrics_tls: Option<ServerTls>,
    /// Sidecar: the desk, a page for those who run it, at `/desk` on `metrics`. `{}` turns it on where
    /// only this machine reaches `metrics`, or with the `client_ca` of `metrics_tls`; anywhere else it
    /// needs a `token`.
    pub(super) desk: Option<DeskTable>,
    /// Sidecar: the path on `listen` where it says that the process lives; `false` for none.
    #[schemars(extend("default" = "/livez"))]
    pub(super) livez: Option<ServedPath>,
    /// Sidecar: the path on `listen` where it says whether it should get requests: the store can be
    /// reached, and it is not shutting down; `false` for none.
    #[schemars(extend("default" = "/readyz"))]
    pub(super) readyz: Option<ServedPath>,
    /// Sidecar: the path on `listen` where it says that it lives and is not shutting down; `false` for
    /// none.
    #[schemars(extend("default" = "/healthz"))]
    pub(super) healthz: Option<ServedPath>,
    /// Sidecar: the path on `listen` where the contract can be read; `false` for none.
    #[schemars(extend("default" = false))]
    pub(super) contract: Option<ServedPath>,
    /// Sidecar: for how long it goes on as before when it is told to stop, while `readyz` says 503, so
    /// that no more requests are sent to it.
    #[schemars(extend("default" = "0s"))]
    pub(super) drain_delay: Option<Time>,
    /// Sidecar: how long it waits for running operations when it is told to stop.
    #[schemars(extend("default" = "30s"))]
    pub(super) drain_timeout: Option<Time>,
    /// Sidecar: whether patterns are matched against the path in lower case, for services that
    /// don't tell `/Orders` from `/orders`.
    #[schemars(extend("default" = false))]
    pub(super) ignore_path_case: Option<bool>,
    /// Sidecar: its limits.
    #[serde(default)]
    pub(super) limits: LimitsTable,

    /// The URL of the store: `memory:`, `sqlite:FILE`, `postgres://…`, `mysql://…` or `redis://…`.
    /// `env:NAME` reads a variable.
    pub(super) store: Option<Credential>,
    /// Secrets that turn every digest into an HMAC, at least 16 bytes each, the current one first.
    /// `env:NAME` reads a variable.
    pub(super) secrets: Option<List<Credential>>,

    /// The options of every request.
    #[serde(default)]
    pub(super) idempotency: Idempotency,
    /// Routes with options of their own; what they leave out is as in `[idempotency]`.
    #[serde(default)]
    pub(super) route: Vec<Route>,
}

/// The options that a route can have for itself: in `[idempotency]`, with their
/// defaults, and in `[[route]]`.
macro_rules! tables {
    ($($(#[$doc:meta])* $name:ident: $type:ty = $default:tt $(, $set:expr)?;)+) => {
        /// The options of every request.
        #[derive(Clone, Default, Deserialize, JsonSchema)]
        #[serde(deny_unknown_fields)]
        #[schemars(inline)]
        pub(super) struct Idempotency {
            /// Keeps the records of this service apart from those of others on the same store.
            #[schemars(extend("default" = ""))]
            pub(super) namespace: Option<String>,
            /// How many protected requests may be handled at once, those that wait for another not
            /// among them; beyond it: `over-capacity`.
            #[schemars(extend("default" = 10000), range(min = 1))]
            pub(super) max_in_flight_operations: Option<usize>,
            /// How many of `max_in_flight_operations` one caller may have; by default seven times
            /// what is free.
            #[schemars(range(min = 1))]
            pub(super) max_in_flight_per_caller: Option<usize>,
            /// How many bytes all request bodies together may hold, until their handlers have
            /// responded; beyond it: `over-capacity`.
            #[schemars(extend("default" = "256MiB"))]
            pub(super) max_buffered_bytes: Option<Size>,
            /// How many of `max_buffered_bytes` one caller may have; by default seven times what is
            /// free.
            pub(super) max_buffered_bytes_per_caller: Option<Size>,
            /// How many operations may run on whose clients have left; while there are more, none is
            /// begun: `over-capacity`.
            #[schemars(extend("default" = 10000), range(min = 1))]
            pub(super) max_background_operations: Option<usize>,
            /// How many of `max_background_operations` one caller may have; by default seven times
            /// what is free.
            #[schemars(range(min = 1))]
            pub(super) max_background_per_caller: Option<usize>,
            /// How many requests may wait for the outcome of another at once; beyond it:
            /// `in-flight`.
            #[schemars(extend("default" = 1000))]
            pub(super) max_waiting_requests: Option<usize>,
            /// How many of `max_waiting_requests` one caller may have; by default seven times what
            /// is free.
            pub(super) max_waiting_per_caller: Option<usize>,
            /// How many bytes of all responses together may be read ahead of their clients and kept
            /// to be recorded. A response for which there is no room is sealed.
            #[schemars(extend("default" = "256MiB"))]
            pub(super) max_read_ahead: Option<Size>,
            /// How much of `max_read_ahead` the responses of one caller may hold. Without it: seven
            /// times what is free.
            pub(super) max_read_ahead_per_caller: Option<Size>,
            /// How many bytes of all responses that are there as a whole, such as replays, may wait
            /// for their clients. Beyond it the client that reads nothing for longest is let go,
            /// and no operation of its caller begins: `over-capacity`.
            #[schemars(extend("default" = "256MiB"))]
            pub(super) max_unsent_bytes: Option<Size>,
            /// How much of `max_unsent_bytes` the responses of one caller may hold. Without it:
            /// seven times what is free.
            pub(super) max_unsent_bytes_per_caller: Option<Size>,
            /// For how long data of a response may wait for a client that reads nothing. Then the
            /// client is let go, and the operation goes on.
            #[schemars(extend("default" = "1m"))]
            pub(super) send_timeout: Option<Time>,
            /// How long each call of the store may take.
            #[schemars(extend("default" = "2s"))]
            pub(super) store_timeout: Option<Time>,
            /// Where this API's clients read about idempotency: the `type` of problem documents,
            /// and `Link: …; rel="describedby"`.
            pub(super) docs_url: Option<String>,
            /// Encrypts recorded responses before the store gets them, with keys derived from
            /// `secrets`.
            pub(super) encryption: Option<Encrypting>,
            /// Status, content type and body of each rejection.
            #[serde(default)]
            #[schemars(schema_with = "rejections::schema")]
            pub(super) rejections: Rejections,
            /// How the caller that a key belongs to is found: the first of these that a request has.
            pub(super) scope: Option<Scopes>,
            $($(#[$doc])* #[schemars(extend("default" = $default))] pub(super) $name: Option<$type>,)+
        }

        /// Options for the requests that `match` names.
        #[derive(Clone, Deserialize, JsonSchema)]
        #[serde(deny_unknown_fields)]
        pub(super) struct Route {
            /// A path in axum's syntax, with a method before it or none: `POST /orders/{id}`,
            /// `/files/{*path}`. The most specific path wins, and of two equal paths the one with a
            /// method.
            #[serde(rename = "match")]
            #[schemars(regex(pattern = "^([!#$%&'*+.^_`|~0-9A-Z-]+ +)?/[^?#]*$"))]
            pub(super) pattern: String,
            /// How the caller that a key belongs to is found: the first of these that a request has.
            pub(super) scope: Option<Scopes>,
            $($(#[$doc])* pub(super) $name: Option<$type>,)+
        }

        /// The names of the rows.
        #[cfg(test)]
        pub(super) const OF_ROUTES: &[&str] = &["scope", $(stringify!($name)),+];

        impl Idempotency {
            pub(super) fn set(&self, options: RouteOptions) -> RouteOptions {
                $(let options = set!(self, options, $name: $type $(, $set)?);)+
                options
            }
        }

        impl Route {
            pub(super) fn set(&self, options: RouteOptions) -> RouteOptions {
                $(let options = set!(self, options, $name: $type $(, $set)?);)+
                match &self.scope {
                    Some(scopes) => options.scope(scopes.scope()),
                    None => options,
                }
            }
        }
    };
}

/// Sets an option if its table has it.
macro_rules! set {
    ($table:ident, $options:ident, $name:ident: $type:ty) => {
        set!($table, $options, $name: $type, |options, own| options.$name(own.set()))
    };
    ($table:ident, $options:ident, $name:ident: $type:ty, $set:expr) => {
        match &$table.$name {
            Some(own) => {
                let set: fn(RouteOptions, &$type) -> RouteOptions = $set;
                set($options, own)
            }
            None => $options,
        }
    };
}

route_options!(tables);
