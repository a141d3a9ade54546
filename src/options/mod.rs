//! The options of one route (section 7 of the contract), and their defaults.

mod choices;
pub(crate) mod fingerprint;
pub(crate) mod key;
pub mod recording;
pub(crate) mod route;

pub use choices::{KeysPer, OnDisconnect, OnInFlight, OnOversize, OnStoreError, Require};
pub use fingerprint::{FingerprintBody, JsonFingerprint};
pub use key::{KeyFormat, KeySyntax};

pub use crate::store::{OnLapsedLease, OnMismatch};

use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use http::header::{
    CACHE_CONTROL, CONTENT_TYPE, DATE, ETAG, EXPECT, HOST, LINK, LOCATION, RETRY_AFTER, SET_COOKIE,
    TRAILER, VARY,
};
use http::{HeaderMap, HeaderName, Method, StatusCode};

use crate::display::{header_name, words};
use crate::error::ConfigError;
use crate::message::media_type::{HOP_BY_HOP, can_have_body, media_type};
use crate::options::fingerprint::FingerprintRules;
use crate::options::key::KeyRules;
use crate::options::recording::{RecordHeaders, RecordRule, RecordedHeaders, Statuses};
use crate::scope::Scope;

/// A header by which an answer says that it is not to be recorded.
#[derive(Clone, Debug)]
pub(crate) struct SkipHeader {
    pub(crate) name: HeaderName,
    /// Any where it is `None`.
    pub(crate) value: Option<String>,
}

impl fmt::Display for SkipHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&header_name(&self.name))?;
        match &self.value {
            Some(value) => write!(f, ": {value}"),
            None => Ok(()),
        }
    }
}

impl SkipHeader {
    fn is_in(&self, headers: &HeaderMap) -> bool {
        let mut values = headers.get_all(&self.name).iter();
        match &self.value {
            None => values.next().is_some(),
            Some(value) => values.any(|own| own.as_bytes().eq_ignore_ascii_case(value.as_bytes())),
        }
    }
}

words! {
    KeySyntax { Lenient = "lenient", Strict = "strict", Raw = "raw" }
    OnLapsedLease { Rerun = "rerun", Refuse = "refuse" }
    Require { Required = "required", Optional = "optional", Ignored = "ignored" }
    KeysPer { Scope = "scope", Route = "route" }
    OnMismatch { Reject = "reject", Replay = "replay" }
    OnOversize { Seal = "seal", Rerun = "rerun" }
    OnStoreError { Reject = "reject" | "closed", RunUnprotected = "run-unprotected" | "open" }
    OnDisconnect { Finish = "finish", Cancel = "cancel" }
}

