//! Tower middleware that makes HTTP operations safe to retry.
//!
//! A client sends `POST /payments` with `Idempotency-Key: K`, and the network
//! fails. Was the card charged? The client sends the request again, with the same
//! key. [`IdempotencyLayer`] runs the operation once, records its response, and
//! gives every retry that same response.
//!
//! ```
//! use axum::{Router, routing::post};
//! use tower_idempotency::{IdempotencyLayer, MemoryStore, scope};
//!
//! # fn main() -> Result<(), tower_idempotency::ConfigError> {
//! let idempotency = IdempotencyLayer::new(MemoryStore::new(), scope::header("x-api-key"))?;
//! let app: Router = Router::new()
//!     .route("/payments", post(|| async { "paid" }))
//!     .layer(idempotency);
//! # Ok(())
//! # }
//! ```
//!
//! # One request, top to bottom
//!
//! 1. **Route.** Method and path choose [`RouteOptions`]. A request that no
//!    route protects is passed on unread.
//! 2. **Key.** The client's value of `Idempotency-Key`, one for each operation. A
//!    malformed key is rejected. A request without a key passes through or is
//!    rejected, as the route says ([`Require`](options::Require)).
//! 3. **Scope.** The rule that finds the *caller*, the verified client to whom the
//!    key belongs ([`scope`]). Equal keys of two callers are two keys.
//! 4. **Fingerprint.** The body is read whole, within limits, and digested with
//!    method, path, query and `Content-Type`. A retry has the same fingerprint.
//! 5. **Claim.** One atomic step of the [`Store`](store::Store). It creates the
//!    *record* of this key in flight, and the request becomes the *owner* of the
//!    operation. Or the claim reports the record that is there: a completion, which is
//!    replayed; an operation in flight; another fingerprint under the same key.
//! 6. **Execute.** The handler runs, with an [`IdempotencyContext`] in the
//!    request's extensions. The owner holds a *lease* (30 s), which is renewed
//!    while the operation runs. A lease *lapses* if its owner died or was cut off:
//!    the next request then runs the operation again, or is rejected
//!    ([`OnLapsedLease`](options::OnLapsedLease)).
//! 7. **Judge.** At the end of the response's body a
//!    [`RecordRule`](recording::RecordRule) decides. The response is *recorded* as the
//!    operation's completion, or the record is *released*, and a retry runs the
//!    operation (what is left of a released record is its *tombstone*). A response that is
//!    too large to keep is *sealed*: the operation is done, its response is not kept.
//! 8. **Complete.** The record is stored, then the last byte leaves. A completion is
//!    kept for its *retention*, 24 h.
//!
//! # What it promises
//!
//! - **G1** One at a time: while an operation's owner holds its lease, no
//!   second execution of that caller's key begins.
//! - **G2** Once recorded, never again, until the retention ends.
//! - **G3** Recorded before delivered: a response that could not be recorded in
//!   time says so (`Idempotency-Status: unrecorded`), or is cut off if its head
//!   has left.
//! - **G4** A client that leaves changes nothing: the operation goes on, and a
//!   shutdown can wait for it ([`IdempotencyLayer::drain`]).
//! - **G5** Stale owners are powerless: an owner that was overtaken can neither
//!   complete, renew nor release.
//! - **G6** No response crosses callers.
//! - **G7** Exactly once, with a database: a handler commits its own writes and
//!   its response in one transaction (`exactly_once::SqlClaim`, with the SQL stores).
//! - **G8** Other traffic is untouched: unread, unbuffered.
//! - **G9** Bad input is rejected, clearly ([`Rejection`](rejection::Rejection)).
//! - **G10** Keys and callers only as digests, in stores and in logs. Recorded
//!   responses are readable in the store unless they are encrypted
//!   (`IdempotencyLayerBuilder::encryption`).
//! - **G11** No caller starves another: what protected requests hold is limited in sum
//!   and for each caller ([`IdempotencyLayer::usage`]).
//! - **G12** Steps done stay done: a result that a handler recorded with
//!   [`IdempotencyContext::step`] is given to every later attempt ([`steps`]).
//!
//! # Ten questions
//!
//! **Where does the layer go?** The layer stands inside authentication, CORS, compression, rate
//! limits and timeouts, because these have to happen on a replay too. It stands outside body limits
//! and transactions. With `Router::layer` the last layer is the outermost:
//!
//! ```
//! # use axum::{Router, extract::Request, middleware::{Next, from_fn}, response::Response, routing::post};
//! # use tower_idempotency::{IdempotencyLayer, MemoryStore, scope};
//! # async fn authenticate(request: Request, next: Next) -> Response { next.run(request).await }
//! # let idempotency = IdempotencyLayer::new(MemoryStore::new(), scope::shared())?;
//! let app: Router = Router::new()
//!     .route("/payments", post(|| async { "paid" }))
//!     .layer(idempotency) // everything inside runs once per operation,
//!     .layer(from_fn(authenticate)); // everything outside on every request
//! # Ok::<(), tower_idempotency::ConfigError>(())
//! ```
//!
//! CORS has to allow `Idempotency-Key` and to expose `Idempotency-Replayed`,
//! `Idempotency-Status` and `Retry-After`. `docs/layers.md` has the whole order.
//!
//! **Where does the scope come from?** From what your authentication left in the
//! request's extensions, such as the claims of a verified JWT. A session that is loaded
//! asynchronously has to be read by a middleware outside, which puts the account there.
//!
//! ```
//! use tower_idempotency::scope;
//!
//! #[derive(Clone)]
//! struct Claims { sub: String }
//!
//! let caller = scope::extension("account", |claims: &Claims| claims.sub.clone());
//! ```
//!
//! Use the account and not the token: a token that was refreshed between two attempts
//! is another caller, and the operation runs again.
//!
//! **How is a key required on one route?**
//!
//! ```
//! # use tower_idempotency::{IdempotencyLayer, MemoryStore, scope};
//! use tower_idempotency::options::Require;
//!
//! # fn main() -> Result<(), tower_idempotency::ConfigError> {
//! let layer = IdempotencyLayer::builder(MemoryStore::new(), scope::header("x-api-key"))
//!     .route("POST /payments", |options| options.require(Require::Required))
//!     .build()?;
//! # Ok(())
//! # }
//! ```
//!
//! A request without a key is then rejected with 400 `key-required`; on every other
//! route it runs unprotected.
//!
//! **What is recorded?** Every response below 500 but 307, 308, 401, 403, 407, 408, 417,
//! 421, 425 and 429 ([`Statuses`](recording::Statuses)). A 400 or 422 of your validation is recorded
//! too: a retry gets it again, and a corrected body needs a new key. Where clients are to
//! correct a request under the same key, leave these statuses out:
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use axum::{Router, body::Body, routing::post};
//! use http::{Request, StatusCode};
//! use tower::ServiceExt;
//! use tower_idempotency::recording::Statuses;
//! use tower_idempotency::{IdempotencyLayer, MemoryStore, scope};
//!
//! let app = |layer| -> Router {
//!     let pay = post(|body: String| async move {
//!         if body == "42 EUR" { StatusCode::CREATED } else { StatusCode::BAD_REQUEST }
//!     });
//!     Router::new().route("/payments", pay).layer(layer)
//! };
//! let request = |body: &str| {
//!     let request = Request::post("/payments").header("idempotency-key", "K");
//!     request.body(Body::from(body.to_owned()))
//! };
//!
//! let recorded = app(IdempotencyLayer::new(MemoryStore::new(), scope::shared())?);
//! assert_eq!(recorded.clone().oneshot(request("42 EURO")?).await?.status(), 400);
//! assert_eq!(recorded.clone().oneshot(request("42 EURO")?).await?.status(), 400);
//! assert_eq!(recorded.oneshot(request("42 EUR")?).await?.status(), 422); // key-reused
//!
//! let corrected = app(IdempotencyLayer::builder(MemoryStore::new(), scope::shared())
//!     .defaults(|options| options.record(Statuses::default().without([400, 422])))
//!     .build()?);
//! assert_eq!(corrected.clone().oneshot(request("42 EURO")?).await?.status(), 400);
//! assert_eq!(corrected.oneshot(request("42 EUR")?).await?.status(), 201);
//! # Ok(())
//! # }
//! ```
//!
//! A handler decides for one response by [`Recording`](recording::Recording) in the
//! response's extensions.
//!
//! **How large may bodies be?** A protected request's body is read whole before the
//! handler runs: up to 1 MiB ([`max_request_body`](RouteOptions::max_request_body)) within
//! 30 s ([`body_timeout`](RouteOptions::body_timeout)). All bodies have 256 MiB
//! together ([`max_buffered_bytes`](IdempotencyLayerBuilder::max_buffered_bytes)). A
//! response is recorded up to 1 MiB ([`max_recorded_body`](RouteOptions::max_recorded_body));
//! a larger one is delivered, and its retries are told `response-unavailable`. A type error
//! about the request's body is what [`RequestBody`] is for.
//!
//! **Which store for several replicas, and who makes its table?** The database that your
//! handlers write to. `migrate()` makes the tables, or your own migration tool runs the
//! files in `docs/sql/`. Without an SQL database, Redis. [`MemoryStore`] is for one process
//! and for tests. [`AnyStore`](store::AnyStore) makes any of them from a URL:
//!
//! ```no_run
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use tower_idempotency::{IdempotencyLayer, scope, store::AnyStore};
//!
//! let url = "postgres://localhost/shop"; // with the feature `postgres`
//! AnyStore::migrate(url).await?;
//! let store = AnyStore::connect(url).await?;
//! let layer = IdempotencyLayer::new(store, scope::header("x-api-key"))?;
//! # Ok(())
//! # }
//! ```
//!
//! **How do rejections look like my other errors?** By
//! [`render_rejections`](IdempotencyLayerBuilder::render_rejections), which has an example; by
//! [`rejection_body`](IdempotencyLayerBuilder::rejection_body) and
//! [`rejection_status`](IdempotencyLayerBuilder::rejection_status) for one code. Without
//! them a rejection is a problem document (RFC 9457).
//!
//! **How do I test it?** Send a request twice with `oneshot`, as above, and count what the
//! handler did. [`IdempotencyLayer::protects`] says whether a request is taken on. Leases and
//! the records of [`MemoryStore`] follow tokio's clock, so that a test can let a retention end:
//!
//! ```
//! # use axum::{Router, body::Body, routing::post};
//! # use http::Request;
//! # use std::{sync::{Arc, atomic::{AtomicU64, Ordering}}, time::Duration};
//! # use tower::ServiceExt;
//! # use tower_idempotency::{IdempotencyLayer, MemoryStore, scope};
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let runs = Arc::new(AtomicU64::new(0));
//! # let pay = { let runs = runs.clone(); post(move || async move { runs.fetch_add(1, Ordering::Relaxed); }) };
//! # let layer = IdempotencyLayer::new(MemoryStore::new(), scope::shared())?;
//! # let app: Router = Router::new().route("/payments", pay).layer(layer);
//! # let request = || Request::post("/payments").header("idempotency-key", "K").body(Body::empty());
//! // In a test: #[tokio::test(start_paused = true)]
//! app.clone().oneshot(request()?).await?;
//! let retry = app.clone().oneshot(request()?).await?;
//! assert_eq!(retry.headers()["idempotency-replayed"], "true");
//! assert_eq!(runs.load(Ordering::Relaxed), 1);
//!
//! tokio::time::advance(Duration::from_secs(24 * 60 * 60)).await;
//! app.oneshot(request()?).await?;
//! assert_eq!(runs.load(Ordering::Relaxed), 2);
//! # Ok(())
//! # }
//! ```
//!
//! **What do I log and alert on?** [`IdempotencyLayer::counts`] has the numbers, and
//! `tracing` the events, under the target `tower_idempotency`. Alert on every `ERROR` and on
//! `Counts::outcome_unknown`: a person has to look ([`Records::resolve`]). Watch the
//! rejections `store-unavailable` and `over-capacity`, and `unprotected`, `unrecorded` and
//! `overtaken`.
//!
//! **Which versions, and how do I upgrade?** axum 0.8, hyper 1, tonic 0.14, http 1 and tower
//! 0.5; with their stores sqlx 0.9 and redis 1. Versions of this crate with the same record
//! format share a store, so that replicas can be upgraded one by one: call `migrate()` of the
//! newer version first. The changelog names every change of the format or of a digest. The
//! namespace, the scope and [`KeysPer`](options::KeysPer) decide a record's id: after a change
//! of them earlier records no longer count.
//!
//! # Cancel safety
//!
//! Dropping the [`ResponseFuture`] of a request whose operation has begun hands
//! the operation to the tokio runtime in which the future was dropped, and the
//! operation runs to its end there. A future that is dropped before its claim was sent
//! leaves nothing behind; one that is dropped between claim and handler gives the claim
//! back. Dropping the [`ResponseBody`] of a response that is sent while it is read leaves
//! the rest of the body to a task. A route can say
//! [`OnDisconnect::Cancel`](options::OnDisconnect::Cancel) instead.
//!
//! # Runtime
//!
//! tokio, with timers enabled (`enable_time` or `enable_all`): deadlines, renewals and
//! operations without a client need both. Only an operation that ends in its
//! first poll, on the memory store, needs neither.
//!
//! # Features
//!
//! - `memory` (default): [`MemoryStore`].
//! - `axum`: the client's own path inside nested routers,
//!   `IdempotencyContext` as an extractor, `ConnectInfo` for
//!   [`scope::peer_ip`]. Turn it on if you use axum.
//! - `sqlite`, `postgres`, `mysql`: `SqliteStore`, `PostgresStore`,
//!   `MySqlStore`, on the application's own sqlx pool. They need Rust 1.94.
//! - `redis`: `RedisStore`, for Redis and Valkey, one server, a Cluster or behind Sentinel.
//! - `tls`: TLS to the servers of the stores, by rustls with ring (`docs/stores.md`). Without it
//!   a URL that asks for TLS is an error.
//! - `encryption`: recorded responses are encrypted before a store gets them
//!   (`IdempotencyLayerBuilder::encryption`).
//! - `config`: every option from a TOML or JSON file (`config::Config`).
//! - `contract`: what a configured layer promises, for a developer portal: as data, JSON,
//!   Markdown, and a fragment of an OpenAPI document (`IdempotencyLayer::contract`).
//! - `client`: the module of that name, for those who call such an API: keys,
//!   and retries that keep them.
//! - `metrics`: `telemetry::Metrics`, an observer for the crate of that name.
//! - `opentelemetry`: `telemetry::OpenTelemetry`, the same for the API of OpenTelemetry, and links
//!   from the spans of replays to those of the executions.
//! - `at-rest`: `store::EncodedCompletion`, responses as bytes, for a store of one's own.
//! - `conformance`: the module of that name, rules that any store can be checked
//!   against. For tests.
//!
//! A feature adds and changes nothing else, with one exception. `axum` changes which path
//! a layer sees inside a nested router: with the feature, the path that the client sent
//! (`OriginalUri`); without it, the path that is left of it. The path chooses the route, and is
//! a part of the fingerprint and, with [`KeysPer::Route`](options::KeysPer::Route), of the
//! record's id. Any crate in the dependency graph can turn the feature on, for all of them. Records
//! of requests in nested routers that were stored before then no longer match: their retries
//! are `key-reused`, or run again. [`IdempotencyLayerBuilder::target`] keeps the path that is left.
//!
//! # More
//!
//! The repository's `docs/README.md` lists the pages: where in a stack the layer belongs, what
//! survives a crash, every option, each store, how to test, and why the crate is built as it is.

