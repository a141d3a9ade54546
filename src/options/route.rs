//! Finds the options of a request by its method and path.

use std::sync::Arc;
use std::time::Duration;

use http::request::Parts;
use http::{Extensions, Method, Uri};
use tracing::debug;

use crate::display::join_with;
use crate::error::ConfigError;
use crate::options::fingerprint::record_id;
use crate::options::key::Key;
use crate::options::target::{MeantPath, SentTarget, Target};
use crate::options::{ExactlyOnce, KeysPer, RouteOptions, can_protect};
use crate::record::digest::Digests;
#[cfg(feature = "axum")]
use crate::record::names::Names;
use crate::record::{RecordId, ScopeDigest};
use crate::runtime::{Instant, Mutex};

/// `matchit` gives each parameter of a pattern, besides a catch-all, one of 26 letters, and panics
/// when it looks for the next.
const MOST_PARAMETERS: usize = 25;

/// A pattern, and what it changes in the default options.
pub(crate) type Rule = (String, Box<dyn FnOnce(RouteOptions) -> RouteOptions + Send>);

/// What the store can do for routes that need it: whether handlers can commit their claims in it, and
/// make them there, or why not; and whether it keeps steps.
pub(crate) struct Abilities {
    pub(crate) committed: Result<(), String>,
    pub(crate) in_transaction: Result<(), String>,
    pub(crate) keeps_steps: bool,
}

impl Abilities {
    fn of(&self, exactly_once: ExactlyOnce) -> &Result<(), String> {
        match exactly_once {
            ExactlyOnce::No => &Ok(()),
            ExactlyOnce::Committed => &self.committed,
            ExactlyOnce::InTransaction => &self.in_transaction,
        }
    }
}

/// The options of a layer, by method and path.
#[derive(Debug)]
pub(crate) struct Routes {
    /// Lists only methods that a route protects, so that a request of another method passes through
    /// after one comparison per method.
    by_method: Vec<(Method, MethodRoutes)>,
    listed: Vec<Listed>,
    /// The routes of axum that requests without a pattern here had.
    #[cfg(feature = "axum")]
    matched: Names,
    target: Target,
    last_warning: Mutex<Option<Instant>>,
    shortest_lease: Duration,
    shortest_body_timeout: Duration,
    largest_body: usize,
    /// Whether a route finds its callers by a scope of its own.
    have_scopes: bool,
    largest_recorded_body: usize,
}

/// A route of the layer, with its pattern as the application wrote it.
#[derive(Debug)]
pub(crate) struct Listed {
    pub(crate) methods: Vec<Method>,
    /// The method, if the pattern names one, and the path. `None` for every path that no pattern
    /// matches.
    pub(crate) pattern: Option<String>,
    /// `None` for every path that no pattern matches.
    pub(crate) path: Option<String>,
    pub(crate) options: Arc<RouteOptions>,
}

#[derive(Debug, Default)]
struct MethodRoutes {
    patterns: Option<matchit::Router<Arc<RouteOptions>>>,
    /// The options of paths that no pattern matches; `None` if the default options do not protect
    /// this method.
    default: Option<Arc<RouteOptions>>,
}

