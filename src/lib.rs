//! Tower middleware that makes HTTP operations safe to retry.
//!
//! A client sends `POST /payments` with `Idempotency-Key: K`, and the network
//! fails. Did the charge happen? It sends the request again, with the same
//! key. [`IdempotencyLayer`] runs the operation once, records its answer, and
//! gives every retry that same answer.
//!
//! ```
//! use axum::{Router, routing::post};
//! use tower_idempotency::{IdempotencyLayer, MemoryStore, scope};
//!
//! # fn main() -> Result<(), tower_idempotency::ConfigError> {
//! let idempotency = IdempotencyLayer::new(MemoryStore::new(), scope::header("x-api-key")?);
//! let app: Router = Router::new()
//!     .route("/payments", post(|| async { "paid" }))
//!     .layer(idempotency);
//! # Ok(())
//! # }
//! ```
//!
//! # One request, top to bottom
//!
//! 1. **Route.** Method and path choose a [`RouteOptions`]. What no policy protects
//!    is passed on unread.
//! 2. **Key.** A malformed one is refused; a missing one passes through or is
//!    refused, as the route says ([`Require`]).
//! 3. **Scope.** Whose key it is ([`scope`]): a key means nothing without its
//!    caller.
//! 4. **Fingerprint.** The body is read, within limits, and digested with
//!    method and target.
//! 5. **Claim.** One atomic step of the [`Store`]: this request owns the
//!    operation, or is told what is there: an answer to replay, an operation
//!    in flight, or another request under the same key.
//! 6. **Execute**, with an [`IdempotencyContext`] in the request's extensions.
//! 7. **Judge** the answer ([`RecordRule`]) at the end of its body: recorded,
//!    or released so that a retry executes again.
//! 8. **Complete**: the record is stored, then the last byte leaves.
//!
//! # What it promises
//!
//! - **G1** One at a time: while an operation's owner holds its lease, no
//!   second execution of that caller's key begins.
//! - **G2** Once recorded, never again, until its retention ends.
//! - **G3** Recorded before delivered: an answer that could not be recorded in
//!   time says so (`Idempotency-Status: unrecorded`), or is cut off if its head
//!   has left.
//! - **G4** A client that leaves changes nothing: the operation goes on, and a
//!   shutdown can wait for it ([`IdempotencyLayer::drain`]).
//! - **G5** Stale owners are powerless: who was overtaken can neither
//!   complete, renew nor release.
//! - **G6** No answer crosses callers.
//! - **G7** Exactly once, with a database: a handler commits its own writes and
//!   its answer in one transaction (`SqlClaim`, with the SQL stores).
//! - **G8** Other traffic is untouched: unread, unbuffered.
//! - **G9** Bad input is refused, clearly ([`Rejection`]).
//! - **G10** Nothing readable at rest: keys and callers reach stores and logs
//!   only as digests; recorded answers are encrypted where that is turned on.
//!
//! # What clients are told
//!
//! [`IdempotencyLayer::contract`] is what the layer promises as it is
//! configured, for a developer portal: as data, JSON, Markdown, and a fragment
//! of an OpenAPI document.
//!
//! # Cancel safety
//!
//! Dropping the [`ResponseFuture`] of a request whose operation has begun hands
//! the operation to the tokio runtime it was dropped in, where it runs to its
//! end. Before its claim was sent, dropping it leaves nothing behind; between
//! claim and handler, the claim is given back. Dropping the [`ResponseBody`] of
//! an answer that is sent while it is read leaves the rest of it to a task. A
//! route can say [`OnDisconnect::Cancel`] instead.
//!
//! # Runtime
//!
//! tokio, with timers enabled (`enable_time` or `enable_all`): deadlines,
//! renewals and what goes on without its client need them. Only an operation
//! that ends in its first poll, on the memory store, needs neither.
//!
//! # Features
//!
//! - `memory` (default): [`MemoryStore`].
//! - `axum`: the client's own path inside nested routers,
//!   `IdempotencyContext` as an extractor, `ConnectInfo` for
//!   [`scope::peer_ip`]. Turn it on if you use axum.
//! - `sqlite`, `postgres`, `mysql`: `SqliteStore`, `PostgresStore`,
//!   `MySqlStore`, on the application's own sqlx pool. They need Rust 1.94.
//! - `redis`: `RedisStore`, for Redis and Valkey, one server or a Cluster.
//! - `client`: the module of that name, for those who call such an API: keys,
//!   and retries that keep them.
//! - `encryption`: recorded answers are encrypted before a store gets them
//!   (`IdempotencyLayerBuilder::encryption`).
//! - `config`: every option from a TOML or JSON file (`config::Config`). What
//!   is wrong in it is an error with its line.
//! - `at-rest`: `store::EncodedCompletion`, answers as bytes, for stores of one's own.
//! - `sidecar`: `sidecar::Sidecar`, this layer as a proxy, and the program
//!   `tower-idempotency-sidecar`.
//! - `conformance`: `conformance`, rules that any store can be checked
//!   against. For tests.
//!
//! A feature adds, and changes nothing that was there without it.
//!
//! # More
//!
//! `docs/layers.md` says where in a stack the layer belongs,
//! `docs/contract.md` what it promises to an API's clients, `docs/client.md`
//! how these retry, `docs/config.md` how a file says all this,
//! `docs/exactly-once.md` what to do about crashes, and `docs/design.md` why it
//! is built as it is.

#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(feature = "client")]
pub mod client;
#[cfg(feature = "config")]
pub mod config;
#[cfg(feature = "conformance")]
pub mod conformance;
pub mod contract;
mod counts;
mod display;
mod error;
#[cfg(feature = "_sql")]
pub mod exactly_once;
#[cfg(all(test, shuttle, feature = "memory"))]
mod interleavings;
mod layer;
mod lease;
mod message;
pub mod options;
mod record;
pub mod rejection;
mod request;
mod runtime;
pub mod scope;
#[cfg(feature = "sidecar")]
pub mod sidecar;
pub mod store;

pub use counts::Counts;
pub use error::ConfigError;
pub use layer::IdempotencyLayer;
pub use layer::builder::IdempotencyLayerBuilder;
pub use layer::future::ResponseFuture;
pub use layer::records::Resolved;
pub use layer::service::Idempotency;
pub use message::body::RequestTrailers;
pub use message::request_body::RequestBody;
pub use message::response_body::ResponseBody;
pub use options::RouteOptions;
pub use options::recording;
pub use request::operation::IdempotencyContext;
#[cfg(feature = "axum")]
pub use request::operation::MissingContext;
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

/// The code in the README and in `docs/` is run with the documentation tests.
#[cfg(all(doctest, feature = "memory"))]
mod prose {
    #[doc = include_str!("../README.md")]
    pub struct Readme;
    #[doc = include_str!("../docs/layers.md")]
    pub struct Layers;
    #[doc = include_str!("../docs/contract.md")]
    pub struct Contract;
    #[doc = include_str!("../docs/design.md")]
    pub struct Design;
    #[cfg(feature = "config")]
    #[doc = include_str!("../docs/config.md")]
    pub struct Config;
    #[cfg(feature = "client")]
    #[doc = include_str!("../docs/client.md")]
    pub struct Client;
    #[cfg(all(feature = "postgres", feature = "axum"))]
    #[doc = include_str!("../docs/exactly-once.md")]
    pub struct ExactlyOnce;
    #[cfg(feature = "conformance")]
    #[doc = include_str!("../docs/stores.md")]
    pub struct Stores;
}
