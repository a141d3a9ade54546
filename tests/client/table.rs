//! After which results the client sends a request again.

use std::io;

use http::Method;
use tower_idempotency::client::{ClientLayer, Error};
use tower_idempotency::recording::Statuses;

use crate::scripted::{
    Server, Step, at_once, cut_off, header, problem, refusal, refused, request, status,
};

type Outcome = fn() -> Step;

/// The results after which the client tries again.
const AGAIN: &[(&str, Outcome)] = &[
    ("no connection", || Step::Fail(refused())),
    ("too late", || Step::Hang),
    ("cut off", || Step::Answer(cut_off(201, "{\"id\":"))),
    ("408", || Step::Answer(status(408))),
    ("425", || Step::Answer(status(425))),
    ("429", || Step::Answer(status(429))),
    ("500", || Step::Answer(status(500))),
    ("502", || Step::Answer(status(502))),
    ("503", || Step::Answer(status(503))),
    ("504", || Step::Answer(status(504))),
    ("in-flight", || {
        Step::Answer(refusal(409, "in-flight", "same-key"))
    }),
    ("body-unreadable", || {
        Step::Answer(refusal(400, "body-unreadable", "same-key"))
    }),
    ("store-unavailable", || {
        Step::Answer(refusal(503, "store-unavailable", "same-key"))
    }),
    ("in-flight with a status of the API's own", || {
        Step::Answer(refusal(423, "in-flight", "same-key"))
    }),
    ("in-flight of another server", || {
        Step::Answer(header(status(409), "retry-after", "1"))
    }),
    ("a code from the future that says same-key", || {
        Step::Answer(refusal(400, "moon-phase", "same-key"))
    }),
    ("an advice from the future, by its code", || {
        Step::Answer(refusal(409, "in-flight", "other-moon"))
    }),
    (
        "an advice and a code from the future, by the status",
        || Step::Answer(refusal(503, "moon-phase", "other-moon")),
    ),
];

