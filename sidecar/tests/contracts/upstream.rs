//! This upstream is the service behind the sidecar. It counts what it executes,
//! responds as the test says, and waits where the test says so.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

const ARRIVES_WITHIN: Duration = Duration::from_secs(5);

#[derive(Clone)]
pub(crate) struct Upstream {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    _server: Arc<Server>,
}

#[derive(Default)]
struct State {
    executions: usize,
    next: VecDeque<Reply>,
    hold: Option<(oneshot::Sender<()>, oneshot::Receiver<()>)>,
}

/// A `Reply` is the upstream's response.
#[derive(Clone)]
pub(crate) struct Reply {
    status: u16,
    headers: HeaderMap,
    body: Option<Bytes>,
}

/// The upstream holds the next request back, from its arrival until the test lets
/// the request go.
pub(crate) struct Held {
    arrived: oneshot::Receiver<()>,
    release: oneshot::Sender<()>,
}

struct Server(JoinHandle<()>);

impl Upstream {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State::default()));
        let server = tokio::spawn(serve(listener, Arc::clone(&state)));
        Self {
            address,
            state,
            _server: Arc::new(Server(server)),
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn executions(&self) -> usize {
        self.state.lock().unwrap().executions
    }

    /// Sets the response to the next request for which no response is set. Without this call it is a
    /// 201 with a JSON body that no other response has.
    pub(crate) fn answers_next(&self, reply: Reply) {
        self.state.lock().unwrap().next.push_back(reply);
    }

    pub(crate) fn holds_next(&self) -> Held {
        let (has_arrived, arrived) = oneshot::channel();
        let (release, is_released) = oneshot::channel();
        self.state.lock().unwrap().hold = Some((has_arrived, is_released));
        Held { arrived, release }
    }
}

impl Reply {
    pub(crate) fn status(status: u16) -> Self {
        Self {
            status,
            headers: HeaderMap::new(),
            body: None,
        }
    }

    pub(crate) fn header(mut self, name: &'static str, value: &'static str) -> Self {
        let name = HeaderName::from_static(name);
        self.headers.insert(name, HeaderValue::from_static(value));
        self
    }

    pub(crate) fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = Some(body.into());
        self
    }
}

impl Held {
    pub(crate) async fn arrived(&mut self) {
        timeout(ARRIVES_WITHIN, &mut self.arrived)
            .await
            .expect("the request reaches the upstream")
            .unwrap();
    }

    pub(crate) fn let_go(self) {
        // The request is gone if its client was.
        let _ = self.release.send(());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn serve(listener: TcpListener, state: Arc<Mutex<State>>) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let state = Arc::clone(&state);
        let service = service_fn(move |request| answer(request, Arc::clone(&state)));
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

async fn answer(
    request: Request<Incoming>,
    state: Arc<Mutex<State>>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    if request.uri().path() == "/authorize" {
        return Ok(authorize(request.headers()));
    }
    let hold = state.lock().unwrap().hold.take();
    if let Some((has_arrived, is_released)) = hold {
        let _ = has_arrived.send(());
        let _ = is_released.await;
    }
    let _ = request.into_body().collect().await;
    let (execution, reply) = {
        let mut state = state.lock().unwrap();
        state.executions += 1;
        (state.executions, state.next.pop_front())
    };
    let reply = reply.unwrap_or_else(|| Reply::status(201));
    let own = || Bytes::from(format!("{{\"execution\":{execution}}}\n"));
    let mut response = Response::new(Full::new(reply.body.unwrap_or_else(own)));
    *response.status_mut() = StatusCode::from_u16(reply.status).unwrap();
    let headers = response.headers_mut();
    headers.insert("content-type", HeaderValue::from_static("application/json"));
    headers.insert("x-execution", HeaderValue::from(execution));
    headers.extend(reply.headers);
    Ok(response)
}

/// This function is an authorizer: the account is the part of a credential before
/// the first hyphen.
fn authorize(request: &HeaderMap) -> Response<Full<Bytes>> {
    let credential = request.get("authorization").or(request.get("x-api-key"));
    let credential = credential
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let mut response = Response::new(Full::default());
    match credential.trim_start_matches("Bearer ").split_once('-') {
        Some((account, _)) => {
            for name in ["x-account", "x-company-account"] {
                response
                    .headers_mut()
                    .insert(name, account.parse().unwrap());
            }
        }
        None => *response.status_mut() = StatusCode::UNAUTHORIZED,
    }
    response
}
