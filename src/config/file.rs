//! All entries of a file. The comments are what the JSON Schema and
//! `docs/config.md` say of them.

use std::collections::BTreeMap;
use std::fmt;

use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::{Deserializer, SeqAccess, Visitor};

use super::amount::{Size, Time};
use super::body::Body;
use super::choice::{Encrypting, Format, Headers, Lengths, Waiting};
use super::credential::Credential;
use super::field::{AnswerStatus, HeaderSwitch, MediaType, Name, SkipHeader, StatusName, Verb};
use super::process::{Address, Authorize, ServedPath, Upstream};
use super::record::Record;
use super::rejections::Rejections;
use super::scopes::{Net, Scopes};
use super::value::{List, Word};
use crate::options::key::KeySyntax;
use crate::options::{
    KeysPer, OnDisconnect, OnMismatch, OnOversize, OnStoreError, Require, RouteOptions,
};
use crate::store::OnLapsedLease;

/// What makes HTTP operations safe to retry, as tower-idempotency reads it.
#[derive(Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "tower-idempotency")]
pub(super) struct File {
    /// Where the schema of this file is, for editors.
    #[serde(rename = "$schema")]
    #[allow(dead_code, reason = "for editors")]
    pub(super) schema: Option<String>,

    /// Sidecar, required: the address it serves on.
    pub(super) listen: Option<Address>,
    /// Sidecar, required: the service behind it.
    pub(super) upstream: Option<Upstream>,
    /// Sidecar: whether the service is spoken to in HTTP/2, with prior knowledge, instead of
    /// HTTP/1.1.
    #[schemars(extend("default" = false))]
    pub(super) upstream_http2: Option<bool>,
    /// Sidecar: how long a connection to the service may take.
    #[schemars(extend("default" = "5s"))]
    pub(super) connect_timeout: Option<Time>,
    /// Sidecar: how long the service may take from the request's last byte to the head of its
    /// answer.
    #[schemars(extend("default" = "60s"))]
    pub(super) upstream_timeout: Option<Time>,
    /// Sidecar: who is asked with each request's head before anything is claimed or replayed,
    /// since a replay bypasses the service's own check. `env:NAME` reads a variable.
    pub(super) authorize: Option<Authorize>,
    /// Sidecar: networks of proxies whose `X-Forwarded-*` is believed.
    #[schemars(extend("default" = []))]
    pub(super) trusted_proxies: Option<List<Net, 0>>,
    /// Sidecar: the address on which `/metrics` (Prometheus) and `/healthz` are served.
    pub(super) metrics: Option<Address>,
    /// Sidecar: the path on `listen` that tells whether it lives; `false` for none.
    #[schemars(extend("default" = "/healthz"))]
    pub(super) healthz: Option<ServedPath>,
    /// Sidecar: the path on `listen` where the contract can be read; `false` for none.
    #[schemars(extend("default" = false))]
    pub(super) contract: Option<ServedPath>,
    /// Sidecar: how long it waits for running operations when it is told to end.
    #[schemars(extend("default" = "30s"))]
    pub(super) drain_timeout: Option<Time>,
    /// Sidecar: whether patterns are matched against the path in lower case, for services that
    /// don't tell `/Orders` from `/orders`.
    #[schemars(extend("default" = false))]
    pub(super) ignore_path_case: Option<bool>,

    /// The URL of the store: `memory:`, `sqlite:FILE`, `postgres://…`, `mysql://…` or `redis://…`.
    /// `env:NAME` reads a variable.
    pub(super) store: Option<Credential>,
    /// Turn every digest into an HMAC; the current one first, at least 16 bytes each. `env:NAME`
    /// reads a variable.
    pub(super) secrets: Option<List<Credential>>,

    /// The options of every request.
    #[serde(default)]
    pub(super) idempotency: Idempotency,
    /// Routes with options of their own; what they leave out is as in `[idempotency]`.
    #[serde(default, deserialize_with = "tables")]
    pub(super) route: Vec<Route>,
}

/// Says what to write who writes `[route]`.
fn tables<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Route>, D::Error> {
    struct Tables;

    impl<'de> Visitor<'de> for Tables {
        type Value = Vec<Route>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list of tables, in TOML `[[route]]`")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<Route>, A::Error> {
            let mut routes = Vec::new();
            while let Some(route) = seq.next_element()? {
                routes.push(route);
            }
            Ok(routes)
        }
    }

    deserializer.deserialize_any(Tables)
}

/// The entries of the top of a file, `[idempotency]` and `[[route]]` aside.
pub(super) const TOP: &[&str] = &[
    "listen",
    "upstream",
    "upstream_http2",
    "connect_timeout",
    "upstream_timeout",
    "authorize",
    "trusted_proxies",
    "metrics",
    "healthz",
    "contract",
    "drain_timeout",
    "ignore_path_case",
    "store",
    "secrets",
];

/// What stands in `[idempotency]` alone.
pub(super) const OF_LAYER: &[&str] = &[
    "namespace",
    "max_buffered",
    "max_detached",
    "max_waiters",
    "store_timeout",
    "docs_url",
    "encryption",
    "rejections",
];

