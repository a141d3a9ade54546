//! One of the servers, seen from inside.

use std::path::PathBuf;
use std::time::Duration;

use axum::Router;
use rmcp::transport::streamable_http_server::session::never::NeverSessionManager;
use rmcp::transport::streamable_http_server::{StreamableHttpServerConfig, StreamableHttpService};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tower_idempotency::options::{McpTools, Require};
use tower_idempotency::{ConfigError, IdempotencyLayer, SqliteStore, scope};

use super::BoxError;
use super::ledger::Ledger;
use super::shop::{FIND, Shop};

/// A server reads its setup from this environment variable.
pub(crate) const VARIABLE: &str = "AGENTS_SERVER";

/// A retry waits so long for a server that was killed.
const LEASE: Duration = Duration::from_secs(1);

/// The same for the sidecar. A shop in another language can't commit an order together with its record,
/// so a call whose sidecar died may have taken effect, and must not run again by itself.
pub(crate) const SIDECAR: &str = r#"
[idempotency]
scope = ["header:authorization"]

[[route]]
match = "POST /mcp"
preset = "mcp"
mcp_tools = { except = ["get_order"] }
require = "required"
lease = "1s"
on_lapsed_lease = "refuse"
"#;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Setup {
    pub(crate) database: PathBuf,
    pub(crate) with_layer: bool,
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
        println!("{}", listener.local_addr()?.port());
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
        let ledger = Ledger::open(&self.database).await?;
        // Each request stands alone, as the revision 2026-07-28 has it. A tool without progress is
        // answered by one JSON document.
        let config = StreamableHttpServerConfig::default()
            .with_legacy_session_mode(false)
            .with_json_response(true);
        let shop = Shop { ledger };
        let sessions = NeverSessionManager::default().into();
        let mcp = StreamableHttpService::new(move || Ok(shop.clone()), sessions, config);
        let app = Router::new().route_service("/mcp", mcp);
        if !self.with_layer {
            return Ok(app);
        }
        // With connections of its own, the store never waits for the shop's.
        let records = Ledger::open(&self.database).await?;
        let records = SqliteStore::builder(records.0);
        records.migrate().await?;
        let store = records.open().await?;
        Ok(app.layer(idempotency(store)?))
    }
}

fn idempotency(store: SqliteStore) -> Result<IdempotencyLayer, ConfigError> {
    IdempotencyLayer::builder(store, scope::header("authorization"))
        .store_timeout(Duration::from_secs(5))
        .route("POST /mcp", |options| {
            let tools = McpTools::except([FIND]);
            options
                .mcp()
                .mcp_tools(tools)
                .require(Require::Required)
                .lease(LEASE)
        })
        .build()
}
