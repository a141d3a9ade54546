//! Keys in bodies: a body passes as it would without a layer, and is searched once it has.

use std::fmt::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use tokio::time::sleep;
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_idempotency::options::{Mode, Require};
use tower_idempotency::rejection::RejectionCode;
use tower_idempotency::{IdempotencyLayer, MemoryStore, RequestBody, RouteOptions};

use crate::support::body::{Script, Step};
use crate::support::{answer, builder, by, without};

/// The search of a body takes a fraction of that on the slowest machine.
const LONG: Duration = Duration::from_secs(60);

type Sent = RequestBody<Script>;

fn layer(change: impl FnOnce(RouteOptions) -> RouteOptions) -> IdempotencyLayer {
    builder(&MemoryStore::new())
        .defaults(|options| change(options.mode(Mode::Observe).key_in_body(["/key"])))
        .observed_body(RequestBody::<Script>::observed)
        .build()
        .unwrap()
}

fn post(frames: &[&'static str]) -> Request<Sent> {
    let body = Script::frames(
        frames
            .iter()
            .map(|frame| Bytes::from_static(frame.as_bytes())),
    );
    let request = Request::post("/payments").header("content-type", "application/json");
    by("alice", request.body(RequestBody::new(body)).unwrap())
}

/// What a handler reads of a body: its frames, and its error.
#[derive(Clone, Default)]
struct Read(Arc<Mutex<Vec<String>>>);

impl Read {
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }

    /// A handler that reads its body to the end, and responds.
    fn handler(
        &self,
    ) -> impl Service<
        Request<Sent>,
        Response = Response<Full<Bytes>>,
        Error = std::convert::Infallible,
        Future: Send + 'static,
    > + Clone
    + Send
    + 'static {
        let read = self.clone();
        service_fn(move |request: Request<Sent>| {
            let read = read.clone();
            async move {
                let mut body = Box::pin(request.into_body());
                let hint = (body.size_hint().lower(), body.size_hint().upper());
                read.0.lock().unwrap().push(format!("{hint:?}"));
                while let Some(frame) = body.frame().await {
                    let frame = match frame {
                        Ok(frame) => format!("{:?}", frame.into_data().ok()),
                        Err(error) => error.to_string(),
                    };
                    read.0.lock().unwrap().push(frame);
                }
                Ok(answer(StatusCode::CREATED, "paid"))
            }
        })
    }
}

async fn send(layer: &IdempotencyLayer, request: Request<Sent>) {
    let service = layer.layer(Read::default().handler());
    let response = service.oneshot(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::CREATED);
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body, "paid");
}

fn told(layer: &IdempotencyLayer) -> String {
    let counts = layer.counts();
    let observed = counts.observed;
    let mut told = format!(
        "execute {}, replay {}, pass {}",
        observed.execute, observed.replay, observed.pass
    );
    for code in RejectionCode::ALL {
        if observed.reject(*code) > 0 {
            write!(told, ", {} {}", code.as_str(), observed.reject(*code)).unwrap();
        }
    }
    if observed.not_observed > 0 {
        write!(told, ", not observed {}", observed.not_observed).unwrap();
    }
    told
}

fn with(mut request: Request<Sent>, name: &'static str, value: &'static str) -> Request<Sent> {
    request.headers_mut().insert(name, value.parse().unwrap());
    request
}

#[tokio::test(start_paused = true)]
async fn what_becomes_of_a_request_is_foretold_by_the_key_in_its_body() {
    let own = layer(|options| options);
    for (request, expected) in [
        (
            post(&["{\"key\":\"a\"", ",\"n\":1}"]),
            "execute 1, replay 0, pass 0",
        ),
        (
            post(&["{\"key\":\"a\",", "\"n\":1}"]),
            "execute 1, replay 1, pass 0",
        ),
        (
            post(&["{\"key\":\"a\",\"n\":2}"]),
            "execute 1, replay 1, pass 0, key-reused 1",
        ),
        (
            by("bob", post(&["{\"key\":\"a\",\"n\":2}"])),
            "execute 2, replay 1, pass 0, key-reused 1",
        ),
        (
            post(&["{\"n\":2}"]),
            "execute 2, replay 1, pass 1, key-reused 1",
        ),
        (post(&[]), "execute 2, replay 1, pass 2, key-reused 1"),
        (
            without(post(&["{\"n\":2}"]), "x-api-key"),
            "execute 2, replay 1, pass 3, key-reused 1",
        ),
        (
            with(
                post(&["{\"key\":\"a\",\"n\":1}"]),
                "content-type",
                "text/plain",
            ),
            "execute 2, replay 1, pass 4, key-reused 1",
        ),
        (
            with(post(&["{\"n\":3}"]), "idempotency-key", "h"),
            "execute 3, replay 1, pass 4, key-reused 1",
        ),
        (
            with(post(&["{\"key\":\"h\"}"]), "idempotency-key", "other"),
            "execute 3, replay 1, pass 4, key-invalid 1, key-reused 1",
        ),
        (
            post(&["{\"key\":1}"]),
            "execute 3, replay 1, pass 4, key-invalid 2, key-reused 1",
        ),
        (
            without(post(&["{\"key\":\"a\"}"]), "x-api-key"),
            "execute 3, replay 1, pass 4, key-invalid 2, scope-missing 1, key-reused 1",
        ),
    ] {
        send(&own, request).await;
        let mut parts: Vec<_> = expected.split(", ").collect();
        let own = told(&own);
        let mut found: Vec<_> = own.split(", ").collect();
        parts.sort_unstable();
        found.sort_unstable();
        assert_eq!(found, parts);
    }

    let required = layer(|options| options.require(Require::Required));
    send(&required, post(&["{\"n\":2}"])).await;
    assert_eq!(
        told(&required),
        "execute 0, replay 0, pass 0, key-required 1"
    );
}

