//! The options `record`, `skip_types` and `record_headers`, and the handler's
//! own decision.

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::Full;
use tower::Layer;
use tower_idempotency::recording::{RecordHeaders, RecordRule, Recording, ResponseHead, Statuses};
use tower_idempotency::{MemoryStore, RouteOptions};

use crate::support::body::{Script, Step};
use crate::support::{Runs, Seen, answer, handler, post, send, with_policy};

/// Whether a response is recorded with these options: a retry then gets a
/// replay of it, and otherwise executes again.
async fn is_recorded<B>(
    change: impl FnOnce(RouteOptions) -> RouteOptions,
    answer: impl Fn() -> Response<B> + Clone + Send + 'static,
) -> bool
where
    B: http_body::Body<Data: Send, Error: std::error::Error + Send + Sync> + Send + 'static,
{
    let runs = Runs::default();
    let app = with_policy(&MemoryStore::new(), change).layer(handler(&runs, move |_, _| answer()));
    let first = send(&app, post("k", "{}")).await;
    let retry = send(&app, post("k", "{}")).await;
    if retry.is_replay() {
        retry.assert_replays(&first);
    }
    assert_eq!(runs.count(), if retry.is_replay() { 1 } else { 2 });
    retry.is_replay()
}

fn status(status: u16) -> Response<Full<Bytes>> {
    answer(StatusCode::from_u16(status).unwrap(), "answer")
}

fn of_type(content_type: &'static str, status: u16) -> Response<Full<Bytes>> {
    let mut response = self::status(status);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, content_type.parse().unwrap());
    response
}

#[tokio::test]
async fn by_default_what_is_settled_is_recorded_and_what_may_pass_is_not() {
    for code in 200..=999 {
        let recorded = is_recorded(|options| options, move || status(code)).await;
        let settled =
            code < 500 && ![307, 308, 401, 403, 407, 408, 417, 421, 425, 429].contains(&code);
        assert_eq!(recorded, settled, "{code}");
    }
}

/// A gRPC response has the HTTP status 200. Its gRPC status is in the trailers
/// or, if the response has no body, in the headers.
#[tokio::test]
async fn of_grpc_answers_the_grpc_status_counts() {
    fn in_trailers(code: &'static str) -> Response<Script> {
        let body = Script::frames(["message"]).and_trailer("grpc-status", code);
        let mut response = Response::new(body);
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, "application/grpc+proto".parse().unwrap());
        response
    }
    fn in_headers(code: &'static str) -> Response<Full<Bytes>> {
        let mut response = of_type("application/grpc", 200);
        let headers = response.headers_mut();
        headers.insert("grpc-status", code.parse().unwrap());
        response
    }
    const CODES: [&str; 17] = [
        "0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "14", "15", "16",
    ];
    for code in CODES {
        let settled = !["1", "2", "4", "7", "8", "10", "13", "14", "15", "16"].contains(&code);
        let got = is_recorded(|options| options, move || in_trailers(code)).await;
        assert_eq!(got, settled, "{code} in trailers");
        let got = is_recorded(|options| options, move || in_headers(code)).await;
        assert_eq!(got, settled, "{code} in headers");
    }
    // A response without a gRPC status, or with a number that gRPC does not
    // define, counts as `Unknown`.
    let none = || of_type("application/grpc", 200);
    assert!(!is_recorded(|options| options, none).await);
    assert!(!is_recorded(|options| options, || in_trailers("4711")).await);
    let ok_only =
        |options: RouteOptions| options.record(Statuses::all().without_grpc(..).with_grpc(0));
    assert!(is_recorded(ok_only, || in_trailers("0")).await);
    assert!(!is_recorded(ok_only, || in_trailers("5")).await);
}

