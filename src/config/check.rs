//! What is only wrong in the whole, with the entry that makes it so.

use super::document::Step;
use super::process::{not_copied, spelling};
use super::{Config, FileError};
use crate::error::ConfigError;
use crate::record::{Nonce, RecordId};
use crate::rejection::Template;
use crate::scope;
use crate::store::{
    AnyStore, Claim, Claimed, Lease, Outcome, Ownership, Release, Store, StoreError, StoreErrorKind,
};

impl Config {
    pub(super) fn check(&self) -> Result<(), FileError> {
        self.check_store()?;
        self.check_secrets()?;
        self.check_process()?;
        self.check_routes()?;
        self.check_rejections()?;
        #[cfg(not(feature = "encryption"))]
        if self.said.file.idempotency.encryption.is_some() {
            let path = ["idempotency".into(), "encryption".into()];
            let message = "needs the feature `encryption` of tower-idempotency, which is off";
            return Err(self.error(&path, message));
        }
        let builder = self.builder_of(Unasked, scope::shared());
        match builder.skip_store_checks().build() {
            Ok(_) => Ok(()),
            Err(error) => Err(self.built(&error)),
        }
    }

    /// No more than the URL's form: the store may be down when a file is checked.
    fn check_store(&self) -> Result<(), FileError> {
        let Some(Err(error)) = self.store().map(AnyStore::check) else {
            return Ok(());
        };
        let why = std::error::Error::source(&error).map_or(String::new(), ToString::to_string);
        Err(self.error(&["store".into()], format!("can't work: {why}")))
    }

    /// As the layer does, but for each entry.
    fn check_secrets(&self) -> Result<(), FileError> {
        let secrets = self.said.file.secrets.iter();
        let secrets: Vec<_> = secrets.flat_map(|list| &list.0).map(|own| &own.0).collect();
        for (at, secret) in secrets.iter().enumerate() {
            let wrong = |message| Err(self.error(&["secrets".into(), at.into()], message));
            if secret.len() < 16 {
                return wrong("must have at least 16 bytes");
            }
            if secrets[..at].contains(secret) {
                return wrong("stands there twice");
            }
        }
        Ok(())
    }

    /// What the sidecar can't do, whoever reads the file.
    fn check_process(&self) -> Result<(), FileError> {
        let file = &self.said.file;
        let authorize = file.authorize.as_ref().and_then(|own| own.timeout);
        for (path, time) in [
            (&["connect_timeout"][..], file.connect_timeout),
            (&["upstream_timeout"], file.upstream_timeout),
            (&["authorize", "timeout"], authorize),
        ] {
            if time.is_some_and(|time| time.0.is_zero()) {
                let path: Vec<Step> = path.iter().map(|name| Step::from(*name)).collect();
                return Err(self.error(&path, "must be longer than zero"));
            }
        }
        self.check_copied()?;
        let contract = file.contract.as_ref().and_then(|own| own.0.as_deref());
        let healthz = match &file.healthz {
            Some(own) => own.0.as_deref(),
            None => Some("/healthz"),
        };
        if contract.is_some() && contract == healthz {
            let message = "must be another path than `healthz`";
            return Err(self.error(&["contract".into()], message));
        }
        let metrics = file.metrics.map(|own| own.0);
        // Port 0 is another one each time.
        if metrics.is_some_and(|own| own.port() != 0) && metrics == file.listen.map(|own| own.0) {
            let message = "must be another address than `listen`";
            return Err(self.error(&["metrics".into()], message));
        }
        Ok(())
    }

