//! What the fuzz targets share: a store that shows what a layer asked it for, and calls of a layer
//! without a server.

pub mod json;

use std::cell::RefCell;
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use tokio::runtime::{Builder, Runtime};
use tower_idempotency::IdempotencyLayer;
use tower_idempotency::store::{
    Claim, Claimed, FencingToken, Fingerprint, Lease, Nonce, Outcome, Ownership, Record, RecordId,
    RecordState, Release, Store, StoreError,
};
use tower_layer::Layer;
use tower_service::Service;

/// A store of one record, whose content the target reads and writes.
#[derive(Clone, Default)]
pub struct OneRecord(Arc<Mutex<Kept>>);

#[derive(Default)]
struct Kept {
    claim: Option<Claim>,
    found: Option<Record>,
    executes: bool,
    outcome: Option<(Lease, Outcome)>,
}

impl OneRecord {
    /// The last claim, which is forgotten.
    pub fn take_claim(&self) -> Option<Claim> {
        self.kept(|kept| kept.claim.take())
    }

    /// The lease and the outcome of the operation that ended last, which are forgotten.
    pub fn take_outcome(&self) -> Option<(Lease, Outcome)> {
        self.kept(|kept| kept.outcome.take())
    }

    /// From now on every claim acquires the record. At first the store has no room for one.
    pub fn executes(&self) {
        self.kept(|kept| (kept.executes, kept.found) = (true, None));
    }

    /// From now on the store has no room for a record, as at first.
    pub fn is_full(&self) {
        self.kept(|kept| (kept.executes, kept.found) = (false, None));
    }

    /// From now on every claim finds this record.
    pub fn finds(&self, record: Record) {
        self.kept(|kept| kept.found = Some(record));
    }

    fn kept<T>(&self, change: impl FnOnce(&mut Kept) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Store for OneRecord {
    async fn claim(&self, claim: &Claim) -> Result<Claimed, StoreError> {
        Ok(self.kept(|kept| {
            kept.claim = Some(claim.clone());
            match &kept.found {
                Some(record) => Claimed::Found(record.clone()),
                None if kept.executes => Claimed::Acquired(Lease::new(claim, token(), 1)),
                None => Claimed::OverCapacity,
            }
        }))
    }

    async fn renew(&self, _: &Lease) -> Result<Ownership, StoreError> {
        Ok(Ownership::Held)
    }

    async fn complete(&self, lease: &Lease, outcome: &Outcome) -> Result<Ownership, StoreError> {
        self.kept(|kept| kept.outcome = Some((lease.clone(), outcome.clone())));
        Ok(Ownership::Held)
    }

    async fn release(&self, _: &RecordId, _: &Nonce, _: Release) -> Result<Ownership, StoreError> {
        Ok(Ownership::Held)
    }
}

/// The token of every lease.
#[must_use]
pub fn token() -> FencingToken {
    FencingToken::new(1).expect("a token that a store can give")
}

/// The record of an operation that ended with this outcome.
#[must_use]
pub fn record(lease: &Lease, outcome: Outcome) -> Record {
    record_of(lease.claim.fingerprint, lease.attempt, outcome)
}

/// The record of an operation of any request.
#[must_use]
pub fn any_record(outcome: Outcome) -> Record {
    record_of(Fingerprint::from_bytes([0; 32]), 1, outcome)
}

fn record_of(fingerprint: Fingerprint, attempt: u64, outcome: Outcome) -> Record {
    let state = match outcome {
        Outcome::Completed(completion) => RecordState::Completed {
            fingerprint,
            completion,
        },
        _ => RecordState::Sealed { fingerprint },
    };
    Record::new(token(), attempt, state)
}

/// The response of a service behind the layer.
#[derive(Clone)]
struct Answers(Response<Full<Bytes>>);

impl Service<Request<Full<Bytes>>> for Answers {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<Full<Bytes>>) -> Self::Future {
        ready(Ok(self.0.clone()))
    }
}

/// Sends a request through the layer to a service that has this response, and reads the response's
/// body.
pub fn call(
    layer: &IdempotencyLayer,
    request: Request<Bytes>,
    answer: Response<Bytes>,
) -> Response<Bytes> {
    thread_local! {
        static RUNTIME: RefCell<Runtime> = RefCell::new(
            Builder::new_current_thread().enable_time().build().expect("a runtime"),
        );
    }
    let mut service = layer.layer(Answers(answer.map(Full::new)));
    RUNTIME.with_borrow_mut(|runtime| {
        runtime.block_on(async {
            let Ok(response) = service.call(request.map(Full::new)).await;
            let (head, body) = response.into_parts();
            let body = body.collect().await.expect("a response that is whole");
            Response::from_parts(head, body.to_bytes())
        })
    })
}
