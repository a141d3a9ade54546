//! The error of a request that has no claim of the kind that its handler asks for.

use std::error::Error;
use std::fmt;

/// There is no [`SqlClaim`](crate::exactly_once::SqlClaim) of the kind that a handler
/// asks for: its request is not protected, or the layer's store is not in that kind of
/// database.
///
/// As a response (feature `axum`) it is a 500, because the handler asks for something
/// that its route does not give.
#[derive(Debug)]
pub struct MissingClaim(Lacks);

#[derive(Debug)]
enum Lacks {
    Protection,
    Store(&'static str),
}

impl MissingClaim {
    pub(crate) const NOT_PROTECTED: Self = Self(Lacks::Protection);

    pub(crate) fn not_in(database: &'static str) -> Self {
        Self(Lacks::Store(database))
    }
}

impl fmt::Display for MissingClaim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Lacks::Protection => f.write_str("the request is not protected by an idempotency key"),
            Lacks::Store(database) => {
                write!(f, "the records of idempotency keys are not in {database}")
            }
        }
    }
}

impl Error for MissingClaim {}

#[cfg(feature = "axum")]
mod extract {
    use axum::extract::{FromRequestParts, OptionalFromRequestParts};
    use axum::response::{IntoResponse, Response};
    use http::StatusCode;
    use http::request::Parts;

    use super::{Lacks, MissingClaim};
    use crate::exactly_once::SqlClaim;
    use crate::store::sql::transaction::SqlDatabase;

    impl IntoResponse for MissingClaim {
        fn into_response(self) -> Response {
            let error: &dyn std::error::Error = &self;
            tracing::error!(
                error,
                "a handler extracts SqlClaim and can't have it: require a key on the route, or \
                 extract Option<SqlClaim>, and give the layer the store of that database"
            );
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }

    impl<S: Sync, DB: SqlDatabase> FromRequestParts<S> for SqlClaim<DB> {
        type Rejection = MissingClaim;

        async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, MissingClaim> {
            Self::of(&parts.extensions)
        }
    }

    /// `None` where the request is not protected.
    impl<S: Sync, DB: SqlDatabase> OptionalFromRequestParts<S> for SqlClaim<DB> {
        type Rejection = MissingClaim;

        async fn from_request_parts(
            parts: &mut Parts,
            _: &S,
        ) -> Result<Option<Self>, MissingClaim> {
            match Self::of(&parts.extensions) {
                Ok(claim) => Ok(Some(claim)),
                Err(MissingClaim(Lacks::Protection)) => Ok(None),
                Err(other) => Err(other),
            }
        }
    }
}