/// Each frame, the error and the announced length: also of what protection would have refused.
#[tokio::test(start_paused = true)]
async fn a_body_passes_as_without_a_layer() {
    let json = |step: Step| {
        let start = Step::Data(Bytes::from_static(b"{\"key\":"));
        let pause = Step::Wait(Duration::from_secs(1));
        let body = Script::new([start, pause, step, Step::Yield]).announcing(11);
        post(&[]).map(|_| RequestBody::new(body))
    };
    let whole = || Step::Data(Bytes::from_static(b"\"a\"}"));
    for (step, limit, expected) in [
        (whole as fn() -> Step, 11, "execute 1, replay 0, pass 0"),
        (whole, 10, "execute 0, replay 0, pass 0, body-too-large 1"),
        (
            || Step::Fail("broken"),
            11,
            "execute 0, replay 0, pass 0, body-unreadable 1",
        ),
    ] {
        let layer = layer(|options| options.max_request_body(limit));
        let (bare, observed) = (Read::default(), Read::default());
        bare.handler().oneshot(json(step())).await.unwrap();
        let service = layer.layer(observed.handler());
        let response = service.oneshot(json(step())).await.unwrap();
        response.into_body().collect().await.unwrap();
        let read = bare.take();
        assert!(read.len() >= 3, "{read:?}");
        assert_eq!(observed.take(), read);
        assert_eq!(told(&layer), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_does_not_wait_for_its_body_is_not_observed() {
    let layer = layer(|options| options);
    let service = layer.layer(service_fn(async |_: Request<Sent>| {
        Ok::<_, std::convert::Infallible>(answer(StatusCode::CREATED, "paid"))
    }));
    let response = service.oneshot(post(&["{\"key\":\"a\"}"])).await.unwrap();
    response.into_body().collect().await.unwrap();
    assert_eq!(told(&layer), "execute 0, replay 0, pass 0, not observed 1");
}

/// A long body is searched and digested on other threads, and nothing waits for that. The handler takes
/// until then.
#[tokio::test]
async fn a_long_body_is_observed_if_the_handler_takes_its_time() {
    let layer = layer(|options| options.max_request_body(1 << 20));
    for (length, expected) in [
        (20 << 10, "execute 1, replay 0, pass 0"),
        (20 << 10, "execute 1, replay 1, pass 0"),
        (200 << 10, "execute 2, replay 1, pass 0"),
        (200 << 10, "execute 2, replay 2, pass 0"),
    ] {
        let observing = layer.clone();
        let service = layer.layer(service_fn(move |request: Request<Sent>| {
            let observing = observing.clone();
            async move {
                request.into_body().collect().await.unwrap();
                while told(&observing) != expected {
                    sleep(Duration::from_millis(1)).await;
                }
                Ok::<_, std::convert::Infallible>(answer(StatusCode::CREATED, "paid"))
            }
        }));
        let text = format!("{{\"key\":\"{length}\",\"x\":\"{}\"}}", "x".repeat(length));
        let body = RequestBody::new(Script::frames([text]));
        let request = post(&[]).map(|_| body);
        let responds = tokio::time::timeout(LONG, service.oneshot(request));
        let response = responds.await.expect(expected).unwrap();
        response.into_body().collect().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn calls_of_mcp_are_told_from_other_messages() {
    let layer = builder(&MemoryStore::new())
        .defaults(|options| options.mcp().mode(Mode::Observe))
        .observed_body(RequestBody::<Script>::observed)
        .build()
        .unwrap();
    let message = |id: u32, method: &str| {
        let text = format!(
            r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":{{"name":"pay","arguments":{{"meta":{{"idempotency-key":"k"}}}}}}}}"#
        );
        post(&[]).map(|_| RequestBody::new(Script::frames([text])))
    };
    for (id, method, expected) in [
        (1, "tools/call", "execute 1, replay 0, pass 0"),
        (2, "tools/call", "execute 1, replay 1, pass 0"),
        (3, "tools/list", "execute 1, replay 1, pass 1"),
    ] {
        send(&layer, message(id, method)).await;
        assert_eq!(told(&layer), expected);
    }
}
