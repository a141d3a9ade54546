//! Whether each of the store's connections has a session of its own at the server.
//!
//! The driver prepares a statement under a name such as `sqlx_s_1`, which its session knows. A
//! pooler in transaction mode gives each transaction another session, where the name is unknown or,
//! worse, that of another client's statement. With a `statement_cache_capacity` of 0 the driver
//! still gives the statement of each call a name, and never takes the name back, so that the
//! session's memory grows.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sqlx::error::DatabaseError;
use sqlx::postgres::{PgArguments, PgConnection, PgPool, PgRow};
use sqlx::query::Query;
use sqlx::{ConnectOptions, Connection, Executor, Postgres, Row, raw_sql};
use tracing::{debug, warn};

use crate::error::cause;

/// How often [`are_shared`] asks both of its connections: between the questions other clients of the
/// pooler may have taken the session that the answer was about.
const ROUNDS: u32 = 3;

/// What is known of the sessions of one pool. Clones share the knowledge.
#[derive(Clone, Debug)]
pub(super) struct Sessions(Arc<Known>);

#[derive(Debug)]
struct Known {
    are_own: AtomicBool,
    has_cache: bool,
}

impl Sessions {
    /// Asks the server.
    pub(super) async fn find(pool: &PgPool) -> Self {
        let are_shared = are_shared(pool).await.unwrap_or_else(|error| {
            let error = cause(&error);
            debug!(error, "whether a pooler is between is not known");
            false
        });
        if are_shared {
            debug!("a pooler shares the server's sessions: no statement is prepared");
        }
        Self(Arc::new(Known {
            are_own: AtomicBool::new(!are_shared),
            has_cache: has_cache(pool),
        }))
    }

    /// Whether each connection has a session of its own, in which statements and `LISTEN` last.
    pub(super) fn are_own(&self) -> bool {
        self.0.are_own.load(Ordering::Relaxed)
    }

    /// Whether statements may be prepared under a name.
    pub(super) fn may_prepare(&self) -> bool {
        self.0.has_cache && self.are_own()
    }

    /// Whether this error proves that sessions are shared: the name of a statement is unknown or
    /// taken, so the server did not execute the statement. From then on no statement is prepared.
    pub(super) fn prove_shared(&self, error: &sqlx::Error) -> bool {
        let code = error.as_database_error().and_then(DatabaseError::code);
        let is_proof = matches!(code.as_deref(), Some("26000" | "42P05"));
        if is_proof && self.0.are_own.swap(false, Ordering::Relaxed) {
            warn!(
                "a pooler between the store and PostgreSQL confuses prepared statements, so the \
                 store prepares none from now on: connect with statement-cache-capacity=0"
            );
        }
        is_proof
    }

    /// Runs a statement and returns its rows.
    ///
    /// The driver sends a statement without a name in two steps. The transaction keeps the session
    /// from the first step to the second.
    pub(super) async fn fetch_all(
        &self,
        connection: &mut PgConnection,
        call: Query<'_, Postgres, PgArguments>,
    ) -> Result<Vec<PgRow>, sqlx::Error> {
        if self.may_prepare() {
            return call.fetch_all(connection).await;
        }
        let mut transaction = connection.begin().await?;
        let unnamed = call.persistent(false);
        let rows = unnamed.fetch_all(&mut *transaction).await?;
        transaction.commit().await?;
        Ok(rows)
    }
}

/// Whether the driver keeps prepared statements. Its options have no method that says so, and their
/// URL says it. Host and user are replaced, since a URL can't have every host and user.
fn has_cache(pool: &PgPool) -> bool {
    let options = (*pool.connect_options()).clone();
    let url = options.host("localhost").username("").to_url_lossy();
    let none = ("statement-cache-capacity".into(), "0".into());
    url.query_pairs().all(|pair| pair != none)
}

/// Whether two connections have one session, or one connection has two.
async fn are_shared(pool: &PgPool) -> Result<bool, sqlx::Error> {
    let mut one = pool.acquire().await?;
    let mut other = PgConnection::connect_with(&pool.connect_options()).await?;
    let mut pairs = Vec::new();
    for _ in 0..ROUNDS {
        pairs.push((session(&mut one).await?, session(&mut other).await?));
    }
    other.close().await?;
    Ok(pairs
        .iter()
        .any(|pair| pair.0 == pair.1 || *pair != pairs[0]))
}

/// Returns the process id of the session that serves this transaction.
async fn session(connection: &mut PgConnection) -> Result<i32, sqlx::Error> {
    let asked = raw_sql("SELECT pg_backend_pid()");
    connection.fetch_one(asked).await?.try_get(0)
}

#[cfg(test)]
mod tests {
    use std::error::Error;
    use std::fmt;

    use sqlx::error::ErrorKind;
    use sqlx::postgres::{PgConnectOptions, PgPoolOptions};

    use super::*;

    /// An error of this SQLSTATE.
    #[derive(Debug)]
    struct Sqlstate(&'static str);

    impl fmt::Display for Sqlstate {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
    }

    impl Error for Sqlstate {}

    impl DatabaseError for Sqlstate {
        fn message(&self) -> &str {
            self.0
        }

        fn code(&self) -> Option<std::borrow::Cow<'_, str>> {
            Some(self.0.into())
        }

        fn as_error(&self) -> &(dyn Error + Send + Sync + 'static) {
            self
        }

        fn as_error_mut(&mut self) -> &mut (dyn Error + Send + Sync + 'static) {
            self
        }

        fn into_error(self: Box<Self>) -> Box<dyn Error + Send + Sync + 'static> {
            self
        }

        fn kind(&self) -> ErrorKind {
            ErrorKind::Other
        }
    }

    /// Calls that were under way at the first proof are sent again too.
    #[test]
    fn each_call_whose_statement_is_unknown_proves_that_sessions_are_shared() {
        let sessions = Sessions(Arc::new(Known {
            are_own: AtomicBool::new(true),
            has_cache: true,
        }));
        let prove = |code| sessions.prove_shared(&sqlx::Error::Database(Box::new(Sqlstate(code))));
        assert!(!prove("40001") && sessions.may_prepare());
        assert!(prove("26000") && !sessions.may_prepare());
        assert!(prove("26000") && prove("42P05"));
        assert!(!prove("25006"));
    }

    #[tokio::test]
    async fn a_capacity_of_zero_is_found_in_any_options() {
        let has_cache = |options: PgConnectOptions| {
            let pool = PgPoolOptions::new().connect_lazy_with(options);
            has_cache(&pool)
        };
        let odd = || {
            let options = PgConnectOptions::new_without_pgpass().host("::1").port(1);
            let options = options.username("a/b@c:#?").password("?&=");
            options.database("d b")
        };
        assert!(has_cache(odd()));
        assert!(has_cache(odd().statement_cache_capacity(10)));
        let none = odd().statement_cache_capacity(0);
        assert!(!has_cache(none.clone()));
        assert!(!has_cache(none.socket("/run/a b")));
    }
}
