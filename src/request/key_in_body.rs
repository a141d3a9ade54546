//! Steps 2 to 4 of a request whose key may be in its body: the body is read first. What is read
//! counts for the caller, and for all requests without a caller together (G11). Nothing is claimed
//! before the key is known, and a request without a key is passed on with the bytes that it came with.

use std::future::{Future, poll_fn};
use std::ops::ControlFlow;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::ACCEPT_ENCODING;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body::Body;
use http_body_util::BodyExt;
use pin_project_lite::pin_project;
use tower_service::Service;
use tracing::Span;

use crate::limits::{Account, Holding, Resource};
use crate::message::body::{BoxError, FullBody, RequestTrailers};
use crate::message::response_body::ResponseBody;
use crate::options::key::Key;
use crate::options::mcp::Wanted;
use crate::options::{Require, RouteOptions};
use crate::record::ScopeDigest;
use crate::rejection::Rejection;
use crate::rejection::json_rpc::JsonRpcRequest;
use crate::request::content::{BodyReading, ReadLimits};
use crate::request::context::IdempotencyContext;
use crate::request::core::Core;
use crate::request::flow::{BoxFlow, Flow, flow_of_read, flow_without_room};
use crate::request::operation::{KnownCaller, Operation, ProtectedRequest};
use crate::request::stop::Stop;

/// A body of more bytes takes more than about a tenth of a millisecond to be searched, and so is not
/// searched on a thread that serves requests (G11).
pub(super) const LONG: usize = 64 * 1024;

/// A request whose key may be in its body.
pub(crate) struct Unread<S, B> {
    pub(crate) core: Arc<Core>,
    pub(crate) options: Arc<RouteOptions>,
    /// The key in a header, and that header.
    pub(crate) in_header: Option<(Key, HeaderName)>,
    pub(crate) parts: Parts,
    pub(crate) body: B,
    pub(crate) service: S,
}

/// What a request turned out to be.
enum Found<F, R, E>
where
    R: 'static,
    E: 'static,
{
    /// It has no key, or a layer further out protects it. The body keeps its room while it is handled.
    Passes(F, Holding),
    Protected(BoxFlow<R, E>, Span),
    Rejected(Response<ResponseBody<R>>),
}

impl<S, B, R> Unread<S, B>
where
    S: Service<Request<B>, Response = Response<R>> + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    B: Body + From<Bytes> + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
    R: Body + Send + 'static,
    R::Data: Send,
    R::Error: Into<BoxError>,
{
    /// The path of this request.
    pub(crate) fn flow(self) -> BoxFlow<R, S::Error> {
        let looking = Box::pin(self.look());
        Box::pin(KeyedFlow::Looking { looking })
    }

    async fn look(self) -> Found<S::Future, R, S::Error> {
        let Self {
            core,
            options,
            in_header,
            mut parts,
            body,
            service,
        } = self;
        let is_required = options.require == Require::Required;
        if options.mcp.is_some() {
            // What is rejected before its body is read gets an error of JSON-RPC as well.
            parts.extensions.insert(JsonRpcRequest::default());
        }
        // A request that may turn out to have no key needs no caller.
        let caller = match KnownCaller::of(&core, &options, &parts) {
            // Which messages of MCP need a caller is known once they were read.
            Err(rejection) if options.mcp.is_none() && (is_required || in_header.is_some()) => {
                return rejected(&core, &options, &parts, rejection);
            }
            caller => caller,
        };
        let account = caller.as_ref().map_or_else(
            |_| core.accounts.of(Some(&NOBODY)),
            |caller| Arc::clone(caller.account()),
        );
        let limits = ReadLimits {
            core: &core,
            options: &options,
            account: &account,
        };
        let mut room = account.nothing(Resource::RequestBytes);
        let mut place = None;
        let outer = parts.extensions.get::<IdempotencyContext>();
        let body = if outer.is_some_and(|outer| outer.is_of(&core)) {
            // What a clone of this layer has begun, the layer does not reject (G11). That clone has
            // read the body within its limits.
            match read_again(body).await {
                Ok(body) => body,
                Err(rejection) => return rejected(&core, &options, &parts, rejection),
            }
        } else {
            if let Err(rejection) = limits.check_announced(&parts, &body) {
                return rejected(&core, &options, &parts, rejection);
            }
            // The place is taken before the body is read: a body that never comes holds a place too.
            place = account.take(Resource::Operations, 1).ok();
            let reading = match BodyReading::new(limits, body) {
                Ok(reading) => reading,
                Err((body, full)) => {
                    // The digest of the body finds the record of a key that a header has: equal
                    // bytes have equal members. Without that key nothing is known of the request.
                    let Some(((key, header), caller)) = in_header.zip(caller.ok()) else {
                        return rejected(&core, &options, &parts, limits.refuse(full));
                    };
                    let span = core.span(&options, &parts);
                    let header = Some(&header);
                    let known =
                        ProtectedRequest::new(&core, &options, key, header, caller, &parts, &span);
                    let flow = flow_without_room(known, parts, body, full, service, place);
                    return Found::Protected(flow, span);
                }
            };
            let mut reading = pin!(reading);
            let read = poll_fn(|cx| reading.as_mut().poll(limits, &mut parts, cx)).await;
            room = reading.take_room();
            match read {
                Ok(body) => body.alone(),
                Err(stop) => return rejected(&core, &options, &parts, rejection(stop)),
            }
        };
        let header = in_header.as_ref().map(|(_, header)| header.clone());
        let key = match find(&core, &options, &account, in_header, &body).await {
            Wanted::Nothing => return passes(service, parts, body, room),
            Wanted::Operation { key, call } => {
                if let Some(call) = call {
                    parts.extensions.insert(call);
                }
                key
            }
        };
        let key = match key {
            None if is_required => Err(options.keys.required()),
            None => return passes(service, parts, body, room),
            Some(key) => key,
        };
        let (key, caller) = match key.and_then(|key| Ok((key, caller?))) {
            Ok(known) => known,
            Err(rejection) => return rejected(&core, &options, &parts, rejection),
        };
        let span = core.span(&options, &parts);
        let header = header.as_ref();
        let known = ProtectedRequest::new(&core, &options, key, header, caller, &parts, &span);
        if known.is_protected_further_out(&parts) {
            return passes(service, parts, body, room);
        }
        if options.mcp.is_some() {
            ask_for_plain_text(&mut parts.headers);
        }
        if let Err(full) = room.grow(body.data.len().saturating_sub(room.amount())) {
            return rejected(&core, &options, &parts, limits.refuse(full));
        }
        let flow = span.in_scope(|| flow_of_read(known, parts, body, room, service, place));
        match flow {
            ControlFlow::Continue(flow) => Found::Protected(flow, span),
            ControlFlow::Break(response) => Found::Rejected(response),
        }
    }
}

