//! Tower middleware that makes HTTP operations safe to retry.

#![cfg_attr(docsrs, feature(doc_cfg))]

mod body;
mod context;
mod digest;
mod error;
mod fingerprint;
mod flow;
mod future;
mod key;
mod layer;
mod lease;
mod policy;
mod record;
mod rejection;
mod route;
pub mod scope;
mod service;
pub mod store;

pub use body::{RequestBody, RequestTrailers, ResponseBody};
pub use context::IdempotencyContext;
#[cfg(feature = "axum")]
pub use context::NotProtected;
pub use error::ConfigError;
pub use fingerprint::{FingerprintBody, JsonFingerprint};
pub use future::ResponseFuture;
pub use key::{KeyFormat, KeySyntax};
pub use layer::{Builder, IdempotencyLayer};
pub use policy::{
    Answer, KeysPer, OnMismatch, OnStoreError, Oversize, Policy, RecordHeaders, RecordPolicy,
    Recording, Require, Statuses,
};
pub use record::{Completion, FencingToken, Fingerprint, Nonce, RecordId, ScopeDigest};
pub use rejection::{Rejection, RejectionCode, RenderRejection, Retry};
pub use scope::Scope;
pub use service::Idempotency;
#[cfg(feature = "memory")]
pub use store::memory::{MemoryStats, MemoryStore, MemoryStoreBuilder, WhenFull};
pub use store::{OnLapsedLease, Store};
