//! A wrong option is an error when the layer, the scope or the store is built,
//! and the error names the option.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, StatusCode};
use tower_idempotency::options::{FingerprintBody, JsonFingerprint};
use tower_idempotency::recording::RecordHeaders;
use tower_idempotency::rejection::RejectionCode;
use tower_idempotency::scope::{self, ForwardedHeader, Scope};
use tower_idempotency::{
    ConfigError, IdempotencyLayer, IdempotencyLayerBuilder, MemoryStore, RouteOptions,
};

fn builder() -> IdempotencyLayerBuilder {
    IdempotencyLayer::builder(MemoryStore::new(), scope::shared())
}

#[track_caller]
fn assert_names(error: &ConfigError, option: &str) {
    assert_eq!(error.option(), option, "{error}");
    assert!(error.to_string().starts_with(&format!("`{option}` ")));
    // A reporter prints each error of the chain, so no error repeats the text
    // of its source.
    if let Some(source) = error.source() {
        assert!(!error.to_string().contains(&source.to_string()), "{error}");
    }
}

#[test]
fn wrong_options_of_a_layer_are_named() {
    type Change = fn(IdempotencyLayerBuilder) -> IdempotencyLayerBuilder;
    let rows: [(&str, Change); 17] = [
        ("store_timeout", |b| b.store_timeout(Duration::ZERO)),
        ("secrets", |b| b.secrets(["too short"])),
        ("secrets", |b| {
            b.secrets([&[7_u8; 16][..], &[7_u8; 15]].map(<[u8]>::to_vec))
        }),
        ("secrets", |b| b.secrets([[7_u8; 16], [8; 16], [7; 16]])),
        ("max_buffered_bytes", |b| {
            b.max_buffered_bytes((1 << 20) - 1)
        }),
        ("max_buffered_bytes", |b| {
            b.max_buffered_bytes(4 << 20)
                .route("/files", |options| options.max_request_body(5 << 20))
        }),
        ("rejection_status", |b| {
            b.rejection_status(RejectionCode::InFlight, StatusCode::NO_CONTENT)
        }),
        ("rejection_status", |b| {
            b.rejection_status(RejectionCode::KeyReused, StatusCode::CONTINUE)
        }),
        ("rejection_body", |b| {
            b.rejection_body(
                RejectionCode::InFlight,
                "application/json",
                "{\"a\":\"{b}\"}",
            )
        }),
        ("rejection_body", |b| {
            b.rejection_body(RejectionCode::InFlight, "json", "{}")
        }),
        ("default_rejection_body", |b| {
            b.default_rejection_body("text/plain", "{detail}")
        }),
        ("docs_url", |b| b.docs_url("")),
        ("docs_url", |b| b.docs_url("https://example.com/a page")),
        ("docs_url", |b| b.docs_url("https://example.com/>")),
        ("docs_url", |b| b.docs_url("https://example.com/\r\nx: y")),
        ("route", |b| b.route("payments", |options| options)),
        ("route", |b| b.route("GET /payments", |options| options)),
    ];
    for (option, change) in rows {
        assert_names(&change(builder()).build().unwrap_err(), option);
    }
}

#[test]
fn wrong_options_of_a_policy_are_named_and_so_is_their_route() {
    type Change = fn(RouteOptions) -> RouteOptions;
    let rows: [(&str, Change); 32] = [
        ("header", |p| p.header("not a name")),
        ("header", |p| p.header("")),
        ("header", |p| p.headers(["x-key", "schlüssel"])),
        ("header", |p| p.headers(Vec::<String>::new())),
        ("key_length", |p| p.key_length(0..=9)),
        #[expect(clippy::reversed_empty_ranges, reason = "that is what is wrong")]
        ("key_length", |p| p.key_length(9..=8)),
        ("methods", |p| p.methods([Method::POST, Method::GET])),
        ("methods", |p| {
            p.methods([Method::from_bytes(b"QUERY").unwrap()])
        }),
        ("fingerprint_headers", |p| p.fingerprint_headers(["a b"])),
        ("fingerprint_headers", |p| {
            p.fingerprint_headers(["x-a", "X-A"])
        }),
        ("fingerprint_body", |p| {
            p.fingerprint_body(FingerprintBody::Json(
                JsonFingerprint::new().exclude("amount"),
            ))
        }),
        ("body_timeout", |p| p.body_timeout(Duration::ZERO)),
        ("skip_headers", |p| p.skip_headers(["a b: c"])),
        ("skip_json", |p| p.skip_json(["errors"])),
        ("skip_json", |p| p.skip_json(["/status: failed"])),
        ("skip_types", |p| p.skip_types(["pdf"])),
        ("skip_types", |p| p.skip_types(["text/html; charset=utf-8"])),
        ("replay_status", |p| {
            p.replay_status(StatusCode::OK, StatusCode::NO_CONTENT)
        }),
        ("replay_status", |p| {
            p.replay_status(StatusCode::OK, StatusCode::NOT_MODIFIED)
        }),
        ("lease", |p| p.lease(Duration::ZERO)),
        ("max_operation", |p| p.max_operation(Duration::ZERO)),
        ("max_operation", |p| {
            p.max_operation(Duration::from_secs(29))
        }),
        ("max_operation", |p| p.lease(Duration::from_secs(3600))),
        ("retention", |p| p.retention(Duration::ZERO)),
        ("record_headers", |p| {
            p.record_headers(RecordHeaders::deny(["a b"]))
        }),
        ("record_headers", |p| {
            p.record_headers(RecordHeaders::deny(["Content-Encoding"]))
        }),
        ("record_headers", |p| {
            p.record_headers(RecordHeaders::deny(["x-a", "grpc-status"]))
        }),
        ("replayed_header", |p| p.replayed_header("grpc-status")),
        ("record_headers", |p| {
            p.record_headers(RecordHeaders::allow(["a:"]))
        }),
        ("replayed_header", |p| p.replayed_header("a b")),
        ("created_at_header", |p| p.created_at_header("a b")),
        ("expires_at_header", |p| p.expires_at_header("a b")),
    ];
    for (option, change) in rows {
        assert_names(&builder().defaults(change).build().unwrap_err(), option);
        let on_route = builder().route("POST /a", change).build().unwrap_err();
        assert_names(&on_route, option);
        assert!(
            on_route.to_string().ends_with("(on route `POST /a`)"),
            "{on_route}"
        );
    }
}