/// The options that a route can have for itself: in `[idempotency]`, with their
/// defaults, and in `[[route]]`.
macro_rules! tables {
    ($($(#[$doc:meta])* $name:ident: $type:ty = $default:tt, $set:expr;)+) => {
        /// The options of every request.
        #[derive(Clone, Default, Deserialize, JsonSchema)]
        #[serde(deny_unknown_fields)]
        #[schemars(inline)]
        pub(super) struct Idempotency {
            /// Keeps the records of this service apart from those of others on the same store.
            #[schemars(extend("default" = ""))]
            pub(super) namespace: Option<String>,
            /// How many bytes all request bodies hold together while they are read; beyond it:
            /// `over-capacity`.
            #[schemars(extend("default" = "256MiB"))]
            pub(super) max_buffered: Option<Size>,
            /// How many operations may run on without a client before others are not begun:
            /// `over-capacity`.
            #[schemars(extend("default" = 10000), range(min = 1))]
            pub(super) max_detached: Option<usize>,
            /// How many requests may wait for the outcome of another at once; beyond it:
            /// `in-flight`.
            #[schemars(extend("default" = 1000))]
            pub(super) max_waiters: Option<usize>,
            /// How long the store may take for an answer.
            #[schemars(extend("default" = "2s"))]
            pub(super) store_timeout: Option<Time>,
            /// Where this API's clients read about idempotency: the `type` of problem documents,
            /// and `Link: …; rel="describedby"`.
            pub(super) docs_url: Option<String>,
            /// Encrypts recorded answers before the store gets them, under keys made of `secrets`.
            pub(super) encryption: Option<Encrypting>,
            /// Status, content type and body of each rejection.
            #[serde(default)]
            pub(super) rejections: Rejections,
            /// Whose a key is: the first of these that a request has.
            pub(super) scope: Option<Scopes>,
            $($(#[$doc])* #[schemars(extend("default" = $default))] pub(super) $name: Option<$type>,)+
        }

        /// What is different for some requests.
        #[derive(Clone, Deserialize, JsonSchema)]
        #[serde(deny_unknown_fields)]
        pub(super) struct Route {
            /// A path in axum's syntax, with a method before it or none: `POST /orders/{id}`,
            /// `/files/{*path}`. The most specific path wins, and of equal ones that with a
            /// method.
            #[serde(rename = "match")]
            #[schemars(regex(pattern = "^([!#$%&'*+.^_`|~0-9A-Z-]+ +)?/[^?#]*$"))]
            pub(super) pattern: String,
            /// Whose a key is: the first of these that a request has.
            pub(super) scope: Option<Scopes>,
            $($(#[$doc])* pub(super) $name: Option<$type>,)+
        }

        /// What stands in `[idempotency]` and in `[[route]]`.
        pub(super) const OF_ROUTES: &[&str] = &["scope", $(stringify!($name)),+];

        impl Idempotency {
            pub(super) fn set(&self, options: RouteOptions) -> RouteOptions {
                $(let set: fn(RouteOptions, &$type) -> RouteOptions = $set;
                let options = match &self.$name {
                    Some(value) => set(options, value),
                    None => options,
                };)+
                options
            }
        }

        impl Route {
            pub(super) fn set(&self, options: RouteOptions) -> RouteOptions {
                $(let set: fn(RouteOptions, &$type) -> RouteOptions = $set;
                let options = match &self.$name {
                    Some(value) => set(options, value),
                    None => options,
                };)+
                match &self.scope {
                    Some(scopes) => options.scope(scopes.scope()),
                    None => options,
                }
            }
        }
    };
}

tables! {
    /// The headers that may carry the key: the first that is present wins.
    header: List<Name> = ["Idempotency-Key"], |options, names| options.headers(&names.0);
    /// How the header's value is read: `lenient` takes an RFC 8941 string or the bare characters,
    /// `strict` only the string, `raw` the characters as they are.
    key_syntax: Word<KeySyntax> = "lenient", |options, syntax| options.key_syntax(syntax.0);
    /// The length of a key in characters.
    key_length: Lengths = { "min": 1, "max": 255 }, |options, lengths| lengths.of(options);
    /// What a key must look like.
    key_format: Word<Format> = "any", |options, format| options.key_format(format.0.format());
    /// The methods that are protected where a route's `match` names none.
    methods: List<Verb, 0> = ["POST", "PATCH"],
        |options, methods| options.methods(methods.0.iter().map(|verb| verb.0.clone()));
    /// Whether a key is needed: `required`, `optional`, or `ignored`, which passes every request
    /// through.
    require: Word<Require> = "optional", |options, require| options.require(require.0);
    /// What a key is unique in: the caller (`scope`; the route is compared), or the caller and the
    /// endpoint (`route`).
    keys_per: Word<KeysPer> = "scope", |options, keys_per| options.keys_per(keys_per.0);
    /// How the request's body is compared: `bytes`, `json` (as canonical JSON, or parts of it), or
    /// `none`.
    fingerprint_body: Body = "bytes", |options, body| options.fingerprint_body(body.0.clone());
    /// The request headers that are compared.
    fingerprint_headers: List<Name, 0> = ["Content-Type"],
        |options, names| options.fingerprint_headers(&names.0);
    /// Whether the query is compared.
    fingerprint_query: bool = true, |options, query| options.fingerprint_query(*query);
    /// What a key gets that comes with another request: `key-reused`, or the first answer.
    on_mismatch: Word<OnMismatch> = "reject",
        |options, on_mismatch| options.on_mismatch(on_mismatch.0);
    /// The largest request body; beyond it: `body-too-large`.
    max_request_body: Size = "1MiB", |options, size| options.max_request_body(size.0);
    /// How long a request's body may take to arrive; beyond it: `body-timeout`.
    body_timeout: Time = "30s", |options, timeout| options.body_timeout(timeout.0);
    /// The largest answer body that is recorded; a larger one is sent all the same, see
    /// `oversize`.
    max_recorded_body: Size = "1MiB", |options, size| options.max_recorded_body(size.0);
    /// What becomes of an operation whose answer can't be recorded: it does not run again
    /// (`seal`), or does (`rerun`).
    oversize: Word<OnOversize> = "seal", |options, oversize| options.oversize(oversize.0);
    /// Which answers are recorded, by status: `2xx`, `201`, `200-299`, `all`, `default`, less
    /// `!401`; by code of gRPC: `grpc:0`, `grpc:1-4`, `!grpc:5`.
    record: Record = ["default"], |options, record| options.record(record.0.clone());
    /// Content types that are never recorded, such as `application/pdf` or `image/*`.
    skip_types: List<MediaType, 0> = [],
        |options, types| options.skip_types(types.0.iter().map(|own| &own.0));
    /// Headers by which an answer says that it is not to be recorded: a name, or a name and a
    /// value, such as `Transient-Error: true`.
    skip_headers: List<SkipHeader, 0> = [],
        |options, headers| options.skip_headers(headers.0.iter().map(|own| &own.0));
    /// What a duplicate gets while the first request runs: `in-flight` at once, or the outcome,
    /// waited for as long as this.
    on_in_flight: Waiting = "reject", |options, waiting| options.on_in_flight(waiting.0);
    /// What becomes of an operation whose owner died or was cut off: it runs again, or is
    /// `outcome-unknown`.
    on_lapsed_lease: Word<OnLapsedLease> = "rerun",
        |options, on_lapsed_lease| options.on_lapsed_lease(on_lapsed_lease.0);
    /// What becomes of an operation whose client leaves: it runs to its end, or is dropped.
    on_disconnect: Word<OnDisconnect> = "finish",
        |options, on_disconnect| options.on_disconnect(on_disconnect.0);
    /// What becomes of a request when the store can't be reached: `store-unavailable`, or it is
    /// executed unprotected.
    on_store_error: Word<OnStoreError> = "closed",
        |options, on_store_error| options.on_store_error(on_store_error.0);
    /// How long a claim holds without being renewed.
    lease: Time = "30s", |options, lease| options.lease(lease.0);
    /// For how long the lease of one operation is renewed.
    max_operation: Time = "10m", |options, longest| options.max_operation(longest.0);
    /// How long a recorded answer is kept.
    retention: Time = "24h", |options, retention| options.retention(retention.0);
    /// Whether handlers have to commit their claims in transactions of their own, which needs a
    /// store in an SQL database. Not for the sidecar.
    exactly_once: bool = false, |options, exactly| options.exactly_once(*exactly);
    /// Which headers of an answer are recorded: all but some, or only some.
    record_headers: Headers = { "deny": ["Set-Cookie", "WWW-Authenticate", "Date"] },
        |options, headers| options.record_headers(headers.rule());
    /// The header that marks a replay with `true`; `false` for no mark.
    replayed_header: HeaderSwitch = "Idempotency-Replayed",
        |options, header| options.replayed_header(header.name("idempotency-replayed"));
    /// The header that says when the execution began; `true` for `Idempotency-Created-At`.
    created_at_header: HeaderSwitch = false,
        |options, header| options.created_at_header(header.name("idempotency-created-at"));
    /// The header that says until when the answer is kept; `true` for `Idempotency-Expires-At`.
    expires_at_header: HeaderSwitch = false,
        |options, header| options.expires_at_header(header.name("idempotency-expires-at"));
    /// Whether answers carry the key back, under its header's name.
    echo_key: bool = false, |options, echo| options.echo_key(*echo);
    /// With which status a recorded one is replayed, such as `{ "201" = 200 }`.
    replay_status: BTreeMap<StatusName, AnswerStatus> = {}, |options, map| {
        map.iter().fold(options, |options, (from, to)| options.replay_status(from.0, to.0))
    };
    /// What `Retry-After` says where waiting helps, in whole seconds.
    retry_after: Time = "1s", |options, wait| options.retry_after(wait.0);
}