impl Routes {
    pub(crate) fn new(
        default: RouteOptions,
        rules: Vec<Rule>,
        target: Target,
        abilities: &Abilities,
    ) -> Result<Self, ConfigError> {
        let check = |options: &RouteOptions| {
            if let Err(why) = abilities.of(options.exactly_once) {
                return Err(ConfigError::new("exactly_once", why.clone()));
            }
            if options.steps && !abilities.keeps_steps {
                return Err(ConfigError::new(
                    "steps",
                    "needs a store that keeps steps: each store of this crate does, and one of \
                     your own by `Store::record_step` and `Store::keeps_steps`",
                ));
            }
            options.check()
        };
        check(&default)?;
        let mut routes = Routes {
            by_method: Vec::new(),
            listed: Vec::new(),
            #[cfg(feature = "axum")]
            matched: Names::new(),
            target,
            last_warning: Mutex::new(None),
            shortest_lease: default.lease,
            shortest_body_timeout: default.body_timeout,
            largest_body: default.max_request_body,
            have_scopes: default.scope.is_some(),
            largest_recorded_body: default.max_recorded_body,
        };
        let mut any_method = Vec::new();
        let mut exact = Vec::new();
        for (pattern, change) in rules {
            let mut options = change(default.clone());
            options.pattern = Some(Arc::from(&*pattern));
            check(&options).map_err(|error| error.on_route(&pattern))?;
            routes.shortest_lease = routes.shortest_lease.min(options.lease);
            routes.shortest_body_timeout = routes.shortest_body_timeout.min(options.body_timeout);
            routes.largest_body = routes.largest_body.max(options.max_request_body);
            routes.have_scopes |= options.scope.is_some();
            routes.largest_recorded_body =
                routes.largest_recorded_body.max(options.max_recorded_body);
            let options = Arc::new(options);
            match pattern.split_once(' ') {
                Some((method, path)) => {
                    let method = method_of(method, &options.methods)
                        .map_err(|what| wrong(&pattern, what))?;
                    let path = path.trim();
                    routes.insert(&method, path, &options, &pattern)?;
                    routes.list([method.clone()], Some((&pattern, path)), &options);
                    exact.push((method, path.to_owned()));
                }
                None if options.methods.is_empty() => {
                    return Err(wrong(&pattern, "names no method, and `methods` neither"));
                }
                None => {
                    any_method.push((routes.listed.len(), pattern.clone(), Arc::clone(&options)));
                    routes.list([], Some((&pattern, &pattern)), &options);
                }
            }
        }
        // A pattern without a method is inserted last, because it applies only to the methods for
        // which no other pattern has the same path.
        for (at, pattern, options) in any_method {
            for method in &options.methods {
                let taken = exact
                    .iter()
                    .any(|(own, path)| own == method && *path == pattern);
                if !taken {
                    routes.insert(method, &pattern, &options, &pattern)?;
                    routes.listed[at].methods.push(method.clone());
                }
            }
        }
        let default = Arc::new(default);
        routes.list(default.methods.iter().cloned(), None, &default);
        routes.listed.retain(|listed| !listed.methods.is_empty());
        for method in &default.methods {
            routes.of_method(method).default = Some(Arc::clone(&default));
        }
        for listed in &routes.listed {
            let methods: Vec<_> = listed.methods.iter().map(Method::to_string).collect();
            let path = listed.path.as_deref();
            debug!(
                methods = join_with(&methods, "and"),
                path = path.unwrap_or("every path without a route of its own"),
                key = listed.options.require.as_str(),
                "a route of the idempotency layer"
            );
        }
        Ok(routes)
    }

    /// Returns the options of a request; `None` if the request passes through the layer
    /// unprotected.
    pub(crate) fn options(
        &self,
        method: &Method,
        uri: &Uri,
        extensions: &Extensions,
    ) -> Option<&Arc<RouteOptions>> {
        let (_, routes) = self.by_method.iter().find(|(own, _)| own == method)?;
        let matched = routes.patterns.as_ref().and_then(|patterns| {
            let MeantPath(path) = self.target.meant(uri, extensions);
            patterns.at(path).ok()
        });
        matched.map(|found| found.value).or(routes.default.as_ref())
    }

    /// The pattern of a request with these options: that of the layer's route, or else the one that
    /// axum matched outside this layer.
    #[cfg_attr(not(feature = "axum"), expect(clippy::unused_self))]
    pub(crate) fn pattern(&self, options: &RouteOptions, request: &Parts) -> Option<Arc<str>> {
        if let Some(pattern) = &options.pattern {
            return Some(Arc::clone(pattern));
        }
        #[cfg(feature = "axum")]
        {
            let path = request.extensions.get::<axum::extract::MatchedPath>()?;
            let parts = [request.method.as_str(), " ", path.as_str()];
            let number = self.matched.number(&parts, || parts.concat().into())?;
            self.matched.name(number).map(Arc::clone)
        }
        #[cfg(not(feature = "axum"))]
        {
            let _ = request;
            None
        }
    }

