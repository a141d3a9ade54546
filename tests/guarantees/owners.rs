//! Owners of operations that keep or lose their leases.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use tokio::task::JoinHandle;
use tower::{Service, ServiceExt, service_fn};
use tower_idempotency::IdempotencyContext;

use crate::support::{Gate, answer, created, post};

pub(crate) const LEASE: Duration = Duration::from_secs(30);
pub(crate) const SECOND: Duration = Duration::from_secs(1);

/// How the first execution of a test ends. Later executions respond with `201
/// run N`.
#[derive(Clone, Copy, Debug)]
pub(crate) enum First {
    Answers,
    Transient,
    Fails,
    Panics,
    PanicsAtOnce,
}

/// The contexts of all executions, and the gate at which they wait.
#[derive(Clone)]
pub(crate) struct Owners {
    pub(crate) contexts: Arc<Mutex<Vec<IdempotencyContext>>>,
    pub(crate) gate: Gate,
}

impl Owners {
    pub(crate) fn new() -> Self {
        Self {
            contexts: Arc::default(),
            gate: Gate::closed(),
        }
    }

    /// The context of the execution with this number, from 1.
    pub(crate) fn context(&self, run: usize) -> IdempotencyContext {
        self.contexts.lock().unwrap()[run - 1].clone()
    }

    pub(crate) fn count(&self) -> usize {
        self.contexts.lock().unwrap().len()
    }

    pub(crate) fn service(
        &self,
        first: First,
    ) -> impl Service<
        Request<Full<Bytes>>,
        Response = Response<Full<Bytes>>,
        Error = &'static str,
        Future: Send + 'static,
    > + Clone
    + Send
    + use<> {
        let owners = self.clone();
        service_fn(move |request: Request<Full<Bytes>>| {
            let owners = owners.clone();
            if matches!(first, First::PanicsAtOnce) && owners.count() == 0 {
                let context = request.extensions().get::<IdempotencyContext>();
                owners
                    .contexts
                    .lock()
                    .unwrap()
                    .push(context.unwrap().clone());
                panic!("as the test wants it");
            }
            async move {
                let context = request.extensions().get::<IdempotencyContext>();
                let run = {
                    let mut contexts = owners.contexts.lock().unwrap();
                    contexts.push(context.unwrap().clone());
                    contexts.len()
                };
                owners.gate.pass().await;
                match first {
                    First::Transient if run == 1 => {
                        Ok(answer(StatusCode::SERVICE_UNAVAILABLE, "later"))
                    }
                    First::Fails if run == 1 => Err("as the test wants it"),
                    First::Panics if run == 1 => panic!("as the test wants it"),
                    _ => Ok(created(format!("run {run}"))),
                }
            }
        })
    }
}

/// Sends the request of these tests in a task of its own.
pub(crate) fn begin<A, R>(app: &A) -> JoinHandle<Result<Response<R>, &'static str>>
where
    A: Service<Request<Full<Bytes>>, Response = Response<R>, Error = &'static str>,
    A: Clone + Send + 'static,
    A::Future: Send,
    R: Send + 'static,
{
    tokio::spawn(app.clone().oneshot(post("k", "{}")))
}
