//! A transaction that begins with the claim of its operation.

use std::time::Duration;

use sqlx::{Pool, Transaction};
use tracing::debug;

use crate::error::cause;
use crate::exactly_once::error::may_succeed;
use crate::exactly_once::{CommitError, SqlClaim};
use crate::limits::Resource;
use crate::options::{ExactlyOnce, OnInFlight};
use crate::request::commit_state::{BegunClaim, Refusal};
use crate::runtime::deadline::Deadline;
use crate::runtime::{Instant, sleep};
use crate::store::Claim;
use crate::store::sql::transaction::{ClaimedInside, Reservation, SqlDatabase};

/// How often a claim is made that has to give way each time.
const TRIES: u32 = 8;
/// After this time a claim that gave way is not made again: a busy SQLite has waited for as long as
/// the pool's `busy_timeout` already.
const TRYING: Duration = Duration::from_secs(1);
/// How long a transaction waits for the end of another one of its request: a transaction that was
/// dropped is rolled back a moment later.
pub(super) const END_OF_ANOTHER: Duration = Duration::from_millis(500);
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(250);

/// What an attempt to begin came to.
enum Attempted<DB: SqlDatabase> {
    Begun(Transaction<'static, DB>, Box<BegunClaim>),
    InFlight,
    Found,
}

impl<DB: SqlDatabase> SqlClaim<DB> {
    /// Begins the transaction that the handler writes in and [commits](Self::commit).
    ///
    /// On a route that is exactly once [in a transaction](ExactlyOnce::InTransaction) the transaction
    /// begins with the claim: until it has ended, no other request executes the operation. If one does
    /// already, the layer rejects this request with `in-flight`, after it has waited as
    /// [`on_in_flight`](crate::RouteOptions::on_in_flight) says, without a connection. If the
    /// operation is done, the layer sends its recorded response. In both cases this method fails, the
    /// handler returns the error, and nothing of what the handler returns is sent. A crash, or a
    /// transaction that is dropped, leaves nothing behind: a retry executes the operation at once.
    ///
    /// On other routes this is `BEGIN`, on SQLite `BEGIN IMMEDIATE`. The isolation level is the default
    /// of the connection.
    ///
    /// In a transaction the claim costs one round trip.
    ///
    /// # Errors
    /// [`CommitErrorKind`](crate::exactly_once::CommitErrorKind) says why no transaction has begun.
    ///
    /// # Cancel safety
    /// If the future is dropped, what has begun is rolled back.
    ///
    /// ```
    /// # #[cfg(feature = "sqlite")] mod example {
    /// use bytes::Bytes;
    /// use http::{Request, Response};
    /// use http_body_util::Full;
    /// use sqlx::{Sqlite, SqlitePool};
    /// use tower::{Layer, ServiceExt, service_fn};
    /// use tower_idempotency::exactly_once::{CommitError, SqlClaim};
    /// use tower_idempotency::options::ExactlyOnce;
    /// use tower_idempotency::{IdempotencyLayer, SqliteStore, scope};
    ///
    /// async fn pay(
    ///     pool: SqlitePool,
    ///     request: Request<Full<Bytes>>,
    /// ) -> Result<Response<Full<Bytes>>, CommitError> {
    ///     let claim = SqlClaim::<Sqlite>::of(request.extensions()).expect("a key is required");
    ///     let mut tx = claim.begin(&pool).await?;
    ///     sqlx::query("INSERT INTO payments (amount) VALUES (42)").execute(&mut *tx).await?;
    ///     claim.commit(tx, Response::new(Full::<Bytes>::from("paid"))).await
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # pub async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let file = std::env::temp_dir().join(format!("begin-{}.db", std::process::id()));
    /// let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&file).create_if_missing(true);
    /// let pool = SqlitePool::connect_with(options).await?;
    /// sqlx::query("CREATE TABLE payments (amount INTEGER)").execute(&pool).await?;
    /// let records = SqliteStore::builder(pool.clone());
    /// records.migrate().await?;
    /// let layer = IdempotencyLayer::builder(records.open().await?, scope::shared())
    ///     .defaults(|options| options.exactly_once(ExactlyOnce::InTransaction))
    ///     .build()?;
    /// let handler = pool.clone();
    /// let app = layer.layer(service_fn(move |request| pay(handler.clone(), request)));
    /// for _ in 0..2 {
    ///     let request = Request::post("/").header("idempotency-key", "k").body(Full::default())?;
    ///     assert_eq!(app.clone().oneshot(request).await?.status(), 200);
    /// }
    /// let payments: i64 = sqlx::query_scalar("SELECT count(*) FROM payments").fetch_one(&pool).await?;
    /// assert_eq!(payments, 1);
    /// # std::fs::remove_file(&file)?;
    /// # Ok(())
    /// # }
    /// # }
    /// # #[cfg(feature = "sqlite")] example::main().unwrap();
    /// ```
    pub async fn begin(&self, pool: &Pool<DB>) -> Result<Transaction<'static, DB>, CommitError> {
        self.begin_after(pool, Duration::ZERO).await
    }

