//! What an observing sidecar has seen, and the configuration that it suggests for that.
//!
//! A summary has names of headers, templates of paths and numbers, and nothing that a client chose
//! but the words of its paths: no key, no caller, no body.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use http::header::{AUTHORIZATION, CONTENT_LENGTH};
use http::{HeaderMap, HeaderName, Method, request};
use tower_idempotency::for_sidecar::OnObserved;
use tower_idempotency::observer::Would;

/// The headers that carry keys in the field: see `docs/vendor-contracts.md`.
static KEYS: [HeaderName; 5] = [
    HeaderName::from_static("idempotency-key"),
    HeaderName::from_static("x-idempotency-key"),
    HeaderName::from_static("idempotency-token"),
    HeaderName::from_static("paypal-request-id"),
    HeaderName::from_static("x-payout-idempotency"),
];

/// Some APIs have their keys here. But mostly these are ids for logs, which are new in each retry: they
/// count only where nothing else was seen.
static IDS: [HeaderName; 2] = [
    HeaderName::from_static("x-request-id"),
    HeaderName::from_static("request-id"),
];

/// The headers that tell callers from each other, the best first.
static CALLERS: [HeaderName; 6] = [
    HeaderName::from_static("x-api-key"),
    HeaderName::from_static("api-key"),
    HeaderName::from_static("x-account-id"),
    HeaderName::from_static("x-tenant-id"),
    HeaderName::from_static("x-client-id"),
    AUTHORIZATION,
];

/// What a sidecar says that only protects.
pub(crate) const NOTHING: &str = "Nothing is observed: no route has `mode = \"observe\"`. Write it under \
     [idempotency], or in the [[route]]s that are to be observed, and restart.\n";

/// How many routes are told from each other. What comes beyond is counted together.
const ROUTES: usize = 256;

/// What was observed, by method and path.
#[derive(Debug, Default)]
pub(crate) struct Summary(Mutex<BTreeMap<String, Arc<Mutex<Route>>>>);

#[derive(Clone, Debug, Default)]
struct Route {
    requests: u64,
    keys: BTreeMap<&'static str, u64>,
    callers: BTreeMap<&'static str, u64>,
    largest_body: u64,
    longest: Duration,
    execute: u64,
    replay: u64,
    unknown: u64,
    rejected: BTreeMap<&'static str, u64>,
}

impl Summary {
    /// Begins to observe a request. The layer reports what it would have done.
    pub(crate) fn begin(self: &Arc<Self>, parts: &mut request::Parts) -> Seen {
        let seen = Seen {
            route: self.route(&parts.method, parts.uri.path()),
            began: Instant::now(),
        };
        seen.update(|route| {
            route.requests += 1;
            count(&mut route.keys, &KEYS, &parts.headers);
            count(&mut route.keys, &IDS, &parts.headers);
            count(&mut route.callers, &CALLERS, &parts.headers);
            let length = parts.headers.get(CONTENT_LENGTH);
            let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
            route.largest_body = route.largest_body.max(length.unwrap_or(0));
        });
        let told = seen.clone();
        let on_observed = OnObserved(Arc::new(move |would| {
            told.update(|route| match would {
                None => route.unknown += 1,
                Some(Would::Execute) => route.execute += 1,
                Some(Would::Replay) => route.replay += 1,
                Some(Would::Reject(code)) => {
                    *route.rejected.entry(code.as_str()).or_default() += 1;
                }
                Some(_) => {}
            });
        }));
        parts.extensions.insert(on_observed);
        seen
    }

    /// Where a request to this path counts.
    fn route(&self, method: &Method, path: &str) -> Arc<Mutex<Route>> {
        let name = name(method, path);
        let mut routes = locked(&self.0);
        if let Some(route) = routes.get(&name) {
            return Arc::clone(route);
        }
        let is_full = routes.len() >= ROUTES;
        let name = if is_full { String::new() } else { name };
        Arc::clone(routes.entry(name).or_default())
    }

    /// A configuration for what was seen.
    pub(crate) fn suggestion(&self) -> String {
        let routes = locked(&self.0);
        let routes = routes
            .iter()
            .map(|(name, route)| (name.clone(), locked(route).clone()));
        suggestion(&routes.collect())
    }
}

fn locked<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One request, and where it counts.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    route: Arc<Mutex<Route>>,
    began: Instant,
}

impl Seen {
    /// The head of the response is there.
    pub(crate) fn responded(&self) {
        let took = self.began.elapsed();
        self.update(|route| route.longest = route.longest.max(took));
    }

    fn update(&self, change: impl FnOnce(&mut Route)) {
        change(&mut locked(&self.route));
    }
}

fn count(
    counts: &mut BTreeMap<&'static str, u64>,
    names: &'static [HeaderName],
    headers: &HeaderMap,
) {
    // A name that is made from its letters each time takes longer than the look-up.
    for name in names.iter().filter(|name| headers.contains_key(*name)) {
        *counts.entry(name.as_str()).or_default() += 1;
    }
}

