//! An `Api` is what clients see: the upstream behind the sidecar.

use std::net::SocketAddr;

use http::Method;

pub(crate) use crate::request::{Answer, NO_MARK, REPLAYED, Request, is_problem, is_sentence};
use crate::sidecar::Sidecar;
use crate::upstream::{Held, Reply, Upstream};

/// No store listens at this address.
const NOWHERE: &str = "redis://127.0.0.1:1/";

pub(crate) struct Api {
    file: String,
    upstream: Upstream,
    sidecar: Sidecar,
}

impl Api {
    /// Starts the API with a contract's file. The addresses are the test's own, and
    /// the memory store replaces Redis.
    pub(crate) async fn start(file: &str) -> Self {
        Self::with_store(file, "store = \"redis:", "memory:").await
    }

    /// Starts the API with a store that is out of reach.
    pub(crate) async fn start_without_store(file: &str) -> Self {
        Self::with_store(file, "store", NOWHERE).await
    }

    /// Replaces the line that begins with `instead_of` by the address of this
    /// store.
    async fn with_store(file: &str, instead_of: &str, store: &str) -> Self {
        let upstream = Upstream::start().await;
        let address = upstream.address().to_string();
        Self::at(file, instead_of, store, upstream, &address)
    }

    /// Starts the API with an address of the upstream where nothing listens.
    pub(crate) async fn start_without_upstream(file: &str) -> Self {
        let upstream = Upstream::start().await;
        Self::at(file, "store = \"redis:", "memory:", upstream, "127.0.0.1:1")
    }

    fn at(file: &str, instead_of: &str, store: &str, upstream: Upstream, address: &str) -> Self {
        let line = |line: &str| {
            if line.starts_with("listen") {
                "listen = \"127.0.0.1:0\"".to_owned()
            } else if line.starts_with("upstream") {
                format!("upstream = \"http://{address}\"")
            } else if line.starts_with(instead_of) {
                format!("store = \"{store}\"")
            } else {
                line.replace("127.0.0.1:9001", address)
            }
        };
        let lines: Vec<_> = file.lines().map(line).collect();
        Self {
            file: file.to_owned(),
            sidecar: Sidecar::start(&lines.join("\n")),
            upstream,
        }
    }

    /// Returns the contract's file, so that a test can start a variant of the file.
    pub(crate) fn file(&self) -> &str {
        &self.file
    }

    pub(crate) fn log(&self) -> String {
        self.sidecar.log()
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.sidecar.address()
    }

    /// Holds the next request back that reaches the upstream.
    pub(crate) fn holds_next(&self) -> Held {
        self.upstream.holds_next()
    }

    pub(crate) fn executions(&self) -> usize {
        self.upstream.executions()
    }

    /// Sets the upstream's response to the next request.
    pub(crate) fn answers_next(&self, reply: Reply) {
        self.upstream.answers_next(reply);
    }

    /// Checks that the published contract keeps the responses of every endpoint
    /// with keys for this many hours.
    pub(crate) async fn keeps_answers_for(&self, hours: u64) {
        self.keeps_answers_for_minutes(hours * 60).await;
    }

    pub(crate) async fn keeps_answers_for_minutes(&self, minutes: u64) {
        let api = Self::start(&format!("contract = \"/contract\"\n{}", self.file)).await;
        let published = api
            .request(Method::GET, "/contract?format=json")
            .send()
            .await
            .json();
        let endpoints = published["endpoints"].as_array().unwrap().iter();
        let kept: Vec<_> = endpoints
            .filter(|endpoint| endpoint["require"] != "ignored")
            .map(|endpoint| endpoint["retention"].as_u64())
            .collect();
        assert!(!kept.is_empty(), "{published:#}");
        assert!(
            kept.iter().all(|own| *own == Some(minutes * 60)),
            "{published:#}"
        );
    }

    pub(crate) fn post(&self, path: &str) -> Request {
        self.request(Method::POST, path)
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> Request {
        Request::new(&self.upstream, self.sidecar.address(), method, path)
    }
}
