//! Checks that need more than one entry; each error points at the entry to change.

use super::amount::Time;
use super::field::Verb;
use super::process::{not_copied, spelling};
use super::rejections::Code;
use super::{Config, FileError};
use crate::error::ConfigError;
use crate::record::{Nonce, RecordId};
use crate::rejection::{DEFAULT, Template};
use crate::scope;
use crate::store::{
    AnyStore, Claim, Claimed, Lease, Outcome, Ownership, Release, Store, StoreError, StoreErrorKind,
};

impl Config {
    pub(super) fn check(&self) -> Result<(), FileError> {
        self.check_store()?;
        self.check_secrets()?;
        self.check_process()?;
        self.check_limits()?;
        self.check_routes()?;
        self.check_rejections()?;
        #[cfg(not(feature = "encryption"))]
        if self.said.file.idempotency.encryption.is_some() {
            let message = "needs the feature `encryption` of tower-idempotency, which is off";
            return Err(self.error("idempotency.encryption", message));
        }
        let builder = self.builder_of(Unasked, scope::shared());
        match builder.skip_store_checks().build() {
            Ok(_) => Ok(()),
            Err(error) => Err(self.built(&error)),
        }
    }

    /// Checks only the form of the URL: the store may be down when a file is checked.
    fn check_store(&self) -> Result<(), FileError> {
        let Some(Err(error)) = self.store().map(AnyStore::check) else {
            return Ok(());
        };
        let why = std::error::Error::source(&error).map_or(String::new(), ToString::to_string);
        Err(self.error("store", format!("can't work: {why}")))
    }

    /// The layer checks the secrets too, but does not say which one is wrong.
    fn check_secrets(&self) -> Result<(), FileError> {
        let secrets = self.said.file.secrets.iter();
        let secrets: Vec<_> = secrets.flat_map(|list| &list.0).map(|own| &own.0).collect();
        for (at, secret) in secrets.iter().enumerate() {
            let wrong = |message| Err(self.error(&format!("secrets[{at}]"), message));
            if secret.len() < 16 {
                return wrong("must have at least 16 bytes");
            }
            if secrets[..at].contains(secret) {
                return wrong("stands there twice");
            }
        }
        Ok(())
    }

    /// Checks the entries of the sidecar, also if an application reads the file.
    fn check_process(&self) -> Result<(), FileError> {
        let file = &self.said.file;
        let authorize = file.authorize.as_ref().and_then(|own| own.timeout);
        for (path, time) in [
            ("connect_timeout", file.connect_timeout),
            ("upstream_timeout", file.upstream_timeout),
            ("authorize.timeout", authorize),
        ] {
            if time.is_some_and(|Time(time)| time.is_zero()) {
                return Err(self.error(path, "must be longer than zero"));
            }
        }
        self.check_copied()?;
        self.check_tls()?;
        self.check_served_paths()?;
        let metrics = file.metrics.map(|own| own.0);
        // For port 0 the system chooses a free port each time.
        if metrics.is_some_and(|own| own.port() != 0) && metrics == file.listen.map(|own| own.0) {
            let message = "must be another address than `listen`";
            return Err(self.error("metrics", message));
        }
        Ok(())
    }