#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(feature = "client")]
pub mod client;
#[cfg(feature = "config")]
pub mod config;
#[cfg(feature = "conformance")]
pub mod conformance;
#[cfg(feature = "contract")]
pub mod contract;
mod counts;
mod display;
mod error;
#[cfg(feature = "_sql")]
pub mod exactly_once;
#[doc(hidden)]
pub mod for_sidecar;
#[cfg(all(test, shuttle, feature = "memory"))]
mod interleavings;
mod layer;
mod lease;
mod limits;
mod message;
pub mod observer;
pub mod options;
mod record;
pub mod rejection;
mod request;
mod runtime;
pub mod scope;
pub mod store;
pub mod telemetry;

pub use counts::{Counts, LimitCounts, ObservedCounts};
pub use error::ConfigError;
pub use layer::IdempotencyLayer;
pub use layer::audit::{Audit, AuditError};
pub use layer::builder::IdempotencyLayerBuilder;
pub use layer::find::FindError;
pub use layer::future::ResponseFuture;
pub use layer::records::{Records, Resolved};
pub use layer::service::Idempotency;
pub use layer::usage::{LimitUsage, StoreUsage, Usage};
pub use message::body::RequestTrailers;
pub use message::observed_body::ObservedBody;
pub use message::request_body::{FromBytes, RequestBody};
pub use message::response_body::ResponseBody;
pub use options::RouteOptions;
pub use options::recording;
pub use request::context::IdempotencyContext;
#[cfg(feature = "axum")]
pub use request::context::MissingContext;
pub use request::steps;
#[cfg(feature = "memory")]
pub use store::memory::MemoryStore;
#[cfg(feature = "redis")]
pub use store::redis::RedisStore;
#[cfg(feature = "mysql")]
pub use store::sql::mysql::MySqlStore;
#[cfg(feature = "postgres")]
pub use store::sql::postgres::PostgresStore;
#[cfg(feature = "sqlite")]
pub use store::sql::sqlite::SqliteStore;

