//! Everything that a route can choose: [`RouteOptions`] and the types of its values.
//!
//! Other files of this folder read a request's key (`key.rs`), digest its content
//! (`fingerprint.rs`) and find the options of its route (`route.rs`).
//!
//! May use: `rejection`, `scope`, `store`, `message`, `record`, `runtime`, and the leaves `display`
//! and `error`.

mod choices;
pub(crate) mod fingerprint;
pub(crate) mod json;
pub(crate) mod key;
pub(crate) mod mcp;
mod record_headers;
pub mod recording;
pub(crate) mod replay_json;
pub(crate) mod rewrite;
pub(crate) mod route;
mod rows;
pub(crate) mod rpc;
mod setters;
pub(crate) mod skip_json;
pub(crate) mod statuses;
mod structured;
pub(crate) mod target;

pub use choices::{
    EventStreams, ExactlyOnce, KeysPer, Mode, OnDisconnect, OnInFlight, OnOversize, OnStoreError,
    Require,
};
pub use fingerprint::FingerprintBody;
pub use json::JsonFingerprint;
pub use key::{KeyFormat, KeySyntax};
pub use mcp::McpTools;
pub use replay_json::ReplayedMember;
pub use rows::RouteOptions;
/// How many steps a route may allow one operation: Redis returns no more values than some thousands
/// from one script.
const MOST_STEPS: usize = 4096;

#[cfg(feature = "config")]
pub(crate) use rows::route_options;
pub use target::Target;

pub use crate::store::{OnLapsedLease, OnMismatch};

use std::fmt;

use http::{HeaderMap, HeaderName, Method, StatusCode};

use crate::error::ConfigError;
use crate::options::recording::Statuses;

impl RouteOptions {
    /// Returns what is wrong with these options.
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        if let Some((option, message)) = &self.error {
            return Err(ConfigError::new(option, message));
        }
        if self.max_operation < self.lease {
            let message = "must not be shorter than `lease`";
            return Err(ConfigError::new("max_operation", message));
        }
        let marks = [
            ("replayed_header", &self.replayed_header),
            ("created_at_header", &self.created_at_header),
            ("expires_at_header", &self.expires_at_header),
        ];
        for (at, (option, name)) in marks.iter().enumerate() {
            let Some(name) = name else { continue };
            let is_echo = self.echo_key && self.keys.headers.contains(name);
            let is_before = |(_, other): &(_, &Option<HeaderName>)| other.as_ref() == Some(name);
            if is_echo || marks[..at].iter().any(is_before) {
                let message = format!("names `{name}`, which says something else already");
                return Err(ConfigError::new(option, message));
            }
        }
        let insists = self.exactly_once != ExactlyOnce::No;
        if insists && self.on_store_error == OnStoreError::RunUnprotected {
            return Err(ConfigError::new(
                "exactly_once",
                "can't go with `on_store_error` open: what runs unprotected runs as often as it \
                 is sent",
            ));
        }
        if insists && self.mode == Mode::Observe {
            return Err(ConfigError::new(
                "exactly_once",
                "can't go with `mode` observe: a handler that is only observed has no claim to \
                 commit",
            ));
        }
        if insists && self.mcp.is_some() {
            return Err(ConfigError::new(
                "exactly_once",
                "can't go with the preset `mcp`: errors of tools have the status 200, as if their \
                 effects had to be committed; a tool can take SqlClaim without this option",
            ));
        }
        if self.exactly_once == ExactlyOnce::InTransaction && self.in_doubt != Statuses::none() {
            return Err(ConfigError::new(
                "exactly_once",
                "can't be in_transaction with `in_doubt`: no record is in flight that could stay so \
                 until a lease lapses",
            ));
        }
        if self.mcp.is_some() && self.keys.in_body.is_empty() {
            return Err(ConfigError::new(
                "key_in_body",
                "must name a member with the preset `mcp`, such as \
                 /params/arguments/meta/idempotency-key: a message of MCP says in its body what it is",
            ));
        }
        if self.mcp.is_some() && self.fingerprint.body == FingerprintBody::Bytes {
            return Err(ConfigError::new(
                "fingerprint_body",
                "can't be bytes with the preset `mcp`: each attempt of a call has an `id` of its own; \
                 write json",
            ));
        }
        self.check_steps()?;
        if let Some(scope) = &self.scope {
            scope.check()?;
        }
        self.record_headers.check()?;
        self.fingerprint.check()
    }

    fn check_steps(&self) -> Result<(), ConfigError> {
        if self.steps && self.mode == Mode::Observe {
            return Err(ConfigError::new(
                "steps",
                "can't go with `mode` observe: a handler that is only observed has no record to \
                 keep its steps",
            ));
        }
        if self.steps && self.exactly_once == ExactlyOnce::InTransaction {
            return Err(ConfigError::new(
                "steps",
                "can't go with `exactly_once` in_transaction: no record is in flight that could keep \
                 steps; take `committed`",
            ));
        }
        let limits = [
            ("max_steps", self.max_steps),
            ("max_step_bytes", self.max_step_bytes),
            ("max_steps_bytes", self.max_steps_bytes),
        ];
        for (option, limit) in limits {
            if limit == 0 {
                return Err(ConfigError::new(option, "must be more than zero"));
            }
        }
        if self.max_steps > MOST_STEPS {
            return Err(ConfigError::new(
                "max_steps",
                format!("must be {MOST_STEPS} at most, which a claim can return in one call"),
            ));
        }
        if self.max_step_bytes > self.max_steps_bytes {
            return Err(ConfigError::new(
                "max_step_bytes",
                "must not be more than `max_steps_bytes`, which is for all steps together",
            ));
        }
        Ok(())
    }

    /// Whether a key changes what a client gets.
    #[cfg(feature = "contract")]
    pub(crate) fn takes_keys(&self) -> bool {
        self.require != Require::Ignored && self.mode == Mode::Protect
    }

    /// Whether a response with these headers is never recorded.
    pub(crate) fn skips(&self, headers: &HeaderMap) -> bool {
        self.skip_headers.iter().any(|skip| skip.is_in(headers))
            || recording::has_type(headers, &self.skip_types)
    }

    pub(crate) fn replayed_status(&self, recorded: StatusCode) -> StatusCode {
        let mut mapped = self.replay_status.iter();
        mapped
            .find(|(from, _)| *from == recorded)
            .map_or(recorded, |(_, to)| *to)
    }
}

