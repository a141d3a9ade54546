//! What a file says about the process.

use super::{Config, FileError, Step};
use crate::sidecar::{Authorize, Settings};

impl Config {
    /// The store, which a sidecar can't be given otherwise.
    pub(crate) fn required_store(&self) -> Result<&str, FileError> {
        self.store().ok_or_else(|| self.missing("store", "memory:"))
    }

    fn missing(&self, option: &str, example: &str) -> FileError {
        let message = format!("is missing: the sidecar needs it, such as \"{example}\"");
        self.error(&[Step::from(option)], message)
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
            trusted_proxies: networks.map(|own| own.0).collect(),
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
