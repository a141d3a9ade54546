//! Entries from environment variables, and several errors at once.

use std::ffi::OsString;
use std::path::Path;

use tower_idempotency::config::{Config, FileError};
use tower_idempotency::for_sidecar::{entries, in_force};

fn read(file: Option<&Path>, variables: &[(&str, &str)]) -> Result<Config, FileError> {
    let owned = |(name, value): &(&str, &str)| (OsString::from(name), OsString::from(value));
    Config::read_with_environment(file, variables.iter().map(owned).collect::<Vec<_>>())
}

/// A file in a folder for files of one test run.
fn file(name: &str, text: &str) -> std::path::PathBuf {
    let path = std::env::temp_dir().join(format!("environment-{}-{name}", std::process::id()));
    std::fs::write(&path, text).unwrap();
    path
}

/// Returns the lines of `in_force` that a program prints for these entries.
fn lines(config: &Config) -> Vec<String> {
    let page = in_force(config);
    page.lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect()
}

#[test]
#[expect(clippy::too_many_lines, reason = "it is a table")]
fn every_kind_of_entry_has_a_variable() {
    for (name, value, expected) in [
        ("UPSTREAM", "http://a:1", "upstream = \"http://a:1\""),
        ("UPSTREAM_HTTP2", "true", "upstream_http2 = true"),
        ("HEALTHZ", "false", "healthz = false"),
        ("HEALTHZ", "/up", "healthz = \"/up\""),
        ("LIMITS__MAX_CONNECTIONS", "7", "max_connections = 7"),
        (
            "LIMITS__MAX_HEAD_BYTES",
            "64KiB",
            "max_head_bytes = \"64KiB\"",
        ),
        ("LIMITS__MAX_HEAD_BYTES", "65536", "max_head_bytes = 65536"),
        (
            "TRUSTED_PROXIES",
            "[\"10.0.0.0/8\", '::1']",
            "trusted_proxies = [\"10.0.0.0/8\",\"::1\"]",
        ),
        (
            "TRUSTED_PROXIES",
            "10.0.0.0/8",
            "trusted_proxies = [\"10.0.0.0/8\"]",
        ),
        (
            "TRUSTED_PROXIES__0",
            "10.0.0.0/8",
            "trusted_proxies = [\"10.0.0.0/8\"]",
        ),
        (
            "AUTHORIZE",
            "http://a/check",
            "authorize = \"http://a/check\"",
        ),
        (
            "AUTHORIZE",
            "{ url = 'http://a/check', timeout = '1s' }",
            "authorize.timeout = \"1s\"",
        ),
        (
            "AUTHORIZE__URL",
            "http://a/check",
            "authorize.url = \"http://a/check\"",
        ),
        ("IDEMPOTENCY__LEASE", "10s\n", "lease = \"10s\""),
        // Text that looks like a number stays text where text is meant.
        ("IDEMPOTENCY__NAMESPACE", "7", "namespace = \"7\""),
        ("IDEMPOTENCY__NAMESPACE", "true", "namespace = \"true\""),
        ("IDEMPOTENCY__ECHO_KEY", "true", "echo_key = true"),
        (
            "IDEMPOTENCY__CREATED_AT_HEADER",
            "x-created",
            "created_at_header = \"x-created\"",
        ),
        (
            "IDEMPOTENCY__CREATED_AT_HEADER",
            "true",
            "created_at_header = true",
        ),
        (
            "IDEMPOTENCY__SCOPE",
            "header:x-api-key",
            "scope = [\"header:x-api-key\"]",
        ),
        (
            "IDEMPOTENCY__RECORD",
            "['2xx', '404']",
            "record = [\"2xx\",\"404\"]",
        ),
        ("IDEMPOTENCY__KEY_LENGTH__MIN", "8", "key_length.min = 8"),
        (
            "IDEMPOTENCY__RECORD_HEADERS__DENY",
            "['x-a']",
            "record_headers.deny = [\"x-a\"]",
        ),
        (
            "IDEMPOTENCY__ON_IN_FLIGHT",
            "{ wait = '5s' }",
            "on_in_flight.wait = \"5s\"",
        ),
        (
            "IDEMPOTENCY__ON_IN_FLIGHT__WAIT",
            "5s",
            "on_in_flight.wait = \"5s\"",
        ),
        (
            "IDEMPOTENCY__REJECTIONS__IN_FLIGHT__STATUS",
            "423",
            "rejections.in-flight.status = 423",
        ),
        (
            "IDEMPOTENCY__REPLAY_STATUS__201",
            "200",
            "replay_status.201 = 200",
        ),
        ("ROUTE__0__MATCH", "POST /a", "match = \"POST /a\""),
        // An old name of an option is read as its new one.
        ("IDEMPOTENCY__MAX_WAITERS", "7", "max_waiting_requests = 7"),
    ] {
        let name = format!("IDEMPOTENCY_{name}");
        let config = read(None, &[(&name, value), ("HOME", "/")]).unwrap();
        let expected = expected.replace(',', ", ").replace(",  ", ", ");
        let line = format!("{expected} # {name}");
        let lines = lines(&config);
        assert!(lines.contains(&line), "{line}: {lines:?}");
    }
}