/// The options of one route, with the defaults of the contract.
///
/// [`IdempotencyLayerBuilder::defaults`](crate::IdempotencyLayerBuilder::defaults) sets them for every
/// request, [`IdempotencyLayerBuilder::route`](crate::IdempotencyLayerBuilder::route) for some. What is wrong
/// with a value is said when the layer is built.
#[derive(Clone)]
pub struct RouteOptions {
    pub(crate) keys: KeyRules,
    pub(crate) methods: Vec<Method>,
    pub(crate) require: Require,
    /// The layer's own where it is `None`.
    pub(crate) scope: Option<Arc<dyn Scope>>,
    pub(crate) keys_per: KeysPer,
    pub(crate) fingerprint: FingerprintRules,
    pub(crate) on_mismatch: OnMismatch,
    pub(crate) max_request_body: usize,
    pub(crate) body_timeout: Duration,
    pub(crate) max_recorded_body: usize,
    pub(crate) oversize: OnOversize,
    pub(crate) record: Arc<dyn RecordRule>,
    pub(crate) skip_types: Vec<String>,
    pub(crate) skip_headers: Vec<SkipHeader>,
    pub(crate) on_lapsed_lease: OnLapsedLease,
    pub(crate) on_in_flight: OnInFlight,
    pub(crate) on_disconnect: OnDisconnect,
    pub(crate) on_store_error: OnStoreError,
    pub(crate) exactly_once: bool,
    pub(crate) lease: Duration,
    pub(crate) max_operation: Duration,
    pub(crate) retention: Duration,
    pub(crate) record_headers: RecordedHeaders,
    pub(crate) replayed_header: Option<HeaderName>,
    pub(crate) created_at_header: Option<HeaderName>,
    pub(crate) expires_at_header: Option<HeaderName>,
    pub(crate) echo_key: bool,
    pub(crate) replay_status: Vec<(StatusCode, StatusCode)>,
    pub(crate) retry_after: Duration,
    /// The first thing that was wrong, until the layer is built.
    pub(crate) error: Option<Arc<(&'static str, String)>>,
}

impl Default for RouteOptions {
    fn default() -> Self {
        Self {
            keys: KeyRules {
                headers: vec![HeaderName::from_static("idempotency-key")],
                syntax: KeySyntax::default(),
                length: 1..=255,
                format: KeyFormat::any(),
            },
            methods: vec![Method::POST, Method::PATCH],
            require: Require::default(),
            scope: None,
            keys_per: KeysPer::default(),
            fingerprint: FingerprintRules {
                body: FingerprintBody::default(),
                query: true,
                headers: vec![CONTENT_TYPE],
            },
            on_mismatch: OnMismatch::default(),
            max_request_body: 1 << 20,
            body_timeout: Duration::from_secs(30),
            max_recorded_body: 1 << 20,
            oversize: OnOversize::default(),
            record: Arc::new(Statuses::default()),
            skip_types: Vec::new(),
            skip_headers: Vec::new(),
            on_lapsed_lease: OnLapsedLease::default(),
            on_in_flight: OnInFlight::default(),
            on_disconnect: OnDisconnect::default(),
            on_store_error: OnStoreError::default(),
            exactly_once: false,
            lease: Duration::from_secs(30),
            max_operation: Duration::from_secs(10 * 60),
            retention: Duration::from_secs(24 * 60 * 60),
            record_headers: RecordedHeaders::default(),
            replayed_header: Some(HeaderName::from_static("idempotency-replayed")),
            created_at_header: None,
            expires_at_header: None,
            echo_key: false,
            replay_status: Vec::new(),
            retry_after: Duration::from_secs(1),
            error: None,
        }
    }
}

/// The options that a file can set for a route, one row each: the words of its JSON Schema; its
/// name, which is also the name of the method that sets it; how a file writes it (the types are
/// those of `config`); its default in a file; and, where the method does not take the value as it
/// is, how the value is set.
#[cfg(feature = "config")]
macro_rules! route_options {
    ($read:ident) => {
        $read! {
            /// The headers that may carry the key: the first that is present wins.
            header: List<Name> = ["Idempotency-Key"], |options, names| options.headers(names.set());
            /// How the header's value is read: `lenient` takes an RFC 8941 string or the bare
            /// characters, `strict` only the string, `raw` the characters as they are.
            key_syntax: Word<KeySyntax> = "lenient";
            /// The length of a key in characters.
            key_length: Lengths = { "min": 1, "max": 255 }, |options, own| own.set(options);
            /// What a key must look like.
            key_format: Format = "any";
            /// The methods that are protected where a route's `match` names none.
            methods: Vec<Verb> = ["POST", "PATCH"];
            /// Whether a key is needed: `required`, `optional`, or `ignored`, which passes every
            /// request through.
            require: Word<Require> = "optional";
            /// What a key is unique in: the caller (`scope`; the route is compared), or the caller
            /// and the endpoint (`route`).
            keys_per: Word<KeysPer> = "scope";
            /// How the request's body is compared: `bytes`, `json` (as canonical JSON, or parts of
            /// it), or `none`.
            fingerprint_body: Body = "bytes";
            /// The request headers that are compared.
            fingerprint_headers: Vec<Name> = ["Content-Type"];
            /// Whether the query is compared.
            fingerprint_query: bool = true;
            /// What a request gets whose key came with another request before: `key-reused`, or
            /// the first response.
            on_mismatch: Word<OnMismatch> = "reject";
            /// The largest request body; beyond it: `body-too-large`.
            max_request_body: Size = "1MiB";
            /// How long a request's body may take to arrive; beyond it: `body-timeout`.
            body_timeout: Time = "30s";
            /// The largest response body that is recorded; a larger one is sent all the same, see
            /// `oversize`.
            max_recorded_body: Size = "1MiB";
            /// What becomes of an operation whose response can't be recorded: it does not run again
            /// (`seal`), or does (`rerun`).
            oversize: Word<OnOversize> = "seal";
            /// Which responses are recorded, by status: `2xx`, `201`, `200-299`, `all`, `default`,
            /// less `!401`; by code of gRPC: `grpc:0`, `grpc:1-4`, `!grpc:5`.
            record: Record = ["default"];
            /// Content types that are never recorded, such as `application/pdf` or `image/*`.
            skip_types: Vec<MediaType> = [];
            /// Headers by which a response says that it is not to be recorded: a name, or a name
            /// and a value, such as `Transient-Error: true`.
            skip_headers: Vec<SkipHeader> = [];
            /// What a duplicate gets while the first request runs: `in-flight` at once, or the
            /// outcome, for which it waits at most this long.
            on_in_flight: Waiting = "reject";
            /// What becomes of an operation whose owner died or was cut off: it runs again, or is
            /// `outcome-unknown`.
            on_lapsed_lease: Word<OnLapsedLease> = "rerun";
            /// What becomes of an operation whose client leaves: it runs to its end, or is dropped.
            on_disconnect: Word<OnDisconnect> = "finish";
            /// What becomes of a request while the store can't be reached: it is rejected with
            /// `store-unavailable`, or it runs unprotected.
            on_store_error: Word<OnStoreError> = "reject";
            /// How long a claim holds without being renewed.
            lease: Time = "30s";
            /// For how long the lease of one operation is renewed.
            max_operation: Time = "10m";
            /// How long a recorded response is kept.
            retention: Time = "24h";
            /// Whether handlers have to commit their claims in transactions of their own, which
            /// needs a store in an SQL database. Not for the sidecar.
            exactly_once: bool = false;
            /// Which headers of a response are recorded: all but some, or only some.
            record_headers: Headers = { "deny": ["Set-Cookie", "WWW-Authenticate", "Date"] };
            /// The header that marks a replay with `true`; `false` for no mark.
            replayed_header: HeaderSwitch = "Idempotency-Replayed",
                |options, own| options.replayed_header(own.name("idempotency-replayed"));
            /// The header that says when the operation began; `true` for `Idempotency-Created-At`.
            created_at_header: HeaderSwitch = false,
                |options, own| options.created_at_header(own.name("idempotency-created-at"));
            /// The header that says until when the response is kept; `true` for
            /// `Idempotency-Expires-At`.
            expires_at_header: HeaderSwitch = false,
                |options, own| options.expires_at_header(own.name("idempotency-expires-at"));
            /// Whether responses carry the key back, under its header's name.
            echo_key: bool = false;
            /// With which status a recorded one is replayed, such as `{ "201" = 200 }`.
            replay_status: BTreeMap<StatusName, BodyStatus> = {}, |options, own| {
                own.iter().fold(options, |options, (from, to)| options.replay_status(from.0, to.0))
            };
            /// What `Retry-After` says where waiting helps, in whole seconds.
            retry_after: Time = "1s";
        }
    };
}
#[cfg(feature = "config")]
pub(crate) use route_options;

impl RouteOptions {
    /// The header that carries the key. Default: `Idempotency-Key`.
    #[must_use]
    pub fn header(self, name: impl AsRef<str>) -> Self {
        self.headers([name])
    }

