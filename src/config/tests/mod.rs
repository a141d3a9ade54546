//! The options that the layer gets from a file.

use std::collections::BTreeSet;
use std::sync::Arc;

use http::{Extensions, HeaderMap, HeaderValue, Method, StatusCode};
use serde_json::{Map, Value, json};

use self::changes::CHANGES;
use super::Config;
use super::check::Unasked;
use super::file::OF_ROUTES;
use super::rejections::Code;
use crate::options::recording::{RecordRule, ResponseHead};
use crate::options::{McpTools, Require, RouteOptions};
use crate::rejection::RejectionCode;
use crate::rejection::gateway::GatewayCode;
use crate::scope;

mod changes;

/// The value of every option, by name. A new field of `RouteOptions` does not compile here until
/// its option is listed.
fn facts(options: &RouteOptions) -> Vec<(&'static str, String)> {
    let RouteOptions {
        keys,
        methods,
        require,
        scope,
        keys_per,
        fingerprint,
        on_mismatch,
        max_request_body,
        body_timeout,
        max_recorded_body,
        oversize,
        mcp,
        event_streams,
        record: _,
        in_doubt,
        skip_types,
        skip_headers,
        skip_json,
        mode,
        mark_observed,
        on_lapsed_lease,
        on_in_flight,
        on_disconnect,
        on_store_error,
        lease,
        max_operation,
        retention,
        record_headers,
        replayed_header,
        created_at_header,
        expires_at_header,
        echo_key,
        exactly_once,
        steps,
        max_steps,
        max_step_bytes,
        max_steps_bytes,
        replay_status,
        replay_json,
        retry_after,
        error: _,
        pattern: _,
    } = options;
    vec![
        ("preset", format!("{:?}", mcp.is_some())),
        ("mcp_tools", format!("{mcp:?}")),
        ("header", format!("{:?}", keys.headers)),
        ("key_in_body", format!("{:?}", keys.in_body)),
        ("key_syntax", format!("{:?}", keys.syntax)),
        ("key_length", format!("{:?}", keys.length)),
        ("key_format", format!("{:?}", keys.format)),
        ("methods", format!("{methods:?}")),
        ("mode", format!("{mode:?}")),
        ("mark_observed", format!("{mark_observed:?}")),
        ("require", format!("{require:?}")),
        ("scope", format!("{}", scope.is_some())),
        ("keys_per", format!("{keys_per:?}")),
        ("fingerprint_body", format!("{:?}", fingerprint.body)),
        ("fingerprint_query", format!("{:?}", fingerprint.query)),
        ("fingerprint_headers", format!("{:?}", fingerprint.headers)),
        ("on_mismatch", format!("{on_mismatch:?}")),
        ("max_request_body", format!("{max_request_body:?}")),
        ("body_timeout", format!("{body_timeout:?}")),
        ("max_recorded_body", format!("{max_recorded_body:?}")),
        ("oversize", format!("{oversize:?}")),
        ("event_streams", format!("{event_streams:?}")),
        ("record", recorded(options)),
        ("in_doubt", in_doubt.describe().into_owned()),
        ("skip_types", format!("{skip_types:?}")),
        ("skip_headers", format!("{skip_headers:?}")),
        ("skip_json", format!("{skip_json:?}")),
        ("on_lapsed_lease", format!("{on_lapsed_lease:?}")),
        ("on_in_flight", format!("{on_in_flight:?}")),
        ("on_disconnect", format!("{on_disconnect:?}")),
        ("on_store_error", format!("{on_store_error:?}")),
        ("lease", format!("{lease:?}")),
        ("max_operation", format!("{max_operation:?}")),
        ("retention", format!("{retention:?}")),
        ("record_headers", format!("{record_headers:?}")),
        ("replayed_header", format!("{replayed_header:?}")),
        ("created_at_header", format!("{created_at_header:?}")),
        ("expires_at_header", format!("{expires_at_header:?}")),
        ("echo_key", format!("{echo_key:?}")),
        ("exactly_once", format!("{exactly_once:?}")),
        ("steps", format!("{steps:?}")),
        ("max_steps", format!("{max_steps:?}")),
        ("max_step_bytes", format!("{max_step_bytes:?}")),
        ("max_steps_bytes", format!("{max_steps_bytes:?}")),
        ("replay_status", format!("{replay_status:?}")),
        ("replay_json", format!("{replay_json:?}")),
        ("retry_after", format!("{retry_after:?}")),
    ]
}

