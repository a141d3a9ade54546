//! The options of the process, from the top of the file. The tables `[idempotency]` and
//! `[[route]]` configure the layer.

use std::fmt;
use std::time::Duration;

use http::{HeaderName, Uri};
use ipnet::IpNet;
use tower_idempotency::config::{Config, FileError};
use tower_idempotency::for_sidecar::{
    ClientFiles, DeskEntry, Entries, Limits, Listen, ServerFiles, all_of, canonical, entries, wrong,
};

use crate::client::KEEP_ALIVE;

/// Each field is an entry at the top of the file.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Required.
    pub(crate) listen: Listen,
    /// With what `listen` speaks TLS.
    pub(crate) tls: Option<ServerFiles>,
    /// Required: `http://` or `https://` and an authority, without a path.
    pub(crate) upstream: Uri,
    pub(crate) upstream_tls: ClientFiles,
    /// HTTP/2 or HTTP/1.1. `None`: a server of TLS chooses, any other gets HTTP/1.1.
    pub(crate) upstream_http2: Option<bool>,
    /// How long an idle connection over HTTP/1.1 is kept; zero for no connection.
    pub(crate) upstream_keep_alive: Duration,
    pub(crate) connect_timeout: Duration,
    /// From the request's last byte to the head of the upstream's response.
    pub(crate) upstream_timeout: Duration,
    pub(crate) authorize: Option<Authorize>,
    /// Networks of proxies whose `X-Forwarded-*` headers the sidecar trusts.
    pub(crate) trusted_proxies: Vec<IpNet>,
    /// Some `scope` tells callers by their addresses.
    pub(crate) callers_are_addresses: bool,
    /// Where `/metrics` and `/healthz` are served.
    pub(crate) metrics: Option<Listen>,
    pub(crate) metrics_tls: Option<ServerFiles>,
    /// Who may use the desk on `metrics`, and what it shows.
    pub(crate) desk: Option<DeskEntry>,
    /// The path on `listen` that says whether the process lives.
    pub(crate) livez: Option<String>,
    /// The path on `listen` that says whether the sidecar should get requests.
    pub(crate) readyz: Option<String>,
    /// The path on `listen` that says whether the sidecar is alive.
    pub(crate) healthz: Option<String>,
    /// The path on `listen` where the contract is served.
    pub(crate) contract: Option<String>,
    /// For how long the sidecar goes on as before when it is told to end.
    pub(crate) drain_delay: Duration,
    pub(crate) drain_timeout: Duration,
    /// Patterns are matched against the path in lower case.
    pub(crate) ignore_path_case: bool,
    /// The page that rejections link to. `None` for the path `contract`.
    pub(crate) docs_url: Option<String>,
    pub(crate) limits: Limits,
}

/// The authorizer, which is asked before the layer claims or replays anything.
#[derive(Clone)]
pub(crate) struct Authorize {
    /// `http://` or `https://`, asked with GET.
    pub(crate) url: Uri,
    pub(crate) tls: ClientFiles,
    pub(crate) timeout: Duration,
    /// Headers that are copied from the authorizer's response into the request.
    pub(crate) headers: Vec<HeaderName>,
}

/// `listen` and `upstream` have no defaults: a file has to name them. The values here reach
/// nothing.
impl Default for Settings {
    fn default() -> Self {
        Self {
            listen: Listen::Tcp("127.0.0.1".to_owned(), 0),
            tls: None,
            upstream: Uri::from_static("http://127.0.0.1:0"),
            upstream_tls: ClientFiles::default(),
            upstream_http2: None,
            upstream_keep_alive: KEEP_ALIVE,
            connect_timeout: Duration::from_secs(5),
            upstream_timeout: Duration::from_mins(1),
            authorize: None,
            trusted_proxies: Vec::new(),
            callers_are_addresses: false,
            metrics: None,
            metrics_tls: None,
            desk: None,
            livez: Some("/livez".to_owned()),
            readyz: Some("/readyz".to_owned()),
            healthz: Some("/healthz".to_owned()),
            contract: None,
            drain_delay: Duration::ZERO,
            drain_timeout: Duration::from_secs(30),
            ignore_path_case: false,
            docs_url: None,
            limits: Limits::default(),
        }
    }
}

impl Authorize {
    pub(crate) const TIMEOUT: Duration = Duration::from_secs(5);
}

/// Leaves out `url`, which may hold a credential.
impl fmt::Debug for Authorize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authorize")
            .field("timeout", &self.timeout)
            .field("headers", &self.headers)
            .finish_non_exhaustive()
    }
}

fn missing(config: &Config, option: &str, example: &str) -> FileError {
    let message = format!("is missing: the sidecar needs it, such as \"{example}\"");
    wrong(config, option, &message)
}