    /// Fields that are not an authorizer's to say, or of which one would undo
    /// another.
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
            let path = ["authorize".into(), "headers".into(), at.into()];
            return Err(self.error(&path, message));
        }
        Ok(())
    }

    /// A pattern that stands twice; a method in `match`, which makes `methods` say
    /// nothing.
    fn check_routes(&self) -> Result<(), FileError> {
        let routes = &self.said.file.route;
        for (at, route) in routes.iter().enumerate() {
            let mut before = routes[..at].iter();
            if let Some(same) = before.position(|other| other.pattern == route.pattern) {
                let path = ["route".into(), at.into(), "match".into()];
                return Err(self.error(&path, format!("is that of `route[{same}]`, too")));
            }
            let names_one = route.pattern.contains(' ');
            if names_one && route.methods.is_some() {
                let path = ["route".into(), at.into(), "methods".into()];
                let message = "says nothing here: `match` names a method";
                return Err(self.error(&path, message));
            }
        }
        Ok(())
    }

    fn check_rejections(&self) -> Result<(), FileError> {
        for (code, rejection) in self.said.file.idempotency.rejections.listed() {
            let wrong = |entry: &str, message: &str| {
                let path = ["idempotency", "rejections", code.as_str(), entry];
                self.error(&path.map(Step::from), message)
            };
            match (&rejection.content_type, &rejection.body) {
                (None, None) => {}
                (Some(_), None) => return Err(wrong("content_type", "needs a `body` beside it")),
                (None, Some(_)) => return Err(wrong("body", "needs a `content_type` beside it")),
                (Some(content_type), Some(body)) => {
                    if let Err(message) = Template::new(content_type, body) {
                        let is_type = message.contains("which is not a content type");
                        let entry = if is_type { "content_type" } else { "body" };
                        return Err(wrong(entry, &message));
                    }
                }
            }
        }
        Ok(())
    }

    /// What building the layer found, at its entry. Its route may be a pattern
    /// or the path of one.
    pub(super) fn built(&self, error: &ConfigError) -> FileError {
        let mut message = error.message().to_owned();
        let mut source = std::error::Error::source(error);
        while let Some(cause) = source {
            message = format!("{message}: {cause}");
            source = cause.source();
        }
        let path = self.entry(error);
        let own = if error.option() == "route" {
            "match"
        } else {
            error.option()
        };
        if path.last() != Some(&own.into()) {
            message = format!("clashes with `{own}`, which {message}");
        }
        self.error(&path, message)
    }

    /// The entry that makes an option wrong: its own, or another that does not
    /// go with its default.
    fn entry(&self, error: &ConfigError) -> Vec<Step> {
        let file = &self.said.file;
        let options: &[&str] = match error.option() {
            "route" => &["match"],
            "max_buffered" if file.idempotency.max_buffered.is_none() => {
                return self.largest_body();
            }
            "max_operation" => &["max_operation", "lease"],
            option => &[option],
        };
        let of_routes = file.route.iter().enumerate().filter(|(_, route)| {
            let path = route.pattern.split_once(' ').map(|(_, path)| path.trim());
            error
                .route()
                .is_some_and(|own| own == route.pattern || Some(own) == path)
        });
        let tables = of_routes.map(|(at, _)| vec!["route".into(), at.into()]);
        let all = vec![Step::from("idempotency")];
        tables
            .chain([all.clone()])
            .flat_map(|table| {
                let entry = move |option: &&str| [&*table, &[Step::from(*option)]].concat();
                options.iter().map(entry)
            })
            .find(|path| self.said.document.find(path).is_some())
            .unwrap_or_else(|| [&*all, &[error.option().into()]].concat())
    }

    /// The entry that wants the most room.
    fn largest_body(&self) -> Vec<Step> {
        let file = &self.said.file;
        let own = file.idempotency.max_request_body.map(|size| {
            let path = vec![Step::from("idempotency"), "max_request_body".into()];
            (size.0, path)
        });
        let of_routes = file.route.iter().enumerate().filter_map(|(at, route)| {
            let path = vec!["route".into(), at.into(), "max_request_body".into()];
            Some((route.max_request_body?.0, path))
        });
        let largest = own
            .into_iter()
            .chain(of_routes)
            .max_by_key(|(size, _)| *size);
        largest.map_or_else(Vec::new, |(_, path)| path)
    }
}

/// A store for a layer that is only built.
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
