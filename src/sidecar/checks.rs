//! What a layer can be told that a proxy can't keep.

use http::{HeaderName, Method};

use super::forwarded::Reserved;
use super::path::normal;
use super::settings::Settings;
use crate::error::ConfigError;
use crate::layer::IdempotencyLayer;
use crate::options::OnDisconnect;
use crate::options::route::lower_case;

/// Before anything is served.
pub(super) fn check(layer: &IdempotencyLayer, settings: &Settings) -> Result<(), ConfigError> {
    let ignore_case = settings.ignore_path_case;
    let authorize = settings.authorize.as_ref();
    let reserved = Reserved::new(authorize.map_or(&[], |authorize| &authorize.headers));
    for listed in layer.shared().routes.listed() {
        let of = listed.path.as_deref();
        if let Some(name) = listed
            .options
            .keys
            .headers
            .iter()
            .find(|name| reserved.has(name))
        {
            let message =
                format!("names `{name}`, which the sidecar removes from what a client sends");
            return Err(wrong("header", of, &message));
        }
        if listed.options.max_operation < settings.upstream_timeout {
            let message = "must not be shorter than `upstream_timeout`: an operation that the \
                           upstream may still answer would be executed again";
            return Err(wrong("max_operation", of, message));
        }
        if listed.options.on_disconnect == OnDisconnect::Cancel {
            let message = "can't be `cancel` here: an upstream that has got a request can't be \
                           stopped. Leave it at `finish`";
            return Err(wrong("on_disconnect", of, message));
        }
        if let Some(path) = of {
            check_pattern(path, ignore_case)?;
        }
    }
    Ok(())
}

/// A pattern that no path is matched as would protect nothing.
fn check_pattern(pattern: &str, ignore_case: bool) -> Result<(), ConfigError> {
    let fail = |message: &str| Err(wrong("route", Some(pattern), message));
    let literal = without_names(pattern);
    if literal.len() > 1 && literal.ends_with('/') {
        return fail("ends in a slash: leave it out, both spellings are matched");
    }
    match normal(&literal) {
        Ok(_) if ignore_case && lower_case(&literal) != literal => {
            fail("has capital letters: with `ignore_path_case` it is written in small ones")
        }
        Ok(normal) if normal == literal => Ok(()),
        Ok(normal) => fail(&format!(
            "is never matched: paths are matched decoded, and this one is `{normal}`"
        )),
        Err(why) => fail(&format!("is never matched: it {why}")),
    }
}

/// With `x` for every `{name}`.
fn without_names(pattern: &str) -> String {
    let mut literal = String::with_capacity(pattern.len());
    let mut rest = pattern;
    while let Some((before, after)) = rest.split_once('{') {
        literal.push_str(before);
        literal.push('x');
        rest = after.split_once('}').map_or("", |(_, after)| after);
    }
    literal.push_str(rest);
    literal
}

fn wrong(option: &'static str, pattern: Option<&str>, message: &str) -> ConfigError {
    let error = ConfigError::new(option, message);
    match pattern {
        Some(pattern) => error.on_route(pattern),
        None => error,
    }
}

/// The methods that some policy protects.
pub(super) fn methods(layer: &IdempotencyLayer) -> Vec<Method> {
    let mut methods = Vec::new();
    for listed in layer.shared().routes.listed() {
        for method in &listed.methods {
            if !methods.contains(method) {
                methods.push(method.clone());
            }
        }
    }
    methods
}

/// The names under which the layer says something about an answer.
pub(super) fn layer_header_names(layer: &IdempotencyLayer) -> Vec<HeaderName> {
    let mut names = Vec::new();
    for listed in layer.shared().routes.listed() {
        let options = &listed.options;
        let own = [
            &options.replayed_header,
            &options.created_at_header,
            &options.expires_at_header,
        ];
        for name in own.into_iter().flatten() {
            if !names.contains(name) {
                names.push(name.clone());
            }
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{MemoryStore, RouteOptions, scope};

    fn checked(pattern: &str, ignore_case: bool) -> Result<(), String> {
        let layer = IdempotencyLayer::builder(MemoryStore::new(), scope::shared())
            .route(pattern, |options| options)
            .build()
            .unwrap();
        let settings = Settings {
            ignore_path_case: ignore_case,
            ..Settings::default()
        };
        check(&layer, &settings).map_err(|error| error.to_string())
    }

    #[test]
    fn a_pattern_that_no_path_is_matched_as_is_refused() {
        for pattern in [
            "/",
            "POST /orders",
            "/orders/{id}/capture",
            "/files/{*rest}",
            "/a%20b",
            "/caf%C3%A9",
            "/Orders",
        ] {
            assert_eq!(checked(pattern, false), Ok(()), "{pattern}");
        }
        for (pattern, says) in [
            ("/orders/", "ends in a slash"),
            ("/orders/{id}/", "ends in a slash"),
            ("/café", "`/caf%C3%A9`"),
            ("/caf%c3%a9", "`/caf%C3%A9`"),
            ("/%6frders", "`/orders`"),
            ("/a//b", "empty segment"),
            ("/a/../b", "segment `.` or `..`"),
            ("/a%2Fb", "encoded slash"),
        ] {
            let error = checked(pattern, false).unwrap_err();
            assert!(error.contains(says), "{pattern}: {error}");
        }
    }

    #[test]
    fn where_case_is_ignored_patterns_have_small_letters() {
        assert_eq!(checked("/orders/{orderId}/caf%C3%A9", true), Ok(()));
        let error = checked("/Orders", true).unwrap_err();
        assert!(error.contains("small ones"), "{error}");
    }

    #[test]
    fn an_upstream_is_not_told_that_its_client_has_left() {
        let cancel = |options: RouteOptions| options.on_disconnect(OnDisconnect::Cancel);
        let layer = IdempotencyLayer::builder(MemoryStore::new(), scope::shared())
            .route("POST /orders", cancel)
            .build()
            .unwrap();
        let error = check(&layer, &Settings::default()).unwrap_err().to_string();
        assert!(error.starts_with("`on_disconnect` can't be"), "{error}");
        assert!(error.ends_with("(on route `/orders`)"), "{error}");
    }
}
