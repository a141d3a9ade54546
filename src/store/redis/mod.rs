//! Records in Redis or Valkey.

use std::fmt;
use std::sync::Arc;

use tracing::debug;

use self::errors::unsuitable;
use self::keys::Keys;
use self::link::Link;
use self::listening::Servers;
use self::scripts::{
    CLAIM, COMPLETE, ClaimArgs, CompleteArgs, FORGET, LOOK_UP, RECORD_STEP, RELEASE, RENEW, flag,
    release_args,
};
use super::notify::WakeUps;
use super::{
    Claim, Claimed, ForgetMode, Forgotten, Lease, ListQuery, Outcome, Ownership, POLL, Record,
    RecordPage, RecordedStep, Release, Store, StoreError, Subscription,
};
use crate::record::{Nonce, RecordId};
use crate::store::row::micros;

mod connection;
mod errors;
mod keys;
mod link;
mod listening;
mod listing;
mod scripts;
mod sentinel;
mod settings;
mod url;

pub use connection::RedisConnection;

/// The default prefix of keys.
const DEFAULT_PREFIX: &str = "idempotency:";

/// A [`Store`] in Redis or Valkey: one server, a Cluster, or the primary that sentinels name
/// (feature `redis`).
///
/// ```no_run
/// use axum::{Router, routing::post};
/// use tower_idempotency::{IdempotencyLayer, RedisStore, scope};
///
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// let store = RedisStore::connect("redis://127.0.0.1/").await?;
/// let idempotency = IdempotencyLayer::new(store, scope::header("x-api-key"))?;
/// let app: Router = Router::new()
///     .route("/payments", post(|| async { "paid" }))
///     .layer(idempotency);
/// # Ok(())
/// # }
/// ```
///
/// # What it keeps
///
/// One hash per record, which the server removes when the record expires. Each
/// operation is one script and one round trip; a replay writes nothing. Times
/// are the server's. `docs/stores.md` has the fields and the scripts, so that a
/// service in another language can share the records.
///
/// # What the server must be
///
/// Redis 5 or later, or Valkey. Redis replies before a change is on its disk,
/// and before its replicas have the change. So the guarantees hold as long as
/// the server's memory survives: [`open`](Self::open) warns in the log of
/// settings that lose records (an eviction policy other than `noeviction`, no
/// append-only file, or one that is never synced), and `docs/stores.md` lists
/// which failures records survive.
///
/// # Waiting
///
/// A message wakes requests that wait for another process's operation
/// ([`OnInFlight::Wait`](crate::options::OnInFlight::Wait)). The store makes
/// one more connection for this when the first request waits. In case a message
/// is lost, requests look at the record every second; without that connection,
/// every 250 ms.
///
/// A clone is another handle on the same records.
#[derive(Clone)]
pub struct RedisStore {
    shared: Arc<Shared>,
}

struct Shared {
    link: Link,
    keys: Keys,
    largest_value: usize,
    wake_ups: Option<Arc<WakeUps<Servers>>>,
}

/// Options of a [`RedisStore`].
///
/// ```no_run
/// use tower_idempotency::RedisStore;
/// use tower_idempotency::store::RedisConnection;
///
/// # async fn run() -> Result<(), tower_idempotency::store::StoreError> {
/// let cluster = RedisConnection::from_url("redis+cluster://10.0.0.1,10.0.0.2,10.0.0.3")?;
/// let store = RedisStore::builder(cluster).prefix("payments:").open().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use]
pub struct RedisStoreBuilder {
    connection: RedisConnection,
    prefix: String,
}

impl RedisStoreBuilder {
    /// The beginning of every key and channel. Default: `idempotency:`. In a
    /// cluster, a part in `{}` would put all records on one node.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// Connects, checks that the server can be used, and warns in the log of
    /// settings that lose records.
    ///
    /// # Errors
    /// If the server can't be reached, rejects the credentials, is a replica,
    /// is too old, or does not let scripts run. The source of the error says
    /// what to do.
    pub async fn open(self) -> Result<RedisStore, StoreError> {
        if self.prefix.is_empty() {
            return Err(unsuitable("the prefix is empty: choose one of your own"));
        }
        let (link, clients) = self.connection.establish().await?;
        settings::check(&link).await?;
        settings::rehearse(&link, &format!("{}rehearsal", self.prefix)).await?;
        let keys = Keys::new(&self.prefix);
        let wake_ups = (!clients.is_empty()).then(|| {
            WakeUps::new(Servers {
                clients,
                keys: keys.clone(),
                link: link.clone(),
            })
        });
        if wake_ups.is_none() {
            debug!("no connection for wake-ups can be made, waiters poll");
        }
        let shared = Arc::new(Shared {
            largest_value: settings::largest_value(&link).await,
            link,
            keys,
            wake_ups,
        });
        Ok(RedisStore { shared })
    }
}