/// The URL of the store, whose engine this program was built with.
pub(crate) fn required_store(config: &Config) -> Result<&str, FileError> {
    let Some(store) = config.store() else {
        return Err(missing(config, "store", "memory:"));
    };
    let scheme = store.split_once(':').map_or(store, |(scheme, _)| scheme);
    // What comes after a plus says how Redis is reached.
    let engine = scheme.split_once('+').map_or(scheme, |(engine, _)| engine);
    let (feature, is_on) = match engine {
        "mysql" | "mariadb" => ("mysql", cfg!(feature = "mysql")),
        "postgres" | "postgresql" => ("postgres", cfg!(feature = "postgres")),
        "redis" | "rediss" | "valkey" | "valkeys" => ("redis", cfg!(feature = "redis")),
        "sqlite" => ("sqlite", cfg!(feature = "sqlite")),
        _ => return Ok(store),
    };
    if is_on {
        return Ok(store);
    }
    let message = format!(
        "is a `{scheme}:` URL, and this program was built without the feature `{feature}`: build it \
         again with `--features {feature}`"
    );
    Err(wrong(config, "store", &message))
}

impl Settings {
    /// The settings of this file, with the defaults of what it leaves out.
    pub(crate) fn read(config: &Config) -> Result<Self, FileError> {
        let entries = entries(config);
        let mut errors = Vec::new();
        if entries.listen.is_none() {
            errors.push(missing(config, "listen", "127.0.0.1:8080"));
        }
        if entries.upstream.is_none() {
            errors.push(missing(config, "upstream", "http://127.0.0.1:9000"));
        }
        errors.extend(required_store(config).err());
        check_tls(config, &entries, &mut errors);
        check_scopes(config, &entries, &mut errors);
        check_handlers(config, &entries, &mut errors);
        all_of(errors)?;
        let usual = Self::default();
        Ok(Self {
            listen: entries.listen.expect("it was checked"),
            tls: entries.tls,
            upstream: entries.upstream.expect("it was checked"),
            upstream_tls: entries.upstream_tls.unwrap_or_default(),
            upstream_http2: entries.upstream_http2,
            upstream_keep_alive: entries
                .upstream_keep_alive
                .unwrap_or(usual.upstream_keep_alive),
            connect_timeout: entries.connect_timeout.unwrap_or(usual.connect_timeout),
            upstream_timeout: entries.upstream_timeout.unwrap_or(usual.upstream_timeout),
            authorize: entries.authorize.map(|own| Authorize {
                url: own.url,
                tls: own.tls.unwrap_or_default(),
                timeout: own.timeout.unwrap_or(Authorize::TIMEOUT),
                headers: own.headers,
            }),
            callers_are_addresses: entries
                .tables
                .iter()
                .any(|table| table.peer_ip || !table.trusted.is_empty()),
            trusted_proxies: entries.trusted_proxies,
            metrics: entries.metrics,
            metrics_tls: entries.metrics_tls,
            desk: entries.desk,
            livez: entries.livez.unwrap_or(usual.livez),
            readyz: entries.readyz.unwrap_or(usual.readyz),
            healthz: entries.healthz.unwrap_or(usual.healthz),
            contract: entries.contract.unwrap_or(usual.contract),
            drain_delay: entries.drain_delay.unwrap_or(usual.drain_delay),
            drain_timeout: entries.drain_timeout.unwrap_or(usual.drain_timeout),
            ignore_path_case: entries.ignore_path_case.unwrap_or(usual.ignore_path_case),
            docs_url: entries.docs_url,
            limits: entries.limits,
        })
    }
}

pub(crate) fn is_https(url: &Uri) -> bool {
    url.scheme_str() == Some("https")
}

/// Refuses what needs TLS in a program that was built without it.
fn check_tls(config: &Config, entries: &Entries, errors: &mut Vec<FileError>) {
    if cfg!(feature = "tls") {
        return;
    }
    let authorize = entries.authorize.as_ref();
    let needs = [
        ("tls", entries.tls.is_some()),
        ("metrics_tls", entries.metrics_tls.is_some()),
        ("upstream", entries.upstream.as_ref().is_some_and(is_https)),
        ("authorize", authorize.is_some_and(|own| is_https(&own.url))),
        ("upstream_tls", entries.upstream_tls.is_some()),
    ];
    for (entry, _) in needs.iter().filter(|(_, needs)| *needs) {
        let message = "needs TLS, and this program was built without the feature `tls`: build it \
                       again with `--features tls`";
        errors.push(wrong(config, entry, message));
    }
}

/// A scope that trusts a proxy needs the sidecar to trust that proxy too: from
/// any other peer the sidecar removes the headers that say where a request comes
/// from. And behind a proxy all callers have one address (G6).
fn check_scopes(config: &Config, entries: &Entries, errors: &mut Vec<FileError>) {
    let trusted = &entries.trusted_proxies;
    for table in &entries.tables {
        if table.peer_ip && !trusted.is_empty() {
            let message = "lists `peer-ip`, which is a proxy's own address for all that it \
                           forwards: behind the `trusted_proxies` a caller is told by \
                           { forwarded_ip = \"x-forwarded-for\", trusted = [\"…\"] }";
            errors.push(table.wrong(config, "scope", message));
        }
        let is_not_trusted = |own: &&IpNet| {
            let own = canonical(**own);
            !trusted.iter().any(|network| network.contains(&own))
        };
        if let Some(network) = table.trusted.iter().find(is_not_trusted) {
            let message = format!(
                "trusts {network} to say where a request comes from: list it in \
                 `trusted_proxies` too, or the sidecar removes what it says"
            );
            errors.push(table.wrong(config, "scope", &message));
        }
    }
}

