//! The other end: for those who call an API that is safe to retry.
//!
//! [`ClientLayer`] goes around any client that is a `tower::Service` over
//! `http` types. Each operation gets a key before its first attempt, keeps it
//! over all of them, and ends with an answer or with an [`Error`] that says
//! everything that was tried.
//!
//! ```no_run
//! use bytes::Bytes;
//! use http::Request;
//! use http_body_util::Full;
//! use hyper_util::{client::legacy::Client, rt::TokioExecutor};
//! use tower::{Service, ServiceBuilder, ServiceExt};
//! use tower_idempotency::client::{ClientLayer, IdempotencyKey, Received};
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let http = Client::builder(TokioExecutor::new()).build_http();
//! let client = ServiceBuilder::new().layer(ClientLayer::default()).service(http);
//!
//! let request = Request::post("http://api.example.com/orders")
//!     .extension(IdempotencyKey::for_operation("order", 4711))
//!     .header("content-type", "application/json")
//!     .body(Full::new(Bytes::from(r#"{"item":"hat"}"#)))?;
//! let response = client.oneshot(request).await?;
//!
//! println!("{}: {:?}", response.status(), response.body().whole());
//! if let Some(received) = response.extensions().get::<Received>() {
//!     println!("after {} attempts", received.attempts().len());
//! }
//! # Ok(())
//! # }
//! ```
//!
//! 1. **The key** is that of the header, if the request has it already; else
//!    the [`IdempotencyKey`] in the request's extensions; else, on a POST or
//!    PATCH, a new one. A new one is lost if the process dies:
//!    [`IdempotencyKey::for_operation`] is not.
//! 2. **Each attempt** has its time, and its answer is read to the end, up to
//!    1 MiB: an answer that breaks off is none.
//! 3. **Sent again**, with the same bytes and the same key, is what may have
//!    come to nothing: [`RetryPolicy`] has the table. What no retry can change
//!    comes back as it is, a refusal such as `key-reused` too
//!    ([`Received::refusal`]).
//!
//! The request's body must be `Clone`, such as `Full<Bytes>`: a retry sends the
//! same bytes. The parts are there one by one, too: [`RetryPolicy`] for tower's
//! own `Retry`, [`FullJitter`] for its backoff. `docs/client.md` has the rules for
//! other languages, `examples/client_reqwest.rs` shows reqwest.
//!
//! It needs a tokio runtime with timers.

use std::task::{Context, Poll};

use http::{Method, Request, Response};
use http_body::Body;
use tower::retry::Retry;
use tower::retry::future::ResponseFuture;
use tower_layer::Layer;
use tower_service::Service;

use crate::message::body::BoxError;

mod answer_body;
mod attempt;
mod backoff;
mod builder;
mod error;
mod key;
mod options;
mod policy;
mod received;
mod transient;

pub use answer_body::AnswerBody;
pub use attempt::{ReadAnswers, ReadAnswersLayer};
pub use backoff::FullJitter;
pub use builder::RetryPolicyBuilder;
pub use error::{Attempt, Error, ErrorKind, Outcome};
pub use key::{IdempotencyKey, InvalidKey};
pub use policy::RetryPolicy;
pub use received::{Protection, Received, Refusal};
pub use transient::is_transient;

/// Makes [`Client`]: keys, retries, time limits and whole answers, in one line.
///
/// **For APIs that honour the key**, on the requests that go through it. A POST
/// gets one and is repeated, whatever the server makes of that: one which takes
/// no notice of keys executes it again.
#[derive(Clone, Debug, Default)]
pub struct ClientLayer {
    policy: RetryPolicy,
}

impl ClientLayer {
    /// With other options than the default ones.
    #[must_use]
    pub fn new(policy: RetryPolicy) -> Self {
        Self { policy }
    }
}

impl<S> Layer<S> for ClientLayer {
    type Service = Client<S>;

    fn layer(&self, http: S) -> Client<S> {
        let answers = self.policy.read_answers().layer(http);
        Client {
            policy: self.policy.clone(),
            retry: Retry::new(self.policy.clone(), answers),
        }
    }
}

/// A client whose requests are safe to retry, and are retried.
///
/// It is always ready: what the client inside is waiting for counts as a part
/// of each attempt.
#[derive(Clone, Debug)]
pub struct Client<S> {
    policy: RetryPolicy,
    retry: Retry<RetryPolicy, ReadAnswers<S>>,
}

impl<S, B, R> Service<Request<B>> for Client<S>
where
    S: Service<Request<B>, Response = Response<R>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    B: Clone + Send + 'static,
    R: Body + Send + 'static,
    R::Error: Into<BoxError>,
{
    type Response = Response<AnswerBody<R>>;
    type Error = Error;
    type Future = ResponseFuture<RetryPolicy, ReadAnswers<S>, Request<B>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.retry.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        self.policy.options.put_key(&mut request);
        self.retry.call(request)
    }
}

impl options::Options {
    fn put_key<B>(&self, request: &mut Request<B>) {
        let header = &self.keys.headers[0];
        if request.headers().contains_key(header) {
            return;
        }
        let given = request.extensions().get::<IdempotencyKey>().cloned();
        let needs_one = [Method::POST, Method::PATCH].contains(request.method());
        if let Some(key) = given.or_else(|| needs_one.then(IdempotencyKey::new)) {
            let value = key.header_value(self.keys.syntax);
            request.headers_mut().insert(header, value);
        }
    }
}
