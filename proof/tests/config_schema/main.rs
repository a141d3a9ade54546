//! The published JSON Schema must be up to date and valid, and must accept and
//! reject the same files as the reader of the configuration does.

#[path = "../../../tests/config/cases.rs"]
mod cases;
#[path = "../../../src/config/tests/changes.rs"]
mod changes;
#[allow(dead_code, reason = "its tests run here, too")]
#[path = "../../../tests/config/examples.rs"]
mod examples;

use serde_json::Value;
use tower_idempotency::config::Config;

use cases::{Case, JSON, TOML, cases};
use changes::CHANGES;
use examples::{whole_file, whole_file_in_json};

const PUBLISHED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/config.schema.json");

fn validator() -> jsonschema::Validator {
    jsonschema::draft202012::new(&Config::schema()).unwrap()
}

#[test]
fn the_published_schema_is_that_of_the_types() {
    let current = format!("{:#}\n", Config::schema());
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(PUBLISHED, &current).unwrap();
    }
    let published = std::fs::read_to_string(PUBLISHED).unwrap_or_default();
    assert!(
        published == current,
        "docs/config.schema.json is out of date: write it anew with\n\
         UPDATE=1 cargo test -p proof --test config_schema"
    );
}

#[test]
fn it_is_of_draft_2020_12() {
    let schema = Config::schema();
    assert_eq!(
        schema["$schema"],
        "https://json-schema.org/draft/2020-12/schema"
    );
    jsonschema::draft202012::meta::validate(&schema).unwrap();
}

#[test]
fn the_example_validates() {
    let validator = validator();
    for text in [whole_file_in_json(), toml_as_json(&whole_file())] {
        let value: Value = serde_json::from_str(&text).unwrap();
        validator.validate(&value).unwrap();
    }
}

/// Readers copy the files of docs/vendor-contracts.md, so the files must fit the
/// schema.
#[test]
fn the_contracts_in_the_field_validate() {
    let validator = validator();
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/../sidecar/tests/contracts");
    let mut files = 0;
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path
            .extension()
            .is_some_and(|extension| extension == "toml")
        {
            let text = std::fs::read_to_string(&path).unwrap();
            let value: Value = serde_json::from_str(&toml_as_json(&text)).unwrap();
            let valid = validator.validate(&value);
            assert!(valid.is_ok(), "{}: {valid:?}", path.display());
            files += 1;
        }
    }
    assert_eq!(files, 18);
}

fn toml_as_json(text: &str) -> String {
    let value: Value = toml::from_str(text).unwrap();
    value.to_string()
}

#[track_caller]
fn assert_valid(text: &str) {
    Config::from_toml(text).unwrap_or_else(|error| panic!("{text}\n{error}"));
    let value: Value = toml::from_str(text).unwrap();
    if let Err(error) = validator().validate(&value) {
        panic!("{text}\n{error}");
    }
}

#[test]
fn what_is_read_is_right_by_the_schema() {
    assert_valid("");
    for (option, value, _) in CHANGES {
        assert_valid(&format!("[idempotency]\n{option} = {value}"));
        assert_valid(&format!("[[route]]\nmatch = '/a'\n{option} = {value}"));
    }
    for entry in [
        "namespace = 'billing'",
        "max_buffered = '512MiB'",
        "max_detached = 7",
        "max_waiters = 0",
        "max_read_ahead = '512MiB'",
        "max_read_ahead_per_caller = '1MiB'",
        "max_unsent_bytes = '512MiB'",
        "max_unsent_bytes_per_caller = '1MiB'",
        "send_timeout = '150ms'",
        "store_timeout = '150ms'",
        "docs_url = 'https://a.example/'",
        "rejections.key-required.status = 418",
    ] {
        assert_valid(&format!("[idempotency]\n{entry}"));
    }
    for entry in [
        "listen = '127.0.0.1:8080'",
        "listen = 'localhost:8080'",
        "listen = '[::1]:8080'",
        "listen = 'unix:/run/a.sock'",
        "listen = 'fd:3'",
        "upstream = 'http://127.0.0.1:9000'",
        "tls = { certificate = '/a.pem', key = '/b.pem', client_ca = '/c.pem' }",
        "metrics = '[::1]:9100'\nmetrics_tls = { certificate = '/a.pem', key = '/b.pem' }",
        "upstream = 'https://a.example'\nupstream_tls = { ca = '/c.pem', certificate = '/a.pem', key = '/b.pem' }",
        "metrics = '[::1]:9100'\ndesk = { token = '0123456789abcdef', show_bodies = true }",
        "metrics = 'localhost:9100'\ndesk = {}",
        "authorize = { url = 'https://auth', tls = { ca = '/c.pem' } }",
        "upstream_http2 = true",
        "upstream_keep_alive = '0s'",
        "connect_timeout = '1s'",
        "upstream_timeout = '2s'",
        "authorize = 'http://auth:1/check?a=b'",
        "authorize = { url = 'http://auth', timeout = '1s', headers = ['X-Account'] }",
        "trusted_proxies = ['10.0.0.0/8', '::1']",
        "metrics = '[::1]:9100'",
        "healthz = '/live'",
        "healthz = false",
        "livez = '/up'",
        "readyz = false",
        "drain_delay = '5s'",
        "contract = '/docs/keys'",
        "drain_timeout = '0s'",
        "ignore_path_case = true",
        "limits = { max_connections = 2000, max_connections_per_peer = 10, head_timeout = '5s' }",
        "limits.max_head_bytes = '64KiB'",
        "store = 'memory:'",
        "listen = '127.0.0.1:0'\nmetrics = '127.0.0.1:0'",
        "secrets = ['long enough to be one']\nidempotency.encryption = 'xchacha20-poly1305'",
    ] {
        assert_valid(entry);
    }
}

#[test]
fn the_schema_refuses_what_it_can() {
    let validator = validator();
    let toml = cases(TOML).into_iter().map(|case| {
        let value = toml::from_str(case.text).ok();
        (case, value)
    });
    let json = cases(JSON).into_iter().map(|case| {
        let value = serde_json::from_str(case.text).ok();
        (case, value)
    });
    for (case, value) in toml.chain(json) {
        let Case {
            text,
            schema_refuses,
            ..
        } = case;
        let value: Option<Value> = value;
        if let Some(value) = value {
            let refuses = !validator.is_valid(&value);
            assert_eq!(refuses, schema_refuses, "by the schema:\n{text}");
        }
    }
}
