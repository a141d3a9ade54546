//! What a configured layer promises to the clients of an API, as documents: a page
//! in Markdown, JSON, and a fragment of an OpenAPI document.
//!
//! Public: [`Contract`], which [`IdempotencyLayer::contract`] makes. `limits` lists
//! the limits, `rejections` makes an example of each rejection, `sentences` describes the options in plain
//! words, and `markdown`, `json` and `openapi` write the documents.
//!
//! May use: `layer`, `request`, `limits`, `options`, `rejection`, `store`, `message`, `display`.

use std::fmt;
use std::sync::Arc;

use http::{HeaderName, Method};

use crate::layer::IdempotencyLayer;
use crate::options::fingerprint::FingerprintBody;
use crate::options::{KeysPer, OnLapsedLease, OnMismatch, Require, RouteOptions};
use crate::rejection::RejectionCode;
use crate::request::core::Core;

mod json;
mod limits;
mod markdown;
mod openapi;
mod path;
mod rejections;
mod schema;
mod sentences;

use limits::LayerLimits;
use rejections::RejectionExample;

impl IdempotencyLayer {
    /// What this layer promises to clients. See [`Contract`].
    ///
    /// For each rejection of each endpoint a
    /// [renderer](crate::rejection::RenderRejection) of the application's own is
    /// called once, with the head of an invented request: method, path, key and
    /// `x-request-id`, without extensions. If the renderer panics, the contract
    /// shows no example of that rejection.
    #[must_use]
    pub fn contract(&self) -> Contract {
        Contract::of(self.core(), &[])
    }
}

/// What a layer promises to the clients of an API: which endpoints take a key,
/// what a retry gets, and which requests are rejected, with an example of each
/// rejection.
///
/// The contract is gathered from the layer's options, so it always agrees with
/// what the layer does. It contains no namespace, no secret, no known credential
/// and nothing about the store. The limits of what requests hold are in it, with each caller's share.
///
/// ```
/// use tower_idempotency::{IdempotencyLayer, MemoryStore, scope};
/// use tower_idempotency::options::Require;
///
/// let layer = IdempotencyLayer::builder(MemoryStore::new(), scope::header("x-api-key"))
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
/// With [`docs_url`](crate::IdempotencyLayerBuilder::docs_url) set to the URL of
/// the page, every rejection links to the page:
///
/// ```
/// use axum::routing::{get, post};
/// use axum::{Json, Router};
/// use tower_idempotency::{IdempotencyLayer, MemoryStore, scope};
///
/// let layer = IdempotencyLayer::builder(MemoryStore::new(), scope::header("x-api-key"))
///     .docs_url("https://api.example.com/idempotency")
///     .build()?;
/// let (page, json) = (layer.contract().markdown(), layer.contract().json());
/// let app: Router = Router::new()
///     .route("/payments", post(|| async { "paid" }))
///     .layer(layer)
///     // These routes are outside the layer, and open to everybody.
///     .route("/idempotency", get(move || async { ([("content-type", "text/markdown")], page) }))
///     .route("/idempotency.json", get(move || async { Json(json) }));
/// # Ok::<(), tower_idempotency::ConfigError>(())
/// ```
#[derive(Clone)]
pub struct Contract {
    /// In the order of the layer's routes, the defaults last. A request that no
    /// endpoint covers is executed each time.
    endpoints: Vec<Endpoint>,
    limits: LayerLimits,
    docs_url: Option<String>,
}

/// Requests that the layer treats alike.
#[derive(Clone)]
struct Endpoint {
    /// At least one.
    methods: Vec<Method>,
    /// In axum's syntax, such as `/orders/{id}`. `None` for every path that no
    /// other endpoint covers.
    path: Option<String>,
    options: Arc<RouteOptions>,
    /// What completes the sentence "A key belongs to …".
    scope: String,
    /// An example of each rejection that a request to this endpoint can get. Empty
    /// where keys are ignored.
    rejections: Vec<RejectionExample>,
}

impl Contract {
    /// `verified` are request headers that an authorizer in front of the layer
    /// sets, whatever the client sends.
    pub(crate) fn of(layer: &Core, verified: &[HeaderName]) -> Self {
        let rules = &layer.rules;
        let endpoints = rules.routes.listed().iter().map(|listed| {
            let options = Arc::clone(&listed.options);
            let scope = options.scope.as_ref().unwrap_or(&rules.scope);
            let codes = RejectionCode::ALL.iter().copied();
            let possible = codes.filter(|code| {
                let finds_caller = *code == RejectionCode::ScopeMissing && scope.always_finds();
                can_reject(&options, *code) && !finds_caller
            });
            Endpoint {
                methods: listed.methods.clone(),
                path: listed.path.clone(),
                scope: scope.describe_verified(verified).into_owned(),
                rejections: possible
                    .map(|code| RejectionExample::new(&rules.rejections, listed, code))
                    .collect(),
                options,
            }
        });
        Self {
            endpoints: endpoints.collect(),
            limits: LayerLimits::of(layer),
            docs_url: rules.rejections.docs_url.as_deref().map(str::to_owned),
        }
    }

    /// The endpoints that take a key.
    fn with_keys(&self) -> impl Iterator<Item = &Endpoint> {
        let endpoints = self.endpoints.iter();
        endpoints.filter(|endpoint| endpoint.options.takes_keys())
    }
}

impl Endpoint {
    fn rejection(&self, code: RejectionCode) -> Option<&RejectionExample> {
        self.rejections.iter().find(|own| own.code == code)
    }
}

/// Whether a request under these options can get this rejection.
fn can_reject(options: &RouteOptions, code: RejectionCode) -> bool {
    options.takes_keys()
        && match code {
            RejectionCode::KeyRequired => options.require == Require::Required,
            // A key without any character is `key-invalid`.
            RejectionCode::KeyTooShort => *options.keys.length.start() > 1,
            RejectionCode::KeyReused => {
                options.on_mismatch == OnMismatch::Reject && can_mismatch(options)
            }
            RejectionCode::OutcomeUnknown => options.on_lapsed_lease == OnLapsedLease::Refuse,
            _ => true,
        }
}

/// Whether two requests with one key can differ in what the layer compares.
fn can_mismatch(options: &RouteOptions) -> bool {
    options.keys_per == KeysPer::Scope
        || options.fingerprint.query
        || !options.fingerprint.headers.is_empty()
        || !matches!(options.fingerprint.body, FingerprintBody::None)
}

impl fmt::Debug for Contract {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let paths = self.endpoints.iter().map(|endpoint| &endpoint.path);
        f.debug_struct("Contract")
            .field("docs_url", &self.docs_url)
            .field("paths", &paths.collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}