impl RedisStore {
    /// Opens the store of a URL, with the default prefix:
    /// [`RedisConnection::from_url`] lists the forms of URLs.
    ///
    /// # Errors
    /// The same errors as [`RedisStoreBuilder::open`], and an error if the URL has none of these
    /// forms.
    pub async fn connect(url: &str) -> Result<Self, StoreError> {
        Self::open(RedisConnection::from_url(url)?).await
    }

    /// Opens the store of a connection, with the default prefix.
    ///
    /// # Errors
    /// The same errors as [`RedisStoreBuilder::open`].
    pub async fn open(connection: impl Into<RedisConnection>) -> Result<Self, StoreError> {
        Self::builder(connection).open().await
    }

    /// Returns the options of a store on this connection, such as another prefix.
    pub fn builder(connection: impl Into<RedisConnection>) -> RedisStoreBuilder {
        RedisStoreBuilder {
            connection: connection.into(),
            prefix: DEFAULT_PREFIX.to_owned(),
        }
    }

    fn key(&self, id: &RecordId) -> String {
        self.shared.keys.of(id)
    }
}

/// Writes neither the address nor the credentials.
impl fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStore")
            .field("keys", &self.shared.keys)
            .field("cluster", &self.shared.link.is_cluster())
            .finish_non_exhaustive()
    }
}

impl Store for RedisStore {
    fn largest_completion(&self) -> Option<usize> {
        Some(self.shared.largest_value)
    }

    async fn claim(&self, claim: &Claim) -> Result<Claimed, StoreError> {
        let args = ClaimArgs::of(claim);
        let key = self.key(&claim.id);
        let answer = CLAIM
            .run(&self.shared.link, &key, &args.list(claim))
            .await?;
        answer.claimed(claim)
    }

    async fn renew(&self, lease: &Lease) -> Result<Ownership, StoreError> {
        let length = micros(lease.claim.lease).to_string();
        let args = [&lease.claim.nonce.as_bytes()[..], length.as_bytes()];
        let key = self.key(&lease.claim.id);
        RENEW.run(&self.shared.link, &key, &args).await?.tenure()
    }

    async fn complete(&self, lease: &Lease, outcome: &Outcome) -> Result<Ownership, StoreError> {
        let args = CompleteArgs::of(lease, outcome);
        let key = self.key(&lease.claim.id);
        let args = args.list(lease);
        COMPLETE.run(&self.shared.link, &key, &args).await?.tenure()
    }

    async fn release(
        &self,
        id: &RecordId,
        nonce: &Nonce,
        how: Release,
    ) -> Result<Ownership, StoreError> {
        let args = release_args(nonce, how);
        let answer = RELEASE.run(&self.shared.link, &self.key(id), &args).await?;
        answer.tenure()
    }

    async fn record_step(
        &self,
        lease: &Lease,
        step: &RecordedStep,
    ) -> Result<Ownership, StoreError> {
        let nonce = lease.claim.nonce.as_bytes();
        let args = [&nonce[..], step.name.as_bytes(), &step.result];
        let key = self.key(&lease.claim.id);
        let answer = RECORD_STEP.run(&self.shared.link, &key, &args).await?;
        answer.tenure()
    }

    fn keeps_steps(&self) -> bool {
        true
    }

    async fn look_up(&self, id: &RecordId) -> Result<Option<Record>, StoreError> {
        let answer = LOOK_UP.run(&self.shared.link, &self.key(id), &[]).await?;
        answer.looked_up()
    }

    async fn forget(&self, id: &RecordId, mode: ForgetMode) -> Result<Forgotten, StoreError> {
        let version = mode.version();
        let numbers = version.map(|own| [own.token.to_string(), own.attempt.to_string()]);
        let mut args = vec![flag(mode.is_forced())];
        args.extend(numbers.iter().flatten().map(String::as_bytes));
        args.extend(version.map(|own| flag(own.done)));
        let answer = FORGET.run(&self.shared.link, &self.key(id), &args).await?;
        answer.forgotten()
    }

    async fn list(&self, query: &ListQuery) -> Result<RecordPage, StoreError> {
        listing::list(&self.shared.link, &self.shared.keys, query).await
    }

    async fn subscribe(&self, id: &RecordId) -> Result<Subscription, StoreError> {
        match &self.shared.wake_ups {
            Some(wake_ups) => Ok(wake_ups.subscribe(id).await),
            None => Ok(Subscription::after(POLL)),
        }
    }
}