/// The results after which the client does not try again.
const DONE: &[(&str, Outcome)] = &[
    ("200", || Step::Answer(status(200))),
    ("201", || Step::Answer(status(201))),
    ("302", || Step::Answer(status(302))),
    ("400", || Step::Answer(status(400))),
    ("401", || Step::Answer(status(401))),
    ("404", || Step::Answer(status(404))),
    ("409 of the operation", || Step::Answer(status(409))),
    ("409 whose Retry-After says nothing", || {
        Step::Answer(header(status(409), "retry-after", "soon"))
    }),
    ("422", || Step::Answer(status(422))),
    ("501", || Step::Answer(status(501))),
    ("505", || Step::Answer(status(505))),
    ("a replay, whatever its status", || {
        Step::Answer(header(status(503), "idempotency-replayed", "true"))
    }),
    ("a replay of what looks like a refusal", || {
        let refusal = refusal(409, "in-flight", "same-key");
        Step::Answer(header(refusal, "idempotency-replayed", "true"))
    }),
    ("key-reused", || {
        Step::Answer(refusal(422, "key-reused", "new-key"))
    }),
    ("key-reused with a status that passes", || {
        Step::Answer(refusal(503, "key-reused", "new-key"))
    }),
    ("key-reused as 409 with Retry-After", || {
        let refusal = refusal(409, "key-reused", "new-key");
        Step::Answer(header(refusal, "retry-after", "1"))
    }),
    ("key-invalid", || {
        Step::Answer(refusal(400, "key-invalid", "new-key"))
    }),
    ("response-unavailable", || {
        Step::Answer(refusal(409, "response-unavailable", "never"))
    }),
    ("outcome-unknown, until somebody found out", || {
        Step::Answer(refusal(409, "outcome-unknown", "same-key"))
    }),
    ("a code from the future that says never", || {
        Step::Answer(refusal(503, "moon-phase", "never"))
    }),
    ("a refusal of a published shape, without `source`", || {
        let document = r#"{"code":"E1042","retry":"never"}"#;
        Step::Answer(problem(503, document))
    }),
    ("an advice and nothing else", || {
        Step::Answer(problem(503, r#"{"retry":"new-key"}"#))
    }),
];

async fn attempts(layer: ClientLayer, method: &Method, key: Option<&str>, first: Step) -> usize {
    let server = Server::that([first]);
    server
        .ask_with(layer, request(method.clone(), key))
        .await
        .ok();
    server.count()
}

/// Sends a request without a key. A POST or PATCH without the header would get
/// a key, so these have an empty header: that is no key, and the client leaves
/// it as it is.
async fn without_key(method: &Method, first: Step) -> (usize, Result<u16, Error>) {
    let draws_a_key = [Method::POST, Method::PATCH].contains(method);
    let server = Server::that([first]);
    let layer = at_once().build().unwrap();
    let request = request(method.clone(), draws_a_key.then_some(""));
    let answered = server.ask_with(layer, request).await;
    (
        server.count(),
        answered.map(|response| response.status().as_u16()),
    )
}

#[tokio::test(start_paused = true)]
async fn what_may_have_come_to_nothing_is_sent_again_if_it_has_a_key() {
    for method in [Method::POST, Method::PATCH, Method::PUT, Method::GET] {
        for (what, outcome) in AGAIN {
            let layer = at_once().build().unwrap();
            let count = attempts(layer, &method, Some("k"), outcome()).await;
            assert_eq!(count, 2, "{method} after {what}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_retry_cannot_change_is_handed_on() {
    for method in [Method::POST, Method::PUT] {
        for (what, outcome) in DONE {
            let layer = at_once().build().unwrap();
            let count = attempts(layer, &method, Some("k"), outcome()).await;
            assert_eq!(count, 1, "{method} after {what}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_key_only_methods_that_are_safe_to_repeat_are_repeated() {
    let all = AGAIN.iter().chain(DONE);
    for (what, outcome) in all {
        for (method, repeats) in [
            (Method::GET, true),
            (Method::HEAD, true),
            (Method::OPTIONS, true),
            (Method::TRACE, true),
            (Method::PUT, true),
            (Method::DELETE, true),
            (Method::POST, false),
            (Method::PATCH, false),
            (Method::CONNECT, false),
            (Method::from_bytes(b"CHARGE").unwrap(), false),
        ] {
            let calls = AGAIN.iter().any(|(name, _)| name == what);
            let (count, _) = without_key(&method, outcome()).await;
            let expected = if repeats && calls { 2 } else { 1 };
            assert_eq!(count, expected, "{method} after {what}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_must_not_be_repeated_is_handed_on_as_it_came() {
    let (_, answered) = without_key(&Method::POST, Step::Answer(status(503))).await;
    assert_eq!(answered.unwrap(), 503);
    let (_, answered) = without_key(&Method::POST, Step::Fail(refused())).await;
    let error = answered.unwrap_err();
    assert!(error.key().is_none());
    assert_eq!(error.attempts().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_key_that_is_none_protects_nothing() {
    for wrong in ["", " ", "\"open", "a\tb"] {
        let layer = at_once().build().unwrap();
        let count = attempts(layer, &Method::POST, Some(wrong), Step::Fail(refused())).await;
        assert_eq!(count, 1, "{wrong:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn statuses_are_as_configured() {
    let statuses = Statuses::none().with([418, 503]);
    let layer = at_once().retry_statuses(statuses).build().unwrap();
    for (first, count) in [(418, 2), (503, 2), (500, 1), (429, 1)] {
        let step = Step::Answer(status(first));
        let attempts = attempts(layer.clone(), &Method::POST, Some("k"), step).await;
        assert_eq!(attempts, count, "{first}");
    }
}

#[tokio::test(start_paused = true)]
async fn errors_that_cannot_be_helped_are_told_at_once() {
    use io::ErrorKind;

    let wrapped = |inner: io::Error| io::Error::other(inner);
    for (error, count) in [
        (io::Error::from(ErrorKind::ConnectionRefused), 2),
        (ErrorKind::ConnectionReset.into(), 2),
        (ErrorKind::ConnectionAborted.into(), 2),
        (ErrorKind::BrokenPipe.into(), 2),
        (ErrorKind::UnexpectedEof.into(), 2),
        (ErrorKind::TimedOut.into(), 2),
        (ErrorKind::HostUnreachable.into(), 2),
        (ErrorKind::NetworkUnreachable.into(), 2),
        (wrapped(ErrorKind::ConnectionReset.into()), 2),
        (ErrorKind::InvalidInput.into(), 1),
        (ErrorKind::InvalidData.into(), 1),
        (ErrorKind::PermissionDenied.into(), 1),
        (ErrorKind::Unsupported.into(), 1),
        (wrapped(ErrorKind::InvalidData.into()), 1),
        // The connection was reset because a certificate is not trusted.
        (
            io::Error::new(
                ErrorKind::ConnectionReset,
                io::Error::from(ErrorKind::InvalidData),
            ),
            1,
        ),
        (io::Error::other("what nobody knows"), 1),
    ] {
        let what = format!("{error:?}");
        let layer = at_once().build().unwrap();
        let step = Step::Fail(error.into());
        let attempts = attempts(layer, &Method::POST, Some("k"), step).await;
        assert_eq!(attempts, count, "{what}");
    }
}

#[tokio::test(start_paused = true)]
async fn timeouts_of_tokio_and_tower_are_transient() {
    use std::time::Duration;

    let never = std::future::pending::<()>();
    let elapsed = tokio::time::timeout(Duration::ZERO, never).await;
    for error in [
        elapsed.unwrap_err().into(),
        tower::timeout::error::Elapsed::new().into(),
    ] {
        let layer = at_once().build().unwrap();
        let step = Step::Fail(error);
        assert_eq!(attempts(layer, &Method::POST, Some("k"), step).await, 2);
    }
}

#[tokio::test(start_paused = true)]
async fn which_errors_are_transient_can_be_said_otherwise() {
    #[derive(Debug)]
    struct Expired;

    impl std::fmt::Display for Expired {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("the token has expired")
        }
    }

    impl std::error::Error for Expired {}

    let layer = at_once()
        .retry_errors(<dyn std::error::Error>::is::<Expired>)
        .build()
        .unwrap();
    for (error, count) in [(Expired.into(), 2), (refused(), 1)] {
        let step = Step::Fail(error);
        let attempts = attempts(layer.clone(), &Method::POST, Some("k"), step).await;
        assert_eq!(attempts, count);
    }
    // A timeout or a response is not an error of the HTTP client, so the
    // function is not called.
    for step in [Step::Hang, Step::Answer(cut_off(200, "a"))] {
        let attempts = attempts(layer.clone(), &Method::POST, Some("k"), step).await;
        assert_eq!(attempts, 2);
    }
}
