//! Callers that a middleware has found.

use std::any::type_name;
use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use http::request::Parts;

use super::{Caller, Scope};

/// What a middleware outside the layer left in the request's extensions as a `T`: the account, the
/// tenant, the API key's id. Scopes of different `kind` have different callers.
///
/// ```
/// use tower_idempotency::scope::{self, Extension};
///
/// #[derive(Clone)]
/// struct Account { id: u64 }
///
/// let scope: Extension<Account> = scope::extension("account", |account: &Account| account.id);
/// ```
pub fn extension<T, V>(
    kind: &'static str,
    id: impl Fn(&T) -> V + Send + Sync + 'static,
) -> Extension<T>
where
    T: Send + Sync + 'static,
    V: ToString,
{
    Extension {
        kind,
        caller: Arc::new(move |found| Caller::new(kind, id(found))),
    }
}

/// The scope that [`extension`] returns.
pub struct Extension<T> {
    kind: &'static str,
    caller: Arc<dyn Fn(&T) -> Caller + Send + Sync>,
}

impl<T> Clone for Extension<T> {
    fn clone(&self) -> Self {
        Self {
            kind: self.kind,
            caller: Arc::clone(&self.caller),
        }
    }
}

impl<T> fmt::Debug for Extension<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Extension").field(&self.kind).finish()
    }
}

impl<T: Send + Sync + 'static> Scope for Extension<T> {
    fn caller(&self, request: &Parts) -> Option<Caller> {
        request.extensions.get().map(&*self.caller)
    }

    fn describe(&self) -> Cow<'static, str> {
        Cow::Owned(format!("whoever has the same `{}`", self.kind))
    }

    fn named(&self, caller: &str) -> Vec<Caller> {
        vec![Caller::new(self.kind, caller)]
    }

    fn mistake(&self, _: &Parts) -> Option<Cow<'static, str>> {
        Some(Cow::Owned(format!(
            "no `{}` in the request's extensions: put the layer inside what sets it, or, \
             if it is, expect this of requests that are not authenticated",
            type_name::<T>()
        )))
    }
}
