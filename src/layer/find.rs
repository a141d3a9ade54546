//! Finding a record by what a person knows of its request.

use std::error::Error;
use std::fmt;

use http::request::Parts;
use http::{HeaderValue, Method, Request, Uri};

use crate::layer::records::Records;
use crate::options::{Require, RouteOptions};
use crate::record::{RecordId, ScopeDigest};
use crate::scope::Caller;
use crate::store::{Record, StoreError};

impl<'a> Records<'a> {
    /// The records of a request, by its caller, key, method and path, with their ids: one at most, unless `caller` may
    /// mean several callers, or secrets are being rotated and the record under the current one stands beside one under an old
    /// secret (the current one is first).
    ///
    /// `caller` is what the scope of the route finds in requests: the value of its header, the values of its
    /// headers with line ends between them, an IP address, the id in an [`extension`](crate::scope::extension()); any
    /// text for [`shared`](crate::scope::shared). See [`Scope::named`](crate::scope::Scope::named).
    ///
    /// # Errors
    /// If such a request has no record, or if [`look_up`](Self::look_up) fails.
    pub async fn find(
        self,
        caller: &str,
        key: &str,
        method: &Method,
        uri: &Uri,
    ) -> Result<Vec<(RecordId, Record)>, FindError> {
        let (mut request, ()) = Request::new(()).into_parts();
        (request.method, request.uri) = (method.clone(), uri.clone());
        let options = self.options(&request)?;
        let name = options.keys.headers.first().ok_or(FindError::Key)?;
        let key = HeaderValue::from_str(key).map_err(|_| FindError::Key)?;
        request.headers.insert(name.clone(), key);
        let callers = self.core.rules.scope_of(options).named(caller);
        self.look_up_all(self.ids(options, &request, &callers)?)
            .await
    }

    /// The records of this request, as [`find`](Self::find) returns them.
    ///
    /// # Errors
    /// As of [`find`](Self::find).
    pub async fn find_request(self, request: &Parts) -> Result<Vec<(RecordId, Record)>, FindError> {
        let options = self.options(request)?;
        let caller = self.core.rules.caller(options, request);
        let callers: Vec<_> = caller.into_iter().collect();
        self.look_up_all(self.ids(options, request, &callers)?)
            .await
    }

    /// The digests of this caller, by any scope of the layer and under each of its secrets: what
    /// [`ListQuery::scope`](crate::store::ListQuery::scope) takes. `caller` is as in [`find`](Self::find).
    #[must_use]
    pub fn digests_of(self, caller: &str) -> Vec<ScopeDigest> {
        let rules = &self.core.rules;
        let listed = rules.routes.listed().iter();
        let of_routes = listed.filter_map(|listed| listed.options.scope.as_ref());
        let scopes = std::iter::once(&rules.scope).chain(of_routes);
        let callers: Vec<_> = scopes.flat_map(|scope| scope.named(caller)).collect();
        let mut digests = Vec::new();
        for secret in 0..=rules.old_digests.len() {
            for caller in &callers {
                let digest = caller.digest(rules.digests_under(secret), &rules.namespace);
                if !digests.contains(&digest) {
                    digests.push(digest);
                }
            }
        }
        digests
    }

    fn options(self, request: &Parts) -> Result<&'a RouteOptions, FindError> {
        let routes = &self.core.rules.routes;
        let options = routes.options(&request.method, &request.uri, &request.extensions);
        options
            .filter(|options| options.require != Require::Ignored)
            .map(|options| &**options)
            .ok_or(FindError::Unprotected)
    }

    fn ids(
        self,
        options: &RouteOptions,
        request: &Parts,
        callers: &[Caller],
    ) -> Result<Vec<RecordId>, FindError> {
        let rules = &self.core.rules;
        let key = options.keys.read(&request.headers);
        let (key, _) = key.and_then(Result::ok).ok_or(FindError::Key)?;
        if callers.is_empty() {
            return Err(FindError::Caller);
        }
        let secrets = (0..=rules.old_digests.len()).map(|secret| rules.digests_under(secret));
        let ids = secrets.flat_map(|digests| {
            let key = &key;
            callers.iter().map(move |caller| {
                let scope = caller.digest(digests, &rules.namespace);
                rules
                    .routes
                    .record_id(options, digests, &scope, key, request)
            })
        });
        Ok(ids.collect())
    }

    async fn look_up_all(self, ids: Vec<RecordId>) -> Result<Vec<(RecordId, Record)>, FindError> {
        let mut found = Vec::new();
        for id in ids {
            let record = self.look_up(&id).await.map_err(FindError::Store)?;
            found.extend(record.map(|record| (id, record)));
        }
        Ok(found)
    }
}

/// Why no record can be looked for.
#[derive(Debug)]
#[non_exhaustive]
pub enum FindError {
    /// No route protects such a request.
    Unprotected,
    /// The request has no key, or one that the layer would refuse.
    Key,
    /// The request has no caller, or the text is none that the scope could find.
    Caller,
    /// The store failed.
    Store(StoreError),
}

impl fmt::Display for FindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unprotected => "no route protects such a request, so it has no record",
            Self::Key => "the request has no valid key, so it has no record",
            Self::Caller => "the request has no caller, so it has no record",
            Self::Store(_) => "the store can't be asked",
        })
    }
}

impl Error for FindError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Store(error) => Some(error),
            Self::Unprotected | Self::Key | Self::Caller => None,
        }
    }
}