/// The method, and the path with a parameter in the place of each segment that looks like a value.
fn name(method: &Method, path: &str) -> String {
    let mut name = String::with_capacity(64);
    name.push_str(method.as_str());
    name.push(' ');
    for (at, segment) in path.split('/').skip(1).take(16).enumerate() {
        let is_word = segment.len() <= 24
            && segment
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || b"-_".contains(&byte));
        let is_version = segment.strip_prefix('v').is_some_and(|digits| {
            (1..=2).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit())
        });
        name.push('/');
        if is_word || is_version {
            name.push_str(segment);
        } else {
            write!(name, "{{p{at}}}").expect("a string takes all");
        }
    }
    name
}

/// The name that most requests had.
fn most(counts: &BTreeMap<&'static str, u64>, order: &[HeaderName]) -> Option<(&'static str, u64)> {
    let found = order
        .iter()
        .rev()
        .filter_map(|name| counts.get_key_value(name.as_str()));
    found
        .max_by_key(|(_, count)| **count)
        .map(|(name, count)| (*name, *count))
}

fn suggestion(routes: &BTreeMap<String, Route>) -> String {
    let mut text = String::from(
        "# Suggested from what was observed. `listen`, `upstream` and `store` are invented:\n\
         # take those of your own file.\n\
         listen = \"127.0.0.1:8080\"\nupstream = \"http://127.0.0.1:9000\"\nstore = \"memory:\"\n\n",
    );
    let has_keys = routes
        .values()
        .any(|route| most(&route.keys, &KEYS).is_some());
    let names: &[_] = if has_keys { &KEYS } else { &IDS };
    let (mut keys, mut callers, mut requests) = (BTreeMap::new(), BTreeMap::new(), 0);
    let with_keys = |route: &&Route| most(&route.keys, names).is_some();
    for route in routes.values().filter(with_keys) {
        requests += route.requests;
        for (own, all) in [(&route.keys, &mut keys), (&route.callers, &mut callers)] {
            for (name, count) in own {
                *all.entry(*name).or_insert(0) += count;
            }
        }
    }
    let mut line = |line: String| {
        text.push_str(&line);
        text.push('\n');
    };
    line("[idempotency]".to_owned());
    if let Some((name, count)) = most(&callers, &CALLERS) {
        line(format!(
            "# `{name}` was on {count} of {requests} requests to routes with keys."
        ));
        line(format!("scope = [\"header:{name}\"]"));
    } else {
        let none = "# No header was seen that names a caller. Choose what tells callers apart.";
        line(none.to_owned());
        line("scope = [\"peer-ip\"]".to_owned());
    }
    let header = most(&keys, names);
    if let Some((name, count)) = header {
        line(format!(
            "# `{name}` was on {count} of {requests} requests to routes with keys."
        ));
        line(format!("header = [\"{name}\"]"));
    }
    line("# Routes without a key so far stay as they are.".to_owned());
    line("require = \"ignored\"".to_owned());
    for (name, route) in routes {
        if name.is_empty() {
            line(format!(
                "\n# {} requests to further paths were not told apart.",
                route.requests
            ));
        } else if let Some((own, with_key)) = most(&route.keys, names) {
            line(String::new());
            of_route(name, route, with_key, &mut line);
            if header.is_some_and(|(header, _)| header != own) {
                line(format!("header = [\"{own}\"]"));
            }
        }
    }
    let with_ids = routes
        .iter()
        .filter(|(name, route)| !name.is_empty() && most(&route.keys, names).is_none())
        .filter_map(|(name, route)| Some((name, route.requests, most(&route.keys, &IDS)?)));
    for (at, (route, requests, (id, with_id))) in with_ids.enumerate() {
        if at == 0 {
            line(format!("\n{IDS_ONLY}"));
        }
        line(format!(
            "# {route}: `{id}` was on {with_id} of {requests} requests."
        ));
    }
    text
}

/// Stands before the routes that have ids and no keys, where other routes have keys.
const IDS_ONLY: &str = "# Not suggested: the routes below have no key, but an id that is mostly for logs. Where a client\n\
     # sends the same id again with a retry, it is a key: add a [[route]] that names its header.";

