//! What an error reports to a person who has to act on it.

use std::error::Error as _;
use std::io;
use std::time::{Duration, SystemTime};

use http::Method;
use tower_idempotency::client::{Error, ErrorKind, IdempotencyKey};

use crate::scripted::{
    Server, Step, at_once, cut_off, header, outcome_of, post, refusal, refused, request, status,
};

async fn error_of(script: impl IntoIterator<Item = Step>) -> Error {
    let server = Server::that(script);
    let layer = at_once()
        .attempts(4)
        .attempt_timeout(Duration::from_millis(1500))
        .build()
        .unwrap();
    server.ask_with(layer, post("\"ord_1\"")).await.unwrap_err()
}

/// Removes the times of the attempts, which differ in each run of the test.
fn without_times(text: &str) -> String {
    let words = text.split(' ').filter(|word| {
        let is_time = word.len() == 20 && word.ends_with('Z') && word.contains('T');
        !is_time
    });
    words.collect::<Vec<_>>().join(" ")
}

#[tokio::test(start_paused = true)]
async fn it_carries_the_key_and_every_attempt() {
    let before = SystemTime::now();
    let error = error_of([
        Step::Hang,
        Step::Answer(header(
            refusal(409, "in-flight", "same-key"),
            "retry-after",
            "1",
        )),
        Step::Answer(cut_off(201, "{")),
        Step::Late(Duration::from_millis(20), status(503)),
    ])
    .await;
    assert_eq!(error.kind(), ErrorKind::OutOfAttempts);
    assert_eq!(error.key().map(IdempotencyKey::as_str), Some("ord_1"));
    let outcomes: Vec<_> = error.attempts().iter().map(outcome_of).collect();
    assert_eq!(
        outcomes,
        ["timed out", "409 in-flight", "201 cut off", "503"]
    );
    let texts: Vec<_> = error.attempts().iter().map(ToString::to_string).collect();
    let at = texts.iter().map(|text| {
        let (time, _) = text.split_once(' ').unwrap();
        SystemTime::from(time.parse::<jiff::Timestamp>().unwrap())
    });
    let at: Vec<_> = at.collect();
    // The error's times are cut to whole seconds.
    assert!(before < at[0] + Duration::from_secs(1));
    assert!(at.is_sorted() && at[3] <= SystemTime::now());
    assert!(texts[0].contains(" after 1.5s"), "{}", texts[0]);
    let last = error.last_response().unwrap();
    assert_eq!(last.status, 503);
    // The last attempt got a response, so the error has no source.
    assert!(error.source().is_none());
}

#[tokio::test(start_paused = true)]
async fn one_line_says_all_of_it() {
    let error = error_of([
        Step::Hang,
        Step::Answer(header(
            refusal(409, "in-flight", "same-key"),
            "retry-after",
            "1",
        )),
        Step::Answer(cut_off(201, "{")),
        Step::Fail(io::Error::other(io::Error::from(io::ErrorKind::ConnectionRefused)).into()),
    ])
    .await;
    let text = error.to_string();
    assert_eq!(text.lines().count(), 1);
    assert!(!text.contains("secret"), "{text}");
    let (head, attempts) = text.split_once(": ").unwrap();
    let (head, _) = head.rsplit_once(" in ").unwrap();
    assert_eq!(
        head,
        "POST /orders with key ord_1 ran out of attempts after 4"
    );
    assert_eq!(
        without_times(attempts),
        "1. timed out after 1.5s (deadline has elapsed); 2. 409 in-flight after 0ms; \
         3. 201 cut off after 0ms (unexpected end of file); \
         4. no response after 0ms (connection refused)"
    );
    // The error gives each time to the second, in UTC.
    let first = text.split("1. ").nth(1).unwrap();
    let time: String = first.chars().take(20).collect();
    assert!(time.starts_with("20") && time.ends_with('Z'), "{time}");
    assert!(format!("{error:?}").contains("ord_1"));
}

#[tokio::test(start_paused = true)]
async fn its_source_is_the_error_of_the_last_attempt() {
    let error = error_of((0..4).map(|_| Step::Fail(refused()))).await;
    let source = error.source().unwrap().downcast_ref::<io::Error>().unwrap();
    assert_eq!(source.kind(), io::ErrorKind::ConnectionRefused);
    assert!(error.last_response().is_none());
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_helped_is_told_with_what_was_tried_before() {
    let hopeless = io::Error::from(io::ErrorKind::InvalidData);
    let error = error_of([Step::Fail(refused()), Step::Fail(hopeless.into())]).await;
    assert_eq!(error.kind(), ErrorKind::Failed);
    assert_eq!(error.attempts().len(), 2);
    let text = error.to_string();
    assert!(
        text.starts_with("POST /orders with key ord_1 failed in "),
        "{text}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_request_without_a_key_says_so() {
    let server = Server::that([Step::Hang]);
    let layer = at_once().attempts(1).build().unwrap();
    let error = server
        .ask_with(layer, request(Method::GET, None))
        .await
        .unwrap_err();
    assert!(error.key().is_none());
    assert_eq!(outcome_of(&error.attempts()[0]), "timed out");
    assert!(
        error
            .to_string()
            .starts_with("GET /orders without a key ran out of attempts")
    );
}
