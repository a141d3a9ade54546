//! Checks of the sidecar's entries that need more than one of them. They are checked also if an
//! application reads the file.

use super::amount::Time;
use super::process::{Listen, not_copied, spelling};
use super::tls::ServerTls;
use super::{Config, FileError};

impl Config {
    pub(super) fn check_process(&self, errors: &mut Vec<FileError>) {
        let file = &self.said.file;
        let authorize = file.authorize.as_ref().and_then(|own| own.timeout);
        for (path, time) in [
            ("connect_timeout", file.connect_timeout),
            ("upstream_timeout", file.upstream_timeout),
            ("authorize.timeout", authorize),
        ] {
            if time.is_some_and(|Time(time)| time.is_zero()) {
                errors.push(self.error(path, "must be longer than zero"));
            }
        }
        self.check_copied(errors);
        self.check_tls(errors);
        self.check_served_paths(errors);
        if let Some((name, message)) = file.limits.wrong() {
            errors.push(self.error(&format!("limits.{name}"), message));
        }
        let metrics = file.metrics.as_ref().map(|own| &own.0);
        let tls = file.metrics_tls.as_ref().map(ServerTls::files);
        if let Some((path, message)) = file.desk.as_ref().and_then(|own| own.wrong(metrics, tls)) {
            errors.push(self.error(path, message));
        }
        // For port 0 the system chooses a free port each time.
        let is_fixed = metrics.is_some_and(|own| !matches!(own, Listen::Tcp(_, 0)));
        if is_fixed && metrics == file.listen.as_ref().map(|own| &own.0) {
            errors.push(self.error("metrics", "must be another address than `listen`"));
        }
    }

    /// Each page that the sidecar serves has a path of its own.
    fn check_served_paths(&self, errors: &mut Vec<FileError>) {
        let file = &self.said.file;
        let pages = [
            ("healthz", &file.healthz, Some("/healthz")),
            ("livez", &file.livez, Some("/livez")),
            ("readyz", &file.readyz, Some("/readyz")),
            ("contract", &file.contract, None),
        ];
        let pages = pages.map(|(name, own, usual)| match own {
            Some(own) => (name, own.0.as_deref(), true),
            None => (name, usual, false),
        });
        for (at, (name, path, is_set)) in pages.iter().enumerate() {
            let mut before = pages[..at].iter().filter(|(_, own, _)| own.is_some());
            let Some((same, _, _)) = before.find(|(_, own, _)| own == path) else {
                continue;
            };
            let (wrong, other) = if *is_set { (name, same) } else { (same, name) };
            errors.push(self.error(wrong, format!("must be another path than `{other}`")));
        }
    }

    fn check_tls(&self, errors: &mut Vec<FileError>) {
        let file = &self.said.file;
        let of_authorizer = file.authorize.as_ref();
        let authorizer = of_authorizer.map(|own| &own.url);
        let upstream = file.upstream.as_ref().map(|own| &own.0);
        let of_authorizer = of_authorizer.and_then(|own| own.tls.as_ref());
        for (path, tls, url) in [
            ("upstream_tls", file.upstream_tls.as_ref(), upstream),
            ("authorize.tls", of_authorizer, authorizer),
        ] {
            let Some(tls) = tls else { continue };
            if let Some((entry, message)) = tls.wrong() {
                errors.push(self.error(&format!("{path}.{entry}"), message));
            }
            if url.is_some_and(|url| url.scheme_str() == Some("http")) {
                let message = "says nothing here: the URL is one of `http`, which has no TLS";
                errors.push(self.error(path, message));
            }
        }
        if file.metrics_tls.is_some() && file.metrics.is_none() {
            let message = "says nothing here: there is no `metrics`";
            errors.push(self.error("metrics_tls", message));
        }
    }

    /// Rejects fields that an authorizer must not set, and a field whose copy would overwrite the
    /// copy of another.
    fn check_copied(&self, errors: &mut Vec<FileError>) {
        let names = self.said.file.authorize.as_ref();
        let names = names.map_or(&[][..], |own| &own.headers);
        for (at, name) in names.iter().enumerate() {
            let same = |other| spelling(other) == spelling(name);
            let message = if let Some(why) = not_copied(name) {
                format!("can't be `{name}`, which {why}")
            } else if let Some(same) = names[..at].iter().find(|other| same(other)) {
                format!("is read as the same as `{same}`, which stands before it")
            } else {
                continue;
            };
            errors.push(self.error(&format!("authorize.headers[{at}]"), message));
        }
    }
}