/// Final statuses of HTTP as ranges, and codes of gRPC.
fn recorded(options: &RouteOptions) -> String {
    let none = HeaderMap::new();
    let http = (200..=999).filter(|status| {
        let status = StatusCode::from_u16(*status).unwrap();
        options
            .record
            .records(&ResponseHead::new(status, &none, None))
    });
    let grpc = (0..=16).filter(|code| {
        let mut headers = HeaderMap::new();
        headers.insert("content-type", HeaderValue::from_static("application/grpc"));
        headers.insert("grpc-status", HeaderValue::from(*code));
        options
            .record
            .records(&ResponseHead::new(StatusCode::OK, &headers, None))
    });
    format!("{} grpc {}", ranges(http), ranges(grpc))
}

fn ranges(numbers: impl Iterator<Item = u16>) -> String {
    let mut ranges: Vec<(u16, u16)> = Vec::new();
    for number in numbers {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => ranges.push((number, number)),
        }
    }
    let ranges: Vec<String> = ranges
        .iter()
        .map(|(from, to)| {
            if from == to {
                from.to_string()
            } else {
                format!("{from}-{to}")
            }
        })
        .collect();
    ranges.join(",")
}

fn options_of(config: &Config, method: &Method, path: &str) -> Arc<RouteOptions> {
    let builder = config.builder_of(Unasked, scope::shared());
    let layer = builder.skip_store_checks().build().unwrap();
    let routes = &layer.core().rules.routes;
    let options = routes.options(method, &path.parse().unwrap(), &Extensions::new());
    Arc::clone(options.unwrap())
}

fn read(text: &str) -> Config {
    Config::from_toml(text).unwrap_or_else(|error| panic!("{text}\n{error}"))
}

#[test]
fn an_empty_file_means_the_defaults() {
    let own = options_of(&read(""), &Method::POST, "/");
    assert_eq!(facts(&own), facts(&RouteOptions::default()));
}

#[test]
fn the_whole_file_in_the_docs_means_the_defaults() {
    let docs = include_str!("../../../docs/config.md");
    let (_, example) = docs.split_once("```toml\n").unwrap();
    let (example, _) = example.split_once("```").unwrap();
    // Cargo sets this variable for every test.
    let config = read(&example.replace("IDEMPOTENCY_SECRET", "CARGO_PKG_DESCRIPTION"));
    let usual = RouteOptions::default();
    assert_eq!(
        facts(&options_of(&config, &Method::POST, "/")),
        facts(&usual)
    );
    assert_eq!(
        facts(&options_of(&config, &Method::POST, "/api/v1/orders")),
        facts(&usual.require(Require::Required))
    );
}

/// A preset changes several options, and an option of a preset is of use beside it alone.
const OF_PRESETS: [&str; 2] = ["preset", "mcp_tools"];

#[test]
fn a_preset_is_the_method_of_that_name_and_the_options_beside_it_change_it() {
    let mcp = RouteOptions::default().mcp();
    let tools = |tools| RouteOptions::default().mcp().mcp_tools(tools);
    for (text, expected) in [
        ("preset = 'mcp'", mcp.clone()),
        ("preset = 'none'", RouteOptions::default()),
        ("mcp_tools = 'all'", RouteOptions::default()),
        ("mcp_tools = 'all'\npreset = 'mcp'", mcp.clone()),
        (
            "mcp_tools = { only = ['pay'] }\npreset = 'mcp'",
            tools(McpTools::only(["pay"])),
        ),
        (
            "mcp_tools = { except = ['look'] }\npreset = 'mcp'",
            tools(McpTools::except(["look"])),
        ),
        (
            "key_in_body = ['/params/_meta/key']\npreset = 'mcp'",
            mcp.clone().key_in_body(["/params/_meta/key"]),
        ),
        ("fingerprint_body = 'json'\npreset = 'mcp'", mcp.clone()),
        (
            "fingerprint_body = { json = { exclude = ['/id', '/params/_meta'] } }\npreset = 'mcp'",
            mcp,
        ),
    ] {
        for there in [
            format!("[idempotency]\n{text}"),
            format!("[[route]]\nmatch = '/a'\n{text}"),
        ] {
            let own = options_of(&read(&there), &Method::POST, "/a");
            assert_eq!(facts(&own), facts(&expected), "{there}");
        }
    }
}

#[test]
fn each_option_changes_itself_and_nothing_else() {
    let usual = facts(&RouteOptions::default());
    for (option, value, expected) in CHANGES {
        if OF_PRESETS.contains(option) {
            continue;
        }
        let changed: Vec<_> = usual
            .iter()
            .map(|(name, usual)| {
                if name != option {
                    return (*name, usual.clone());
                }
                assert_ne!(usual, expected, "{option} = {value} is the default");
                (*name, (*expected).to_owned())
            })
            .collect();
        let everywhere = read(&format!("[idempotency]\n{option} = {value}"));
        // The scope of all requests is an argument of the layer.
        if *option != "scope" {
            assert_eq!(
                facts(&options_of(&everywhere, &Method::POST, "/")),
                changed,
                "{option}"
            );
        }
        let text = format!("[[route]]\nmatch = '/a'\n{option} = {value}");
        let json = toml::from_str::<Value>(&text).unwrap().to_string();
        for there in [read(&text), Config::from_json(&json).unwrap()] {
            let of = |path| facts(&options_of(&there, &Method::POST, path));
            assert_eq!(of("/a"), changed, "{option}");
            assert_eq!(of("/b"), usual, "{option}");
        }
    }
}

