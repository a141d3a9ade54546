//! Which policy a request gets.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use http::{Extensions, Method, Uri};

use crate::error::ConfigError;
use crate::options::{RouteOptions, can_protect};

/// A pattern and what it changes in the default policy.
pub(crate) type Rule = (String, Box<dyn FnOnce(RouteOptions) -> RouteOptions + Send>);

/// The policies of a layer, by method and path.
#[derive(Debug)]
pub(crate) struct Routes {
    /// Only methods that some policy protects: any other passes through after
    /// one look.
    by_method: Vec<(Method, MethodRoutes)>,
    listed: Vec<Listed>,
    /// Paths are matched in lower case, but for the digits of escapes.
    ignore_case: bool,
    shortest_lease: Duration,
    largest_body: usize,
}

/// A pattern as it was given, for whoever wants to read the policies.
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
    /// For paths that no pattern matches; `None` if the default policy does
    /// not protect this method.
    default: Option<Arc<RouteOptions>>,
}

impl Routes {
    /// `commits` says whether handlers can commit their claims in the store.
    pub(crate) fn new(
        default: RouteOptions,
        rules: Vec<Rule>,
        commits: bool,
    ) -> Result<Self, ConfigError> {
        let check = |options: &RouteOptions| {
            if options.exactly_once && !commits {
                return Err(ConfigError::new(
                    "exactly_once",
                    "needs a store in an SQL database: PostgresStore, MySqlStore or SqliteStore",
                ));
            }
            options.check()
        };
        check(&default)?;
        let mut routes = Routes {
            by_method: Vec::new(),
            listed: Vec::new(),
            ignore_case: false,
            shortest_lease: default.lease,
            largest_body: default.max_request_body,
        };
        let mut any_method = Vec::new();
        let mut exact = Vec::new();
        for (pattern, change) in rules {
            let options = change(default.clone());
            check(&options).map_err(|error| error.on_route(&pattern))?;
            routes.shortest_lease = routes.shortest_lease.min(options.lease);
            routes.largest_body = routes.largest_body.max(options.max_request_body);
            let options = Arc::new(options);
            match pattern.split_once(' ') {
                Some((method, path)) => {
                    let method = Method::from_bytes(method.as_bytes()).map_err(|error| {
                        wrong(&pattern, "begins with no method").caused_by(error)
                    })?;
                    if method
                        .as_str()
                        .bytes()
                        .any(|byte| byte.is_ascii_lowercase())
                    {
                        return Err(wrong(&pattern, "begins with a method in lower case"));
                    }
                    if !can_protect(&method) {
                        return Err(wrong(
                            &pattern,
                            &format!("names {method}, which can't be protected"),
                        ));
                    }
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
        // A pattern without a method covers what the ones with a method left.
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
        Ok(routes)
    }

    /// The policy of a request, or `None` if it passes through.
    pub(crate) fn options(&self, method: &Method, path: &str) -> Option<&Arc<RouteOptions>> {
        let (_, routes) = self.by_method.iter().find(|(own, _)| own == method)?;
        let path = if self.ignore_case {
            Cow::Owned(lower_case(path))
        } else {
            Cow::Borrowed(path)
        };
        let matched = routes
            .patterns
            .as_ref()
            .and_then(|patterns| patterns.at(&path).ok());
        matched.map(|found| found.value).or(routes.default.as_ref())
    }

    pub(crate) fn ignoring_case(mut self, ignore: bool) -> Self {
        self.ignore_case = ignore;
        self
    }

    /// All patterns in the order they were given, then the defaults, if they
    /// protect anything.
    pub(crate) fn listed(&self) -> &[Listed] {
        &self.listed
    }

    pub(crate) fn largest_body(&self) -> usize {
        self.largest_body
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
        let patterns = self.of_method(method).patterns.get_or_insert_default();
        patterns
            .insert(path, Arc::clone(options))
            .map_err(|error| wrong(pattern, "can't be matched").caused_by(error))
    }
}

/// A path, but for the digits of its escapes.
pub(crate) fn lower_case(path: &str) -> String {
    let mut pieces = path.split('%');
    let mut lower = pieces.next().unwrap_or_default().to_ascii_lowercase();
    for piece in pieces {
        let (digits, rest) = piece.split_at_checked(2).unwrap_or((piece, ""));
        lower.push('%');
        lower.push_str(digits);
        lower.push_str(&rest.to_ascii_lowercase());
    }
    lower
}

fn wrong(pattern: &str, what: &str) -> ConfigError {
    ConfigError::new("route", what).on_route(pattern)
}

/// The target that the client asked for. Inside a nested axum router the
/// request's own URI has lost its prefix; the original is in the extensions.
#[cfg(feature = "axum")]
pub(crate) fn target<'a>(uri: &'a Uri, extensions: &'a Extensions) -> &'a Uri {
    let original = extensions.get::<axum::extract::OriginalUri>();
    original.map_or(uri, |original| &original.0)
}

/// The target that the client asked for.
#[cfg(not(feature = "axum"))]
pub(crate) fn target<'a>(uri: &'a Uri, _: &'a Extensions) -> &'a Uri {
    uri
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Require;

    fn routes(rules: &[(&str, Require)]) -> Result<Routes, ConfigError> {
        let rules = rules.iter().map(|(pattern, require)| {
            let require = *require;
            let change: Box<dyn FnOnce(RouteOptions) -> RouteOptions + Send> =
                Box::new(move |options| options.require(require));
            ((*pattern).to_owned(), change)
        });
        Routes::new(RouteOptions::default(), rules.collect(), false)
    }

    fn require(routes: &Routes, method: Method, path: &str) -> Option<Require> {
        routes.options(&method, path).map(|options| options.require)
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
    fn only_where_it_is_wanted_case_does_not_matter() {
        let rules = [("POST /caf%C3%A9/{id}", Require::Required)];
        let routes = routes(&rules).unwrap();
        let sent = "/CAF%C3%A9/aB";
        assert_eq!(
            require(&routes, Method::POST, sent),
            Some(Require::Optional)
        );
        let routes = routes.ignoring_case(true);
        assert_eq!(
            require(&routes, Method::POST, sent),
            Some(Require::Required)
        );
        assert_eq!(lower_case("/A%"), "/a%");
        assert_eq!(lower_case("/A%4"), "/a%4");
    }

    #[test]
    fn a_wrong_option_of_a_route_says_which() {
        let rule: Rule = (
            "POST /a".to_owned(),
            Box::new(|options| options.lease(Duration::ZERO)),
        );
        let error = Routes::new(RouteOptions::default(), vec![rule], false).unwrap_err();
        assert_eq!(
            error.to_string(),
            "`lease` must be longer than zero (on route `POST /a`)"
        );
    }
}
