//! This module sends requests to an API, and checks what happens to each request.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpSocket;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::refusals::{IsError, Refused};
use crate::upstream::{Held, Upstream};

/// A replay has this mark, unless a contract has another mark or none.
pub(crate) const REPLAYED: &[(&str, &str)] = &[("idempotency-replayed", "true")];
pub(crate) const NO_MARK: &[(&str, &str)] = &[];

const ANSWERS_WITHIN: Duration = Duration::from_secs(10);
const FORGETS_WITHIN: Duration = Duration::from_secs(5);

#[derive(Clone)]
pub(crate) struct Request {
    to: SocketAddr,
    from: IpAddr,
    upstream: Upstream,
    method: Method,
    path: String,
    headers: HeaderMap,
    body: Bytes,
}

#[derive(Clone, Debug)]
pub(crate) struct Answer {
    status: u16,
    headers: HeaderMap,
    body: Bytes,
}

/// The upstream has begun to execute this request.
pub(crate) struct Running {
    held: Held,
    client: JoinHandle<Answer>,
}

impl Request {
    pub(crate) fn new(upstream: &Upstream, to: SocketAddr, method: Method, path: &str) -> Self {
        Self {
            to,
            from: Ipv4Addr::LOCALHOST.into(),
            upstream: upstream.clone(),
            method,
            path: path.to_owned(),
            headers: HeaderMap::new(),
            body: Bytes::new(),
        }
    }

    pub(crate) fn header(mut self, name: &'static str, value: &str) -> Self {
        let name = HeaderName::from_static(name);
        self.headers
            .append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        self
    }

    pub(crate) fn without(mut self, name: &'static str) -> Self {
        self.headers.remove(name);
        self
    }

    pub(crate) fn json(mut self, body: impl Into<Bytes>) -> Self {
        self.headers
            .insert("content-type", HeaderValue::from_static("application/json"));
        self.body = body.into();
        self
    }

    pub(crate) fn to(mut self, path: &str) -> Self {
        path.clone_into(&mut self.path);
        self
    }

    /// Sends the request from another of this machine's addresses, such as
    /// `127.0.0.2`. On Linux this machine has all of 127.0.0.0/8.
    pub(crate) fn from(mut self, address: &str) -> Self {
        self.from = address.parse().unwrap();
        self
    }

    pub(crate) async fn send(self) -> Answer {
        let what = format!("{} {}", self.method, self.path);
        let answered = timeout(ANSWERS_WITHIN, self.exchange()).await;
        answered.unwrap_or_else(|_| panic!("no answer to {what}"))
    }

    async fn exchange(self) -> Answer {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::new(self.from, 0)).unwrap();
        let stream = socket.connect(self.to).await.unwrap();
        let (mut client, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let mut request = http::Request::new(Full::new(self.body));
        *request.method_mut() = self.method;
        *request.uri_mut() = self.path.parse().unwrap();
        *request.headers_mut() = self.headers;
        request
            .headers_mut()
            .insert("host", HeaderValue::from_static("api.example.com"));
        let (head, body) = client.send_request(request).await.unwrap().into_parts();
        Answer {
            status: head.status.as_u16(),
            headers: head.headers,
            body: body.collect().await.unwrap().to_bytes(),
        }
    }

    /// Checks that the upstream executes the request, and that its response arrives
    /// without a mark.
    pub(crate) async fn executes(self) -> Answer {
        let upstream = self.upstream.clone();
        let before = upstream.executions();
        let answer = self.send().await;
        assert_eq!(upstream.executions(), before + 1, "{answer:?}");
        assert_eq!(
            answer.header("x-execution"),
            Some(&*(before + 1).to_string())
        );
        for mark in [
            "idempotency-replayed",
            "idempotent-replayed",
            "idempotency-status",
        ] {
            assert_eq!(answer.header(mark), None);
        }
        answer
    }

    /// Checks that nothing is executed, and that the response is `first` with these
    /// additional headers and no others.
    pub(crate) async fn replays(self, first: &Answer, marks: &[(&str, &str)]) -> Answer {
        let upstream = self.upstream.clone();
        let before = upstream.executions();
        let again = self.send().await;
        assert_eq!(upstream.executions(), before, "executed: {again:?}");
        assert_eq!(again.status, first.status);
        assert_eq!(again.body, first.body);
        let mut expected = first.headers.clone();
        for (name, value) in marks {
            let name: HeaderName = name.parse().unwrap();
            expected.insert(name, value.parse().unwrap());
        }
        assert_eq!(but_date(&again.headers), but_date(&expected));
        again
    }