#[test]
fn every_option_of_a_route_is_tried() {
    for option in OF_ROUTES {
        assert!(CHANGES.iter().any(|(own, ..)| own == option), "{option}");
    }
    for (option, _) in facts(&RouteOptions::default()) {
        assert!(OF_ROUTES.contains(&option), "{option} has no entry");
    }
}

#[test]
fn what_a_route_says_beats_what_all_say_whatever_it_is() {
    for (option, one, expected) in CHANGES {
        if OF_PRESETS.contains(option) {
            continue;
        }
        for (_, other, _) in CHANGES.iter().filter(|(own, ..)| own == option) {
            let text = format!(
                "[[route]]\nmatch = '/a'\n{option} = {one}\n[idempotency]\n{option} = {other}"
            );
            let own = facts(&options_of(&read(&text), &Method::POST, "/a"));
            let (_, value) = own.iter().find(|(name, _)| name == option).unwrap();
            // Half a length leaves the other half as it is.
            if *option != "key_length" {
                assert_eq!(value, expected, "{option} = {one} over {other}");
            }
        }
    }
    let text = "idempotency.key_length = { min = 8, max = 64 }\n[[route]]\nmatch = '/a'\nkey_length = { max = 99 }";
    let own = options_of(&read(text), &Method::POST, "/a");
    assert_eq!(own.keys.length, 8..=99);
}

/// Editors show the defaults of the schema.
#[test]
fn the_defaults_in_the_schema_are_those_of_the_layer() {
    let schema = Config::schema();
    let options = &schema["properties"]["idempotency"]["properties"];
    let defaults: Map<String, Value> = options
        .as_object()
        .unwrap()
        .iter()
        .filter(|(_, option)| option.get("deprecated").is_none())
        .filter_map(|(name, option)| Some((name.clone(), option.get("default")?.clone())))
        .collect();
    for option in OF_ROUTES {
        assert!(
            *option == "scope" || defaults.contains_key(*option),
            "{option}"
        );
    }
    let config = Config::from_json(&json!({ "idempotency": defaults }).to_string()).unwrap();
    let own = options_of(&config, &Method::POST, "/");
    assert_eq!(facts(&own), facts(&RouteOptions::default()));
    let builder = format!("{:?}", config.builder_of(Unasked, scope::shared()));
    assert_eq!(
        builder,
        format!(
            "{:?}",
            crate::IdempotencyLayer::builder(Unasked, scope::shared())
        )
    );
}

#[test]
fn what_is_of_the_whole_layer_reaches_it() {
    for (option, value, expected) in [
        ("namespace", "'billing'", "namespace: \"billing\""),
        (
            "max_buffered_bytes",
            "'512MiB'",
            "max_buffered_bytes: 536870912",
        ),
        (
            "max_background_operations",
            "7",
            "max_background_operations: 7",
        ),
        ("max_waiting_requests", "0", "max_waiting_requests: 0"),
        ("max_read_ahead", "'512MiB'", "max_read_ahead: 536870912"),
        (
            "max_read_ahead_per_caller",
            "'1MiB'",
            "max_read_ahead_per_caller: Some(1048576)",
        ),
        (
            "max_unsent_bytes",
            "'512MiB'",
            "max_unsent_bytes: 536870912",
        ),
        (
            "max_unsent_bytes_per_caller",
            "'1MiB'",
            "max_unsent_bytes_per_caller: Some(1048576)",
        ),
        ("send_timeout", "'150ms'", "send_timeout: 150ms"),
        (
            "max_in_flight_operations",
            "8",
            "max_in_flight_operations: 8",
        ),
        (
            "max_in_flight_per_caller",
            "9",
            "max_in_flight_per_caller: Some(9)",
        ),
        (
            "max_buffered_bytes_per_caller",
            "'1MiB'",
            "max_buffered_bytes_per_caller: Some(1048576)",
        ),
        (
            "max_background_per_caller",
            "6",
            "max_background_per_caller: Some(6)",
        ),
        (
            "max_waiting_per_caller",
            "5",
            "max_waiting_per_caller: Some(5)",
        ),
        ("store_timeout", "'150ms'", "store_timeout: 150ms"),
        (
            "docs_url",
            "'https://a.example/'",
            "docs_url: Some(\"https://a.example/\")",
        ),
    ] {
        let config = read(&format!("[idempotency]\n{option} = {value}"));
        let builder = format!("{:?}", config.builder_of(Unasked, scope::shared()));
        assert!(builder.contains(expected), "{option}: {builder}");
        let usual = format!("{:?}", read("").builder_of(Unasked, scope::shared()));
        assert!(!usual.contains(expected), "{option}");
    }
}

