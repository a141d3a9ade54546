//! Steps: parts of an operation that run once, however often the operation is attempted (G12).
//!
//! [`IdempotencyContext::step`] runs a closure and keeps its result with the operation's record.
//! Every later attempt of the operation, after a crash, after a lapse of its lease, or after a
//! response that is not recorded, such as a 503, is given that result instead of running the closure
//! again. `docs/steps.md` says when to take a step, when a transaction, and when a queue.
//!
//! 1. A route has steps if its option [`steps`](crate::RouteOptions::steps) is on. The layer is not
//!    built if the store keeps none.
//! 2. A step has a name of its own in the operation, and the same name in every attempt. Steps of
//!    several names may run at once; a step can't begin inside another one.
//! 3. A step may run again although it ran to its end: if the process dies after the effect and before
//!    the record. What it calls must therefore know repeated calls: [`Step::key`] is a key for them.
//! 4. A result is written as JSON by serde, and read again by a later attempt, perhaps of a later
//!    version of the program. A result that can't be read is an error; the step does not run again.
//! 5. An attempt that was overtaken records no step: [`StepFaultKind::Lost`].
//! 6. The results are kept until the operation is completed or its record ends. With
//!    `IdempotencyLayerBuilder::encryption` they are encrypted. Names are not: put nothing of a customer
//!    into them.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # use std::sync::{Arc, atomic::{AtomicU32, Ordering}};
//! use http::{Request, Response, StatusCode};
//! use http_body_util::Full;
//! use tower::{ServiceBuilder, ServiceExt};
//! use tower_idempotency::steps::StepFault;
//! use tower_idempotency::{IdempotencyContext, IdempotencyLayer, MemoryStore, scope};
//! # type Body = Full<bytes::Bytes>;
//! # #[derive(Debug)] struct Declined;
//! # static CHARGES: AtomicU32 = AtomicU32::new(0);
//! # static SHIPMENTS: AtomicU32 = AtomicU32::new(0);
//! # async fn charge(_: &str) -> Result<String, StepFault> { CHARGES.fetch_add(1, Ordering::Relaxed); Ok("ch_1".into()) }
//! # async fn is_shipped(_: &str) -> bool { SHIPMENTS.fetch_add(1, Ordering::Relaxed) > 0 }
//!
//! async fn checkout(context: &IdempotencyContext) -> Result<StatusCode, StepFault> {
//!     let charged = context.step("charge-card", async |step| charge(step.key()).await);
//!     let charge_id = charged.await.map_err(|error| error.flatten())?;
//!     if !is_shipped(&charge_id).await {
//!         return Ok(StatusCode::SERVICE_UNAVAILABLE); // not recorded: a retry goes on here
//!     }
//!     Ok(StatusCode::CREATED)
//! }
//!
//! let layer = IdempotencyLayer::builder(MemoryStore::new(), scope::header("x-api-key"))
//!     .defaults(|options| options.steps(true))
//!     .build()?;
//! let service = ServiceBuilder::new().layer(layer).service_fn(async |request: Request<Body>| {
//!     let context = request.extensions().get::<IdempotencyContext>().unwrap();
//!     let mut response = Response::new(Body::default());
//!     *response.status_mut() = checkout(context).await?;
//!     Ok::<_, StepFault>(response)
//! });
//! let request = || {
//!     let request = Request::post("/checkout").header("x-api-key", "alice");
//!     request.header("idempotency-key", "K").body(Body::default())
//! };
//! assert_eq!(service.clone().oneshot(request()?).await?.status(), 503);
//! assert_eq!(service.clone().oneshot(request()?).await?.status(), 201);
//! assert_eq!(CHARGES.load(Ordering::Relaxed), 1);
//! # Ok(())
//! # }
//! ```

mod earlier;
mod error;
mod log;
mod recording;

use std::fmt;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::request::context::IdempotencyContext;

pub use error::{StepError, StepFault, StepFaultKind};
#[cfg(feature = "_sql")]
pub(crate) use log::packed;
use log::{Begun, unpacked};
pub(crate) use log::{OpenStep, StepLog};

tokio::task_local! {
    /// The operation whose step is being polled: its address.
    static INSIDE: usize;
}

/// A step that is running: what its closure is given.
pub struct Step {
    key: String,
}

impl Step {
    /// A key for a call of the step to another service that takes idempotency keys itself: that of
    /// [`derive_key`](IdempotencyContext::derive_key) for the step's name, the same in every attempt.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }
}

/// Without the key.
impl fmt::Debug for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Step").finish_non_exhaustive()
    }
}

impl IdempotencyContext {
    /// Runs a part of the operation once (G12): returns the result that an earlier attempt recorded
    /// under this name, or else runs the closure, records its result, and returns it. See
    /// [`steps`](crate::steps) for the rules and an example.
    ///
    /// A step takes one round trip to the store, and none if it has a result already. The name
    /// and the result, as JSON, have at most
    /// [`max_step_bytes`](crate::RouteOptions::max_step_bytes) together.
    ///
    /// # Errors
    /// [`StepError::Failed`] with the closure's own error, of which nothing is recorded.
    /// [`StepError::Fault`] if the layer did not run the closure or did not record its result:
    /// [`StepFaultKind`] lists why, and [`StepFault::has_run`] tells the two apart.
    ///
    /// # Cancel safety
    /// If the future is dropped while the closure runs, nothing is recorded. If it is dropped while
    /// the result is being recorded, the record may have the step or not, as after a crash.
    pub async fn step<T, E, F>(&self, name: &str, run: F) -> Result<T, StepError<E>>
    where
        T: Serialize + DeserializeOwned,
        F: AsyncFnOnce(Step) -> Result<T, E>,
    {
        let step = match self.begin_step(name)? {
            Ok(recorded) => return Ok(recorded),
            Err(open) => open,
        };
        let key = self.derive_key(name);
        let running = self.inside_step(run(Step { key }));
        let value = running.await.map_err(StepError::Failed)?;
        let json = serde_json::to_vec(&value);
        let json = json.map_err(|_| StepFault::after(StepFaultKind::Unwritable))?;
        self.0.record_step(step, name, json).await?;
        Ok(value)
    }

    /// Returns the result that an earlier attempt recorded, or else a step that is to be run.
    pub(crate) fn begin_step<'a, T: DeserializeOwned>(
        &'a self,
        name: &'a str,
    ) -> Result<Result<T, OpenStep<'a>>, StepFault> {
        if INSIDE
            .try_with(|own| *own == self.address())
            .unwrap_or(false)
        {
            return Err(StepFault::before(StepFaultKind::Nested));
        }
        let result = match self.0.begin_step(name)? {
            Begun::Recorded(result) => result,
            Begun::Open(step) => return Ok(Err(step)),
        };
        let read = unpacked(&result).and_then(|(json, _)| serde_json::from_slice(&json).ok());
        // The error of serde is left out: it quotes the result.
        let unreadable = StepFault::before(StepFaultKind::Unreadable);
        read.map(Ok).ok_or(unreadable)
    }

    /// The closure of a step, in which no other step of the operation begins.
    pub(crate) fn inside_step<F: Future>(&self, run: F) -> impl Future<Output = F::Output> {
        INSIDE.scope(self.address(), run)
    }

    fn address(&self) -> usize {
        std::ptr::from_ref(&*self.0).addr()
    }
}
