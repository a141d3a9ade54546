//! The setters of [`RouteOptions`] that check or convert their arguments.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use http::header::{
    CACHE_CONTROL, DATE, ETAG, EXPECT, HOST, LINK, LOCATION, RETRY_AFTER, SET_COOKIE, TRAILER, VARY,
};
use http::{HeaderName, Method, StatusCode};

use crate::message::media_type::{HOP_BY_HOP, can_have_body};
use crate::options::json::member::MemberPointer;
use crate::options::key::{KeyFormat, KeySyntax};
use crate::options::recording::{RecordRule, SkipHeader};
use crate::options::replay_json::Source;
use crate::options::skip_json::SkipMember;
use crate::options::{
    ExactlyOnce, FingerprintBody, OnInFlight, ReplayedMember, RouteOptions, can_protect,
};
use crate::scope::Scope;

impl RouteOptions {
    /// Whether handlers must commit their claims in transactions of their own (`SqlClaim`, G7), and
    /// whether the claim itself is made there. `true` stands for [`ExactlyOnce::Committed`], `false` for
    /// [`ExactlyOnce::No`], which is the default.
    ///
    /// [`Committed`](ExactlyOnce::Committed) and [`InTransaction`](ExactlyOnce::InTransaction) need a
    /// store in an SQL database, and [`OnStoreError::Reject`](crate::options::OnStoreError::Reject).
    #[must_use]
    pub fn exactly_once(mut self, how: impl Into<ExactlyOnce>) -> Self {
        self.exactly_once = how.into();
        self
    }

    /// The header that carries the key. Default: `Idempotency-Key`.
    #[must_use]
    pub fn header(self, name: impl AsRef<str>) -> Self {
        self.headers([name])
    }

    /// The headers that may carry the key. The first one that a request has is read.
    #[must_use]
    pub fn headers<N: AsRef<str>>(mut self, names: impl IntoIterator<Item = N>) -> Self {
        self.keys.headers = self.names("header", names);
        if self.keys.headers.is_empty() {
            self.fail("header", "names no header");
        }
        for name in self.keys.headers.clone() {
            if is_defined_by_http(&name) {
                self.fail("header", defined_by_http(&name));
            }
        }
        self
    }

    /// The members of a JSON body that may carry the key, as JSON pointers (RFC 6901) such as
    /// `/meta/idempotency-key`. The first one that a body has is read, if the request has no header
    /// with a key. Default: none.
    ///
    /// The member must be a string, whose characters are the key; any other value is rejected with
    /// `key-invalid`, and so is a key that differs from the one in a header. The member is left out
    /// of the fingerprint where bodies are compared as JSON. [`echo_key`](Self::echo_key) does not
    /// apply to it.
    ///
    /// A body whose one content type is JSON (as for [`FingerprintBody::Json`]) is read before the
    /// layer knows whether the request has a key, and so within
    /// [`max_request_body`](Self::max_request_body), [`body_timeout`](Self::body_timeout) and the
    /// limits of its caller (G11): what is beyond is rejected with or without a key. A request without a key is then passed
    /// on with the same bytes. Other bodies are passed on unread. What is not JSON has no key, and
    /// neither has a body in which a step of the pointer leads into an array or past another value,
    /// or in which an object on its way has the next member twice.
    ///
    /// ```
    /// use tower_idempotency::options::RouteOptions;
    ///
    /// RouteOptions::default().key_in_body(["/meta/idempotency-key", "/idempotency_key"]);
    /// ```
    #[must_use]
    pub fn key_in_body<P: AsRef<str>>(mut self, pointers: impl IntoIterator<Item = P>) -> Self {
        self.keys.in_body.clear();
        for pointer in pointers {
            let pointer = match MemberPointer::parse(pointer.as_ref()) {
                Ok(pointer) => pointer,
                Err(message) => {
                    self.fail("key_in_body", message);
                    continue;
                }
            };
            let mut others = self.keys.in_body.iter();
            if let Some(other) = others.find(|other| other.overlaps(&pointer)) {
                let message = format!("names `{pointer}` beside `{other}`: one contains the other");
                self.fail("key_in_body", message);
            }
            self.keys.in_body.push(pointer);
        }
        self.fingerprint.keys.clone_from(&self.keys.in_body);
        self
    }

    /// How the header's value is read. Default: [`KeySyntax::Lenient`].
    #[must_use]
    pub fn key_syntax(mut self, syntax: KeySyntax) -> Self {
        self.keys.syntax = syntax;
        self
    }