    /// Checks that nothing is executed, and that the response is `first` with this JSON in its body.
    pub(crate) async fn replays_json(self, first: &Answer, expected: &Value) {
        let upstream = self.upstream.clone();
        let before = upstream.executions();
        let again = self.send().await;
        assert_eq!(upstream.executions(), before, "executed: {again:?}");
        assert_eq!(again.status, first.status);
        assert_eq!(again.json(), *expected);
        let mut headers = first.headers.clone();
        headers.insert("content-length", again.body.len().into());
        assert_eq!(but_date(&again.headers), but_date(&headers));
    }

    /// Checks that nothing is executed, and that the layer rejects the request with
    /// this status.
    pub(crate) async fn refused(self, status: u16) -> Answer {
        let upstream = self.upstream.clone();
        let before = upstream.executions();
        let answer = self.send().await;
        assert_eq!(upstream.executions(), before, "executed: {answer:?}");
        assert_eq!(answer.status, status, "{answer:?}");
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        answer
    }

    /// Checks that the request is executed each time it is sent.
    pub(crate) async fn executes_twice(self) {
        self.clone().executes().await;
        self.executes().await;
    }

    /// Checks that the request is executed, replayed, and finally executed again:
    /// the completion expires soon, however often it is replayed.
    pub(crate) async fn lapses(self) {
        let first = self.clone().executes().await;
        let deadline = Instant::now() + FORGETS_WITHIN;
        let again = loop {
            let again = self.clone().send().await;
            if again.body != first.body {
                break again;
            }
            assert!(Instant::now() < deadline, "it is still kept");
        };
        assert_eq!(again.status, first.status);
        assert_eq!(again.header("idempotency-replayed"), None);
    }

    /// Sends the request, and returns when the upstream has begun to execute the
    /// request and has not responded yet.
    pub(crate) async fn begins(self) -> Running {
        let mut held = self.upstream.holds_next();
        let client = tokio::spawn(self.send());
        held.arrived().await;
        Running { held, client }
    }
}

impl Running {
    pub(crate) async fn ends(self) -> Answer {
        self.held.let_go();
        self.client.await.unwrap()
    }
}

impl Answer {
    pub(crate) fn status(&self) -> u16 {
        self.status
    }

    /// Returns the same response with another status.
    pub(crate) fn with_status(&self, status: u16) -> Self {
        Self {
            status,
            ..self.clone()
        }
    }

    /// Returns the value of a header. The header must not occur more than once.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.get_all(name).iter();
        let value = values.next()?;
        assert!(
            values.next().is_none(),
            "{name} stands there more than once"
        );
        Some(value.to_str().unwrap())
    }

    pub(crate) fn header_names(&self) -> BTreeSet<&str> {
        self.headers.keys().map(HeaderName::as_str).collect()
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// Checks that the response is the vendor's error for this code.
    pub(crate) fn is(&self, code: &str, is_error: IsError) {
        let refused = Refused {
            code: code.to_owned(),
            status: self.status,
            content_type: self.header("content-type").unwrap_or_default().to_owned(),
            body: serde_json::from_slice(&self.body)
                .unwrap_or_else(|_| Value::String(self.text().to_owned())),
        };
        assert!(is_error(&refused), "{refused:#?}");
    }
}

/// Whether a refusal is a problem document with its code.
pub(crate) fn is_problem(refused: &Refused) -> bool {
    let Refused { body, .. } = refused;
    let source = body["source"].as_str().unwrap_or_default();
    refused.content_type == "application/problem+json"
        && body["code"] == *refused.code
        && body["status"] == refused.status
        && ["idempotency", "idempotency-sidecar"].contains(&source)
}

/// Checks that the text is a sentence for people.
pub(crate) fn is_sentence(text: &Value) {
    let text = text.as_str().unwrap_or_default();
    assert!(text.contains(' ') && text.ends_with('.'), "{text:?}");
}

/// Returns all headers but `date`, in the order of their names.
fn but_date(headers: &HeaderMap) -> Vec<(&str, &[u8])> {
    let mut all: Vec<_> = headers
        .iter()
        .filter(|(name, _)| *name != "date")
        .map(|(name, value)| (name.as_str(), value.as_bytes()))
        .collect();
    all.sort_unstable();
    all
}