#[test]
fn a_header_that_http_or_grpc_reads_is_named() {
    let key = builder().defaults(|options| options.header("Expect"));
    let mark = builder().defaults(|options| options.replayed_header("grpc-status"));
    for (wrong, message) in [
        (key, "`header` names `expect`"),
        (mark, "`replayed_header` names `grpc-status`"),
    ] {
        let message = format!("{message}, which has a meaning of its own in HTTP or gRPC");
        assert_eq!(wrong.build().unwrap_err().to_string(), message);
    }
}

#[test]
fn the_first_wrong_option_is_the_one_that_is_named() {
    let error = builder()
        .defaults(|options| {
            options
                .lease(Duration::ZERO)
                .header("not a name")
                .lease(Duration::from_secs(5))
        })
        .build()
        .unwrap_err();
    assert_names(&error, "lease");
    assert_eq!(error.to_string(), "`lease` must be longer than zero");
}

#[test]
fn wrong_routes_are_named_with_their_pattern() {
    for pattern in [
        "",
        "payments",
        "POST payments",
        "POST",
        "P(ST /a",
        "GET /a",
        "CONNECT /a",
        "post /a",
        "POST /a/{",
        "POST /a/:id",
        "POST /a/*rest",
        "/a?b=c",
        "/a#b",
        "/{*rest}/b",
    ] {
        let error = builder().route(pattern, |options| options).build();
        let error = error.unwrap_err();
        assert_names(&error, "route");
        assert!(error.to_string().contains(pattern), "{error}");
    }
    let of_no_method = builder().route("/a", |options| options.methods([])).build();
    assert_names(&of_no_method.unwrap_err(), "route");
    let twice = builder()
        .route("POST /a/{x}", |options| options)
        .route("POST /a/{y}", |options| options)
        .build();
    assert_names(&twice.unwrap_err(), "route");
}

#[test]
fn wrong_scopes_are_named_when_the_layer_is_built() {
    let no_names = Vec::<String>::new;
    let wrong: [Box<dyn Scope>; 6] = [
        Box::new(scope::header("not a name")),
        Box::new(scope::headers(no_names())),
        Box::new(scope::header("x-api-key").known_sha256(["abc"])),
        Box::new(scope::forwarded_ip(ForwardedHeader::Forwarded, no_names())),
        Box::new(scope::forwarded_ip(
            ForwardedHeader::Forwarded,
            ["10.0.0.0/64"],
        )),
        Box::new(scope::peer_ip().or(scope::header("not a name"))),
    ];
    for scope in wrong {
        let scope: Arc<dyn Scope> = Arc::new(scope);
        let error = IdempotencyLayer::new(MemoryStore::new(), Arc::clone(&scope)).unwrap_err();
        assert_names(&error, "scope");
        let of_route = builder()
            .route("/a", |options| options.scope(scope))
            .build();
        let error = of_route.unwrap_err();
        assert_names(&error, "scope");
        assert_eq!(error.route(), Some("/a"));
    }
}

#[test]
fn wrong_stores_are_named() {
    let errors = [
        (
            MemoryStore::builder().max_records(0).build().unwrap_err(),
            "max_records",
        ),
        (
            MemoryStore::builder().max_bytes(1).build().unwrap_err(),
            "max_bytes",
        ),
    ];
    for (error, option) in errors {
        assert_names(&error, option);
    }
}

#[test]
fn what_is_at_the_edge_of_working_works() {
    builder()
        .secrets([[7_u8; 16]])
        .docs_url("/docs#idempotency")
        .store_timeout(Duration::from_nanos(1))
        .defaults(|options| {
            options
                .key_length(1..=1)
                .methods([])
                .lease(Duration::from_nanos(1))
                .max_operation(Duration::from_nanos(1))
                .retention(Duration::from_nanos(1))
                .body_timeout(Duration::from_nanos(1))
                .skip_types(["image/*"])
                .fingerprint_headers(Vec::<String>::new())
                .replayed_header(None)
        })
        .build()
        .unwrap();
    builder()
        .store_timeout(Duration::MAX)
        .defaults(|options| {
            options
                .key_length(1..=usize::MAX)
                .lease(Duration::MAX)
                .max_operation(Duration::MAX)
                .retention(Duration::MAX)
                .body_timeout(Duration::MAX)
        })
        .build()
        .unwrap();
}

#[test]
fn a_secret_is_not_repeated_in_an_error() {
    let error = builder().secrets(["hunter2"]).build().unwrap_err();
    assert!(!format!("{error} {error:?}").contains("hunter2"));
}