/// The account of requests without a caller is that of this one.
pub(super) const NOBODY: ScopeDigest = ScopeDigest::from_bytes([0; 32]);

/// Reads the body that a clone of this layer further out has handed on.
async fn read_again<B>(body: B) -> Result<FullBody, Rejection>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    let read = body.collect().await;
    let read = read.map_err(|_| Rejection::body_unreadable())?;
    let trailers = read.trailers().cloned().map(Box::new);
    let data = read.to_bytes();
    Ok(FullBody { data, trailers })
}

/// What a request asks for, and by which key.
async fn find(
    core: &Core,
    options: &Arc<RouteOptions>,
    account: &Account,
    in_header: Option<(Key, HeaderName)>,
    body: &FullBody,
) -> Wanted {
    let length = body.data.len();
    let search = {
        let (options, data) = (Arc::clone(options), body.data.clone());
        move || options.wanted(in_header, &data)
    };
    if length <= LONG {
        return search();
    }
    let searched = core.turns.run(account.caller(), search.clone()).await;
    // Without a thread for it, the work holds up this one.
    searched.unwrap_or_else(search)
}

/// What the answer to a call of MCP says is read, and a replay has the id of the retry in it.
fn ask_for_plain_text(headers: &mut HeaderMap) {
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
}

/// Why a body was not read.
fn rejection(stop: Stop) -> Rejection {
    match stop {
        Stop::Reject(rejection) => rejection,
        Stop::Replay(_) | Stop::InFlight(_) => unreachable!("nothing was claimed"),
    }
}

#[cold]
fn rejected<F, R, E>(
    core: &Core,
    options: &RouteOptions,
    parts: &Parts,
    rejection: Rejection,
) -> Found<F, R, E> {
    let span = core.span(options, parts);
    core.rejected(options, parts, &span, rejection.code());
    // What says that it is JSON is not of gRPC.
    Found::Rejected(core.reject(rejection, options, Some(parts), false))
}

fn passes<S, B, R>(
    mut service: S,
    mut parts: Parts,
    body: FullBody,
    room: Holding,
) -> Found<S::Future, R, S::Error>
where
    S: Service<Request<B>, Response = Response<R>, Error: 'static>,
    B: From<Bytes>,
{
    // The rejections of another layer further in have that layer's form.
    parts.extensions.remove::<JsonRpcRequest>();
    if let Some(trailers) = body.trailers {
        parts.extensions.insert(RequestTrailers(*trailers));
    }
    let request = Request::from_parts(parts, B::from(body.data));
    Found::Passes(service.call(request), room)
}

pin_project! {
    /// The path of a request whose key may be in its body.
    #[project = KeyedFlowProjection]
    #[project_ref = KeyedFlowRef]
    enum KeyedFlow<L, F, R, E>
    where
        R: 'static,
        E: 'static,
    {
        Looking { looking: Pin<Box<L>> },
        Passing { #[pin] future: F, room: Holding },
        Protected { flow: BoxFlow<R, E>, span: Span },
    }
}

impl<L, F, R, E> Future for KeyedFlow<L, F, R, E>
where
    L: Future<Output = Found<F, R, E>>,
    F: Future<Output = Result<Response<R>, E>>,
{
    type Output = Result<Response<ResponseBody<R>>, E>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            let next = match self.as_mut().project() {
                KeyedFlowProjection::Looking { looking } => match ready!(looking.as_mut().poll(cx))
                {
                    Found::Passes(future, room) => Self::Passing { future, room },
                    Found::Protected(flow, span) => Self::Protected { flow, span },
                    Found::Rejected(response) => return Poll::Ready(Ok(response)),
                },
                KeyedFlowProjection::Passing { future, .. } => {
                    let response = ready!(future.poll(cx))?;
                    return Poll::Ready(Ok(response.map(ResponseBody::passed)));
                }
                KeyedFlowProjection::Protected { flow, span } => {
                    return span.in_scope(|| flow.as_mut().poll(cx));
                }
            };
            self.set(next);
        }
    }
}

impl<L, F, R, E> Flow<R, E> for KeyedFlow<L, F, R, E>
where
    L: Future<Output = Found<F, R, E>> + Send,
    F: Future<Output = Result<Response<R>, E>> + Send,
{
    fn operation(self: Pin<&Self>) -> Option<&Arc<Operation>> {
        match self.project_ref() {
            KeyedFlowRef::Protected { flow, .. } => flow.as_ref().operation(),
            KeyedFlowRef::Looking { .. } | KeyedFlowRef::Passing { .. } => None,
        }
    }
}