    /// The length of a key in characters, without quotation marks and escapes. Default: 1 to 255.
    #[must_use]
    pub fn key_length(mut self, length: RangeInclusive<usize>) -> Self {
        if *length.start() == 0 || length.is_empty() {
            let message = "must begin at 1 or more and not end before it begins";
            self.fail("key_length", message);
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

    /// The methods that are protected where a route's pattern names none. Default: POST and PATCH.
    /// Safe methods, CONNECT and TRACE can't be protected.
    #[must_use]
    pub fn methods(mut self, methods: impl IntoIterator<Item = Method>) -> Self {
        self.methods = methods.into_iter().collect();
        if let Some(method) = self.methods.iter().find(|method| !can_protect(method)) {
            let message = format!("names {method}, which can't be protected");
            self.fail("methods", message);
        }
        self
    }

    /// Who the key belongs to. Default: the scope that the layer was given.
    #[must_use]
    pub fn scope(mut self, scope: impl Scope) -> Self {
        self.scope = Some(Arc::new(scope));
        self
    }

    /// How the request's body is compared. Default: [`FingerprintBody::Bytes`].
    ///
    /// With the options of [`mcp`](Self::mcp) bodies can't be compared byte for byte, and are compared
    /// as JSON without the `id` and the `_meta` of a call, which are new in every attempt. A part of
    /// `_meta` that [`JsonFingerprint::include`](crate::options::JsonFingerprint::include) names is
    /// compared.
    #[must_use]
    pub fn fingerprint_body(mut self, mut body: FingerprintBody) -> Self {
        if let FingerprintBody::Json(json) = &mut body {
            json.leave_out(&self.fingerprint.of_attempt);
        }
        self.fingerprint.body = body;
        self
    }

    /// Whether the query is compared. Default: `true`.
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

    /// Which responses are recorded. Default: `Statuses::default()`, see
    /// [`Statuses`](crate::recording::Statuses).
    #[must_use]
    pub fn record(mut self, record: impl RecordRule) -> Self {
        self.record = Arc::new(record);
        self
    }

    /// Content types, such as `application/pdf` or `image/*`, that are never recorded: a retry
    /// executes again. Default: none.
    #[must_use]
    pub fn skip_types<T: AsRef<str>>(mut self, types: impl IntoIterator<Item = T>) -> Self {
        let lower_case = |own: T| own.as_ref().trim().to_ascii_lowercase();
        self.skip_types = types.into_iter().map(lower_case).collect();
        let is_wrong = |own: &&String| !own.contains('/') || own.contains(';');
        if let Some(wrong) = self.skip_types.iter().find(is_wrong) {
            let message =
                format!("names `{wrong}`, which is not a content type without parameters");
            self.fail("skip_types", message);
        }
        self
    }

    /// Headers by which a response says that it is not to be recorded: a name, or a name and a
    /// value in any case, such as `Transient-Error: true`. A retry executes again. Default: none.
    #[must_use]
    pub fn skip_headers<H: AsRef<str>>(mut self, headers: impl IntoIterator<Item = H>) -> Self {
        self.skip_headers.clear();
        for header in headers {
            match SkipHeader::read(header.as_ref()) {
                Ok(header) => self.skip_headers.push(header),
                Err(message) => self.fail("skip_headers", message),
            }
        }
        self
    }

    /// Members by which a JSON response says that it is not to be recorded: a JSON pointer (RFC
    /// 6901), or a pointer and a value, such as `/result/isError: true`. A retry executes again.
    /// Default: none.
    ///
    /// A value is `true`, `false`, `null`, a string in quotation marks, or a number as the response
    /// writes it. A pointer alone stands for every value but `null`. No name in a pointer can have a colon.
    ///
    /// A response is JSON if its one content type says so, or a stream of events that
    /// [`event_streams`](Self::event_streams) records, of which one event is enough. What can't be
    /// read has no such member: a coded body (`Content-Encoding`) or a part of one, a body beyond
    /// [`max_recorded_body`](Self::max_recorded_body), and what is not JSON. Neither has an array, nor an object
    /// that has the member twice. A response that a handler commits with its claim (G7) is recorded all the same.
    ///
    /// ```
    /// use tower_idempotency::options::RouteOptions;
    ///
    /// // A tool of MCP that failed, and a query of GraphQL, which fails with the status 200.
    /// RouteOptions::default().skip_json(["/result/isError: true", "/errors"]);
    /// ```
    #[must_use]
    pub fn skip_json<M: AsRef<str>>(mut self, members: impl IntoIterator<Item = M>) -> Self {
        self.skip_json.0.clear();
        for member in members {
            match SkipMember::read(member.as_ref()) {
                Ok(member) => self.skip_json.0.push(member),
                Err(message) => self.fail("skip_json", message),
            }
        }
        self
    }

    /// The header that marks a replay with `true`; `None` for no mark. Default:
    /// `Idempotency-Replayed`.
    #[must_use]
    pub fn replayed_header<'a>(mut self, name: impl Into<Option<&'a str>>) -> Self {
        self.replayed_header = self.mark("replayed_header", name.into());
        self
    }

    /// The header that says when the execution began (RFC 3339), on first responses and on replays.
    /// Default: none.
    #[must_use]
    pub fn created_at_header<'a>(mut self, name: impl Into<Option<&'a str>>) -> Self {
        self.created_at_header = self.mark("created_at_header", name.into());
        self
    }