    /// The target for the fingerprint of a request.
    pub(crate) fn sent<'a>(&self, request: &'a Parts) -> SentTarget<'a> {
        self.target.sent(&request.uri, &request.extensions)
    }

    /// The id of the record that `key` has in this scope, for a request with these options.
    pub(crate) fn record_id(
        &self,
        options: &RouteOptions,
        digests: &Digests,
        scope: &ScopeDigest,
        key: &Key,
        request: &Parts,
    ) -> RecordId {
        let route = match options.keys_per {
            KeysPer::Scope => None,
            KeysPer::Route => {
                let MeantPath(path) = self.target.meant(&request.uri, &request.extensions);
                Some((&request.method, path))
            }
        };
        record_id(digests, scope, key, route, options.mode)
    }

    /// Whether no warning was logged during the last minute.
    pub(crate) fn may_warn(&self) -> bool {
        let now = Instant::now();
        // The lock makes one of several requests at the same moment log the warning.
        let mut last = self.last_warning.lock();
        let may =
            last.is_none_or(|last| now.saturating_duration_since(last) >= Duration::from_secs(60));
        if may {
            *last = Some(now);
        }
        may
    }

    /// All patterns in the order in which they were given, then the default options, if they
    /// protect a method.
    pub(crate) fn listed(&self) -> &[Listed] {
        &self.listed
    }

    pub(crate) fn largest_body(&self) -> usize {
        self.largest_body
    }

    pub(crate) fn have_scopes(&self) -> bool {
        self.have_scopes
    }

    /// The largest `max_recorded_body` of all routes.
    pub(crate) fn largest_recorded_body(&self) -> usize {
        self.largest_recorded_body
    }

    pub(crate) fn shortest_body_timeout(&self) -> Duration {
        self.shortest_body_timeout
    }

    pub(crate) fn shortest_lease(&self) -> Duration {
        self.shortest_lease
    }

    fn list(
        &mut self,
        methods: impl IntoIterator<Item = Method>,
        pattern_and_path: Option<(&str, &str)>,
        options: &Arc<RouteOptions>,
    ) {
        let (pattern, path) = pattern_and_path.unzip();
        self.listed.push(Listed {
            methods: methods.into_iter().collect(),
            pattern: pattern.map(str::to_owned),
            path: path.map(str::to_owned),
            options: Arc::clone(options),
        });
    }

    fn of_method(&mut self, method: &Method) -> &mut MethodRoutes {
        let at = self.by_method.iter().position(|(own, _)| own == method);
        let at = at.unwrap_or_else(|| {
            self.by_method
                .push((method.clone(), MethodRoutes::default()));
            self.by_method.len() - 1
        });
        &mut self.by_method[at].1
    }

    fn insert(
        &mut self,
        method: &Method,
        path: &str,
        options: &Arc<RouteOptions>,
        pattern: &str,
    ) -> Result<(), ConfigError> {
        if !path.starts_with('/') {
            return Err(wrong(
                pattern,
                "has no path: write `POST /orders/{id}` or `/orders/{id}`",
            ));
        }
        if path.contains(['?', '#']) {
            return Err(wrong(
                pattern,
                "has a query or a fragment: only paths are matched",
            ));
        }
        if path
            .split('/')
            .any(|segment| segment.starts_with([':', '*']))
        {
            return Err(wrong(
                pattern,
                "has a `:` or `*` segment: write `{id}` or `{*rest}`",
            ));
        }
        // `{{` stands for a brace.
        let unescaped = path.replace("{{", "");
        let catch_alls = unescaped.matches("{*").count();
        if unescaped.matches('{').count() - catch_alls > MOST_PARAMETERS {
            return Err(wrong(
                pattern,
                format!("has more than {MOST_PARAMETERS} parameters"),
            ));
        }
        let patterns = self.of_method(method).patterns.get_or_insert_default();
        patterns
            .insert(path, Arc::clone(options))
            .map_err(|error| wrong(pattern, unmatchable(&error, method)))
    }
}

/// Reads the method of a pattern. `own` are the methods that the route's options list, which may
/// be methods that HTTP does not define.
fn method_of(text: &str, own: &[Method]) -> Result<Method, String> {
    let method =
        Method::from_bytes(text.as_bytes()).map_err(|_| "begins with no method".to_owned())?;
    if text.bytes().any(|byte| byte.is_ascii_lowercase()) {
        return Err("begins with a method in lower case: methods are written as `POST`".to_owned());
    }
    if !can_protect(&method) {
        return Err(format!("names {method}, which can't be protected"));
    }
    let defined = [Method::POST, Method::PUT, Method::PATCH, Method::DELETE];
    if defined.contains(&method) || own.contains(&method) {
        return Ok(method);
    }
    Err(match text {
        "*" | "ANY" | "ALL" => format!(
            "begins with `{method}`, which is no method: leave it out, and the pattern is for \
             every method in `methods`"
        ),
        _ => format!(
            "begins with `{method}`, which is no method of HTTP: list it in `methods` if your API \
             has it"
        ),
    })
}

/// Says why a pattern can't be inserted beside those of the same method.
fn unmatchable(error: &matchit::InsertError, method: &Method) -> String {
    use matchit::InsertError::{Conflict, InvalidCatchAll, InvalidParam, InvalidParamSegment};
    match error {
        Conflict { with } => format!(
            "matches the same paths as `{with}` (for {method}), and neither is more specific: \
             remove one"
        ),
        InvalidParamSegment => "has two parameters in one segment: write `/{id}/{part}`".to_owned(),
        InvalidParam => "has a parameter without a name or a brace".to_owned(),
        InvalidCatchAll => "has `{*rest}` before its end".to_owned(),
        _ => "can't be matched".to_owned(),
    }
}

