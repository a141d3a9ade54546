//! The rows of [`RouteOptions`]: an option has one row here, and one row for files.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, Method, StatusCode};

use crate::display::words;
use crate::options::fingerprint::FingerprintRules;
use crate::options::key::KeyRules;
use crate::options::mcp::McpTools;
use crate::options::recording::{RecordHeaders, RecordRule, SkipHeader, Statuses};
use crate::options::replay_json::ReplayJson;
use crate::options::skip_json::SkipJson;
use crate::options::{
    EventStreams, ExactlyOnce, KeySyntax, KeysPer, Mode, OnDisconnect, OnInFlight, OnLapsedLease,
    OnMismatch, OnOversize, OnStoreError, Require,
};
use crate::scope::Scope;

/// Declares [`RouteOptions`]. A row under `setters` makes a field, its default and its setter. A
/// row under `fields` makes a field and its default; the setter is written in `setters.rs`.
macro_rules! options {
    (
        $(#[$about:meta])* $vis:vis struct $Options:ident;
        setters { $($(#[$doc:meta])* $name:ident: $type:ty = $default:expr;)* }
        fields { $($(#[$own_doc:meta])* $own:ident: $own_type:ty = $own_default:expr;)* }
    ) => {
        $(#[$about])*
        $vis struct $Options {
            $(pub(crate) $name: $type,)*
            $($(#[$own_doc])* pub(crate) $own: $own_type,)*
        }

        impl Default for $Options {
            fn default() -> Self {
                Self { $($name: $default,)* $($own: $own_default,)* }
            }
        }

        impl $Options {
            $(
                $(#[$doc])*
                #[must_use]
                pub fn $name(mut self, $name: $type) -> Self {
                    self.$name = $name;
                    self.check_durations()
                }
            )*
        }
    };
}

options! {
    /// The options of one route.
    ///
    /// [`IdempotencyLayerBuilder::defaults`](crate::IdempotencyLayerBuilder::defaults) sets them
    /// for every request, [`IdempotencyLayerBuilder::route`](crate::IdempotencyLayerBuilder::route)
    /// for the requests that match a pattern. A value that can't work is an error when the layer is
    /// built.
    #[derive(Clone)]
    pub struct RouteOptions;

    setters {
        /// Whether operations are protected, or only observed. Default: [`Mode::Protect`].
        mode: Mode = Mode::default();

        /// Whether responses say what the layer would have done, in [`Mode::Observe`]:
        /// `Idempotency-Status: observed; would=replay`. Where that is not known when the head of
        /// the response leaves, such as with a store that has not answered yet, the response has no
        /// such header. Default: `false`.
        mark_observed: bool = false;

        /// Whether a key is needed. Default: [`Require::Optional`].
        require: Require = Require::default();

        /// What a key is unique in. Default: [`KeysPer::Scope`].
        keys_per: KeysPer = KeysPer::default();

        /// What a request gets that comes with the key of another request. Default:
        /// [`OnMismatch::Reject`].
        on_mismatch: OnMismatch = OnMismatch::default();

        /// The largest request body, in bytes. A larger one is rejected with `body-too-large`.
        /// Default: 1 MiB.
        max_request_body: usize = 1 << 20;

        /// How long a request's body may take to arrive. A slower one is rejected with
        /// `body-timeout`. Default: 30 s.
        body_timeout: Duration = Duration::from_secs(30);

        /// The largest response body that is recorded, in bytes. A larger one is sent but not
        /// recorded, see [`oversize`](Self::oversize). Default: 1 MiB.
        max_recorded_body: usize = 1 << 20;

        /// What becomes of an operation whose response is larger than that, a stream of events
        /// (`text/event-stream`) or an upgrade. Default: [`OnOversize::Seal`].
        oversize: OnOversize = OnOversize::default();

        /// Whether streams of events are recorded. Default: [`EventStreams::Seal`].
        event_streams: EventStreams = EventStreams::default();

        /// Which responses leave the outcome of the operation in doubt, such as a 504 of a gateway
        /// behind which the operation may still run. The record then stays in flight until its
        /// lease lapses, and [`on_lapsed_lease`](Self::on_lapsed_lease) decides. A handler's
        /// [`Recording`](crate::recording::Recording) overrides this option. Default:
        /// `Statuses::none()`.
        in_doubt: Statuses = Statuses::none();

        /// What a claim does that meets a lapsed lease: the lease's owner died, or lost its
        /// connection to the store. Default: [`OnLapsedLease::Rerun`].
        on_lapsed_lease: OnLapsedLease = OnLapsedLease::default();

        /// What a duplicate gets while the first request runs. Default: [`OnInFlight::Reject`].
        on_in_flight: OnInFlight = OnInFlight::default();

        /// What becomes of an operation whose client leaves. Default: [`OnDisconnect::Finish`].
        on_disconnect: OnDisconnect = OnDisconnect::default();

        /// What becomes of a request when the store can't be reached. Default:
        /// [`OnStoreError::Reject`].
        on_store_error: OnStoreError = OnStoreError::default();

        /// Whether the handlers record [steps](crate::steps) (G12). Needs a store that
        /// [keeps](crate::store::Store::keeps_steps) them. Default: `false`.
        steps: bool = false;

        /// The number of steps that one operation may record. Default: 64.
        max_steps: usize = 64;

        /// The largest step that is recorded, in bytes of its name and of the JSON of its result.
        /// Default: 64 KiB.
        max_step_bytes: usize = 64 << 10;

        /// The bytes that all steps of one operation may have together. A claim that takes the
        /// operation over brings them in one answer. Default: 256 KiB.
        max_steps_bytes: usize = 256 << 10;

        /// How long a claim holds without being renewed. It is renewed after a third of that time.
        /// Default: 30 s.
        lease: Duration = Duration::from_secs(30);

        /// For how long the lease of one operation is renewed, and for how long a response is read
        /// to its end after its client has left. Default: 10 min.
        ///
        /// A handler that blocks its thread for ever in its first poll keeps a lease of the memory
        /// store for longer than that.
        max_operation: Duration = Duration::from_secs(10 * 60);

        /// How long a recorded response is kept, from its completion. Default: 24 h.
        retention: Duration = Duration::from_secs(24 * 60 * 60);

        /// Which headers of a response are recorded. Default: all but `Set-Cookie`,
        /// `WWW-Authenticate` and `Date`.
        record_headers: RecordHeaders = RecordHeaders::default();

        /// Whether responses carry the key back, under its header's name. Default: `false`.
        echo_key: bool = false;

        /// The `Retry-After` of rejections after which waiting helps, in whole seconds. Default:
        /// 1 s.
        retry_after: Duration = Duration::from_secs(1);
    }

    fields {
        keys: KeyRules = KeyRules::default();
        methods: Vec<Method> = vec![Method::POST, Method::PATCH];
        exactly_once: ExactlyOnce = ExactlyOnce::No;
        /// `None` stands for the layer's scope.
        scope: Option<Arc<dyn Scope>> = None;
        fingerprint: FingerprintRules = FingerprintRules::default();
        /// The tools that are protected, on a route with the options of MCP.
        mcp: Option<McpTools> = None;
        record: Arc<dyn RecordRule> = Arc::new(Statuses::default());
        skip_types: Vec<String> = Vec::new();
        skip_headers: Vec<SkipHeader> = Vec::new();
        skip_json: SkipJson = SkipJson::default();
        replayed_header: Option<HeaderName> = Some(HeaderName::from_static("idempotency-replayed"));
        created_at_header: Option<HeaderName> = None;
        expires_at_header: Option<HeaderName> = None;
        replay_status: Vec<(StatusCode, StatusCode)> = Vec::new();
        replay_json: ReplayJson = ReplayJson::default();
        /// The pattern of the route, as the application wrote it. `None` for the default options.
        pattern: Option<Arc<str>> = None;
        /// What was wrong with the first wrong argument of a setter: the option and the message.
        error: Option<(&'static str, String)> = None;
    }
}

words! {
    KeySyntax { Lenient = "lenient", Strict = "strict", Raw = "raw" }
    OnLapsedLease { Rerun = "rerun", Refuse = "refuse" }
    Mode { Protect = "protect", Observe = "observe" }
    Require { Required = "required", Optional = "optional", Ignored = "ignored" }
    KeysPer { Scope = "scope", Route = "route" }
    OnMismatch { Reject = "reject", Replay = "replay" }
    OnOversize { Seal = "seal", Rerun = "rerun" }
    EventStreams { Seal = "seal", Record = "record" }
    OnStoreError { Reject = "reject" | "closed", RunUnprotected = "run-unprotected" | "open" }
    OnDisconnect { Finish = "finish", Cancel = "cancel" }
    ExactlyOnce { No = "no", Committed = "committed", InTransaction = "in_transaction" }
}

/// The options that a file can set for a route, one row each: the words of its JSON Schema; its
/// name, which is also the name of the method that sets it; how a file writes it (the types are
/// those of `config`); its default in a file; and, where the method does not take the value as it
/// is, how the value is set.
#[cfg(feature = "config")]
macro_rules! route_options {
    ($read:ident) => {
        $read! {
            /// Options for one kind of endpoint, which the options beside it change one by one: `mcp`
            /// for the Model Context Protocol, over Streamable HTTP.
            preset: Preset = "none",
                |options, own| if own.is_mcp() { options.mcp() } else { options.without_preset() };
            /// Which tools of an MCP server are protected: `all`, only some, or all except some.
            mcp_tools: Tools = "all";
            /// The headers that may carry the key: the first that is present wins.
            header: List<Name> = ["Idempotency-Key"], |options, names| options.headers(names.set());
            /// JSON pointers to the members of a JSON body that may carry the key: the first that is
            /// present wins, after the headers. Such a body is read before anything else.
            key_in_body: Vec<MemberName> = [];
            /// How the header's value is read: `lenient` takes an RFC 8941 string or the bare
            /// characters, `strict` only the string, `raw` the characters as they are.
            key_syntax: Word<KeySyntax> = "lenient";
            /// The length of a key in characters.
            key_length: Lengths = { "min": 1, "max": 255 }, |options, own| own.set(options);
            /// What a key must look like.
            key_format: Format = "any";
            /// The methods that are protected where a route's `match` names none.
            methods: Vec<Verb> = ["POST", "PATCH"];
            /// What the layer does: it protects operations (`protect`), or lets every request pass
            /// and reports what it would have done (`observe`).
            mode: Word<Mode> = "protect";
            /// Whether responses say what the layer would have done, where `mode` is `observe`.
            mark_observed: bool = false;
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
            /// Streams of events: they are not recorded (`seal`), or those that end are (`record`).
            event_streams: Word<EventStreams> = "seal";
            /// Which responses are recorded, by status: `2xx`, `201`, `200-299`, `all`, `default`,
            /// less `!401`; by code of gRPC: `grpc:0`, `grpc:1-4`, `!grpc:5`.
            record: Record = ["default"];
            /// Which responses leave the outcome in doubt, by status: `502`, `5xx`, `502-504`, or by
            /// code of gRPC: `grpc:4`. The record then stays in flight until its lease lapses. In the
            /// sidecar 502 and 504 do, unless the file says otherwise.
            in_doubt: InDoubt = [];
            /// Content types that are never recorded, such as `application/pdf` or `image/*`.
            skip_types: Vec<MediaType> = [];
            /// Headers by which a response says that it is not to be recorded: a name, or a name
            /// and a value, such as `Transient-Error: true`.
            skip_headers: Vec<SkipHeader> = [];
            /// Members by which a JSON response says that it is not to be recorded: a JSON pointer, or a
            /// pointer and a value, such as `/result/isError: true`.
            skip_json: Vec<SkipMember> = [];
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
            /// Whether handlers have to commit their claims in transactions of their own
            /// (`committed`, or `true`), or make and commit them there (`in_transaction`), which
            /// needs a store in an SQL database. Not for the sidecar.
            exactly_once: Exactly = false;
            /// Whether handlers record steps, which later attempts do not run again. Not for the
            /// sidecar.
            steps: bool = false;
            /// The number of steps that one operation may record.
            max_steps: usize = 64;
            /// The largest step that is recorded: its name and the JSON of its result.
            max_step_bytes: Size = "64KiB";
            /// What all steps of one operation may have together.
            max_steps_bytes: Size = "256KiB";
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
            /// The members of a JSON response that are set on a replay, by their JSON pointers: to a
            /// constant, or to a member of the retry's own body, such as `{ "/id" = "request:/id" }`.
            replay_json: BTreeMap<MemberName, Replayed> = {}, |options, own| {
                let options = options.without_replay_json();
                let set = own.iter();
                set.fold(options, |options, (at, own)| options.replay_json(&at.0, own.0.clone()))
            };
            /// What `Retry-After` says where waiting helps, in whole seconds.
            retry_after: Time = "1s";
        }
    };
}
#[cfg(feature = "config")]
pub(crate) use route_options;