/// Compiles and runs the code of the README and of `docs/` with the documentation
/// tests. `docs/grpc.md` needs tonic, so the package `proof` runs its code.
#[cfg(all(doctest, feature = "memory"))]
mod prose {
    #[doc = include_str!("../README.md")]
    pub struct Readme;
    #[doc = include_str!("../docs/layers.md")]
    pub struct Layers;
    #[doc = include_str!("../docs/testing.md")]
    pub struct Testing;
    #[doc = include_str!("../docs/steps.md")]
    pub struct Steps;
    #[cfg(feature = "contract")]
    #[doc = include_str!("../docs/what-clients-see.md")]
    pub struct Contract;
    #[cfg(feature = "config")]
    #[doc = include_str!("../docs/config.md")]
    pub struct Config;
    #[cfg(feature = "client")]
    #[doc = include_str!("../docs/client.md")]
    pub struct Client;
    #[cfg(feature = "client")]
    #[doc = include_str!("../docs/agents.md")]
    pub struct Agents;
    #[cfg(all(feature = "postgres", feature = "axum"))]
    #[doc = include_str!("../docs/exactly-once.md")]
    pub struct ExactlyOnce;
    #[cfg(feature = "conformance")]
    #[doc = include_str!("../docs/stores.md")]
    pub struct Stores;
}