    /// Begins a transaction that waits for as long as `grace` if the operation is in flight, whatever
    /// the route says: an earlier transaction of this request may still have to end.
    pub(super) async fn begin_after(
        &self,
        pool: &Pool<DB>,
        grace: Duration,
    ) -> Result<Transaction<'static, DB>, CommitError> {
        let operation = &*self.operation;
        if operation.options.exactly_once != ExactlyOnce::InTransaction {
            let begun = pool.begin_with(DB::BEGIN).await;
            return begun.map_err(CommitError::rolled_back::<DB>);
        }
        if operation
            .commit
            .may_begin()
            .map_err(CommitError::not_open)?
        {
            return self.begin_anew(pool).await;
        }
        let mut waits = None;
        let asked = Instant::now();
        let mut pause = FIRST_PAUSE;
        loop {
            match self.attempt(pool).await? {
                Attempted::Begun(transaction, begun) => {
                    return self.begun(transaction, begun).await;
                }
                Attempted::Found => {
                    operation.commit.refused(Refusal::Found);
                    return Err(CommitError::found());
                }
                // A clone of this claim has begun meanwhile.
                Attempted::InFlight if operation.commit.may_begin() == Ok(true) => {
                    return Err(CommitError::begun_twice());
                }
                Attempted::InFlight => {}
            }
            let bound = match operation.options.on_in_flight {
                OnInFlight::Wait(bound) => bound,
                OnInFlight::Reject => Duration::ZERO,
            };
            let left = bound.max(grace).saturating_sub(asked.elapsed());
            if left.is_zero() {
                operation.commit.refused(Refusal::InFlight);
                return Err(CommitError::in_flight());
            }
            if waits.is_none() && !bound.is_zero() {
                match operation.account().take(Resource::Waiters, 1) {
                    Ok(place) => waits = Some(place),
                    Err(full) => {
                        operation.core.leases.reached_limit(full);
                        operation.commit.refused(Refusal::FullOfWaiters(full));
                        return Err(CommitError::in_flight());
                    }
                }
            }
            // No connection is held meanwhile. The other transaction may end without a word, so
            // that a wake-up only shortens the pause.
            self.pause(pause.min(left)).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Begins another transaction than the one that has begun, which must be over.
    async fn begin_anew(&self, pool: &Pool<DB>) -> Result<Transaction<'static, DB>, CommitError> {
        // Counted from when the operation is found in flight, so that a wait for a connection of the
        // pool is no sign of an open transaction.
        let mut met = None;
        loop {
            match self.attempt(pool).await? {
                Attempted::Begun(transaction, begun) => {
                    return self.begun(transaction, begun).await;
                }
                Attempted::Found => {
                    self.operation.commit.refused(Refusal::Found);
                    return Err(CommitError::found());
                }
                Attempted::InFlight => {
                    let met = *met.get_or_insert_with(Instant::now);
                    if met.elapsed() >= END_OF_ANOTHER {
                        return Err(CommitError::begun_twice());
                    }
                    sleep(FIRST_PAUSE).await;
                }
            }
        }
    }

    async fn begun(
        &self,
        transaction: Transaction<'static, DB>,
        begun: Box<BegunClaim>,
    ) -> Result<Transaction<'static, DB>, CommitError> {
        match self.operation.commit.begun(begun) {
            Ok(()) => Ok(transaction),
            Err(why) => {
                self.roll_back(transaction).await;
                Err(CommitError::not_open(why))
            }
        }
    }

    /// Makes the claim, again if it had to give way to another transaction.
    async fn attempt(&self, pool: &Pool<DB>) -> Result<Attempted<DB>, CommitError> {
        let store = self.store().expect("it was there when the claim was made");
        let mut claims: Vec<&Claim> = vec![&self.operation.lease().claim];
        claims.extend(self.operation.commit.others());
        // In one order in all processes, so that of two that list the secrets in another order one
        // gets the first record, and with it all.
        claims.sort_by_key(|claim| claim.id);
        let asked = Instant::now();
        let mut tries = 1;
        loop {
            let reserved = claims.iter().map(|claim| store.reserve(claim)).collect();
            let Some(reserved) = reserved else {
                return Ok(Attempted::InFlight);
            };
            match self.claim_once(pool, &claims, reserved).await {
                Ok(attempted) => return Ok(attempted),
                Err(error) if tries < TRIES && asked.elapsed() < TRYING && may_succeed(&error) => {
                    let pause = rand::random_range(0..1_000_u64 << tries);
                    sleep(Duration::from_micros(pause)).await;
                    tries += 1;
                }
                Err(error) => return Err(CommitError::rolled_back::<DB>(error)),
            }
        }
    }

    async fn claim_once(
        &self,
        pool: &Pool<DB>,
        claims: &[&Claim],
        reserved: Vec<Reservation>,
    ) -> Result<Attempted<DB>, sqlx::Error> {
        let store = self.store().expect("it was there when the claim was made");
        let own = &self.operation.lease().claim;
        let mut transaction = pool.begin_with(DB::BEGIN).await?;
        let (mut lease, mut others) = (None, Vec::new());
        for claim in claims {
            let refused = match store.claim_within(&mut transaction, claim).await {
                Ok(ClaimedInside::Acquired(acquired)) if claim.id == own.id => {
                    lease = Some(*acquired);
                    continue;
                }
                Ok(ClaimedInside::Acquired(acquired)) => {
                    others.push(*acquired);
                    continue;
                }
                Ok(ClaimedInside::InFlight) => Ok(Attempted::InFlight),
                Ok(ClaimedInside::Found) => Ok(Attempted::Found),
                Err(error) => Err(error),
            };
            self.roll_back(transaction).await;
            return refused;
        }
        let begun = BegunClaim {
            lease: lease.expect("it is among the claims"),
            others,
            reserved,
        };
        Ok(Attempted::Begun(transaction, Box::new(begun)))
    }

    /// Waits for this long, or until the record has changed.
    async fn pause(&self, pause: Duration) {
        let store = &self.operation.core.leases.store;
        let id = &self.operation.lease().claim.id;
        let changed = async {
            let subscribed = store.subscribe(id).await.inspect_err(|error| {
                let error = cause(error);
                debug!(
                    ?id,
                    error, "can't subscribe to a record, polling it instead"
                );
            });
            match subscribed {
                Ok(changed) => changed.await,
                Err(_) => std::future::pending().await,
            }
        };
        Deadline::new(pause, changed).await;
    }
}