    /// Each page that the sidecar serves has a path of its own.
    fn check_served_paths(&self) -> Result<(), FileError> {
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
            return Err(self.error(wrong, format!("must be another path than `{other}`")));
        }
        Ok(())
    }

    fn check_tls(&self) -> Result<(), FileError> {
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
                return Err(self.error(&format!("{path}.{entry}"), message));
            }
            if url.is_some_and(|url| url.scheme_str() == Some("http")) {
                let message = "says nothing here: the URL is one of `http`, which has no TLS";
                return Err(self.error(path, message));
            }
        }
        if file.metrics_tls.is_some() && file.metrics.is_none() {
            let message = "says nothing here: there is no `metrics`";
            return Err(self.error("metrics_tls", message));
        }
        Ok(())
    }

    fn check_limits(&self) -> Result<(), FileError> {
        match self.said.file.limits.wrong() {
            Some((name, message)) => Err(self.error(&format!("limits.{name}"), message)),
            None => Ok(()),
        }
    }

    /// Rejects fields that an authorizer must not set, and a field whose copy would overwrite the
    /// copy of another.
    fn check_copied(&self) -> Result<(), FileError> {
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
            return Err(self.error(&format!("authorize.headers[{at}]"), message));
        }
        Ok(())
    }

    /// Rejects a pattern that stands twice, and `methods` beside a pattern with a method, where
    /// `methods` would change nothing.
    fn check_routes(&self) -> Result<(), FileError> {
        let routes = &self.said.file.route;
        for (at, route) in routes.iter().enumerate() {
            let mut before = routes[..at].iter();
            if let Some(same) = before.position(|other| other.pattern == route.pattern) {
                let message = format!("is that of `route[{same}]`, too");
                return Err(self.error(&format!("route[{at}].match"), message));
            }
            let method = route.pattern.split_once(' ').map(|(method, _)| method);
            // A method that HTTP does not define has to be listed.
            let is_own = |Verb(own): &Verb| {
                Some(own.as_str()) == method
                    && !["POST", "PUT", "PATCH", "DELETE"].contains(&own.as_str())
            };
            let methods = route.methods.as_ref();
            if method.is_some() && methods.is_some_and(|all| !all.iter().any(is_own)) {
                let message = "says nothing here: `match` names a method";
                return Err(self.error(&format!("route[{at}].methods"), message));
            }
        }
        Ok(())
    }

    fn check_rejections(&self) -> Result<(), FileError> {
        for (Code(code), rejection) in &self.said.file.idempotency.rejections {
            let wrong = |entry: &str, message: &str| {
                self.error(&format!("idempotency.rejections.{code}.{entry}"), message)
            };
            if *code == DEFAULT && rejection.status.is_some() {
                let message = "must not stand here: each code has a status of its own";
                return Err(wrong("status", message));
            }
            match (&rejection.content_type, &rejection.body) {
                (None, None) if *code == DEFAULT => {
                    return Err(wrong("body", "is missing, and so is its `content_type`"));
                }
                (None, None) => {}
                (Some(_), None) => return Err(wrong("content_type", "needs a `body` beside it")),
                (None, Some(_)) => return Err(wrong("body", "needs a `content_type` beside it")),
                (Some(content_type), Some(body)) => {
                    if let Err(error) = Template::new(content_type, body) {
                        return Err(wrong(error.option(), error.message()));
                    }
                }
            }
        }
        Ok(())
    }

    /// The error of building the layer, at the entry that causes it.
    pub(super) fn built(&self, error: &ConfigError) -> FileError {
        let mut message = error.message().to_owned();
        let mut source = std::error::Error::source(error);
        while let Some(cause) = source {
            message = format!("{message}: {cause}");
            source = cause.source();
        }
        let own = match error.option() {
            "route" => "match",
            option => option,
        };
        let path = self.entry(error, own);
        if !path.ends_with(&format!(".{own}")) {
            message = format!("clashes with `{own}`, which {message}");
        }
        self.error(&path, message)
    }

    /// The path of the entry that causes an error: the entry of the option itself, or of another
    /// option that clashes with its default.
    fn entry(&self, error: &ConfigError, own: &str) -> String {
        let file = &self.said.file;
        if own == "max_buffered_bytes" && file.idempotency.max_buffered_bytes.is_none() {
            return self.largest_body();
        }
        let others: &[&str] = match own {
            "max_operation" => &["lease"],
            _ => &[],
        };
        let mut routes = file.route.iter();
        let route = routes.position(|route| Some(&*route.pattern) == error.route());
        let tables = route.map(|at| format!("route[{at}]"));
        let tables = tables.into_iter().chain(["idempotency".to_owned()]);
        tables
            .flat_map(|table| {
                let options = [own].into_iter().chain(others.iter().copied());
                options.map(move |option| format!("{table}.{option}"))
            })
            .find(|path| self.said.document.has(path))
            .unwrap_or_else(|| format!("idempotency.{own}"))
    }

    /// The path of the largest `max_request_body`.
    fn largest_body(&self) -> String {
        let file = &self.said.file;
        let routes = file.route.iter().map(|route| &route.max_request_body);
        let sizes = [&file.idempotency.max_request_body]
            .into_iter()
            .chain(routes);
        let sizes = sizes.zip(self.tables());
        let largest = sizes
            .filter_map(|(size, table)| Some((size.as_ref()?.0, table)))
            .max_by_key(|(size, _)| *size);
        largest.map_or_else(String::new, |(_, table)| {
            format!("{table}.max_request_body")
        })
    }
}

/// The store of a layer that is built to check its options and never gets a request.
pub(super) struct Unasked;

impl Unasked {
    fn refused<T>() -> Result<T, StoreError> {
        let message = "this layer is only there to be checked";
        Err(StoreError::new(StoreErrorKind::Refused, message))
    }
}

impl Store for Unasked {
    async fn claim(&self, _: &Claim) -> Result<Claimed, StoreError> {
        Self::refused()
    }

    async fn renew(&self, _: &Lease) -> Result<Ownership, StoreError> {
        Self::refused()
    }

    async fn complete(&self, _: &Lease, _: &Outcome) -> Result<Ownership, StoreError> {
        Self::refused()
    }

    async fn release(&self, _: &RecordId, _: &Nonce, _: Release) -> Result<Ownership, StoreError> {
        Self::refused()
    }
}
