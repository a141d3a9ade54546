//! This module is one of the servers, seen from inside. It is this same program,
//! which an environment variable tells to be a server.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use axum::Router;
use axum::routing::post;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tower_idempotency::options::{ExactlyOnce, OnInFlight, Require};
use tower_idempotency::store::{AnyStore, RecordId, Store};
use tower_idempotency::{ConfigError, IdempotencyLayer, scope};

use super::BoxError;
use super::arguments::{Mode, Protections};
use super::handler::{Shop, pay};
use super::journal::Journal;
use super::ledger::{CONNECTIONS, Ledger};
use super::planted::{Planted, Watched};
use super::transaction::{Claims, isolated};

/// A server reads its setup from this environment variable.
pub(crate) const VARIABLE: &str = "CHAOS_SERVER";
const STORE_TIMEOUT: Duration = Duration::from_secs(1);

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Setup {
    pub(crate) run: String,
    pub(crate) seed: u64,
    pub(crate) store: String,
    pub(crate) ledger: PathBuf,
    pub(crate) journal: PathBuf,
    pub(crate) lease: Duration,
    pub(crate) mode: Mode,
    pub(crate) protections: Protections,
    /// The layer does not insist on commits where the database is set up by hand, because it
    /// refuses a database that loses them.
    pub(crate) insists: bool,
    pub(crate) planted: Option<Planted>,
}

/// Serves until the standard input ends, so that no server outlives its run.
pub(crate) fn serve(setup: &str) -> Result<(), BoxError> {
    let setup: Setup = serde_json::from_str(setup)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let app = setup.app().await?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        println!("port {}", listener.local_addr()?.port());
        let (mut ended, mut rest) = (tokio::io::stdin(), Vec::new());
        tokio::select! {
            served = async { axum::serve(listener, app).await } => served?,
            read = ended.read_to_end(&mut rest) => drop(read),
        }
        Ok(())
    })
}

impl Setup {
    async fn app(&self) -> Result<Router, BoxError> {
        let journal = Arc::new(Journal::open(&self.journal)?);
        let ledger = Ledger::open(&self.store, &self.ledger).await?;
        let commits = self.protections.transaction && ledger.is_in_a_database();
        let shop = Arc::new(Shop {
            run: self.run.clone(),
            seed: self.seed,
            ledger: ledger.clone(),
            journal: Arc::clone(&journal),
            commits: commits && self.protections.claim,
            claims: (commits && self.mode == Mode::InTransaction).then(|| Claims {
                isolated: isolated(&ledger),
                locks: self.protections.lock,
            }),
            fenced: self.protections.fence,
            unprotected: AtomicU64::new(1),
        });
        let app = Router::new()
            .route("/rejected", post(pay))
            .route("/waited-for", post(pay))
            .with_state(shop);
        patiently(async || Ok(ledger.warm_up().await?)).await?;
        if self.protections.claim {
            return Ok(app.layer(self.layer(journal, commits).await?));
        }
        Ok(app)
    }

    async fn layer(
        &self,
        journal: Arc<Journal>,
        commits: bool,
    ) -> Result<IdempotencyLayer, BoxError> {
        let url = match self.store.split_once(':') {
            Some(("memory" | "redis", _)) | None => self.store.clone(),
            Some(_) => {
                let mark = if self.store.contains('?') { '&' } else { '?' };
                format!("{}{mark}max_connections={CONNECTIONS}", self.store)
            }
        };
        let store = patiently(async || Ok(AnyStore::connect(&url).await?)).await?;
        patiently(async || warm_up(&store).await).await?;
        // A transaction needs the SQL store itself, so the planted store must not
        // wrap the SQL store here.
        if commits {
            return Ok(self.build(store, true)?);
        }
        let planted = self.planted;
        let watched = Watched {
            store,
            journal,
            planted,
        };
        Ok(self.build(watched, false)?)
    }

    fn build(&self, store: impl Store, commits: bool) -> Result<IdempotencyLayer, ConfigError> {
        let lease = self.lease;
        let insists = match self.mode {
            _ if !commits => ExactlyOnce::No,
            Mode::InTransaction => ExactlyOnce::InTransaction,
            Mode::Committed => self.insists.into(),
        };
        IdempotencyLayer::builder(store, scope::header("x-api-key"))
            .store_timeout(STORE_TIMEOUT)
            .defaults(|options| {
                options
                    .require(Require::Required)
                    .exactly_once(insists)
                    .lease(lease)
            })
            .route("POST /waited-for", move |options| {
                options.on_in_flight(OnInFlight::Wait(lease / 4))
            })
            .build()
    }
}

/// Retries for a while, because the database may also be down at this moment.
async fn patiently<T>(what: impl AsyncFn() -> Result<T, BoxError>) -> Result<T, BoxError> {
    const PATIENCE: Duration = Duration::from_secs(60);
    let begun = Instant::now();
    loop {
        match what().await {
            Ok(done) => return Ok(done),
            Err(error) if begun.elapsed() > PATIENCE => return Err(error),
            Err(_) => sleep(Duration::from_millis(50)).await,
        }
    }
}

/// Opens the store's connections in advance.
async fn warm_up(store: &AnyStore) -> Result<(), BoxError> {
    let mut asked = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let store = store.clone();
        asked.spawn(async move {
            let id = RecordId::from_bytes([0; 32]);
            store.look_up(&id).await.map(drop)
        });
    }
    while let Some(answered) = asked.join_next().await {
        answered??;
    }
    Ok(())
}