#[test]
fn a_variable_stands_over_the_file_and_is_named_where_it_is_wrong() {
    let text = "upstream = 'http://a:1'\n[limits]\nkeep_alive = '1s'\n[[route]]\nmatch = '/a'\n[[route]]\nmatch = '/b'\n";
    let path = file("over.toml", text);
    let variables = [
        ("IDEMPOTENCY_UPSTREAM", "http://b:2"),
        ("IDEMPOTENCY_ROUTE__1__REQUIRE", "required"),
        ("IDEMPOTENCY_ROUTE__2__MATCH", "/c"),
    ];
    let config = read(Some(&path), &variables).unwrap();
    assert_eq!(entries(&config).upstream.unwrap(), "http://b:2");
    let lines = lines(&config);
    let place = path.display();
    for line in [
        "upstream = \"http://b:2\" # IDEMPOTENCY_UPSTREAM".to_owned(),
        format!("keep_alive = \"1s\" # {place}:3"),
        "head_timeout = \"30s\" # default".to_owned(),
        format!("match = \"/b\" # {place}:7"),
        "require = \"required\" # IDEMPOTENCY_ROUTE__1__REQUIRE".to_owned(),
        "match = \"/c\" # IDEMPOTENCY_ROUTE__2__MATCH".to_owned(),
        "# listen is not set".to_owned(),
        // The sidecar's default, not the layer's.
    ] {
        assert!(lines.contains(&line), "{line}: {lines:?}");
    }
    for (name, value, says) in [
        (
            "UPSTREAM",
            "ftp://a",
            "IDEMPOTENCY_UPSTREAM: `upstream` must be a URL such as",
        ),
        (
            "UPSTRAEM",
            "http://a",
            "IDEMPOTENCY_UPSTRAEM: `upstraem` is not an option: did you mean `upstream`?",
        ),
        (
            "LIMITS__KEEP_ALIFE",
            "1s",
            "IDEMPOTENCY_LIMITS__KEEP_ALIFE: `limits.keep_alife` is not an option: did you mean `keep_alive`?",
        ),
        (
            "LEASE",
            "1s",
            "IDEMPOTENCY_LEASE: `lease` stands in the wrong place: it belongs in `[idempotency]`",
        ),
        (
            "SECRET",
            "x",
            "IDEMPOTENCY_SECRET: `secret` is not an option: did you mean `secrets`?",
        ),
        (
            "UPSTREAM__HOST",
            "a",
            "IDEMPOTENCY_UPSTREAM__HOST: names an entry of `upstream`, which is no table",
        ),
        (
            "ROUTE__3__MATCH",
            "/d",
            "IDEMPOTENCY_ROUTE__3__MATCH: names entry 3 of `route`, which has 2, counted from 0",
        ),
        (
            "TRUSTED_PROXIES",
            "['10.0.0.0/8'",
            "IDEMPOTENCY_TRUSTED_PROXIES: is not TOML",
        ),
        (
            "TRUSTED_PROXIES",
            "[]\nlisten = '127.0.0.1:1'",
            "IDEMPOTENCY_TRUSTED_PROXIES: must be one value",
        ),
        (
            "SECRETS",
            "['hunter2']",
            "IDEMPOTENCY_SECRETS: `secrets[0]` must have at least 16 bytes",
        ),
        (
            "CONNECT_TIMEOUT",
            "0s",
            "IDEMPOTENCY_CONNECT_TIMEOUT: `connect_timeout` must be longer than zero",
        ),
        (
            "LIMITS",
            "7",
            "IDEMPOTENCY_LIMITS: `limits` must be a table, not a string",
        ),
    ] {
        let name = format!("IDEMPOTENCY_{name}");
        let error = read(Some(&path), &[(&name, value)]).unwrap_err();
        let text = error.to_string();
        assert!(text.starts_with(says), "{text}");
        assert_eq!((error.variable(), error.line()), (Some(&*name), None));
        assert!(!text.contains("hunter2"), "{text}");
    }
    std::fs::remove_file(path).unwrap();
}

/// `env:NAME` may name a variable that begins like those of entries.
#[test]
fn a_variable_that_a_value_refers_to_is_no_entry() {
    let path = file(
        "refers.toml",
        "trusted_proxies = []\nauthorize = 'env:PATH'\n",
    );
    let error = read(Some(&path), &[("IDEMPOTENCY_SECRET", "hunter2")]).unwrap_err();
    assert!(error.others().len() == 1, "{error}");
    // The variable of the test's own process has the value.
    let variables = [
        ("IDEMPOTENCY_SECRETS", "env:IDEMPOTENCY_SECRET"),
        ("IDEMPOTENCY_SECRET", "x"),
    ];
    let error = read(None, &variables).unwrap_err();
    assert_eq!(error.variable(), Some("IDEMPOTENCY_SECRETS"));
    assert!(error.others().is_empty(), "{error}");
    std::fs::remove_file(path).unwrap();
}