fn wrong(pattern: &str, what: impl Into<String>) -> ConfigError {
    ConfigError::new("route", what).on_route(pattern)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Require;
    use proptest::prelude::*;

    const ABILITIES: Abilities = Abilities {
        committed: Ok(()),
        in_transaction: Ok(()),
        keeps_steps: true,
    };

    fn routes(rules: &[(&str, Require)]) -> Result<Routes, ConfigError> {
        let rules = rules.iter().map(|(pattern, require)| {
            let require = *require;
            let change: Box<dyn FnOnce(RouteOptions) -> RouteOptions + Send> =
                Box::new(move |options| options.require(require));
            ((*pattern).to_owned(), change)
        });
        Routes::new(
            RouteOptions::default(),
            rules.collect(),
            Target::AsSent,
            &ABILITIES,
        )
    }

    fn require(routes: &Routes, method: Method, path: &str) -> Option<Require> {
        let options = routes.options(&method, &path.parse().unwrap(), &Extensions::new());
        options.map(|options| options.require)
    }

    #[test]
    fn without_patterns_the_default_protects_post_and_patch() {
        let routes = routes(&[]).unwrap();
        assert_eq!(
            require(&routes, Method::POST, "/a"),
            Some(Require::Optional)
        );
        assert_eq!(
            require(&routes, Method::PATCH, "/a"),
            Some(Require::Optional)
        );
        for method in [Method::GET, Method::PUT, Method::DELETE, Method::HEAD] {
            assert_eq!(require(&routes, method, "/a"), None);
        }
    }

    #[test]
    fn patterns_are_matched_by_method_and_path() {
        let routes = routes(&[
            ("POST /orders/{id}/capture", Require::Required),
            ("DELETE /orders/{id}", Require::Required),
            ("/files/{*rest}", Require::Ignored),
            ("POST /files/{*rest}", Require::Required),
        ])
        .unwrap();
        assert_eq!(
            require(&routes, Method::POST, "/orders/1/capture"),
            Some(Require::Required)
        );
        assert_eq!(
            require(&routes, Method::PATCH, "/orders/1/capture"),
            Some(Require::Optional)
        );
        assert_eq!(
            require(&routes, Method::POST, "/orders/1"),
            Some(Require::Optional)
        );
        assert_eq!(
            require(&routes, Method::DELETE, "/orders/1"),
            Some(Require::Required)
        );
        assert_eq!(require(&routes, Method::DELETE, "/orders"), None);
        assert_eq!(
            require(&routes, Method::POST, "/files/a/b"),
            Some(Require::Required)
        );
        assert_eq!(
            require(&routes, Method::PATCH, "/files/a/b"),
            Some(Require::Ignored)
        );
    }

    #[test]
    fn a_pattern_whose_methods_all_have_patterns_of_their_own_is_not_listed() {
        let listed = |rules: &[&str]| {
            let rules: Vec<_> = rules
                .iter()
                .map(|rule| (*rule, Require::Required))
                .collect();
            let routes = routes(&rules).unwrap();
            let listed = routes.listed().iter().map(|listed| {
                let methods: Vec<_> = listed.methods.iter().map(Method::as_str).collect();
                format!(
                    "{} {}",
                    methods.join(","),
                    listed.path.as_deref().unwrap_or("*")
                )
            });
            listed.collect::<Vec<_>>()
        };
        assert_eq!(listed(&[]), ["POST,PATCH *"]);
        let one = listed(&["/a", "POST /a"]);
        assert_eq!(one, ["PATCH /a", "POST /a", "POST,PATCH *"]);
        let both = listed(&["/a", "POST /a", "PATCH /a"]);
        assert_eq!(both, ["POST /a", "PATCH /a", "POST,PATCH *"]);
    }

    #[test]
    fn wrong_patterns_are_config_errors() {
        for pattern in [
            "",
            "orders",
            "POST orders",
            "P(ST /a",
            "GET /a",
            "POST /a/{",
            "POST /{*rest}/b",
            "post /a",
            "POST /a/:id",
            "/a/*rest",
            "/a?b=c",
        ] {
            let error = routes(&[(pattern, Require::Required)]).unwrap_err();
            assert_eq!(error.option(), "route", "{pattern}: {error}");
        }
        let twice = [
            ("POST /a/{x}", Require::Required),
            ("POST /a/{y}", Require::Ignored),
        ];
        assert_eq!(routes(&twice).unwrap_err().option(), "route");
        let twice = [("/a", Require::Required), ("/a", Require::Ignored)];
        assert_eq!(routes(&twice).unwrap_err().option(), "route");
        let beside_another = [("POST /b", Require::Required), twice[0], twice[1]];
        assert_eq!(routes(&beside_another).unwrap_err().option(), "route");
    }

    #[test]
    fn what_is_wrong_with_a_pattern_is_said_in_words_of_its_own() {
        for (pattern, what) in [
            (
                "PSOT /orders",
                "begins with `PSOT`, which is no method of HTTP: list it in `methods` if your API has it",
            ),
            ("* /x", "begins with `*`, which is no method: leave it out"),
            (
                "ANY /x",
                "begins with `ANY`, which is no method: leave it out",
            ),
            ("/{a}-{b}", "has two parameters in one segment"),
            ("/{}", "has a parameter without a name or a brace"),
            ("/{*rest}/b", "has `{*rest}` before its end"),
            (&*"/{a}".repeat(26), "has more than 25 parameters"),
            (&*"/{a}".repeat(1000), "has more than 25 parameters"),
        ] {
            let error = routes(&[(pattern, Require::Required)]).unwrap_err();
            assert!(error.to_string().contains(what), "{error}");
        }
        let conflict = [
            ("POST /a/{x}", Require::Required),
            ("POST /a/{y}", Require::Ignored),
        ];
        assert_eq!(
            routes(&conflict).unwrap_err().to_string(),
            "`route` matches the same paths as `/a/{x}` (for POST), and neither is more specific: \
             remove one (on route `POST /a/{y}`)"
        );
    }

    #[test]
    fn a_pattern_may_have_25_parameters_and_any_length() {
        let most = "/{a}".repeat(25) + "/{*rest}";
        let long = format!("/{}", "a".repeat(100_000));
        let escaped = "/{{a}}".repeat(40);
        let segments = "/a".repeat(10_000);
        let all = [&most, &long, &escaped, &segments].map(|own| (&**own, Require::Required));
        let routes = routes(&all).unwrap();
        let path = "/x".repeat(27);
        assert_eq!(
            require(&routes, Method::POST, &path),
            Some(Require::Required)
        );
        assert_eq!(
            require(&routes, Method::POST, &segments),
            Some(Require::Required)
        );
    }

    proptest! {
        /// A pattern is a route or a `ConfigError`, and a path finds its route or none.
        #[test]
        fn no_pattern_and_no_path_panics_the_router(
            patterns in prop::collection::vec(
                "(POST |P )?/?(/|\\{[a-z*]{0,2}\\}|[{}*:a-zé]|\\{\\{|\\}\\}|%2F|(/\\{a\\}){0,20}){0,40}",
                1..6,
            ),
            path in "/[a-z/{}*:%]{0,12}",
        ) {
            let rules: Vec<_> = patterns.iter().map(|pattern| (&**pattern, Require::Required)).collect();
            match routes(&rules) {
                Ok(routes) => {
                    let uri = Uri::builder().path_and_query(&*path).build().unwrap();
                    let _ = routes.options(&Method::POST, &uri, &Extensions::new());
                }
                Err(error) => prop_assert_eq!(error.option(), "route"),
            }
        }
    }

    #[test]
    fn a_method_of_ones_own_is_listed_in_methods() {
        let lock = || Method::from_bytes(b"LOCK").unwrap();
        let rule = || -> Rule { ("LOCK /a".to_owned(), Box::new(|options| options)) };
        let options = RouteOptions::default().methods([lock()]);
        let listed = Routes::new(options, vec![rule()], Target::AsSent, &ABILITIES).unwrap();
        let of_a = listed.options(&lock(), &Uri::from_static("/a"), &Extensions::new());
        assert!(of_a.is_some());
        let unlisted = Routes::new(
            RouteOptions::default(),
            vec![rule()],
            Target::AsSent,
            &ABILITIES,
        );
        assert_eq!(unlisted.unwrap_err().option(), "route");
    }

    #[test]
    fn a_wrong_option_of_a_route_says_which() {
        let rule: Rule = (
            "POST /a".to_owned(),
            Box::new(|options| options.lease(Duration::ZERO)),
        );
        let error = Routes::new(
            RouteOptions::default(),
            vec![rule],
            Target::AsSent,
            &ABILITIES,
        )
        .unwrap_err();
        assert_eq!(
            error.to_string(),
            "`lease` must be longer than zero (on route `POST /a`)"
        );
    }
}
