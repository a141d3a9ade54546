//! The URL of a store, taken apart. A URL may contain a password, and if a `?`
//! or an `@` of the password was not encoded, a part of the password may be in
//! any part of the URL. So errors show nothing of a URL but its scheme.

#![allow(dead_code, reason = "each engine needs a part of it")]

use crate::store::{StoreError, StoreErrorKind};

const KINDS: &str = "memory:, sqlite:, postgres:, mysql: or redis:";

pub(super) struct Address<'a> {
    pub(super) scheme: &'a str,
    before: &'a str,
    parameters: Vec<(&'a str, &'a str)>,
}

impl<'a> Address<'a> {
    pub(super) fn parse(url: &'a str) -> Result<Self, StoreError> {
        let is_scheme = |scheme: &str| {
            scheme.starts_with(|char: char| char.is_ascii_alphabetic())
                && scheme
                    .chars()
                    .all(|char| char.is_ascii_alphanumeric() || "+-.".contains(char))
        };
        let scheme = url.split_once(':').map(|(scheme, _)| scheme);
        let Some(scheme) = scheme.filter(|scheme| is_scheme(scheme)) else {
            return Err(refused(format!("the URL of a store begins with {KINDS}")));
        };
        let (before, query) = url.rsplit_once('?').unwrap_or((url, ""));
        let parameters = query.split('&').filter(|part| !part.is_empty());
        Ok(Self {
            scheme,
            before,
            parameters: parameters
                .map(|part| part.split_once('=').unwrap_or((part, "")))
                .collect(),
        })
    }

    /// Removes a parameter that is for this crate, and returns its value.
    pub(super) fn take(&mut self, name: &str) -> Option<&'a str> {
        let at = self
            .parameters
            .iter()
            .position(|(given, _)| *given == name)?;
        Some(self.parameters.remove(at).1)
    }

    /// The value of a parameter that the driver reads as well.
    pub(super) fn get(&self, name: &str) -> Option<&'a str> {
        let given = self.parameters.iter().find(|(given, _)| *given == name)?;
        Some(given.1)
    }

    /// Removes a parameter whose value is a number.
    pub(super) fn take_number(&mut self, name: &str) -> Result<Option<usize>, StoreError> {
        let number = |value: &str| {
            value
                .parse()
                .map_err(|_| refused(format!("`{name}` in the URL of the store is no number")))
        };
        self.take(name).map(number).transpose()
    }

    /// Removes a parameter whose value is a number of bytes: `1000`, `64KiB`,
    /// `256MiB`, `1GiB`.
    pub(super) fn take_bytes(&mut self, name: &str) -> Result<Option<usize>, StoreError> {
        let bytes = |value: &str| {
            let digits = value.trim_end_matches(|char: char| char.is_ascii_alphabetic());
            let shift = match &value[digits.len()..] {
                "" => 0,
                "KiB" => 10,
                "MiB" => 20,
                "GiB" => 30,
                _ => return None,
            };
            digits.parse::<usize>().ok()?.checked_mul(1 << shift)
        };
        self.take(name)
            .map(|value| {
                bytes(value).ok_or_else(|| {
                    let message = format!(
                        "`{name}` in the URL of the store is no number of bytes, such as 1000 or 256MiB"
                    );
                    refused(message)
                })
            })
            .transpose()
    }

    /// The rest of the URL, for the driver. `drivers` are the parameters that
    /// the driver knows.
    pub(super) fn rest(&self, own: &[&str], drivers: &[&str]) -> Result<String, StoreError> {
        let is_known = |name: &str| drivers.contains(&name) || name.starts_with("options[");
        if !self.parameters.iter().all(|(name, _)| is_known(name)) {
            let known: Vec<&str> = own.iter().chain(drivers).copied().collect();
            let message = format!(
                "the URL of the store has a parameter that a `{}:` URL does not have; there are: \
                 {}. (A `?` in a password is written %3F)",
                self.scheme,
                known.join(", ")
            );
            return Err(refused(message));
        }
        let parameters = self.parameters.iter();
        let parameters: Vec<String> = parameters
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        if parameters.is_empty() {
            return Ok(self.before.to_owned());
        }
        Ok(format!("{}?{}", self.before, parameters.join("&")))
    }

    pub(super) fn unknown_scheme(&self) -> StoreError {
        refused(format!(
            "there is no store of the kind `{}:`; use {KINDS}",
            self.scheme
        ))
    }

    pub(super) fn feature_is_off(&self, feature: &str) -> StoreError {
        refused(format!(
            "a `{}:` store needs the feature `{feature}` of tower-idempotency: \
             `cargo add tower-idempotency --features {feature}`",
            self.scheme
        ))
    }
}

pub(super) fn refused(message: String) -> StoreError {
    StoreError::new(StoreErrorKind::Refused, message)
}
