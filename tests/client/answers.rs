//! Responses that are read to their end, responses that never end, and bodies
//! that try to harm the client.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http_body::{Body, Frame};
use http_body_util::{BodyExt, StreamBody};
use serde_json::json;
use tower_idempotency::client::Received;
use tower_idempotency::rejection::{RejectionCode, Retry};

use crate::scripted::{
    AnyBody, Server, Step, at_once, cut_off, header, outcome_of, post, problem, refusal, status,
    text, with_body,
};

const MIB: usize = 1 << 20;

/// A response of frames of a megabyte without end, and the number of frames
/// that the client has read.
fn endless(status: u16, content_type: &str) -> (Response<AnyBody>, Arc<AtomicUsize>) {
    let taken = Arc::<AtomicUsize>::default();
    let counted = Arc::clone(&taken);
    let page = Bytes::from(vec![b' '; MIB]);
    let frames = std::iter::repeat_with(move || {
        counted.fetch_add(1, Ordering::Relaxed);
        Ok(Frame::data(page.clone()))
    });
    let body = StreamBody::new(tokio_stream::iter(frames));
    let response = with_body(status, "").map(|_| BodyExt::boxed(body));
    (header(response, "content-type", content_type), taken)
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_breaks_off_is_none() {
    let server = Server::that([
        Step::Answer(cut_off(201, "")),
        Step::Answer(cut_off(201, "{\"id\":")),
        Step::Answer(with_body(201, "{\"id\":1}")),
    ]);
    let answered = server.ask(post("k")).await;
    let received = answered.as_ref().unwrap().extensions().get::<Received>();
    let attempts = received.unwrap().attempts();
    let attempts: Vec<_> = attempts.iter().map(outcome_of).collect();
    assert_eq!(attempts, ["201 cut off", "201 cut off", "201"]);
    let whole = answered.as_ref().unwrap().body().whole().cloned();
    assert_eq!(whole.unwrap(), "{\"id\":1}");
    assert_eq!(text(answered).await, "{\"id\":1}");
}

#[tokio::test]
async fn frames_and_trailers_come_as_they_were_sent() {
    let mut trailers = http::HeaderMap::new();
    trailers.insert("sum", "7".parse().unwrap());
    let frames = [
        Ok(Frame::data(Bytes::from("one"))),
        Ok(Frame::data(Bytes::from("two"))),
        Ok(Frame::trailers(trailers.clone())),
    ];
    let body = StreamBody::new(tokio_stream::iter(frames));
    let response = status(200).map(|_| BodyExt::boxed(body));
    let server = Server::that([Step::Answer(response)]);
    let body = server.ask(post("k")).await.unwrap().into_body();
    assert!(!body.is_end_stream());
    assert_eq!(body.size_hint().exact(), Some(6));
    let collected = body.collect().await.unwrap();
    assert_eq!(collected.trailers(), Some(&trailers));
    assert_eq!(collected.to_bytes(), "onetwo");
}

#[tokio::test]
async fn a_long_answer_is_handed_on_after_what_is_read_ahead() {
    let layer = at_once().max_response_body(10).build().unwrap();
    for (longer, is_whole) in [(false, true), (true, false)] {
        let mut all = vec!["12345", "67890"];
        all.extend(longer.then_some("abc"));
        let frames = all
            .clone()
            .into_iter()
            .map(|data| Ok(Frame::data(Bytes::from(data))));
        let body = StreamBody::new(tokio_stream::iter(frames.collect::<Vec<_>>()));
        let response = status(200).map(|_| BodyExt::boxed(body));
        let server = Server::that([Step::Answer(response)]);
        let answered = server.ask_with(layer.clone(), post("k")).await;
        let whole = answered.as_ref().unwrap().body().whole();
        assert_eq!(whole.is_some(), is_whole);
        assert_eq!(text(answered).await, all.concat());
    }
}

#[tokio::test]
async fn what_breaks_off_after_what_is_read_ahead_is_the_readers_to_see() {
    let layer = at_once().max_response_body(4).build().unwrap();
    let server = Server::that([Step::Answer(cut_off(200, "12345"))]);
    let answered = server.ask_with(layer, post("k")).await.unwrap();
    assert!(answered.body().whole().is_none());
    let mut body = pin!(answered.into_body());
    let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(first, "12345");
    assert!(body.frame().await.unwrap().is_err());
    assert_eq!(server.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_answer_without_an_end_is_handed_on_at_once() {
    let events = StreamBody::new(tokio_stream::pending());
    let events = status(200).map(|_| BodyExt::boxed(events));
    let events = header(events, "content-type", "text/event-stream; charset=utf-8");
    let server = Server::that([Step::Answer(events)]);
    let soon = tokio::time::timeout(Duration::from_millis(1), server.ask(post("k")));
    let answered = soon.await.unwrap().unwrap();
    assert!(answered.body().whole().is_none());
}

#[tokio::test]
async fn no_more_than_a_limit_is_held_of_a_body_that_never_ends() {
    for kind in ["application/problem+json", "text/html"] {
        let (page, taken) = endless(409, kind);
        let server = Server::that([Step::Answer(page)]);
        let answered = server.ask(post("k")).await.unwrap();
        assert_eq!(answered.status(), 409);
        assert!(answered.body().whole().is_none());
        // The client reads up to its limit, and with it the frame that goes
        // beyond the limit.
        assert_eq!(taken.load(Ordering::Relaxed), 2);
        let (page, taken) = endless(503, kind);
        let server = Server::that([Step::Answer(page)]);
        assert_eq!(
            server
                .ask_with(at_once().build().unwrap(), post("k"))
                .await
                .unwrap()
                .status(),
            200
        );
        assert_eq!((server.count(), taken.load(Ordering::Relaxed)), (2, 2));
    }
}

/// Whether the client sends again after this 409. A 409 is final unless its
/// body says otherwise.
async fn asked_again(answer: Response<AnyBody>) -> bool {
    let server = Server::that([Step::Answer(answer)]);
    let layer = at_once().build().unwrap();
    server.ask_with(layer, post("k")).await.unwrap();
    server.count() == 2
}

#[tokio::test]
async fn a_body_that_is_no_refusal_says_nothing() {
    let same = || json!({ "code": "in-flight", "retry": "same-key", "source": "idempotency" });
    assert!(asked_again(problem(409, same())).await);
    // The member `retry` counts, whatever the other members contain.
    let beside = json!({ "code": ["in-flight"], "retry": "same-key", "source": 1 });
    assert!(asked_again(problem(409, beside)).await);
    let nested = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
    let padded = format!("{}{}", same(), " ".repeat(64 << 10));
    for hostile in [
        String::new(),
        "{".to_owned(),
        "null".to_owned(),
        "[]".to_owned(),
        "\"in-flight\"".to_owned(),
        nested,
        padded,
        format!("{} trailing", same()),
        json!({ "code": null, "retry": null, "source": "idempotency" }).to_string(),
        json!({ "code": 409, "retry": true, "source": "idempotency" }).to_string(),
        json!([same()]).to_string(),
        json!({ "error": same() }).to_string(),
        // The operation's own response says `in-flight`, but the layer is not
        // its source.
        json!({ "code": "in-flight", "source": "the warehouse" }).to_string(),
        json!({ "code": "in-flight" }).to_string(),
        json!({ "code": "moon-phase", "retry": "Same-Key", "source": "idempotency" }).to_string(),
        json!({ "code": "moon-phase", "retry": ["same-key"] }).to_string(),
    ] {
        let shown = hostile.chars().take(80).collect::<String>();
        assert!(!asked_again(problem(409, hostile)).await, "{shown}");
    }
    let mut broken = same().to_string().into_bytes();
    broken[12] = 0xff;
    let not_text = header(
        with_body(409, broken),
        "content-type",
        "application/problem+json",
    );
    assert!(!asked_again(not_text).await);
    for (kind, reads) in [
        ("application/problem+json; charset=utf-8", true),
        ("APPLICATION/JSON", true),
        ("text/html", false),
        ("application/problem+xml", false),
    ] {
        let answer = header(problem(409, same()), "content-type", kind);
        assert_eq!(asked_again(answer).await, reads, "{kind}");
    }
}

#[tokio::test]
async fn a_refusal_comes_back_typed() {
    let received = |answer| async {
        let server = Server::that([Step::Answer(answer)]);
        let answered = server.ask(post("k")).await.unwrap();
        answered.extensions().get::<Received>().unwrap().clone()
    };
    let reused = received(refusal(422, "key-reused", "new-key")).await;
    let reused = reused.problem().unwrap();
    assert_eq!(reused.code(), "key-reused");
    assert_eq!(reused.known_code(), Some(RejectionCode::KeyReused));
    assert_eq!(reused.retry(), Some(Retry::NewKey));
    assert_eq!(reused.detail(), "The detail.");
    assert_eq!(reused.to_string(), "key-reused: The detail.");

    let unknown = received(refusal(400, "moon-phase", "never")).await;
    let unknown = unknown.problem().unwrap();
    assert_eq!(
        (unknown.known_code(), unknown.retry()),
        (None, Some(Retry::Never))
    );

    // A replay of the operation's own response is no rejection, and neither is
    // a success.
    let replay = refusal(422, "key-reused", "new-key");
    let replay = received(header(replay, "idempotency-replayed", "true")).await;
    assert!(replay.is_replay() && replay.problem().is_none());
    let success = received(refusal(200, "key-reused", "new-key")).await;
    assert!(success.problem().is_none());
}

#[tokio::test]
async fn every_refusal_of_the_layer_is_understood() {
    use tower_idempotency::rejection::Rejection;

    for code in RejectionCode::ALL {
        let (head, body) = Rejection::new(*code, "Why.").problem().into_parts();
        let mut answer = with_body(head.status.as_u16(), body);
        *answer.headers_mut() = head.headers;
        let server = Server::that([Step::Answer(answer)]);
        let layer = at_once().build().unwrap();
        let answered = server.ask_with(layer, post("k")).await.unwrap();
        let again = code.retry() == Retry::SameKey && *code != RejectionCode::OutcomeUnknown;
        assert_eq!(server.count(), if again { 2 } else { 1 }, "{code}");
        if !again {
            let received = answered.extensions().get::<Received>().unwrap();
            let refusal = received.problem().unwrap();
            assert_eq!(refusal.known_code(), Some(*code));
            assert_eq!(refusal.retry(), Some(code.retry()));
        }
    }
}