    /// Several headers that may carry the key: the first that is present wins.
    #[must_use]
    pub fn headers<N: AsRef<str>>(mut self, names: impl IntoIterator<Item = N>) -> Self {
        self.keys.headers = self.names("header", names);
        if self.keys.headers.is_empty() {
            self.fail("header", "names no header");
        }
        for name in self.keys.headers.clone() {
            if has_a_meaning_of_its_own(&name) {
                self.fail("header", taken(&name));
            }
        }
        self
    }

    /// How the header's value is read. Default: [`KeySyntax::Lenient`].
    #[must_use]
    pub fn key_syntax(mut self, syntax: KeySyntax) -> Self {
        self.keys.syntax = syntax;
        self
    }

    /// The length of a key, decoded, in characters. Default: 1 to 255.
    #[must_use]
    pub fn key_length(mut self, length: RangeInclusive<usize>) -> Self {
        if *length.start() == 0 || length.is_empty() {
            self.fail(
                "key_length",
                "must begin at 1 or more and not end before it begins",
            );
        }
        self.keys.length = length;
        self
    }

    /// What a key must look like. Default: [`KeyFormat::any`].
    #[must_use]
    pub fn key_format(mut self, format: KeyFormat) -> Self {
        self.keys.format = format;
        self
    }

    /// The methods that are protected where a route's pattern names none.
    /// Default: POST and PATCH. Safe methods, CONNECT and TRACE can't be.
    #[must_use]
    pub fn methods(mut self, methods: impl IntoIterator<Item = Method>) -> Self {
        self.methods = methods.into_iter().collect();
        if let Some(method) = self.methods.iter().find(|method| !can_protect(method)) {
            let message = format!("names {method}, which can't be protected");
            self.fail("methods", message);
        }
        self
    }