/// A service behind a proxy has no claim to commit, and no context to run a step with.
fn check_handlers(config: &Config, entries: &Entries, errors: &mut Vec<FileError>) {
    for table in entries.tables.iter().filter(|table| table.steps) {
        let message = "can't be kept here: a step is run by a handler in Rust, inside its process";
        errors.push(table.wrong(config, "steps", message));
    }
    for table in entries.tables.iter().filter(|table| table.exactly_once) {
        let message = "can't be promised here: it is for handlers in Rust that commit their claims";
        errors.push(table.wrong(config, "exactly_once", message));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Config {
        Config::from_toml(text).unwrap_or_else(|error| panic!("{text}\n{error}"))
    }

    #[test]
    fn the_sidecar_is_told_what_the_file_says() {
        let least =
            "listen = '127.0.0.1:8080'\nupstream = 'http://127.0.0.1:9000'\nstore = 'memory:'\n";
        let usual = Settings {
            listen: Listen::Tcp("127.0.0.1".to_owned(), 8080),
            upstream: "http://127.0.0.1:9000".parse().unwrap(),
            ..Settings::default()
        };
        let told = |text: &str| {
            format!(
                "{:?}",
                Settings::read(&read(&format!("{least}{text}"))).unwrap()
            )
        };
        assert_eq!(told(""), format!("{usual:?}"));
        for (entry, expected) in [
            ("upstream_http2 = true", "upstream_http2: Some(true)"),
            ("upstream_keep_alive = '0s'", "upstream_keep_alive: 0ns"),
            ("connect_timeout = '1s'", "connect_timeout: 1s"),
            ("upstream_timeout = '2s'", "upstream_timeout: 2s"),
            (
                "authorize = 'http://auth:1/check?a=b'",
                "authorize: Some(Authorize { timeout: 5s, headers: [], .. })",
            ),
            (
                "authorize = { url = 'http://auth', timeout = '1s', headers = ['X-Account'] }",
                "timeout: 1s, headers: [\"x-account\"], .. })",
            ),
            (
                "trusted_proxies = ['10.0.0.0/8', '::1']",
                "trusted_proxies: [10.0.0.0/8, ::1/128]",
            ),
            (
                "metrics = '[::1]:9100'",
                "metrics: Some(Tcp(\"::1\", 9100))",
            ),
            (
                "metrics = '127.0.0.1:1'\ndesk = { show_bodies = true }",
                "desk: Some(DeskEntry { show_bodies: true, .. })",
            ),
            ("healthz = '/live'", "healthz: Some(\"/live\")"),
            ("healthz = false", "healthz: None"),
            ("livez = '/up'", "livez: Some(\"/up\")"),
            ("readyz = false", "readyz: None"),
            ("drain_delay = '5s'", "drain_delay: 5s"),
            ("contract = '/docs/keys'", "contract: Some(\"/docs/keys\")"),
            ("drain_timeout = '0s'", "drain_timeout: 0ns"),
            ("ignore_path_case = true", "ignore_path_case: true"),
            ("limits.max_connections = 7", "max_connections: 7"),
            (
                "limits.max_connections_per_peer = 7",
                "max_connections_per_peer: Some(7)",
            ),
            ("limits.head_timeout = '1s'", "head_timeout: 1s"),
        ] {
            assert!(told(entry).contains(expected), "{entry}: {}", told(entry));
            assert!(!told("").contains(expected), "{entry}");
        }
        let asked = format!("{least}authorize = 'http://auth:1/check?a=b'");
        let asked = Settings::read(&read(&asked)).unwrap().authorize.unwrap();
        assert_eq!(asked.url, "http://auth:1/check?a=b");
        for (text, said) in [
            (
                "upstream = 'http://a'\nstore = 'memory:'",
                "1:1: `listen` is missing: the sidecar needs it, such as \"127.0.0.1:8080\"",
            ),
            (
                "listen = '127.0.0.1:1'\nstore = 'memory:'",
                "1:1: `upstream` is missing: the sidecar needs it, such as \"http://127.0.0.1:9000\"",
            ),
        ] {
            assert_eq!(Settings::read(&read(text)).unwrap_err().to_string(), said);
        }
        assert_eq!(
            required_store(&read("")).unwrap_err().to_string(),
            "1:1: `store` is missing: the sidecar needs it, such as \"memory:\""
        );
        assert_eq!(
            required_store(&read("store = 'memory:'")).unwrap(),
            "memory:"
        );
        read("listen = '127.0.0.1:0'\nmetrics = '127.0.0.1:0'");
    }
}
