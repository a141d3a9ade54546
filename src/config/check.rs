//! What is only wrong in the whole, with the entry that makes it so.

use super::document::Step;
use super::{Config, FileError};
use crate::error::ConfigError;
use crate::record::{Nonce, RecordId};
use crate::rejection::Template;
use crate::scope;
use crate::store::{
    Claim, Claimed, Lease, Outcome, Release, Store, StoreError, StoreErrorKind, Tenure,
};

/// Which other entry makes an option wrong, where the option itself is not
/// there.
const OTHERS: &[(&str, &[&str])] = &[
    ("max_operation", &["lease"]),
    ("max_buffered", &["max_request_body"]),
];

impl Config {
    pub(super) fn check(&self) -> Result<(), FileError> {
        self.check_methods()?;
        self.check_rejections()?;
        #[cfg(not(feature = "encryption"))]
        if self.said.file.idempotency.encryption.is_some() {
            let path = ["idempotency".into(), "encryption".into()];
            let message = "needs the feature `encryption` of tower-idempotency, which is off";
            return Err(self.error(&path, message));
        }
        match self.builder_of(Unasked, scope::shared()).build() {
            Ok(_) => Ok(()),
            Err(error) => Err(self.built(&error)),
        }
    }

    /// A method in `match` makes `methods` say nothing.
    fn check_methods(&self) -> Result<(), FileError> {
        for (at, route) in self.said.file.route.iter().enumerate() {
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

    /// What building the layer found, at its entry.
    fn built(&self, error: &ConfigError) -> FileError {
        let mut message = error.message().to_owned();
        let mut source = std::error::Error::source(error);
        while let Some(cause) = source {
            message = format!("{message}: {cause}");
            source = cause.source();
        }
        let path = self.entry(error);
        let is_other = !path.contains(&error.option().into());
        if is_other && !["route", "rejection_status"].contains(&error.option()) {
            message = format!("clashes with `{}`, which {message}", error.option());
        }
        self.error(&path, message)
    }

    fn entry(&self, error: &ConfigError) -> Vec<Step> {
        let option = error.option();
        let all = Step::from("idempotency");
        let route = error.route().and_then(|pattern| {
            let routes = &self.said.file.route;
            // Of two equal ones the second is in the way of the first.
            routes.iter().rposition(|route| route.pattern == pattern)
        });
        if option == "route" {
            let at = route.unwrap_or(0);
            return vec!["route".into(), at.into(), "match".into()];
        }
        if option == "secrets" {
            return self.wrong_secret();
        }
        if option == "max_buffered" && self.said.file.idempotency.max_buffered.is_none() {
            return self.largest_body();
        }
        let others = OTHERS.iter().find(|(own, _)| *own == option);
        let others = others.map_or(&[][..], |(_, others)| *others);
        let names = || [option].into_iter().chain(others.iter().copied());
        let of_route = route.into_iter().flat_map(|at| {
            names().map(move |name| vec!["route".into(), at.into(), Step::from(name)])
        });
        let of_all = names().map(|name| vec![all.clone(), Step::from(name)]);
        of_route
            .chain(of_all)
            .find(|path| self.said.document.find(path).is_some())
            .unwrap_or_else(|| vec![all, option.into()])
    }

    /// The first that is too short or stands there again.
    fn wrong_secret(&self) -> Vec<Step> {
        let secrets = self.said.file.secrets.iter().flat_map(|secrets| &secrets.0);
        let secrets: Vec<&str> = secrets.map(|secret| secret.0.as_str()).collect();
        let at = (0..secrets.len())
            .find(|at| secrets[*at].len() < 16 || secrets[..*at].contains(&secrets[*at]));
        let at = at.map(Step::from);
        ["secrets".into()].into_iter().chain(at).collect()
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
struct Unasked;

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

    async fn renew(&self, _: &Lease) -> Result<Tenure, StoreError> {
        Self::refused()
    }

    async fn complete(&self, _: &Lease, _: &Outcome) -> Result<Tenure, StoreError> {
        Self::refused()
    }

    async fn release(&self, _: &RecordId, _: &Nonce, _: Release) -> Result<Tenure, StoreError> {
        Self::refused()
    }
}