    /// Whether a key is needed. Default: [`Require::Optional`].
    #[must_use]
    pub fn require(mut self, require: Require) -> Self {
        self.require = require;
        self
    }

    /// Who the key belongs to. Default: the scope that the layer was given.
    #[must_use]
    pub fn scope(mut self, scope: impl Scope) -> Self {
        self.scope = Some(Arc::new(scope));
        self
    }

    /// What a key is unique in. Default: [`KeysPer::Scope`].
    #[must_use]
    pub fn keys_per(mut self, keys_per: KeysPer) -> Self {
        self.keys_per = keys_per;
        self
    }

    /// How the request's body is compared. Default: [`FingerprintBody::Bytes`].
    #[must_use]
    pub fn fingerprint_body(mut self, body: FingerprintBody) -> Self {
        self.fingerprint.body = body;
        self
    }

    /// Whether the query is compared. Default: it is.
    #[must_use]
    pub fn fingerprint_query(mut self, query: bool) -> Self {
        self.fingerprint.query = query;
        self
    }

    /// The request headers that are compared. Default: `Content-Type`.
    #[must_use]
    pub fn fingerprint_headers<N: AsRef<str>>(
        mut self,
        names: impl IntoIterator<Item = N>,
    ) -> Self {
        self.fingerprint.headers = self.names("fingerprint_headers", names);
        self
    }

    /// What a key gets that comes with another request. Default:
    /// [`OnMismatch::Reject`].
    #[must_use]
    pub fn on_mismatch(mut self, on_mismatch: OnMismatch) -> Self {
        self.on_mismatch = on_mismatch;
        self
    }

    /// The largest request body, in bytes; beyond it: `body-too-large`.
    /// Default: 1 MiB.
    #[must_use]
    pub fn max_request_body(mut self, bytes: usize) -> Self {
        self.max_request_body = bytes;
        self
    }

    /// How long a request's body may take to arrive; beyond it:
    /// `body-timeout`. Default: 30 s.
    #[must_use]
    pub fn body_timeout(mut self, timeout: Duration) -> Self {
        self.body_timeout = self.positive("body_timeout", timeout);
        self
    }

    /// The largest answer body that is recorded, in bytes; a larger one is sent
    /// all the same, see [`oversize`](Self::oversize). Default: 1 MiB.
    #[must_use]
    pub fn max_recorded_body(mut self, bytes: usize) -> Self {
        self.max_recorded_body = bytes;
        self
    }

