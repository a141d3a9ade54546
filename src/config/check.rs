//! Checks that need more than one entry; each error points at the entry to change.

use super::field::Verb;
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
    /// Returns all that is wrong. The layer is built only if nothing else is.
    pub(super) fn check(&self) -> Vec<FileError> {
        let mut errors = Vec::new();
        self.check_store(&mut errors);
        self.check_secrets(&mut errors);
        self.check_process(&mut errors);
        self.check_routes(&mut errors);
        self.check_rejections(&mut errors);
        #[cfg(not(feature = "encryption"))]
        if self.said.file.idempotency.encryption.is_some() {
            let message = "needs the feature `encryption` of tower-idempotency, which is off";
            errors.push(self.error("idempotency.encryption", message));
        }
        if errors.is_empty() {
            let builder = self.builder_of(Unasked, scope::shared());
            let built = builder.skip_store_checks().build();
            errors.extend(built.err().map(|error| self.built(&error)));
        }
        errors
    }

    /// Checks only the form of the URL: the store may be down when a file is checked.
    fn check_store(&self, errors: &mut Vec<FileError>) {
        if let Some(Err(error)) = self.store().map(AnyStore::check) {
            let why = std::error::Error::source(&error).map_or(String::new(), ToString::to_string);
            errors.push(self.error("store", format!("can't work: {why}")));
        }
    }

    /// The layer checks the secrets too, but does not say which one is wrong.
    fn check_secrets(&self, errors: &mut Vec<FileError>) {
        let secrets = self.said.file.secrets.iter();
        let secrets: Vec<_> = secrets.flat_map(|list| &list.0).map(|own| &own.0).collect();
        for (at, secret) in secrets.iter().enumerate() {
            let message = if secret.len() < 16 {
                "must have at least 16 bytes"
            } else if secrets[..at].contains(secret) {
                "stands there twice"
            } else {
                continue;
            };
            errors.push(self.error(&format!("secrets[{at}]"), message));
        }
    }

    /// Rejects a pattern that stands twice, and `methods` beside a pattern with a method, where
    /// `methods` would change nothing.
    fn check_routes(&self, errors: &mut Vec<FileError>) {
        let routes = &self.said.file.route;
        for (at, route) in routes.iter().enumerate() {
            let mut before = routes[..at].iter();
            if let Some(same) = before.position(|other| other.pattern == route.pattern) {
                let message = format!("is that of `route[{same}]`, too");
                errors.push(self.error(&format!("route[{at}].match"), message));
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
                errors.push(self.error(&format!("route[{at}].methods"), message));
            }
        }
    }

    fn check_rejections(&self, errors: &mut Vec<FileError>) {
        for (Code(code), rejection) in &self.said.file.idempotency.rejections {
            let wrong = |entry: &str, message: &str| {
                self.error(&format!("idempotency.rejections.{code}.{entry}"), message)
            };
            if *code == DEFAULT && rejection.status.is_some() {
                let message = "must not stand here: each code has a status of its own";
                errors.push(wrong("status", message));
            }
            match (&rejection.content_type, &rejection.body) {
                (None, None) if *code == DEFAULT => {
                    errors.push(wrong("body", "is missing, and so is its `content_type`"));
                }
                (None, None) => {}
                (Some(_), None) => errors.push(wrong("content_type", "needs a `body` beside it")),
                (None, Some(_)) => errors.push(wrong("body", "needs a `content_type` beside it")),
                (Some(content_type), Some(body)) => {
                    if let Err(error) = Template::new(content_type, body) {
                        errors.push(wrong(error.option(), error.message()));
                    }
                }
            }
        }
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
