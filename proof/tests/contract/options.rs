//! The contract contains every option that clients can notice, and no other option.

use std::collections::HashSet;
use std::time::Duration;

use http::{Method, StatusCode};
use tower_idempotency::contract::Contract;
use tower_idempotency::options::{
    EventStreams, FingerprintBody, JsonFingerprint, KeyFormat, KeySyntax, KeysPer, OnDisconnect,
    OnInFlight, OnMismatch, OnOversize, OnStoreError, ReplayedMember, Require,
};
use tower_idempotency::recording::{RecordHeaders, Statuses};
use tower_idempotency::rejection::RejectionCode;
use tower_idempotency::scope::{self, Caller, ForwardedHeader, Scope};
use tower_idempotency::store::OnLapsedLease;
use tower_idempotency::{IdempotencyLayer, IdempotencyLayerBuilder, MemoryStore, RouteOptions};

use crate::layers::api_key;

type Change = fn(RouteOptions) -> RouteOptions;

/// The table has one row for each value that is not the default.
const OPTIONS: &[(&str, Change)] = &[
    ("header", |options| options.header("X-Key")),
    ("header", |options| {
        options.headers(["X-Key", "Idempotency-Key"])
    }),
    ("key_syntax", |options| {
        options.key_syntax(KeySyntax::Strict)
    }),
    ("key_syntax", |options| options.key_syntax(KeySyntax::Raw)),
    ("key_length", |options| options.key_length(8..=255)),
    ("key_length", |options| options.key_length(1..=64)),
    ("key_format", |options| {
        options.key_format(KeyFormat::uuid())
    }),
    ("key_format", |options| {
        options.key_format(KeyFormat::uuid7())
    }),
    ("key_format", |options| {
        options.key_format(KeyFormat::custom("an order number", |_| true))
    }),
    ("methods", |options| {
        options.methods([Method::POST, Method::PUT])
    }),
    ("require", |options| options.require(Require::Required)),
    ("require", |options| options.require(Require::Ignored)),
    ("scope", |options| options.scope(scope::shared())),
    ("scope", |options| options.scope(scope::peer_ip())),
    ("keys_per", |options| options.keys_per(KeysPer::Route)),
    ("fingerprint_body", |options| {
        options.fingerprint_body(FingerprintBody::None)
    }),
    ("fingerprint_body", |options| {
        options.fingerprint_body(FingerprintBody::Json(JsonFingerprint::new()))
    }),
    ("fingerprint_body", |options| {
        options.fingerprint_body(FingerprintBody::Json(JsonFingerprint::new().include("/a")))
    }),
    ("fingerprint_body", |options| {
        options.fingerprint_body(FingerprintBody::Json(JsonFingerprint::new().exclude("/a")))
    }),
    ("key_in_body", |options| options.key_in_body(["/key"])),
    ("key_in_body", |options| {
        options.key_in_body(["/meta/idempotency-key", "/key"])
    }),
    ("fingerprint_query", |options| {
        options.fingerprint_query(false)
    }),
    ("fingerprint_headers", |options| {
        options.fingerprint_headers(["x-tenant"])
    }),
    ("on_mismatch", |options| {
        options.on_mismatch(OnMismatch::Replay)
    }),
    ("max_request_body", |options| options.max_request_body(1000)),
    ("body_timeout", |options| {
        options.body_timeout(Duration::from_secs(5))
    }),
    ("max_recorded_body", |options| {
        options.max_recorded_body(1000)
    }),
    ("oversize", |options| options.oversize(OnOversize::Rerun)),
    ("event_streams", |options| {
        options.event_streams(EventStreams::Record)
    }),
    ("replay_json", |options| {
        options.replay_json("/id", ReplayedMember::of_request("/id"))
    }),
    ("replay_json", |options| {
        options.replay_json("/replayed", ReplayedMember::constant(true))
    }),
    ("record", |options| options.record(Statuses::all())),
    ("record", |options| {
        options.record(Statuses::none().with(200..300))
    }),
    ("record", |options| {
        options.record(Statuses::default().without_grpc(5))
    }),
    ("record", |options| {
        options.record(|answer: &tower_idempotency::recording::ResponseHead<'_>| {
            answer.status() == 201
        })
    }),
    ("skip_types", |options| {
        options.skip_types(["application/pdf"])
    }),
    ("skip_headers", |options| {
        options.skip_headers(["x-no-store"])
    }),
    ("skip_headers", |options| {
        options.skip_headers(["transient-error: true"])
    }),
    ("skip_json", |options| {
        options.skip_json(["/result/isError: true"])
    }),
    ("skip_json", |options| options.skip_json(["/errors"])),
    ("on_in_flight", |options| {
        options.on_in_flight(OnInFlight::Wait(Duration::from_secs(10)))
    }),
    ("on_in_flight", |options| {
        options.on_in_flight(OnInFlight::Wait(Duration::from_secs(20)))
    }),
    ("on_lapsed_lease", |options| {
        options.on_lapsed_lease(OnLapsedLease::Refuse)
    }),
    ("on_disconnect", |options| {
        options.on_disconnect(OnDisconnect::Cancel)
    }),
    ("on_store_error", |options| {
        options.on_store_error(OnStoreError::RunUnprotected)
    }),
    ("lease", |options| options.lease(Duration::from_secs(31))),
    ("max_operation", |options| {
        options.max_operation(Duration::from_secs(60))
    }),
    ("retention", |options| {
        options.retention(Duration::from_secs(60))
    }),
    ("record_headers", |options| {
        options.record_headers(RecordHeaders::allow(["date"]))
    }),
    ("record_headers", |options| {
        options.record_headers(RecordHeaders::deny(["date"]))
    }),
    ("record_headers", |options| {
        options.record_headers(RecordHeaders::deny(Vec::<String>::new()))
    }),
    ("record_headers", |options| {
        options.record_headers(RecordHeaders::allow(Vec::<String>::new()))
    }),
    ("replayed_header", |options| {
        options.replayed_header("X-Replayed")
    }),
    ("replayed_header", |options| options.replayed_header(None)),
    ("created_at_header", |options| {
        options.created_at_header("X-Created")
    }),
    ("expires_at_header", |options| {
        options.expires_at_header("X-Expires")
    }),
    ("echo_key", |options| options.echo_key(true)),
    ("replay_status", |options| {
        options.replay_status(StatusCode::CREATED, StatusCode::OK)
    }),
    ("retry_after", |options| {
        options.retry_after(Duration::from_secs(7))
    }),
];