    /// What becomes of an operation whose answer is larger, a stream of events
    /// (`text/event-stream`) or an upgrade. Default: [`OnOversize::Seal`].
    #[must_use]
    pub fn oversize(mut self, oversize: OnOversize) -> Self {
        self.oversize = oversize;
        self
    }

    /// Which answers are recorded. Default: [`Statuses::default`].
    #[must_use]
    pub fn record(mut self, record: impl RecordRule) -> Self {
        self.record = Arc::new(record);
        self
    }

    /// Content types, such as `application/pdf` or `image/*`, that are never
    /// recorded: a retry executes again. Default: none.
    #[must_use]
    pub fn skip_types<T: AsRef<str>>(mut self, types: impl IntoIterator<Item = T>) -> Self {
        self.skip_types = types
            .into_iter()
            .map(|own| own.as_ref().trim().to_ascii_lowercase())
            .collect();
        let wrong = |own: &&String| !own.contains('/') || own.contains(';');
        if let Some(wrong) = self.skip_types.iter().find(wrong) {
            let message =
                format!("names `{wrong}`, which is not a content type without parameters");
            self.fail("skip_types", message);
        }
        self
    }

    /// Headers by which an answer says that it is not to be recorded: a name,
    /// or a name and a value in any case, such as `Transient-Error: true`. A
    /// retry executes again. Default: none.
    #[must_use]
    pub fn skip_headers<H: AsRef<str>>(mut self, headers: impl IntoIterator<Item = H>) -> Self {
        self.skip_headers.clear();
        for header in headers {
            let (name, value) = match header.as_ref().split_once(':') {
                Some((name, value)) => (name.trim_end(), Some(value.trim())),
                None => (header.as_ref(), None),
            };
            if value.is_some_and(str::is_empty) {
                let message = format!("names `{name}:` without a value");
                self.fail("skip_headers", message);
            }
            if let Some(name) = self.name("skip_headers", Some(name)) {
                self.skip_headers.push(SkipHeader {
                    name,
                    value: value.map(str::to_owned),
                });
            }
        }
        self
    }

    /// What a claim does that meets a lapsed lease: its owner died, or was cut
    /// off. Default: [`OnLapsedLease::Rerun`].
    #[must_use]
    pub fn on_lapsed_lease(mut self, on_lapsed_lease: OnLapsedLease) -> Self {
        self.on_lapsed_lease = on_lapsed_lease;
        self
    }

    /// What a duplicate gets while the first request runs. Default:
    /// [`OnInFlight::Reject`].
    #[must_use]
    pub fn on_in_flight(mut self, on_in_flight: OnInFlight) -> Self {
        if let OnInFlight::Wait(bound) = on_in_flight {
            self.positive("on_in_flight", bound);
        }
        self.on_in_flight = on_in_flight;
        self
    }

    /// What becomes of an operation whose client leaves. Default:
    /// [`OnDisconnect::Finish`].
    #[must_use]
    pub fn on_disconnect(mut self, on_disconnect: OnDisconnect) -> Self {
        self.on_disconnect = on_disconnect;
        self
    }

    /// What becomes of a request when the store can't be reached. Default:
    /// [`OnStoreError::Reject`].
    #[must_use]
    pub fn on_store_error(mut self, on_store_error: OnStoreError) -> Self {
        self.on_store_error = on_store_error;
        self
    }

    /// Whether handlers have to commit their claims in transactions of their own
    /// (`SqlClaim`, G7). Then an answer of 2xx or 3xx without
    /// that is an error that can't be overlooked: the client gets a 500
    /// (`outcome-unknown`), the log says so, and the record is left as unknown
    /// ([`OnLapsedLease`]). Answers of 4xx and 5xx are judged as ever.
    ///
    /// Needs a store in an SQL database, and [`OnStoreError::Reject`]. Default:
    /// they don't.
    #[must_use]
    pub fn exactly_once(mut self, exactly_once: bool) -> Self {
        self.exactly_once = exactly_once;
        self
    }