#[tokio::test]
async fn statuses_are_a_list_a_range_or_all() {
    type Make = fn() -> Statuses;
    let rows: [(Make, u16, bool); 8] = [
        (|| Statuses::none().with(200..300), 299, true),
        (|| Statuses::none().with(200..300), 300, false),
        (|| Statuses::none().with([201, 409]), 409, true),
        (|| Statuses::none().with([201, 409]), 202, false),
        (|| Statuses::all().without(429), 500, true),
        (|| Statuses::all().without(429), 429, false),
        (|| Statuses::default().without(404), 404, false),
        (Statuses::none, 200, false),
    ];
    for (statuses, code, expected) in rows {
        let change = |options: RouteOptions| options.record(statuses());
        let got = is_recorded(change, move || status(code)).await;
        assert_eq!(got, expected, "{code} of {:?}", statuses());
    }
}

#[tokio::test]
async fn a_closure_or_a_type_can_decide_what_is_recorded() {
    struct NotTransient;
    impl RecordRule for NotTransient {
        fn records(&self, answer: &ResponseHead<'_>) -> bool {
            !answer.headers().contains_key("transient")
        }
    }
    let transient = || {
        let mut response = status(200);
        let headers = response.headers_mut();
        headers.insert("transient", "1".parse().unwrap());
        response
    };
    let by_type = |options: RouteOptions| options.record(NotTransient);
    assert!(is_recorded(by_type, || status(500)).await);
    assert!(!is_recorded(by_type, transient).await);

    let by_closure = |options: RouteOptions| {
        options.record(|answer: &ResponseHead<'_>| {
            answer.status().is_server_error()
                || answer.trailers().is_some_and(|t| t.contains_key("keep"))
        })
    };
    let with_trailer = || Response::new(Script::frames(["body"]).and_trailer("keep", "1"));
    assert!(is_recorded(by_closure, || status(503)).await);
    assert!(!is_recorded(by_closure, || status(200)).await);
    assert!(is_recorded(by_closure, with_trailer).await);
}

#[tokio::test]
async fn skipped_types_are_never_recorded() {
    let skip = |options: RouteOptions| options.skip_types(["Application/PDF", " image/* "]);
    for (content_type, recorded) in [
        ("application/pdf", false),
        ("application/PDF; version=2", false),
        ("application/pdfx", true),
        ("image/png", false),
        ("IMAGE/SVG+xml;charset=utf-8", false),
        ("imagery/png", true),
        ("text/plain", true),
        ("", true),
    ] {
        let got = is_recorded(skip, move || of_type(content_type, 200)).await;
        assert_eq!(got, recorded, "{content_type:?}");
    }
    assert!(is_recorded(skip, || status(200)).await, "none at all");
}

#[tokio::test]
async fn every_type_can_be_skipped() {
    let everything = |options: RouteOptions| options.skip_types(["*/*"]);
    assert!(!is_recorded(everything, || of_type("text/plain", 200)).await);
}