#[test]
fn keys_keep_their_old_names() {
    for (old, new, value) in [
        ("max_buffered", "max_buffered_bytes", "'512MiB'"),
        ("max_detached", "max_background_operations", "7"),
        ("max_waiters", "max_waiting_requests", "3"),
    ] {
        let builder = |name: &str| {
            let config = read(&format!("[idempotency]\n{name} = {value}"));
            format!("{:?}", config.builder_of(Unasked, scope::shared()))
        };
        assert_eq!(builder(old), builder(new));
        let both = format!("[idempotency]\n{new} = {value}\n{old} = {value}");
        assert_eq!(
            Config::from_toml(&both).unwrap_err().to_string(),
            format!("3:1: `idempotency.{old}` is the old name of `{new}`, which stands there too")
        );
    }
    for (old, new) in [("closed", "reject"), ("open", "run-unprotected")] {
        let options = |word: &str| {
            let config = read(&format!("idempotency.on_store_error = '{word}'"));
            options_of(&config, &Method::POST, "/").on_store_error
        };
        assert_eq!(options(old), options(new));
        assert_eq!(options(old).as_str(), new);
    }
}

#[cfg(not(feature = "encryption"))]
#[test]
fn encryption_without_its_feature_is_an_error() {
    let text = "secrets = ['long enough to be one']\nidempotency.encryption = 'xchacha20-poly1305'";
    assert_eq!(
        Config::from_toml(text).unwrap_err().to_string(),
        "2:13: `idempotency.encryption` needs the feature `encryption` of tower-idempotency, which \
         is off"
    );
}

#[test]
fn every_rejection_has_an_entry_and_so_has_every_refusal_of_the_sidecar() {
    let layer = RejectionCode::ALL.iter().map(|code| code.as_str());
    let sidecar = GatewayCode::ALL.iter().map(|code| code.as_str());
    let codes: BTreeSet<&str> = layer.chain(sidecar).collect();
    // The words `body-unreadable` and `over-capacity` are both.
    assert_eq!(
        codes.len() + 2,
        RejectionCode::ALL.len() + GatewayCode::ALL.len()
    );
    let tables = codes
        .iter()
        .map(|code| format!("[idempotency.rejections.{code}]\nstatus = 418"));
    let config = read(&tables.collect::<Vec<_>>().join("\n"));
    let rejections = &config.said.file.idempotency.rejections;
    let read: BTreeSet<&str> = rejections.keys().map(|Code(code)| *code).collect();
    assert_eq!(read, codes);
}

#[test]
fn faults_in_rejections_are_found_where_they_stand() {
    let errors = [
        (
            "[idempotency.rejections.upstream-unreachble]\nstatus = 500",
            "1:25: `idempotency.rejections.upstream-unreachble` is not an option: did you mean \
             `upstream-unreachable`?",
        ),
        (
            "[idempotency.rejections.default]\ncontent_type = 'application/json'\nbody = '{\"a\":\"{codes}\"}'",
            "3:1: `idempotency.rejections.default.body` has the unknown placeholder `{codes}`; there \
             are `{code}`, `{title}`, `{detail}`, `{status}`, `{retry}`, `{docs_url}`, `{request_id}`",
        ),
        (
            "[idempotency.rejections.default]\nbody = '{}'",
            "2:1: `idempotency.rejections.default.body` needs a `content_type` beside it",
        ),
        (
            "[idempotency.rejections.default]\ncontent_type = 'text/plain'\nbody = 'no'\nstatus = 500",
            "4:1: `idempotency.rejections.default.status` must not stand here: each code has a \
             status of its own",
        ),
        (
            "[idempotency.rejections.default]",
            "1:25: `idempotency.rejections.default.body` is missing, and so is its `content_type`",
        ),
        (
            "[idempotency.rejections.upstream-broken]\nstatus = 204",
            "2:1: `idempotency.rejections.upstream-broken.status` must be a status from 200 to 999 \
             whose response has a body: not 204 or 304",
        ),
    ];
    for (text, expected) in errors {
        assert_eq!(Config::from_toml(text).unwrap_err().to_string(), expected);
    }
}

#[test]
fn a_route_can_list_the_method_of_its_pattern_if_http_has_no_such_method() {
    let method = Method::from_bytes(b"LOCK").unwrap();
    let text = "[[route]]\nmatch = 'LOCK /a'\nmethods = ['LOCK']\nrequire = 'required'";
    let own = options_of(&read(text), &method, "/a");
    assert_eq!(own.require, Require::Required);
}