    /// How long a claim holds without being renewed; it is renewed after a
    /// third of it. Default: 30 s.
    #[must_use]
    pub fn lease(mut self, lease: Duration) -> Self {
        self.lease = self.positive("lease", lease);
        self
    }

    /// For how long the lease of one operation is renewed, and for how long an
    /// answer is read on once its client has left. Default: 10 min.
    ///
    /// A handler that never comes back from its first poll, since it blocks its
    /// thread for ever, keeps a lease of the memory store beyond that.
    #[must_use]
    pub fn max_operation(mut self, max_operation: Duration) -> Self {
        self.max_operation = self.positive("max_operation", max_operation);
        self
    }

    /// How long a recorded answer is kept, from its completion. Default: 24 h.
    #[must_use]
    pub fn retention(mut self, retention: Duration) -> Self {
        self.retention = self.positive("retention", retention);
        self
    }

    /// Which headers of an answer are recorded. Default: all but
    /// `Set-Cookie`, `WWW-Authenticate` and `Date`.
    #[must_use]
    pub fn record_headers(mut self, headers: RecordHeaders) -> Self {
        let (allow, names) = headers.into_names();
        let names = self.names("record_headers", names);
        self.record_headers = RecordedHeaders::new(allow, names);
        self
    }

    /// The header that marks a replay with `true`; `None` for no mark.
    /// Default: `Idempotency-Replayed`.
    #[must_use]
    pub fn replayed_header<'a>(mut self, name: impl Into<Option<&'a str>>) -> Self {
        self.replayed_header = self.mark("replayed_header", name.into());
        self
    }