#[tokio::test]
async fn the_handlers_word_beats_policies() {
    fn saying(word: Recording, mut response: Response<Full<Bytes>>) -> Response<Full<Bytes>> {
        response.extensions_mut().insert(word);
        response
    }
    let options = |options: RouteOptions| options.skip_types(["application/pdf"]);
    assert!(is_recorded(options, || saying(Recording::Keep, status(503))).await);
    let pdf = || saying(Recording::Keep, of_type("application/pdf", 200));
    assert!(is_recorded(options, pdf).await);
    assert!(!is_recorded(options, || saying(Recording::Skip, status(201))).await);
    let all = |options: RouteOptions| options.record(|_: &ResponseHead<'_>| true);
    assert!(!is_recorded(all, || saying(Recording::Skip, status(201))).await);
}

/// The first client gets the response, whatever its status, and no other does.
#[tokio::test]
async fn an_operation_whose_handler_seals_it_has_happened() {
    for code in [201, 502] {
        let runs = Runs::default();
        let layer = with_policy(&MemoryStore::new(), |options| {
            options.in_doubt(Statuses::all())
        });
        let app = layer.layer(handler(&runs, move |_, _| {
            let mut response = status(code);
            response.extensions_mut().insert(Recording::Seal);
            response
        }));
        let first = send(&app, post("k", "{}")).await;
        assert_eq!((first.status, first.lacks()), (code, None));
        let retry = send(&app, post("k", "{}")).await;
        assert_eq!(retry.refusal(), "409 response-unavailable");
        assert_eq!(runs.count(), 1);
    }
}

/// The responses to a request and to its retry, from a handler that sends these
/// headers.
async fn first_and_replay(
    change: impl FnOnce(RouteOptions) -> RouteOptions,
    headers: &'static [(&'static str, &'static str)],
) -> (Seen, Seen) {
    let runs = Runs::default();
    let app = with_policy(&MemoryStore::new(), change).layer(handler(
        &runs,
        move |_, _: Request<Bytes>| {
            let mut response = answer(StatusCode::OK, "answer");
            for (name, value) in headers {
                response.headers_mut().append(*name, value.parse().unwrap());
            }
            response
        },
    ));
    let first = send(&app, post("k", "{}")).await;
    let replay = send(&app, post("k", "{}")).await;
    replay.assert_replays(&first);
    (first, replay)
}

fn names(headers: &HeaderMap) -> Vec<&str> {
    let mut names: Vec<_> = headers.keys().map(http::HeaderName::as_str).collect();
    names.sort_unstable();
    names.retain(|name| *name != "idempotency-replayed");
    names
}

const SENT: [(&str, &str); 17] = [
    ("content-type", "text/plain"),
    ("etag", "\"1\""),
    ("location", "/payments/1"),
    ("x-many", "1"),
    ("x-many", "2"),
    ("trailer", "checksum"),
    ("date", "Tue, 15 Nov 1994 08:12:31 GMT"),
    ("set-cookie", "a=1"),
    ("set-cookie", "b=2"),
    ("www-authenticate", "Basic"),
    ("connection", "keep-alive, X-Hop"),
    ("x-hop", "1"),
    ("keep-alive", "timeout=5"),
    ("te", "trailers"),
    ("transfer-encoding", "chunked"),
    ("upgrade", "h2c"),
    ("proxy-connection", "keep-alive"),
];

#[tokio::test]
async fn by_default_headers_of_one_connection_or_one_client_are_not_recorded() {
    let (first, replay) = first_and_replay(|options| options, &SENT).await;
    let sent: std::collections::BTreeSet<_> = SENT.map(|(name, _)| name).into();
    assert!(names(&first.headers).into_iter().eq(sent), "all delivered");
    assert_eq!(
        names(&replay.headers),
        ["content-type", "etag", "location", "trailer", "x-many"]
    );
    let many: Vec<_> = replay.headers.get_all("x-many").iter().collect();
    assert_eq!(many, ["1", "2"]);
}

#[tokio::test]
async fn recorded_headers_are_those_that_are_allowed_or_not_denied() {
    let deny = RecordHeaders::deny(["ETag", "X-Many"]);
    let (_, replay) = first_and_replay(|options| options.record_headers(deny), &SENT).await;
    assert_eq!(
        names(&replay.headers),
        [
            "content-type",
            "date",
            "location",
            "set-cookie",
            "trailer",
            "www-authenticate"
        ]
    );
    // An application can't allow hop-by-hop fields.
    let allow = RecordHeaders::allow(["Location", "connection", "x-hop", "upgrade", "x-other"]);
    let (_, replay) = first_and_replay(|options| options.record_headers(allow), &SENT).await;
    assert_eq!(
        names(&replay.headers),
        ["content-type", "location", "trailer"]
    );
    let nothing = RecordHeaders::allow(Vec::<String>::new());
    let (_, replay) = first_and_replay(|options| options.record_headers(nothing), &SENT).await;
    assert_eq!(names(&replay.headers), ["content-type", "trailer"]);
}

/// Without these fields a client would take the body of a replay for something else.
#[tokio::test]
async fn headers_that_say_how_a_body_is_read_are_recorded_whatever_is_allowed() {
    const SENT: [(&str, &str); 13] = [
        ("content-type", "text/plain"),
        ("connect-content-encoding", "gzip"),
        ("content-encoding", "gzip"),
        ("content-range", "bytes 0-5/6"),
        ("trailer", "checksum"),
        ("grpc-encoding", "gzip"),
        ("grpc-status", "0"),
        ("grpc-message", "done"),
        ("grpc-status-details-bin", "AA"),
        ("content-language", "en"),
        ("content-location", "/payments/1"),
        ("etag", "\"1\""),
        ("grpc-accept-encoding", "gzip"),
    ];
    let allow = RecordHeaders::allow(["ETag"]);
    let (_, replay) = first_and_replay(|options| options.record_headers(allow), &SENT).await;
    assert_eq!(
        names(&replay.headers),
        [
            "connect-content-encoding",
            "content-encoding",
            "content-range",
            "content-type",
            "etag",
            "grpc-encoding",
            "grpc-message",
            "grpc-status",
            "grpc-status-details-bin",
            "trailer",
        ]
    );
}

#[tokio::test]
async fn trailers_are_recorded_by_the_rule_for_headers() {
    async fn kept(headers: RecordHeaders) -> Vec<String> {
        let with_trailers = |_, _: Request<Bytes>| {
            let trailers = [("grpc-status", "0"), ("checksum", "7"), ("x-cost", "9")];
            let trailers = trailers.map(|(name, value)| {
                let name = http::HeaderName::from_static(name);
                (name, value.parse().unwrap())
            });
            let trailers = HeaderMap::from_iter(trailers);
            Response::new(Script::frames(["body"]).then(Step::Trailers(trailers)))
        };
        let layer = with_policy(&MemoryStore::new(), |options| {
            options.record_headers(headers)
        });
        let app = layer.layer(handler(&Runs::default(), with_trailers));
        let first = send(&app, post("k", "{}")).await;
        assert_eq!(first.trailers.unwrap().len(), 3);
        let replay = send(&app, post("k", "{}")).await;
        assert!(replay.is_replay());
        let names = replay.trailers.iter().flat_map(HeaderMap::keys);
        let mut names: Vec<_> = names.map(ToString::to_string).collect();
        names.sort_unstable();
        names
    }
    let all = ["checksum", "grpc-status", "x-cost"];
    assert_eq!(kept(RecordHeaders::default()).await, all);
    let deny = RecordHeaders::deny(["x-cost"]);
    assert_eq!(kept(deny).await, ["checksum", "grpc-status"]);
    let allow = RecordHeaders::allow(["x-cost"]);
    assert_eq!(kept(allow).await, ["grpc-status", "x-cost"]);
}

#[tokio::test]
async fn an_answer_can_say_by_a_header_that_it_is_not_to_be_recorded() {
    let skips =
        |options: RouteOptions| options.skip_headers(["Transient-Error: true", "x-volatile"]);
    let with = |name: &'static str, value: &'static str| {
        move || {
            let mut response = status(200);
            response.headers_mut().insert(name, value.parse().unwrap());
            response
        }
    };
    assert!(!is_recorded(skips, with("transient-error", "true")).await);
    assert!(is_recorded(skips, with("transient-error", "false")).await);
    assert!(!is_recorded(skips, with("x-volatile", "")).await);
    assert!(is_recorded(|options| options, with("transient-error", "true")).await);
    // The handler's own decision takes precedence over the header.
    let kept = move || {
        let mut response = with("x-volatile", "1")();
        response.extensions_mut().insert(Recording::Keep);
        response
    };
    assert!(is_recorded(skips, kept).await);
}
