//! Streams of events: a duplicate is foretold what it would have been given.

use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Response, StatusCode};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use tokio::time::sleep;
use tower::{Layer, ServiceExt};
use tower_idempotency::options::{EventStreams, Mode, OnOversize};
use tower_idempotency::rejection::RejectionCode;
use tower_idempotency::{IdempotencyLayer, MemoryStore, RequestBody, RouteOptions};

use crate::support::body::{Script, Step};
use crate::support::{Runs, builder, handler, post};

const EVENT: &[u8] = b"data: 1\n\n";
const PAUSE: Duration = Duration::from_secs(1);

fn layer(change: impl FnOnce(RouteOptions) -> RouteOptions) -> IdempotencyLayer {
    builder(&MemoryStore::new())
        .defaults(|options| change(options.mode(Mode::Observe)))
        .observed_body(RequestBody::<Full<Bytes>>::observed)
        .build()
        .unwrap()
}

/// The body of the response to a request with one key: a stream with so many events, each after a
/// pause, and then with this end.
async fn ask(
    layer: &IdempotencyLayer,
    events: usize,
    end: fn() -> Step,
) -> impl Body<Data = Bytes, Error: std::fmt::Debug> + Unpin + use<> {
    let respond = move |_, _| {
        let events = (0..events).flat_map(|_| {
            let event = Step::Data(Bytes::from_static(EVENT));
            [Step::Wait(PAUSE), event]
        });
        let mut response = Response::new(Script::new(events).then(end()));
        let kind = "text/event-stream; charset=utf-8".parse().unwrap();
        response.headers_mut().insert(CONTENT_TYPE, kind);
        response
    };
    let service = layer.layer(handler(&Runs::default(), respond));
    let request = post("k", "paid").map(RequestBody::new);
    Box::pin(service.oneshot(request).await.unwrap().into_body())
}

fn no_end() -> Step {
    Step::Never
}

fn ends() -> Step {
    Step::Yield
}

/// What is foretold to a duplicate of a request whose stream was read to its end.
async fn foretold(layer: &IdempotencyLayer) -> String {
    for _ in 0..2 {
        let body = ask(layer, 2, ends).await;
        let whole = body.collect().await.unwrap().to_bytes();
        assert_eq!(whole, EVENT.repeat(2));
    }
    told(layer)
}

fn told(layer: &IdempotencyLayer) -> String {
    let observed = layer.counts().observed;
    let refused = |code| observed.reject(code);
    format!(
        "execute {}, replay {}, in-flight {}, response-unavailable {}",
        observed.execute,
        observed.replay,
        refused(RejectionCode::InFlight),
        refused(RejectionCode::ResponseUnavailable)
    )
}

const REPLAY: &str = "execute 1, replay 1, in-flight 0, response-unavailable 0";
const SEALED: &str = "execute 1, replay 0, in-flight 0, response-unavailable 1";
const AGAIN: &str = "execute 2, replay 0, in-flight 0, response-unavailable 0";

#[tokio::test(start_paused = true)]
async fn a_stream_that_would_be_recorded_is_foretold_as_a_replay() {
    let records = |options: RouteOptions| options.event_streams(EventStreams::Record);
    assert_eq!(foretold(&layer(records)).await, REPLAY);
    assert_eq!(foretold(&layer(|options| options)).await, SEALED);
    let small = 2 * EVENT.len() - 1;
    let too_small = layer(|options| records(options).max_recorded_body(small));
    assert_eq!(foretold(&too_small).await, SEALED);
    let rerun = layer(|options| {
        let options = records(options).max_recorded_body(small);
        options.oversize(OnOversize::Rerun)
    });
    assert_eq!(foretold(&rerun).await, AGAIN);
}

/// Protected, the operation ends at the limit and not with the stream, which may stay open for hours.
#[tokio::test(start_paused = true)]
async fn a_stream_that_stays_open_is_in_flight_until_it_reaches_the_limit() {
    let layer = layer(|options| {
        options
            .event_streams(EventStreams::Record)
            .max_recorded_body(EVENT.len())
    });
    let mut open = ask(&layer, 2, no_end).await;
    for expected in [
        "execute 1, replay 0, in-flight 1, response-unavailable 0",
        "execute 1, replay 0, in-flight 1, response-unavailable 1",
    ] {
        open.frame().await.unwrap().unwrap();
        sleep(PAUSE / 2).await;
        drop(ask(&layer, 0, ends).await);
        sleep(PAUSE / 2).await;
        assert_eq!(told(&layer), expected);
    }
}

/// An upgrade is no stream, whatever its content type.
#[tokio::test(start_paused = true)]
async fn an_upgrade_is_not_waited_for() {
    let layer = layer(|options| options.event_streams(EventStreams::Record));
    for _ in 0..2 {
        let service = layer.layer(handler(&Runs::default(), |_, _| {
            let mut response = Response::new(Script::new([Step::Never]));
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            let kind = "text/event-stream".parse().unwrap();
            response.headers_mut().insert(CONTENT_TYPE, kind);
            response
        }));
        let request = post("k", "paid").map(RequestBody::new);
        let response = service.oneshot(request).await.unwrap();
        sleep(PAUSE).await;
        drop(response);
    }
    assert_eq!(told(&layer), SEALED);
}