    /// The header that says when the execution began (RFC 3339), on first
    /// answers and on replays. Default: none.
    #[must_use]
    pub fn created_at_header<'a>(mut self, name: impl Into<Option<&'a str>>) -> Self {
        self.created_at_header = self.mark("created_at_header", name.into());
        self
    }

    /// The header that says until when the answer is kept (RFC 3339), on replays
    /// and on first answers, unless these are sent while they are read. Default:
    /// none.
    #[must_use]
    pub fn expires_at_header<'a>(mut self, name: impl Into<Option<&'a str>>) -> Self {
        self.expires_at_header = self.mark("expires_at_header", name.into());
        self
    }

    /// Whether answers carry the key back, under its header's name. Default:
    /// they don't.
    #[must_use]
    pub fn echo_key(mut self, echo: bool) -> Self {
        self.echo_key = echo;
        self
    }

    /// Replays a recorded `from` with the status `to`, such as 201 as 200. A
    /// status without a body (1xx, 204, 304) can't stand for one with.
    /// Default: as recorded.
    #[must_use]
    pub fn replay_status(mut self, from: StatusCode, to: StatusCode) -> Self {
        if !can_have_body(to) {
            let message = format!("replays {from} as {to}, which has no body");
            self.fail("replay_status", message);
        }
        self.replay_status.retain(|(own, _)| *own != from);
        self.replay_status.push((from, to));
        self
    }

    /// What `Retry-After` says where waiting helps, in whole seconds. Default: 1 s.
    #[must_use]
    pub fn retry_after(mut self, retry_after: Duration) -> Self {
        self.retry_after = retry_after;
        self
    }

    /// What is wrong with these options, if anything is.
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        if let Some(error) = &self.error {
            return Err(ConfigError::new(error.0, error.1.clone()));
        }
        if self.max_operation < self.lease {
            return Err(ConfigError::new(
                "max_operation",
                "must not be shorter than `lease`",
            ));
        }
        let marks = [
            ("replayed_header", &self.replayed_header),
            ("created_at_header", &self.created_at_header),
            ("expires_at_header", &self.expires_at_header),
        ];
        for (at, (option, name)) in marks.iter().enumerate() {
            let Some(name) = name else { continue };
            let echoed = self.echo_key && self.keys.headers.contains(name);
            if echoed
                || marks[..at]
                    .iter()
                    .any(|(_, other)| other.as_ref() == Some(name))
            {
                let message = format!("names `{name}`, which says something else already");
                return Err(ConfigError::new(option, message));
            }
        }
        if self.exactly_once && self.on_store_error == OnStoreError::RunUnprotected {
            return Err(ConfigError::new(
                "exactly_once",
                "can't go with `on_store_error` open: what runs unprotected runs as often as it \
                 is sent",
            ));
        }
        self.fingerprint.check()
    }

    /// Whether an answer with these headers is never recorded.
    pub(crate) fn skips(&self, headers: &HeaderMap) -> bool {
        self.skip_headers.iter().any(|skip| skip.is_in(headers)) || self.skips_type(headers)
    }

    fn skips_type(&self, headers: &HeaderMap) -> bool {
        let skips = |own: &[u8]| {
            self.skip_types
                .iter()
                .any(|skipped| match skipped.strip_suffix('*') {
                    Some("*/") => true,
                    Some(family) => own
                        .get(..family.len())
                        .is_some_and(|own| own.eq_ignore_ascii_case(family.as_bytes())),
                    None => own.eq_ignore_ascii_case(skipped.as_bytes()),
                })
        };
        !self.skip_types.is_empty() && media_type(headers.get(CONTENT_TYPE)).is_some_and(skips)
    }

    pub(crate) fn replayed_status(&self, recorded: StatusCode) -> StatusCode {
        let mapped = self
            .replay_status
            .iter()
            .find(|(from, _)| *from == recorded);
        mapped.map_or(recorded, |(_, to)| *to)
    }

    fn fail(&mut self, option: &'static str, message: impl Into<String>) {
        self.error
            .get_or_insert_with(|| Arc::new((option, message.into())));
    }

    fn positive(&mut self, option: &'static str, duration: Duration) -> Duration {
        if duration.is_zero() {
            self.fail(option, "must be longer than zero");
        }
        duration
    }

    /// A header that the layer says something by.
    fn mark(&mut self, option: &'static str, name: Option<&str>) -> Option<HeaderName> {
        let name = self.name(option, name)?;
        let of_answers = [
            CACHE_CONTROL,
            DATE,
            ETAG,
            LINK,
            LOCATION,
            RETRY_AFTER,
            SET_COOKIE,
            VARY,
        ];
        if has_a_meaning_of_its_own(&name)
            || of_answers.contains(&name)
            || name == "idempotency-status"
        {
            self.fail(option, taken(&name));
        }
        Some(name)
    }

    fn name(&mut self, option: &'static str, name: Option<&str>) -> Option<HeaderName> {
        self.names(option, name).pop()
    }

    fn names<N: AsRef<str>>(
        &mut self,
        option: &'static str,
        names: impl IntoIterator<Item = N>,
    ) -> Vec<HeaderName> {
        let mut parsed = Vec::new();
        for name in names {
            if let Ok(name) = name.as_ref().parse() {
                parsed.push(name);
            } else {
                let message = format!("names `{}`, which is not a header's name", name.as_ref());
                self.fail(option, message);
            }
        }
        parsed
    }
}

impl fmt::Debug for RouteOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Policy")
            .field("header", &self.keys.headers)
            .field("methods", &self.methods)
            .field("require", &self.require)
            .field("lease", &self.lease)
            .field("retention", &self.retention)
            .finish_non_exhaustive()
    }
}

/// Of one connection, or of the message's body: a key or a mark under such a name
/// would change what the message is.
fn has_a_meaning_of_its_own(name: &HeaderName) -> bool {
    HOP_BY_HOP.contains(name)
        || [HOST, TRAILER, EXPECT].contains(name)
        || name.as_str().starts_with("content-")
}

fn taken(name: &HeaderName) -> String {
    format!("names `{name}`, which has a meaning of its own in HTTP")
}