fn of_route(name: &str, route: &Route, with_key: u64, line: &mut impl FnMut(String)) {
    let Route {
        requests,
        execute,
        replay,
        unknown,
        ..
    } = route;
    line("[[route]]".to_owned());
    line(format!("match = \"{name}\""));
    line(format!(
        "# {with_key} of {requests} requests had a key. {execute} would have been executed, and"
    ));
    line(format!(
        "# {replay} duplicates given the recorded response; {unknown} could not be observed."
    ));
    for (code, count) in &route.rejected {
        line(format!("# {count} would have been rejected: {code}"));
    }
    // A route that requires keys misses them where it reads none.
    let reads_none = route.rejected.keys().all(|code| *code == "key-required");
    if execute + replay + unknown == 0 && reads_none {
        line(
            "# The layer has read keys from another header: observe again with this one."
                .to_owned(),
        );
    }
    if route.rejected.contains_key("key-reused") {
        line("# Clients reuse a key with another body. Where a member changes with each attempt, such as".to_owned());
        line(
            "# a time, leave it out: fingerprint_body = { json = { exclude = [\"/sent_at\"] } }"
                .to_owned(),
        );
    }
    let is_required = with_key == *requests;
    line(format!(
        "require = \"{}\"",
        if is_required { "required" } else { "optional" }
    ));
    if route.largest_body > 1 << 20 {
        let mebibytes = route.largest_body.div_ceil(1 << 20) * 2;
        line(format!(
            "# The largest body had {} bytes.",
            route.largest_body
        ));
        line(format!("max_request_body = \"{mebibytes}MiB\""));
    }
    line(format!(
        "# The slowest response took {} ms.",
        route.longest.as_millis()
    ));
    if route.longest > Duration::from_mins(5) {
        line(format!(
            "max_operation = \"{}s\"",
            route.longest.as_secs() * 2
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_in_paths_become_parameters() {
        for (path, expected) in [
            ("/v1/payments", "/v1/payments"),
            ("/v1/payments/pay_8F3/capture", "/v1/payments/{p2}/capture"),
            ("/orders/42", "/orders/{p1}"),
            ("/users/a@b.c/x", "/users/{p1}/x"),
            ("/", "/"),
        ] {
            let expected = format!("POST {expected}");
            assert_eq!(name(&Method::POST, path), expected);
        }
    }

    #[test]
    fn routes_beyond_the_limit_are_counted_together() {
        let summary = Arc::<Summary>::default();
        for number in 0..2 * ROUTES {
            let word: String = number
                .to_string()
                .bytes()
                .map(|digit| char::from(digit + 49))
                .collect();
            let request = http::Request::post(format!("/{word}")).body(()).unwrap();
            summary.begin(&mut request.into_parts().0);
        }
        assert_eq!(summary.0.lock().unwrap().len(), ROUTES + 1);
        assert!(
            summary
                .suggestion()
                .contains("256 requests to further paths")
        );
    }

    /// A summary of requests to these paths, each with a header.
    fn of(requests: &[(&str, &str)]) -> String {
        let summary = Arc::<Summary>::default();
        for (path, header) in requests {
            let request = http::Request::post(*path).header(*header, "k").body(());
            summary.begin(&mut request.unwrap().into_parts().0);
        }
        summary.suggestion()
    }

    #[test]
    fn a_route_whose_keys_are_in_another_header_than_most_names_it() {
        let text = of(&[
            ("/a", "idempotency-key"),
            ("/b", "paypal-request-id"),
            ("/a", "idempotency-key"),
        ]);
        let (rest, b) = text.split_once("match = \"POST /b\"").unwrap();
        assert_eq!(rest.matches("header = [\"idempotency-key\"]").count(), 1);
        assert!(b.contains("\nheader = [\"paypal-request-id\"]\n"), "{b}");
        assert!(b.contains("observe again with this one"), "{b}");
    }

    #[test]
    fn a_route_that_required_keys_in_another_header_is_to_be_observed_again() {
        let suggests = |codes: &[&'static str]| {
            let summary = Arc::<Summary>::default();
            let request = http::Request::post("/a").header("paypal-request-id", "k");
            summary.begin(&mut request.body(()).unwrap().into_parts().0);
            for route in summary.0.lock().unwrap().values() {
                let mut route = route.lock().unwrap();
                route.rejected = codes.iter().map(|code| (*code, 1)).collect();
            }
            summary.suggestion()
        };
        let again = "observe again with this one";
        assert!(suggests(&["key-required"]).contains(again));
        assert!(!suggests(&["key-required", "key-reused"]).contains(again));
    }

    #[test]
    fn an_id_for_logs_is_a_key_only_where_nothing_else_was_seen() {
        let logged = [("/a", "x-request-id"), ("/b", "x-request-id")];
        let text = of(&logged);
        assert!(text.contains("header = [\"x-request-id\"]"), "{text}");
        assert!(!text.contains("Not suggested"), "{text}");
        let text = of(&[&logged[..], &[("/a", "x-idempotency-key")]].concat());
        assert!(text.contains("header = [\"x-idempotency-key\"]"), "{text}");
        assert!(!text.contains("match = \"POST /b\""), "{text}");
        let (rest, ids) = text.split_once("# Not suggested").unwrap();
        assert!(!rest.contains("x-request-id"), "{text}");
        let b = "\n# POST /b: `x-request-id` was on 1 of 1 requests.\n";
        assert!(ids.contains(b) && !ids.contains("/a:"), "{text}");
    }
}
