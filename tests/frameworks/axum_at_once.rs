//! axum: requests to one route at the same moment, through the layer made for axum.

use std::sync::{Arc, Condvar, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use axum::routing::post_service;
use http::Method;
use tower_idempotency::MemoryStore;

use crate::common::{protected, request, send};

/// A service whose clones are made two at a time, once it is armed.
struct InPairs(Arc<(Mutex<usize>, Condvar)>);

impl InPairs {
    const DISARMED: usize = usize::MAX / 2;
}

impl Clone for InPairs {
    fn clone(&self) -> Self {
        let (made, another) = &*self.0;
        let mut made = made.lock().unwrap();
        *made += 1;
        another.notify_all();
        let alone = |made: &mut usize| *made < 2;
        let long = Duration::from_secs(120);
        drop(another.wait_timeout_while(made, long, alone).unwrap());
        Self(Arc::clone(&self.0))
    }
}

impl tower::Service<Request> for InPairs {
    type Response = Response;
    type Error = std::convert::Infallible;
    type Future = std::future::Ready<Result<Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request) -> Self::Future {
        let (made, _) = &*self.0;
        let in_pair = *made.lock().unwrap() >= 2;
        std::future::ready(Ok(in_pair.to_string().into_response()))
    }
}

/// G8: axum clones a handler for each request, and no request waits while it does so for another.
#[test]
fn two_requests_are_given_their_handlers_at_once() {
    let made = Arc::new((Mutex::new(InPairs::DISARMED), Condvar::new()));
    let handler = post_service(InPairs(Arc::clone(&made)));
    let layer = protected(&MemoryStore::new()).for_axum();
    let app = Router::new().route("/payments", handler).layer(layer);
    let apps = [app.clone(), app];
    *made.0.lock().unwrap() = 0;
    let both = apps.map(|app| {
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().build();
            let request: Request = request(Method::POST, "/payments", "7 EUR");
            runtime
                .unwrap()
                .block_on(send(&app, request))
                .text()
                .to_owned()
        })
    });
    for seen in both {
        assert_eq!(seen.join().unwrap(), "true");
    }
}
