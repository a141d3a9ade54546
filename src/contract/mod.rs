//! What a layer promises to an API's clients, as data: for a developer portal,
//! an OpenAPI document, or a route of the API itself.

use std::ops::RangeInclusive;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, Method, StatusCode};

use crate::layer::IdempotencyLayer;
use crate::options::fingerprint::FingerprintBody;
use crate::options::key::KeySyntax;
use crate::options::{KeysPer, OnDisconnect, OnInFlight, OnMismatch, OnOversize, OnStoreError};
use crate::rejection::RejectionCode;
use crate::store::OnLapsedLease;

mod gateway;
mod gather;
mod json;
mod markdown;
mod openapi;
mod path;
mod refusals;
mod schema;
mod serve;
mod words;

impl IdempotencyLayer {
    /// What this layer promises to clients. See [`Contract`].
    ///
    /// A [renderer](crate::rejection::RenderRejection) of the application's own is asked
    /// for each rejection of each endpoint, with a request's head that is made
    /// up: method, path, key and `x-request-id`, no extensions. If it panics
    /// there is no example.
    #[must_use]
    pub fn contract(&self) -> Contract {
        Contract::of(self.core())
    }
}

/// What a layer promises to the clients of an API: which endpoints take a key,
/// what a retry gets, what is refused, and how.
///
/// Gathered from the layer's own options, so that it can't say anything else
/// than what the layer does. It holds nothing secret: no namespace, no secret,
/// no known credential, nothing of the store.
///
/// ```
/// use tower_idempotency::{IdempotencyLayer, MemoryStore, scope};
/// use tower_idempotency::options::Require;
///
/// let layer = IdempotencyLayer::builder(MemoryStore::new(), scope::header("x-api-key")?)
///     .route("POST /payments", |options| options.require(Require::Required))
///     .build()?;
/// let contract = layer.contract();
/// assert!(contract.markdown().contains("| `/payments` | POST | required |"));
/// assert_eq!(contract.json()["endpoints"][0]["key_length"]["max"], 255);
/// assert_eq!(contract.openapi()["openapi"], "3.1.0");
/// # Ok::<(), tower_idempotency::ConfigError>(())
/// ```
///
/// # Serving it
///
/// [`respond`](Self::respond) answers a request with it. With
/// [`docs_url`](crate::IdempotencyLayerBuilder::docs_url) pointing to where it
/// is served, every rejection links to it:
///
/// ```
/// use axum::extract::Request;
/// use axum::routing::{any, post};
/// use axum::Router;
/// use tower_idempotency::{IdempotencyLayer, MemoryStore, scope};
///
/// let layer = IdempotencyLayer::builder(MemoryStore::new(), scope::header("x-api-key")?)
///     .docs_url("https://api.example.com/idempotency")
///     .build()?;
/// let contract = layer.contract();
/// let app: Router = Router::new()
///     .route("/payments", post(|| async { "paid" }))
///     .layer(layer)
///     // Not behind the layer, and open to all.
///     .route("/idempotency", any(move |request: Request| async move {
///         contract.respond(&request.into_parts().0).map(axum::body::Body::from)
///     }));
/// # Ok::<(), tower_idempotency::ConfigError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Contract {
    /// In the order of the layer's routes, the defaults last. Requests that
    /// none of them covers are executed each time.
    pub endpoints: Vec<Endpoint>,
    /// Where rejections send their reader, if they do.
    pub docs_url: Option<String>,
    /// What a proxy answers by itself that the layer runs in, such as the
    /// sidecar. Empty where the layer runs in the service.
    pub gateway: Vec<GatewayError>,
}

/// An answer of a proxy, beside the layer's own.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GatewayError {
    /// What it is called in its body.
    pub code: String,
    /// The status it is sent with.
    pub status: StatusCode,
    /// When: a sentence.
    pub when: String,
    /// What to do about it: a sentence.
    pub advice: String,
}

