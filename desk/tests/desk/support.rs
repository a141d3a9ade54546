//! A layer whose operations end in every way, and its desk.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use tower::{BoxError, ServiceExt as _};
use tower_idempotency::options::OnLapsedLease;
use tower_idempotency::store::{
    Claim, Fingerprint, Forgotten, Origin, RecordId, Release, ScopeDigest, Store as _,
};
use tower_idempotency::{Audit, IdempotencyLayer, MemoryStore, scope};
use tower_idempotency_desk::{Access, Desk, DeskObserver};

pub(crate) const SECRET: &str = "0123456789abcdef0123";

pub(crate) type Bytes = bytes::Bytes;

/// The layer under test, and how often its handler ran.
#[derive(Clone)]
pub(crate) struct Layer {
    pub(crate) own: IdempotencyLayer,
    store: MemoryStore,
    pub(crate) observer: DeskObserver,
    pub(crate) runs: Arc<AtomicU64>,
}

impl Layer {
    pub(crate) fn new() -> Self {
        let observer = DeskObserver::new();
        let store = MemoryStore::new();
        let layer = IdempotencyLayer::builder(store.clone(), scope::header("x-api-key"))
            .defaults(|options| options.on_lapsed_lease(OnLapsedLease::Refuse))
            .observer(observer.clone())
            .build()
            .unwrap();
        Self {
            own: layer,
            store,
            observer,
            runs: Arc::default(),
        }
    }

    /// Sends a request of `alice`. The handler fails for a body of `fail`, so that nobody knows what
    /// became of the operation, and never ends for `hang`.
    pub(crate) async fn send(
        &self,
        key: &str,
        body: &'static str,
    ) -> Result<(StatusCode, String), BoxError> {
        let handler = Handler(Arc::clone(&self.runs));
        let service = tower::Layer::layer(&self.own, handler);
        let request = Request::post("/payments")
            .header("idempotency-key", key)
            .header("x-api-key", "alice")
            .body(Full::new(Bytes::from_static(body.as_bytes())))
            .unwrap();
        let response = service.oneshot(request).await?;
        let status = response.status();
        let body = response
            .into_body()
            .collect()
            .await
            .map_err(|_| "broken off")?
            .to_bytes();
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    }

    /// An operation of this route whose outcome is unknown.
    pub(crate) async fn plant(&self, number: u8, route: &str) {
        let digests = (
            ScopeDigest::from_bytes([1; 32]),
            Fingerprint::from_bytes([2; 32]),
        );
        let mut claim = Claim::new(RecordId::from_bytes([number; 32]), digests.0, digests.1);
        let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        claim.origin = Origin::none().route(route).trace(trace.parse().unwrap());
        self.store.claim(&claim).await.unwrap();
        let unknown = Release::OutcomeUnknown;
        self.store
            .release(&claim.id, &claim.nonce, unknown)
            .await
            .unwrap();
    }

    /// Somebody else forgets this record.
    pub(crate) async fn forget(&self, id: &str) {
        let id = RecordId::from_hex(id).unwrap();
        let audit = Audit::new("Sam", "a test").unwrap();
        let forgotten = self.own.records().forget(&id, &audit).await.unwrap();
        assert_eq!(forgotten, Forgotten::Gone);
    }

    pub(crate) fn desk(&self, access: Access) -> Visitor {
        let builder = Desk::builder(&self.own, access).observer(self.observer.clone());
        Visitor::new(builder.build())
    }
}

/// The service behind the layer.
#[derive(Clone)]
struct Handler(Arc<AtomicU64>);

type Answer = Result<Response<Full<Bytes>>, BoxError>;

impl tower::Service<Request<Full<Bytes>>> for Handler {
    type Response = Response<Full<Bytes>>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Answer> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Full<Bytes>>) -> Self::Future {
        self.0.fetch_add(1, Ordering::SeqCst);
        Box::pin(async {
            let body = request.into_body().collect().await?.to_bytes();
            match &*body {
                b"fail" => Err(BoxError::from("broken")),
                b"hang" => std::future::pending().await,
                _ => {
                    let response = Response::builder()
                        .status(201)
                        .header("x-note", "<i>note</i>");
                    let body = Bytes::from(format!("<b>{}</b>", body.len()));
                    Ok(response.body(Full::new(body))?)
                }
            }
        })
    }
}

/// A browser, as far as a test of the service needs one.
#[derive(Clone)]
pub(crate) struct Visitor {
    pub(crate) desk: Desk,
    pub(crate) headers: HeaderMap,
}

/// A page.
pub(crate) struct Page {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl Page {
    pub(crate) fn field(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }

    /// The value of the first hidden field of this name.
    pub(crate) fn hidden(&self, name: &str) -> String {
        let (_, rest) = self
            .text
            .split_once(&format!("name=\"{name}\" value=\""))
            .unwrap_or_else(|| panic!("no {name} in {}", self.text));
        rest.split_once('"').unwrap().0.to_owned()
    }
}

impl Visitor {
    pub(crate) fn new(desk: Desk) -> Self {
        let mut headers = HeaderMap::new();
        headers.insert("host", "127.0.0.1:9464".parse().unwrap());
        Self { desk, headers }
    }

    pub(crate) fn with(&self, name: &'static str, value: &str) -> Self {
        let mut other = self.clone();
        other.headers.insert(name, value.parse().unwrap());
        other
    }

    pub(crate) async fn ask(&self, method: Method, target: &str, body: impl Into<Bytes>) -> Page {
        let mut request = Request::new(Full::new(body.into()));
        *request.method_mut() = method;
        *request.uri_mut() = target.parse().unwrap();
        *request.headers_mut() = self.headers.clone();
        let response = self.desk.clone().oneshot(request).await.unwrap();
        let (head, body) = response.into_parts();
        let text = body.collect().await.unwrap().to_bytes();
        Page {
            status: head.status,
            headers: head.headers,
            text: String::from_utf8(text.to_vec()).unwrap(),
        }
    }

    pub(crate) async fn get(&self, query: &str) -> Page {
        self.ask(Method::GET, &format!("/{query}"), "").await
    }

    pub(crate) async fn post(&self, view: &str, fields: &[(&str, &str)]) -> Page {
        let form = form_urlencoded::Serializer::new(String::new())
            .extend_pairs(fields)
            .finish();
        let visitor = self.with("content-type", "application/x-www-form-urlencoded");
        visitor
            .ask(Method::POST, &format!("/?view={view}"), form)
            .await
    }

    /// Keeps the cookie of a response, and returns the token of that session's forms.
    pub(crate) async fn arrive(&mut self) -> String {
        let page = self.get("?view=search").await;
        if let Some(cookie) = page.headers.get("set-cookie") {
            let pair = cookie.to_str().unwrap().split(';').next().unwrap();
            self.headers.insert("cookie", pair.parse().unwrap());
        }
        self.get("?view=search").await.hidden("csrf")
    }

    pub(crate) async fn log_in(&mut self) -> String {
        let page = self.post("login", &[("token", SECRET)]).await;
        assert_eq!(page.status, 303, "{}", page.text);
        let pair = page.field("set-cookie").split(';').next().unwrap();
        self.headers.insert("cookie", pair.parse().unwrap());
        self.arrive().await
    }
}

/// The fields that describe a request of `alice`.
pub(crate) fn search<'a>(csrf: &'a str, key: &'a str) -> [(&'static str, &'a str); 5] {
    [
        ("csrf", csrf),
        ("method", "post"),
        ("path", "/payments"),
        ("key", key),
        ("caller", "alice"),
    ]
}
