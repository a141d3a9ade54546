//! The middleware.

use std::fmt;
use std::mem;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::request::Parts;
use http::{HeaderName, Request, Response};
use http_body::Body;
use tower_service::Service;
use tracing::Span;

use crate::layer::future::ResponseFuture;
use crate::message::body::BoxError;
use crate::message::client_deadline::grpc_timeout;
use crate::message::media_type::is_grpc;
use crate::message::request_body::FromBytes;
use crate::options::key::Key;
use crate::options::{Mode, Require, RouteOptions};
use crate::rejection::Rejection;
use crate::rejection::json_rpc::JsonRpcRequest;
use crate::request::core::Core;
use crate::request::flow::flow;
use crate::request::key_in_body::Unread;
use crate::request::observe_mode::observe;
use crate::request::operation::{KnownCaller, ProtectedRequest};
use crate::runtime::deadline::Moment;

/// A service whose operations are safe to retry. Made by
/// [`IdempotencyLayer`](crate::IdempotencyLayer).
///
/// It wraps any `tower` service over `http` requests whose body can be made of
/// [`Bytes`](bytes::Bytes); [`RequestBody`](crate::RequestBody) makes any body such a body. Its error
/// is the service's own: whatever goes wrong in the layer is a response.
#[derive(Clone)]
pub struct Idempotency<S> {
    inner: S,
    core: Arc<Core>,
}

impl<S> Idempotency<S> {
    pub(crate) fn new(inner: S, core: Arc<Core>) -> Self {
        Self { inner, core }
    }

    /// The service inside.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The service inside.
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// The service inside.
    pub fn into_inner(self) -> S {
        self.inner
    }

    #[cold]
    fn rejected<F, R, E>(
        &self,
        rejection: Rejection,
        options: &RouteOptions,
        parts: &Parts,
        span: &Span,
    ) -> ResponseFuture<F, R, E> {
        let grpc = is_grpc(&parts.headers);
        self.core.rejected(options, parts, span, rejection.code());
        ResponseFuture::rejected(self.core.reject(rejection, options, Some(parts), grpc))
    }
}

impl<S> Idempotency<S> {
    /// Steps 2 to 8 of a request whose key may be in its body.
    fn look_into_body<B, R>(
        &mut self,
        options: Arc<RouteOptions>,
        in_header: Option<(Key, HeaderName)>,
        request: Request<B>,
    ) -> ResponseFuture<S::Future, R, S::Error>
    where
        S: Service<Request<B>, Response = Response<R>> + Clone + Send + 'static,
        S::Future: Send + 'static,
        S::Error: Send + 'static,
        B: FromBytes + Send + 'static,
        B::Data: Send,
        B::Error: Into<BoxError>,
        R: Body + Send + 'static,
        R::Data: Send,
        R::Error: Into<BoxError>,
    {
        let clone = self.inner.clone();
        let service = mem::replace(&mut self.inner, clone);
        let (parts, body) = request.into_parts();
        let unread = Unread {
            core: Arc::clone(&self.core),
            options,
            in_header,
            parts,
            body,
            service,
        };
        // Whether the request is protected, and so has a span, is not known yet.
        ResponseFuture::protected(unread.flow(), None, Span::none())
    }
}

impl<S: fmt::Debug> fmt::Debug for Idempotency<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Idempotency")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}

impl<S, B, R> Service<Request<B>> for Idempotency<S>
where
    S: Service<Request<B>, Response = Response<R>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    B: FromBytes + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
    R: Body + Send + 'static,
    R::Data: Send,
    R::Error: Into<BoxError>,
{
    type Response = Response<crate::ResponseBody<R>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future, R, S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        // Step 1: the route.
        let routes = &self.core.rules.routes;
        let options = match routes.options(request.method(), request.uri(), request.extensions()) {
            Some(options) if options.require == Require::Ignored => {
                return ResponseFuture::passed(self.inner.call(request));
            }
            Some(options) if options.mode == Mode::Observe => {
                let (request, observing) = observe(&self.core, options, request);
                return ResponseFuture::observed(self.inner.call(request), observing);
            }
            Some(options) => options,
            None => return ResponseFuture::passed(self.inner.call(request)),
        };
        // Step 2: the key.
        let (key, key_header) = match options.keys.read(request.headers()) {
            Some(Ok((key, header))) if options.keys.may_be_in_body(request.headers()) => {
                let (options, in_header) = (Arc::clone(options), (key, header.clone()));
                return self.look_into_body(options, Some(in_header), request);
            }
            Some(Ok(read)) => read,
            None if options.keys.may_be_in_body(request.headers()) => {
                return self.look_into_body(Arc::clone(options), None, request);
            }
            None if options.require == Require::Optional => {
                return ResponseFuture::passed(self.inner.call(request));
            }
            refused => {
                let rejection = match refused {
                    Some(Err(rejection)) => rejection,
                    _ => options.keys.required(),
                };
                let (mut parts, _) = request.into_parts();
                if options.mcp.is_some() {
                    // Clients of MCP look for a JSON-RPC error, although its id is not known.
                    parts.extensions.insert(JsonRpcRequest::default());
                }
                // A service that was polled ready can hold what other requests wait for, such as
                // a permit. The clone holds nothing.
                self.inner = self.inner.clone();
                let span = self.core.span(options, &parts);
                return self.rejected(rejection, options, &parts, &span);
            }
        };
        // The service that was polled ready runs this request, or is dropped with its rejection; its
        // clone, which was not polled, stays for the next.
        let clone = self.inner.clone();
        let mut ready = mem::replace(&mut self.inner, clone);
        let (parts, body) = request.into_parts();
        let span = self.core.span(options, &parts);
        // Step 3: the caller.
        let caller = match KnownCaller::of(&self.core, options, &parts) {
            Ok(caller) => caller,
            Err(rejection) => return self.rejected(rejection, options, &parts, &span),
        };
        let (core, key_header) = (&self.core, Some(key_header));
        let known = ProtectedRequest::new(core, options, key, key_header, caller, &parts, &span);
        let is_protected = known.is_protected_further_out(&parts);
        // Caller and announced length are checked before the body is polled: a server asks for
        // the body of an `Expect: 100-continue` request at the first poll. What a clone of this layer
        // has begun, the layer does not reject (G11).
        let has_begun = is_protected && known.has_clone_further_out(&parts);
        if !has_begun && let Err(rejection) = known.limits().check_announced(&parts, &body) {
            return ResponseFuture::rejected(known.stop(rejection.into(), Some(&parts)));
        }
        if is_protected {
            let request = Request::from_parts(parts, body);
            return ResponseFuture::passed(ready.call(request));
        }
        let timeout = known.grpc.then(|| grpc_timeout(&parts.headers)).flatten();
        let deadline = timeout.and_then(Moment::after);
        // Steps 4 to 8.
        ResponseFuture::protected(flow(known, parts, body, ready), deadline, span)
    }
}