/// Requests that are treated alike.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Endpoint {
    /// At least one.
    pub methods: Vec<Method>,
    /// In axum's syntax, such as `/orders/{id}`. `None` for every method and
    /// path that no other endpoint covers.
    pub path: Option<String>,
    /// `None` if keys are ignored here: every request is executed.
    pub terms: Option<Terms>,
}

/// What holds for the requests of an [`Endpoint`]. The fields have the names
/// of the options that they come from: see [`RouteOptions`](crate::Policy).
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is an option of its own"
)]
pub struct Terms {
    /// Whether a request without a key is refused, and not executed each time.
    pub key_required: bool,
    /// The headers that may carry the key: the first that is present counts.
    pub header: Vec<HeaderName>,
    /// How the header is read.
    pub key_syntax: KeySyntax,
    /// The length of a key, decoded, in characters.
    pub key_length: RangeInclusive<usize>,
    /// What a key must be, such as "a UUID such as …"; `None` for any.
    pub key_format: Option<String>,
    /// Whose a key is: what completes "A key belongs to …".
    pub scope: String,
    /// Whether every request has a caller.
    pub scope_always_finds: bool,
    /// What a key is unique in.
    pub keys_per: KeysPer,
    /// How bodies are compared.
    pub fingerprint_body: FingerprintBody,
    /// Whether queries are compared.
    pub fingerprint_query: bool,
    /// The request headers that are compared.
    pub fingerprint_headers: Vec<HeaderName>,
    /// What a key gets that comes with another request.
    pub on_mismatch: OnMismatch,
    /// The largest request body, in bytes.
    pub max_request_body: usize,
    /// How long a request's body may take to arrive.
    pub body_timeout: Duration,
    /// The largest answer body that is recorded, in bytes.
    pub max_recorded_body: usize,
    /// What a larger answer means for a retry.
    pub oversize: OnOversize,
    /// Which answers are recorded: what completes "What is recorded: …".
    pub record: String,
    /// Content types of answers that are never recorded.
    pub skip_types: Vec<String>,
    /// Headers of answers that are never recorded: a name, or `Name: value`.
    pub skip_headers: Vec<String>,
    /// Which headers of an answer are recorded.
    pub record_headers: HeaderChoice,
    /// What a duplicate gets while the first request runs.
    pub on_in_flight: OnInFlight,
    /// What a retry gets if nobody knows how the first request ended.
    pub on_lapsed_lease: OnLapsedLease,
    /// What becomes of an operation whose client leaves.
    pub on_disconnect: OnDisconnect,
    /// What becomes of a request when the store can't be reached.
    pub on_store_error: OnStoreError,
    /// After how long an operation whose server died is given up.
    pub lease: Duration,
    /// For how long an operation that runs is known to run.
    pub max_operation: Duration,
    /// How long answers are kept after the operation's end.
    pub retention: Duration,
    /// The header that marks a replay.
    pub replayed_header: Option<HeaderName>,
    /// The header that says when the execution began.
    pub created_at_header: Option<HeaderName>,
    /// The header that says until when the answer is kept.
    pub expires_at_header: Option<HeaderName>,
    /// Whether answers carry the key back.
    pub echo_key: bool,
    /// Recorded statuses that are replayed as others.
    pub replay_status: Vec<(StatusCode, StatusCode)>,
    /// Whether a proxy forwards operations to a service, and may lose sight of
    /// one.
    pub forwarded: bool,
    /// What a request may be told instead of being executed.
    pub refusals: Vec<RejectionExample>,
}

/// Which headers of an answer are recorded, those of one connection aside.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HeaderChoice {
    /// Only these.
    Only(Vec<HeaderName>),
    /// All but these.
    AllBut(Vec<HeaderName>),
}

/// A rejection, with an example of it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RejectionExample {
    /// Which one.
    pub code: RejectionCode,
    /// The status it is sent with.
    pub status: StatusCode,
    /// The headers it is sent with.
    pub headers: HeaderMap,
    /// An example of its body; `None` if it can't be shown without a request.
    pub body: Option<Bytes>,
    /// Whether the application makes each answer from the request, so that
    /// all of it may differ.
    pub rendered: bool,
}