fn with(change: Change) -> Contract {
    api_key().defaults(change).build().unwrap().contract()
}

#[test]
fn every_option_of_a_policy_changes_the_page_and_the_json() {
    let plain = api_key().build().unwrap().contract();
    let mut pages = HashSet::from([plain.markdown()]);
    let mut documents = HashSet::from([plain.json().to_string()]);
    for (at, (option, change)) in OPTIONS.iter().enumerate() {
        let contract = with(*change);
        assert!(pages.insert(contract.markdown()), "{option}, row {at}");
        assert!(
            documents.insert(contract.json().to_string()),
            "{option}, row {at}"
        );
    }
}

#[test]
fn an_option_of_the_defaults_has_its_name_in_the_json() {
    let plain = api_key().build().unwrap().contract().json();
    let endpoint = plain["endpoints"][0].as_object().unwrap();
    for (option, _) in OPTIONS {
        // The contract states `Retry-After` with the rejections that have this
        // header, not with the endpoint.
        assert!(
            endpoint.contains_key(*option) || *option == "retry_after",
            "{option}"
        );
    }
}

type LayerChange = fn(IdempotencyLayerBuilder) -> IdempotencyLayerBuilder;

#[test]
fn what_the_layer_says_to_clients_is_in() {
    let changes: &[(&str, LayerChange)] = &[
        ("docs_url", |layer| layer.docs_url("https://a.example/")),
        ("rejection_status", |layer| {
            layer.rejection_status(RejectionCode::KeyInvalid, StatusCode::IM_A_TEAPOT)
        }),
        ("rejection_body", |layer| {
            layer.rejection_body(RejectionCode::KeyInvalid, "application/json", "{}")
        }),
        ("render_rejections", |layer| {
            layer.render_rejections(
                |own: &tower_idempotency::rejection::Rejection, _: &http::request::Parts| {
                    own.problem()
                },
            )
        }),
        ("route", |layer| layer.route("POST /a", |options| options)),
    ];
    let plain = api_key().build().unwrap().contract();
    for (option, change) in changes {
        let contract = change(api_key()).build().unwrap().contract();
        assert_ne!(contract.markdown(), plain.markdown(), "{option}");
        assert_ne!(contract.json(), plain.json(), "{option}");
    }
}

