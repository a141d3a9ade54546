//! What a file says about the process.

use ipnet::IpNet;

use super::{Config, FileError, Step};
use crate::scope::canonical;
use crate::sidecar::{Authorize, Settings};

impl Config {
    /// The store, which a sidecar can't be given otherwise.
    pub(crate) fn required_store(&self) -> Result<&str, FileError> {
        self.store().ok_or_else(|| self.missing("store", "memory:"))
    }

    pub(crate) fn docs_url(&self) -> Option<&str> {
        self.said.file.idempotency.docs_url.as_deref()
    }

    fn missing(&self, option: &str, example: &str) -> FileError {
        let message = format!("is missing: the sidecar needs it, such as \"{example}\"");
        self.error(&[Step::from(option)], message)
    }

    /// A scope that believes a proxy needs the sidecar to believe it too: from
    /// any other peer it removes what says where a request comes from. And
    /// behind a proxy all callers have one address (G6).
    fn check_scopes(&self, believed: &[IpNet]) -> Result<(), FileError> {
        let file = &self.said.file;
        let of_all = file.idempotency.scope.iter();
        let of_all = of_all.map(|scope| (vec![Step::from("idempotency")], scope));
        let of_routes = file.route.iter().enumerate().filter_map(|(at, route)| {
            let table = vec![Step::from("route"), at.into()];
            Some((table, route.scope.as_ref()?))
        });
        for (mut path, scope) in of_all.chain(of_routes) {
            if scope.peer_ip && !believed.is_empty() {
                path.push("scope".into());
                let message = "lists `peer-ip`, which is a proxy's own address for all that it \
                               forwards: behind the `trusted_proxies` a caller is told by \
                               { forwarded_ip = \"x-forwarded-for\", trusted = [\"…\"] }";
                return Err(self.error(&path, message));
            }
            let is_not_believed = |own: &&IpNet| {
                let own = canonical(**own);
                !believed.iter().any(|net| net.contains(&own))
            };
            if let Some(network) = scope.trusted.iter().find(is_not_believed) {
                path.push("scope".into());
                let message = format!(
                    "trusts {network} to say where a request comes from: list it in \
                     `trusted_proxies` too, or the sidecar removes what it says"
                );
                return Err(self.error(&path, message));
            }
        }
        Ok(())
    }

    /// A service behind a proxy has no claim to commit.
    fn check_exactly_once(&self) -> Result<(), FileError> {
        let file = &self.said.file;
        let of_routes = file.route.iter().enumerate();
        let of_routes = of_routes.map(|(at, route)| {
            let table = vec![Step::from("route"), at.into()];
            (table, route.exactly_once)
        });
        let of_all = (
            vec![Step::from("idempotency")],
            file.idempotency.exactly_once,
        );
        for (mut path, exactly_once) in std::iter::once(of_all).chain(of_routes) {
            if exactly_once == Some(true) {
                path.push("exactly_once".into());
                let message = "can't be promised here: it is for handlers in Rust that commit \
                               their claims";
                return Err(self.error(&path, message));
            }
        }
        Ok(())
    }

    /// What the sidecar is told, with its defaults.
    pub(crate) fn sidecar(&self) -> Result<Settings, FileError> {
        let file = &self.said.file;
        let missing = |option, example| self.missing(option, example);
        let listen = file
            .listen
            .ok_or_else(|| missing("listen", "127.0.0.1:8080"))?;
        let upstream = file.upstream.as_ref();
        let upstream = upstream.ok_or_else(|| missing("upstream", "http://127.0.0.1:9000"))?;
        let usual = Settings::default();
        let networks = file.trusted_proxies.iter().flat_map(|list| &list.0);
        let trusted_proxies: Vec<IpNet> = networks.map(|own| canonical(own.0)).collect();
        self.check_scopes(&trusted_proxies)?;
        self.check_exactly_once()?;
        Ok(Settings {
            listen: listen.0,
            upstream: upstream.0.clone(),
            upstream_http2: file.upstream_http2.unwrap_or(usual.upstream_http2),
            connect_timeout: file
                .connect_timeout
                .map_or(usual.connect_timeout, |own| own.0),
            upstream_timeout: file
                .upstream_timeout
                .map_or(usual.upstream_timeout, |own| own.0),
            authorize: file.authorize.as_ref().map(|own| Authorize {
                url: own.url.clone(),
                timeout: own.timeout.map_or(Authorize::TIMEOUT, |timeout| timeout.0),
                headers: own.headers.clone(),
            }),
            trusted_proxies,
            metrics: file.metrics.map(|own| own.0),
            healthz: file
                .healthz
                .as_ref()
                .map_or(usual.healthz, |own| own.0.clone()),
            contract: file
                .contract
                .as_ref()
                .map_or(usual.contract, |own| own.0.clone()),
            drain_timeout: file.drain_timeout.map_or(usual.drain_timeout, |own| own.0),
            ignore_path_case: file.ignore_path_case.unwrap_or(usual.ignore_path_case),
        })
    }
}