/// Whether requests of this method can be protected: safe ones have nothing
/// to repeat, CONNECT and TRACE no answer to keep.
pub(crate) fn can_protect(method: &Method) -> bool {
    !matches!(
        *method,
        Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::CONNECT
    ) && method.as_str() != "QUERY"
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn types_are_skipped_by_name_or_family() {
        let options = RouteOptions::default().skip_types(["Application/PDF", "image/*"]);
        for (own, skipped) in [
            ("application/pdf; v=1", true),
            ("IMAGE/png", true),
            ("application/json", false),
            ("imagery/png", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(own));
            assert_eq!(options.skips_type(&headers), skipped, "{own}");
        }
        assert!(!options.skips_type(&HeaderMap::new()));
    }

    #[test]
    fn answers_are_skipped_by_a_header_or_by_its_value() {
        let options = RouteOptions::default().skip_headers(["Transient-Error: TRUE", "x-volatile"]);
        for (name, value, skipped) in [
            ("transient-error", "true", true),
            ("transient-error", "false", false),
            ("x-volatile", "", true),
            ("x-other", "true", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.append(name, HeaderValue::from_static("no"));
            headers.append(name, HeaderValue::from_static(value));
            assert_eq!(options.skips(&headers), skipped, "{name}: {value}");
        }
        assert!(!options.skips(&HeaderMap::new()));
    }

    #[test]
    fn every_wrong_option_is_named() {
        let wrong: [(&str, RouteOptions); 22] = [
            ("header", RouteOptions::default().header("no spaces")),
            (
                "header",
                RouteOptions::default().headers(["x-key", "Connection"]),
            ),
            (
                "created_at_header",
                RouteOptions::default().created_at_header("content-length"),
            ),
            (
                "replayed_header",
                RouteOptions::default().replayed_header("Idempotency-Status"),
            ),
            (
                "expires_at_header",
                RouteOptions::default()
                    .created_at_header("x-time")
                    .expires_at_header("X-Time"),
            ),
            (
                "replayed_header",
                RouteOptions::default()
                    .replayed_header("Idempotency-Key")
                    .echo_key(true),
            ),
            (
                "header",
                RouteOptions::default().headers(Vec::<String>::new()),
            ),
            ("key_length", RouteOptions::default().key_length(0..=9)),
            #[expect(clippy::reversed_empty_ranges)]
            ("key_length", RouteOptions::default().key_length(9..=8)),
            (
                "methods",
                RouteOptions::default().methods([Method::POST, Method::GET]),
            ),
            (
                "methods",
                RouteOptions::default().methods([Method::from_bytes(b"QUERY").unwrap()]),
            ),
            (
                "fingerprint_headers",
                RouteOptions::default().fingerprint_headers(["a b"]),
            ),
            ("skip_types", RouteOptions::default().skip_types(["pdf"])),
            (
                "skip_headers",
                RouteOptions::default().skip_headers(["a b: c"]),
            ),
            ("skip_headers", RouteOptions::default().skip_headers(["a:"])),
            (
                "body_timeout",
                RouteOptions::default().body_timeout(Duration::ZERO),
            ),
            (
                "lease",
                RouteOptions::default()
                    .lease(Duration::ZERO)
                    .retention(Duration::ZERO),
            ),
            (
                "max_operation",
                RouteOptions::default().max_operation(Duration::from_secs(29)),
            ),
            (
                "retention",
                RouteOptions::default().retention(Duration::ZERO),
            ),
            (
                "record_headers",
                RouteOptions::default().record_headers(RecordHeaders::deny([""])),
            ),
            (
                "replayed_header",
                RouteOptions::default().replayed_header("a:b"),
            ),
            (
                "created_at_header",
                RouteOptions::default()
                    .created_at_header("é")
                    .expires_at_header(""),
            ),
        ];
        for (option, options) in wrong {
            assert_eq!(options.check().unwrap_err().option(), option);
        }
        assert!(
            RouteOptions::default()
                .replayed_header(None)
                .check()
                .is_ok()
        );
    }
}