#[test]
fn nothing_of_the_inside_gets_out() {
    let known = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
    let build = |inside: bool| {
        let scope = scope::header("x-api-key").known_sha256([known]);
        let proxy = if inside {
            "10.99.0.0/16"
        } else {
            "10.98.0.0/16"
        };
        let proxies = scope::forwarded_ip(ForwardedHeader::Forwarded, [proxy]);
        let layer = IdempotencyLayer::builder(MemoryStore::new(), scope.or(proxies));
        let layer = if inside {
            layer
                .namespace("a-namespace")
                .secrets(["a secret of the service"])
                .store_timeout(Duration::from_millis(123))
        } else {
            layer
        };
        layer.build().unwrap().contract()
    };
    let texts = |contract: &Contract| {
        [
            contract.markdown(),
            contract.json().to_string(),
            contract.openapi().to_string(),
            format!("{contract:?}"),
        ]
    };
    let inside = texts(&build(true));
    assert_eq!(inside, texts(&build(false)));
    for text in inside {
        assert!(!text.contains(known) && !text.contains("10.99"), "{text}");
    }
}

/// The words complete the sentence "A key belongs to …".
#[test]
fn every_scope_says_whose_a_key_is() {
    struct Account(u64);
    let header = |name| scope::header(name);
    let scopes: [(Box<dyn Scope>, &str, bool); 9] = [
        (
            Box::new(header("x-api-key")),
            "whoever sends the same header `X-Api-Key`",
            false,
        ),
        (
            Box::new(scope::headers(["x-key", "x-tenant"])),
            "whoever sends the same headers `X-Key` and `X-Tenant`",
            false,
        ),
        (
            Box::new(header("x-api-key").known_sha256(Vec::<String>::new())),
            "whoever sends the same header `X-Api-Key`, if its value is known",
            false,
        ),
        (
            Box::new(scope::peer_ip()),
            "whoever calls from the same address",
            false,
        ),
        (
            Box::new(scope::forwarded_ip(
                ForwardedHeader::XForwardedFor,
                ["10.0.0.0/8"],
            )),
            "whoever calls from the same address, as this API's proxies give it in `X-Forwarded-For`",
            false,
        ),
        (
            Box::new(scope::extension("account", |account: &Account| account.0)),
            "whoever has the same `account`",
            false,
        ),
        (
            Box::new(scope::shared()),
            "everybody: all callers share their keys",
            true,
        ),
        (
            Box::new(header("x-api-key").or(scope::shared())),
            "whoever sends the same header `X-Api-Key`, or else to everybody: all callers share their keys",
            true,
        ),
        (
            Box::new(|_: &http::request::Parts| Some(Caller::new("one", 1))),
            "the caller, whom the application tells by a rule of its own",
            false,
        ),
    ];
    for (scope, words, always) in scopes {
        assert_eq!((&*scope.describe(), scope.always_finds()), (words, always));
        let layer = IdempotencyLayer::new(MemoryStore::new(), scope).unwrap();
        let contract = layer.contract();
        assert!(
            contract
                .markdown()
                .contains(&format!("A key belongs to {words}."))
        );
        assert_eq!(contract.markdown().contains("`scope-missing`"), !always);
    }
}

/// The words complete the sentence "What is recorded: …".
#[test]
fn statuses_are_said_as_ranges_the_shorter_way() {
    use tower_idempotency::recording::RecordRule;
    for (statuses, words) in [
        (Statuses::all(), "responses with every status"),
        (Statuses::none(), "responses with no status"),
        (
            Statuses::none().with(200..300),
            "responses with status 200-299",
        ),
        (
            Statuses::none().with([201, 409]),
            "responses with status 201 and 409",
        ),
        (
            Statuses::all().without(429),
            "responses with every status but 429",
        ),
        (
            Statuses::default(),
            "responses with every status but 307-308, 401, 403, 407-408, 417, 421, 425, 429 and \
             500-999",
        ),
        (
            Statuses::none().with(200..300).with_grpc(0),
            "responses with status 200-299; in gRPC, responses with code 0",
        ),
    ] {
        assert_eq!(statuses.describe(), words);
    }
}