impl fmt::Debug for RouteOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RouteOptions")
            .field("header", &self.keys.headers)
            .field("methods", &self.methods)
            .field("require", &self.require)
            .field("lease", &self.lease)
            .field("retention", &self.retention)
            .finish_non_exhaustive()
    }
}

/// Whether an operation of this method can be protected. Safe methods have no effect that a retry
/// could repeat; CONNECT and TRACE have no response that could be kept.
pub(crate) fn can_protect(method: &Method) -> bool {
    !matches!(
        *method,
        Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::CONNECT
    ) && method.as_str() != "QUERY"
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::HeaderValue;
    use http::header::CONTENT_TYPE;

    use super::*;
    use crate::options::recording::RecordHeaders;

    #[test]
    fn types_are_skipped_by_name_or_family() {
        let options = RouteOptions::default().skip_types(["Application/PDF", "image/*"]);
        for (own, skipped) in [
            ("application/pdf; v=1", true),
            ("IMAGE/png", true),
            ("application/json", false),
            ("imagery/png", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(own));
            assert_eq!(options.skips(&headers), skipped, "{own}");
        }
        assert!(!options.skips(&HeaderMap::new()));
    }

    #[test]
    fn answers_are_skipped_by_a_header_or_by_its_value() {
        let options = RouteOptions::default().skip_headers(["Transient-Error: TRUE", "x-volatile"]);
        for (name, value, skipped) in [
            ("transient-error", "true", true),
            ("transient-error", "false", false),
            ("x-volatile", "", true),
            ("x-other", "true", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.append(name, HeaderValue::from_static("no"));
            headers.append(name, HeaderValue::from_static(value));
            assert_eq!(options.skips(&headers), skipped, "{name}: {value}");
        }
        assert!(!options.skips(&HeaderMap::new()));
    }

    #[test]
    fn every_wrong_option_of_steps_is_named() {
        let wrong = [
            ("max_steps", RouteOptions::default().max_steps(0)),
            ("max_step_bytes", RouteOptions::default().max_step_bytes(0)),
            (
                "max_steps_bytes",
                RouteOptions::default().max_steps_bytes(0),
            ),
            (
                "max_step_bytes",
                RouteOptions::default().max_step_bytes((256 << 10) + 1),
            ),
            (
                "steps",
                RouteOptions::default().steps(true).mode(Mode::Observe),
            ),
            (
                "steps",
                RouteOptions::default()
                    .steps(true)
                    .exactly_once(ExactlyOnce::InTransaction),
            ),
        ];
        for (option, options) in wrong {
            assert_eq!(options.check().unwrap_err().option(), option);
        }
        let right = RouteOptions::default().steps(true).max_step_bytes(1);
        assert!(right.max_steps(1).max_steps_bytes(1).check().is_ok());
    }

    #[test]
    fn the_preset_of_mcp_can_not_insist_on_commits() {
        for insists in [ExactlyOnce::Committed, ExactlyOnce::InTransaction] {
            let error = RouteOptions::default().mcp().exactly_once(insists).check();
            let error = error.unwrap_err();
            assert_eq!(error.option(), "exactly_once");
            assert!(error.to_string().contains("preset `mcp`"), "{error}");
        }
    }

    #[test]
    fn the_preset_of_mcp_can_not_compare_bytes() {
        let mcp = || RouteOptions::default().mcp();
        let bytes = mcp().fingerprint_body(FingerprintBody::Bytes).check();
        assert_eq!(bytes.unwrap_err().option(), "fingerprint_body");
        let none = mcp().fingerprint_body(FingerprintBody::None).check();
        assert!(none.is_ok());
    }

    #[test]
    fn every_wrong_option_is_named() {
        let wrong: Vec<(&str, RouteOptions)> = vec![
            ("header", RouteOptions::default().header("no spaces")),
            (
                "header",
                RouteOptions::default().headers(["x-key", "Connection"]),
            ),
            (
                "created_at_header",
                RouteOptions::default().created_at_header("content-length"),
            ),
            (
                "replayed_header",
                RouteOptions::default().replayed_header("Idempotency-Status"),
            ),
            (
                "expires_at_header",
                RouteOptions::default()
                    .created_at_header("x-time")
                    .expires_at_header("X-Time"),
            ),
            (
                "replayed_header",
                RouteOptions::default()
                    .replayed_header("Idempotency-Key")
                    .echo_key(true),
            ),
            (
                "header",
                RouteOptions::default().headers(Vec::<String>::new()),
            ),
            ("key_length", RouteOptions::default().key_length(0..=9)),
            #[expect(clippy::reversed_empty_ranges)]
            ("key_length", RouteOptions::default().key_length(9..=8)),
            (
                "methods",
                RouteOptions::default().methods([Method::POST, Method::GET]),
            ),
            (
                "methods",
                RouteOptions::default().methods([Method::from_bytes(b"QUERY").unwrap()]),
            ),
            (
                "fingerprint_headers",
                RouteOptions::default().fingerprint_headers(["a b"]),
            ),
            ("skip_types", RouteOptions::default().skip_types(["pdf"])),
            (
                "skip_headers",
                RouteOptions::default().skip_headers(["a b: c"]),
            ),
            ("skip_headers", RouteOptions::default().skip_headers(["a:"])),
            (
                "body_timeout",
                RouteOptions::default().body_timeout(Duration::ZERO),
            ),
            (
                "lease",
                RouteOptions::default()
                    .lease(Duration::ZERO)
                    .retention(Duration::ZERO),
            ),
            (
                "max_operation",
                RouteOptions::default().max_operation(Duration::from_secs(29)),
            ),
            (
                "retention",
                RouteOptions::default().retention(Duration::ZERO),
            ),
            (
                "record_headers",
                RouteOptions::default().record_headers(RecordHeaders::deny([""])),
            ),
            (
                "replayed_header",
                RouteOptions::default().replayed_header("a:b"),
            ),
            (
                "created_at_header",
                RouteOptions::default()
                    .created_at_header("é")
                    .expires_at_header(""),
            ),
        ];
        for (option, options) in wrong {
            assert_eq!(options.check().unwrap_err().option(), option);
        }
        assert!(
            RouteOptions::default()
                .replayed_header(None)
                .check()
                .is_ok()
        );
    }
}