    /// The header that says until when the response is kept (RFC 3339), on replays and on first
    /// responses that are recorded before their heads are sent. A response for which the store has
    /// no room is not kept, and has no such header. A memory store that is full may forget the
    /// response earlier. Default: none.
    #[must_use]
    pub fn expires_at_header<'a>(mut self, name: impl Into<Option<&'a str>>) -> Self {
        self.expires_at_header = self.mark("expires_at_header", name.into());
        self
    }

    /// Replays a recorded `from` with the status `to`, such as 201 as 200. A status without a body
    /// (1xx, 204, 304) can't be `to`. Default: the status that was recorded.
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

    /// Sets the member that this JSON pointer (RFC 6901) names in a JSON response that is replayed, to
    /// a constant or to a member of the retry's own body. Everything else of the response stays as it was
    /// recorded, byte for byte. Default: no member is set.
    ///
    /// A response is JSON if its one content type says so, or a stream of events
    /// (see [`event_streams`](Self::event_streams)), each of whose `data` is a text of its own. What can't
    /// be read, such as a coded body (`Content-Encoding`), a part of one, and a text that is not JSON,
    /// is replayed as it is. So is a member of an array, one whose object is not there, and one
    /// that stands twice. In a message of JSON-RPC with a `method`, which is not a response, `/id` is not set.
    ///
    /// A response that changes loses `ETag`, `Content-Digest`, `Repr-Digest`, `Digest` and
    /// `Content-MD5`, and has its own `Content-Length`. If it would be more than 64 KiB larger than
    /// [`max_recorded_body`](Self::max_recorded_body), the retry is rejected with
    /// `response-unavailable` instead. Where a member is taken from the request, a retry whose body
    /// there is no room for gets `over-capacity`.
    ///
    /// ```
    /// use tower_idempotency::options::{ReplayedMember, RouteOptions};
    ///
    /// // JSON-RPC: a retry comes under a new id, which its response must have.
    /// RouteOptions::default().replay_json("/id", ReplayedMember::of_request("/id"));
    /// ```
    #[must_use]
    pub fn replay_json(mut self, pointer: impl AsRef<str>, value: ReplayedMember) -> Self {
        let pointer = match MemberPointer::parse(pointer.as_ref()) {
            Ok(pointer) => pointer,
            Err(message) => {
                self.fail("replay_json", message);
                return self;
            }
        };
        if let ReplayedMember(Source::Request(Err(message))) = &value {
            self.fail("replay_json", message.clone());
        }
        let members = &mut self.replay_json.0;
        members.retain(|(own, _)| *own != pointer);
        let mut others = members.iter();
        let other = others.find(|(own, _)| own.overlaps(&pointer));
        let message = other.map(|(other, _)| {
            format!("names `{pointer}` beside `{other}`: one contains the other")
        });
        members.push((pointer, value));
        if let Some(message) = message {
            self.fail("replay_json", message);
        }
        self
    }

    /// Sets no member: the table of a route in a file replaces that of the defaults.
    #[cfg(feature = "config")]
    pub(crate) fn without_replay_json(mut self) -> Self {
        self.replay_json.0.clear();
        self
    }

    /// Keeps an error for a duration of zero that a setter has set.
    pub(super) fn check_durations(mut self) -> Self {
        let wait = match self.on_in_flight {
            OnInFlight::Wait(wait) => wait,
            OnInFlight::Reject => Duration::MAX,
        };
        for (option, duration) in [
            ("body_timeout", self.body_timeout),
            ("on_in_flight", wait),
            ("lease", self.lease),
            ("max_operation", self.max_operation),
            ("retention", self.retention),
        ] {
            if duration.is_zero() {
                self.fail(option, "must be longer than zero");
            }
        }
        self
    }

    /// Keeps the first error until the layer is built.
    pub(super) fn fail(&mut self, option: &'static str, message: impl Into<String>) {
        self.error.get_or_insert_with(|| (option, message.into()));
    }

    /// The name of a header that the layer adds to responses.
    fn mark(&mut self, option: &'static str, name: Option<&str>) -> Option<HeaderName> {
        let name = self.names(option, name).pop()?;
        let of_responses = [
            CACHE_CONTROL,
            DATE,
            ETAG,
            LINK,
            LOCATION,
            RETRY_AFTER,
            SET_COOKIE,
            VARY,
        ];
        if is_defined_by_http(&name) || of_responses.contains(&name) || name == "idempotency-status"
        {
            self.fail(option, defined_by_http(&name));
        }
        Some(name)
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

/// Whether HTTP or gRPC itself reads a header of this name, so that a key or a mark in it would change the
/// message.
fn is_defined_by_http(name: &HeaderName) -> bool {
    HOP_BY_HOP.contains(name)
        || [HOST, TRAILER, EXPECT].contains(name)
        || name.as_str().starts_with("content-")
        || name.as_str().starts_with("grpc-")
}

fn defined_by_http(name: &HeaderName) -> String {
    format!("names `{name}`, which has a meaning of its own in HTTP or gRPC")
}
