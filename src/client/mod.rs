//! The calling side: for programs that call an API which is safe to retry.
//!
//! [`ClientLayer`] goes around any HTTP client that is a `tower::Service` over
//! `http` types. Each operation gets a key before its first attempt, keeps that
//! key over all attempts, and ends with a response or with an [`Error`] that
//! lists every attempt.
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
//! 1. **The key** is the one in the request's header, if there is one; else the
//!    [`IdempotencyKey`] in the request's extensions; else, on a POST or PATCH,
//!    a new random key. A random key is lost if the process dies; a key from
//!    [`IdempotencyKey::for_operation`] is not.
//! 2. **Each attempt** has a time limit, and its response is read to the end, up
//!    to 1 MiB. A response that breaks off counts as no response.
//! 3. **The request is sent again**, with the same bytes and the same key, where
//!    another attempt can change the outcome: [`ClientLayer`] has the table. A
//!    response that no retry can change is returned as it is, and so is a
//!    rejection such as `key-reused` ([`Received::problem`]).
//!
//! The request's body must be `Clone`, such as `Full<Bytes>`, because a retry
//! sends the same bytes. `docs/client.md` has the rules for other languages,
//! `proof/examples/client_reqwest.rs` shows reqwest.
//!
//! The client needs a tokio runtime with timers.
//!
//! May use: `options`, `rejection`, `message`, `record`, `display`, `error`.

use std::future::{Future, ready};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Request, Response};
use http_body::Body;
use tower_layer::Layer;
use tower_service::Service;

use crate::message::body::BoxError;

mod backoff;
mod body;
mod builder;
mod error;
mod key;
mod key_member;
mod options;
mod received;
mod send;
mod transient;

pub use backoff::FullJitter;
pub use body::BufferedBody;
pub use builder::ClientLayerBuilder;
pub use error::{Attempt, Error, ErrorKind};
pub use key::{IdempotencyKey, InvalidKey};
pub use received::{Problem, Received};
pub use transient::is_transient;

use options::Options;

/// Makes [`Client`]: a key, retries, time limits and fully read responses.
///
/// **Use it for APIs that honour the key**, and only for those. Each POST and
/// PATCH gets a key and is repeated; a server that ignores the key executes the
/// operation again.
///
/// | outcome of an attempt | sent again? |
/// | --- | --- |
/// | no response, because the connection failed or the time limit passed | yes |
/// | a response whose body breaks off | yes |
/// | an error that another attempt can't change ([`is_transient`]) | no |
/// | a replayed response | no |
/// | a rejection with `retry: same-key`, such as `in-flight` | yes, except `outcome-unknown` |
/// | a rejection with `retry: new-key` or `never`, such as `key-reused` | no |
/// | 408, 425, 429, 500, 502, 503, 504 | yes |
/// | 409 with `Retry-After` | yes |
/// | any other response | no |
///
/// A request is repeated only if it has a key, or is a GET, HEAD, OPTIONS,
/// TRACE, PUT or DELETE. The call ends with a response that needs no further
/// attempt, whatever its status, or with an [`Error`]. Any other request is sent
/// once, and its response is returned as it is.
///
/// ```
/// use std::time::Duration;
/// use tower::retry::budget::TpsBudget;
/// use tower_idempotency::client::{ClientLayer, FullJitter};
///
/// # fn main() -> Result<(), tower_idempotency::ConfigError> {
/// let layer = ClientLayer::builder()
///     .attempts(8)
///     .deadline(Duration::from_secs(60))
///     .backoff(FullJitter::new(Duration::from_millis(100), Duration::from_secs(10)))
///     .budget(TpsBudget::default())
///     .build()?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct ClientLayer {
    options: Arc<Options>,
}

impl ClientLayer {
    /// Sets the options one by one.
    #[must_use]
    pub fn builder() -> ClientLayerBuilder {
        ClientLayerBuilder::default()
    }
}

/// All options have their defaults.
impl Default for ClientLayer {
    fn default() -> Self {
        let layer = Self::builder().build();
        layer.expect("the default options are valid")
    }
}

impl<S> Layer<S> for ClientLayer {
    type Service = Client<S>;

    fn layer(&self, http: S) -> Client<S> {
        Client {
            http,
            options: Arc::clone(&self.options),
        }
    }
}

/// An HTTP client whose requests are safe to retry, and are retried.
///
/// `Client` is always ready. The time that the inner client needs to become
/// ready counts as a part of each attempt.
#[derive(Clone, Debug)]
pub struct Client<S> {
    http: S,
    options: Arc<Options>,
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
    type Response = Response<BufferedBody<R>>;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let http = self.http.clone();
        let options = Arc::clone(&self.options);
        if let Err(error) = options.put_key(&mut request) {
            return Box::pin(ready(Err(error)));
        }
        Box::pin(async move { options.send(http, request).await })
    }
}
