//! Options of the layer that cannot work in a proxy.

use http::{HeaderName, Method};
use tower_idempotency::for_sidecar::{config_error, routes};
use tower_idempotency::options::OnDisconnect;
use tower_idempotency::{ConfigError, IdempotencyLayer};

use crate::forwarded::ReservedHeaders;
use crate::options::Settings;
use crate::path::normal;

/// What is wrong with the routes, before the sidecar serves anything.
pub(crate) fn check(layer: &IdempotencyLayer, settings: &Settings) -> Vec<ConfigError> {
    let ignore_case = settings.ignore_path_case;
    let authorize = settings.authorize.as_ref();
    let reserved = ReservedHeaders::new(authorize.map_or(&[], |authorize| &authorize.headers));
    let mut errors = Vec::new();
    for route in routes(layer) {
        let of = route.pattern;
        if let Some(name) = route.key_headers.iter().find(|name| reserved.has(name)) {
            let message =
                format!("names `{name}`, which the sidecar removes from what a client sends");
            errors.push(config_error("header", of, &message));
        }
        if route.max_operation < settings.upstream_timeout {
            let message = "must not be shorter than `upstream_timeout`: an operation that the \
                           upstream may still respond to would be executed again";
            errors.push(config_error("max_operation", of, message));
        }
        if route.on_disconnect == OnDisconnect::Cancel {
            let message = "can't be `cancel` here: an upstream that has got a request can't be \
                           stopped. Leave it at `finish`";
            errors.push(config_error("on_disconnect", of, message));
        }
        if let (Some(pattern), Some(path)) = (of, route.path) {
            errors.extend(check_path(pattern, path, ignore_case).err());
        }
    }
    errors
}

/// Rejects a pattern that no normal spelling of a path can match: it would protect nothing.
fn check_path(pattern: &str, path: &str, ignore_case: bool) -> Result<(), ConfigError> {
    let fail = |message: &str| Err(config_error("route", Some(pattern), message));
    let literal = without_names(path);
    if literal.len() > 1 && literal.ends_with('/') {
        return fail("ends in a slash: leave it out, both spellings are matched");
    }
    let has_wrong_case = || normal(&literal, false).is_ok_and(|normal| normal == literal);
    match normal(&literal, ignore_case) {
        Ok(normal) if normal == literal => Ok(()),
        Ok(_) if has_wrong_case() => {
            fail("has capital letters: with `ignore_path_case` it is written in small ones")
        }
        Ok(normal) => fail(&format!(
            "is never matched: paths are matched decoded, and this one is `{normal}`"
        )),
        Err(why) => fail(&format!("is never matched: it {why}")),
    }
}

/// The pattern with `x` in the place of every `{name}`.
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

/// The methods that some route protects; or those that some route observes.
pub(crate) fn methods(layer: &IdempotencyLayer, are_observed: bool) -> Vec<Method> {
    let mut methods = Vec::new();
    for route in routes(layer).filter(|route| route.is_observed == are_observed) {
        for method in route.methods {
            if !methods.contains(method) {
                methods.push(method.clone());
            }
        }
    }
    methods
}

/// The names of the headers that the layer adds to responses.
pub(crate) fn layer_header_names(layer: &IdempotencyLayer) -> Vec<HeaderName> {
    let mut names = Vec::new();
    for route in routes(layer) {
        for name in route.marks.into_iter().flatten() {
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
    use tower_idempotency::{MemoryStore, RouteOptions, scope};

    fn checked(pattern: &str, ignore_case: bool) -> Result<(), String> {
        let layer = IdempotencyLayer::builder(MemoryStore::new(), scope::shared())
            .route(pattern, |options| options)
            .build()
            .unwrap();
        let settings = Settings {
            ignore_path_case: ignore_case,
            ..Settings::default()
        };
        match &check(&layer, &settings)[..] {
            [] => Ok(()),
            [error] => Err(error.to_string()),
            more => panic!("{more:?}"),
        }
    }

    #[test]
    fn a_pattern_that_no_path_is_matched_as_is_a_config_error() {
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
        assert_eq!(checked("/orders/{orderId}/caf%3F", true), Ok(()));
        let error = checked("/Orders", true).unwrap_err();
        assert!(error.contains("small ones"), "{error}");
        for pattern in ["/caf%C3%A9", "/café"] {
            let error = checked(pattern, true).unwrap_err();
            assert!(
                error.contains("is never matched: it has a letter outside of ASCII"),
                "{error}"
            );
        }
    }

    #[test]
    fn an_upstream_is_not_told_that_its_client_has_left() {
        let cancel = |options: RouteOptions| options.on_disconnect(OnDisconnect::Cancel);
        let layer = IdempotencyLayer::builder(MemoryStore::new(), scope::shared())
            .route("POST /orders", cancel)
            .build()
            .unwrap();
        let [error] = &check(&layer, &Settings::default())[..] else {
            panic!("one route has one mistake");
        };
        let error = error.to_string();
        assert!(error.starts_with("`on_disconnect` can't be"), "{error}");
        assert!(error.ends_with("(on route `POST /orders`)"), "{error}");
    }
}