#[test]
fn all_that_is_wrong_is_told_at_once() {
    let text = "listen = 'x'\nupstraem = 'http://a'\nconnect_timeout = 5\ntrusted_proxies = ['a', '::1', 'b']\n\
                authorize = { url = 'ftp://a', timeout = '1x' }\n[idempotency]\nlease = 'soon'\n[[route]]\nrequire = 'no'\n\
                [[route]]\nmatch = '/a'\nmethods = ['GET']\n";
    let error = Config::from_toml(text).unwrap_err();
    let lines: Vec<_> = error.to_string().lines().map(str::to_owned).collect();
    let begin = |line: &String| line.split(' ').take(2).collect::<Vec<_>>().join(" ");
    let begins: Vec<_> = lines.iter().map(begin).collect();
    assert_eq!(
        begins,
        [
            "1:1: `listen`",
            "2:1: `upstraem`",
            "3:1: `connect_timeout`",
            "4:20: `trusted_proxies[0]`",
            "4:32: `trusted_proxies[2]`",
            "5:15: `authorize.url`",
            "5:32: `authorize.timeout`",
            "7:1: `idempotency.lease`",
            "9:1: `route[0].require`",
            "12:12: `route[1].methods[0]`",
        ],
        "{error}"
    );
    assert_eq!(error.others().len(), 9);
    // What needs more than one entry is looked at once each entry can be read.
    let text = "connect_timeout = '0s'\nupstream_timeout = '0s'\nsecrets = ['a', 'b']\n[[route]]\nmatch = '/a'\n[[route]]\nmatch = '/a'\n";
    let error = Config::from_toml(text).unwrap_err();
    assert_eq!(error.to_string().lines().count(), 5, "{error}");
}

#[test]
fn nothing_that_is_printed_is_a_secret() {
    let text = "store = 'postgres://app:hunter2@db/orders?password=hunter2'\n\
                secrets = ['hunter2-hunter2-hunter2', 'env:PATH']\n\
                authorize = { url = 'http://auth/check?token=hunter2', timeout = '1s' }\n\
                metrics = '127.0.0.1:1'\ndesk = { token = 'hunter2-hunter2-hunter2' }\n\
                [idempotency]\nencryption = 'xchacha20-poly1305'\n";
    let page = in_force(&Config::from_toml(text).unwrap());
    assert!(!page.contains("hunter2"), "{page}");
    let page: Vec<_> = page
        .lines()
        .map(|line| line.split(" #").next().unwrap().trim())
        .collect();
    for line in [
        "store = \"postgres://***@db/orders?***\"",
        "secrets = [\"***\", \"env:PATH\"]",
        "authorize.url = \"http://auth/check?***\"",
        "desk.token = \"***\"",
        "in_doubt = [\"502\", \"504\"]",
    ] {
        assert!(page.contains(&line), "{line}: {page:?}");
    }
}

/// Kubernetes sets these in each pod beside a service that is called `idempotency`.
#[test]
fn the_variables_of_a_kubernetes_service_are_no_entries() {
    let variables = [
        ("IDEMPOTENCY_SERVICE_HOST", "10.0.0.1"),
        ("IDEMPOTENCY_SERVICE_PORT", "8080"),
        ("IDEMPOTENCY_SERVICE_PORT_HTTP", "8080"),
        ("IDEMPOTENCY_PORT", "tcp://10.0.0.1:8080"),
        ("IDEMPOTENCY_PORT_8080_TCP_ADDR", "10.0.0.1"),
    ];
    read(None, &variables).unwrap();
    assert!(read(None, &[("IDEMPOTENCY_PORTS", "8080")]).is_err());
}

/// What is printed is a file that says the same, but for secrets.
#[test]
fn what_is_printed_can_be_read() {
    let text = "listen = '127.0.0.1:1'\n\
                upstream = 'http://a'\n\
                [idempotency]\n\
                scope = [{ header = 'x-api-key', known_sha256 = \
                ['9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08'] }, 'shared']\n\
                replay_status = { '201' = 200 }\n\
                [[route]]\n\
                match = 'POST /\"a\\'\n";
    let config = Config::from_toml(text).unwrap();
    let page = in_force(&config);
    assert!(!page.contains("9f86d081"), "{page}");
    let hash = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
    let again = Config::from_toml(&page.replace("***", hash)).unwrap();
    let values = |config: &Config| {
        let page = in_force(config);
        let lines: Vec<_> = page
            .lines()
            .map(|line| line.split(" # ").next().unwrap().trim().to_owned())
            .collect();
        lines
    };
    assert_eq!(values(&again), values(&config));
}
