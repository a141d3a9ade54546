//! The layer around a server of rmcp, the official SDK of the Model Context Protocol for Rust, and clients
//! of rmcp over sockets: in the revision 2026-07-28, and in an earlier one with sessions.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use rmcp::model::{
    CallToolRequest, CallToolRequestParams, CallToolResponse, CallToolResult, ClientRequest,
    ErrorData, JsonObject, ProgressNotificationParam, ProtocolVersion, ServerCapabilities,
    ServerConfig, ServerResult,
};
use rmcp::service::{PeerRequestOptions, RequestContext, RunningService};
use rmcp::transport::StreamableHttpClientTransport;
use rmcp::transport::streamable_http_client::StreamableHttpClientTransportConfig;
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp::transport::streamable_http_server::{StreamableHttpServerConfig, StreamableHttpService};
use rmcp::{
    ClientLifecycleMode, ClientServiceExt, RoleClient, RoleServer, ServerHandler, ServiceError,
};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tower_idempotency::options::{McpTools, Require};
use tower_idempotency::{IdempotencyLayer, MemoryStore, scope};

const WITHIN: Duration = Duration::from_secs(20);

/// A shop that places an order whenever it is called, and reports progress before that if
/// `reports`.
#[derive(Clone)]
struct Shop {
    orders: Arc<AtomicU64>,
    reports: bool,
}

impl ServerHandler for Shop {
    fn get_info(&self) -> ServerConfig {
        ServerConfig::new(ServerCapabilities::builder().enable_tools().build())
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let order = match &*request.name {
            "look" => self.orders.load(Ordering::SeqCst),
            _ => 1 + self.orders.fetch_add(1, Ordering::SeqCst),
        };
        if let Some(token) = context.meta.get_progress_token().filter(|_| self.reports) {
            let progress = ProgressNotificationParam::new(token, 1.0);
            context.peer.notify_progress(progress).await.unwrap();
        }
        Ok(CallToolResult::structured(json!({ "order": order })).into())
    }
}

/// How server and client speak.
#[derive(Clone, Copy, Debug)]
struct Spoken {
    /// The revision 2026-07-28, or the newest one before it, with sessions.
    modern: bool,
    /// Whether the server answers in JSON where it can.
    json: bool,
    reports: bool,
}

/// Starts a shop behind the layer, and returns its address and the number of its orders.
async fn shop(spoken: Spoken) -> (String, Arc<AtomicU64>) {
    let orders = Arc::new(AtomicU64::new(0));
    let shop = Shop {
        orders: Arc::clone(&orders),
        reports: spoken.reports,
    };
    let config = StreamableHttpServerConfig::default().with_json_response(spoken.json);
    let sessions = Arc::new(LocalSessionManager::default());
    let mcp = StreamableHttpService::new(move || Ok(shop.clone()), sessions, config);
    let layer = IdempotencyLayer::builder(MemoryStore::new(), scope::header("authorization"))
        .route("POST /mcp", |options| {
            let tools = McpTools::except(["look"]);
            options.mcp().mcp_tools(tools).require(Require::Required)
        })
        .build()
        .unwrap();
    let app = Router::new().route_service("/mcp", mcp).layer(layer);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}/mcp", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await });
    (address, orders)
}

type Client = RunningService<RoleClient, ()>;

async fn connect(address: &str, spoken: Spoken) -> Client {
    let config = StreamableHttpClientTransportConfig::with_uri(address).auth_header("agent-1");
    let transport = StreamableHttpClientTransport::from_config(config);
    let lifecycle = if spoken.modern {
        ClientLifecycleMode::Discover {
            preferred_versions: vec![ProtocolVersion::V_2026_07_28],
        }
    } else {
        ClientLifecycleMode::Initialize
    };
    let client = ().serve_with_lifecycle(transport, lifecycle);
    tokio::time::timeout(WITHIN, client)
        .await
        .expect("in time")
        .unwrap()
}

/// Calls a tool under the client's next id, and returns the number of the order.
async fn call(
    client: &Client,
    tool: &str,
    key: Option<&str>,
    item: &str,
) -> Result<u64, ErrorData> {
    let mut arguments = JsonObject::from_iter([("item".to_owned(), json!(item))]);
    if let Some(key) = key {
        arguments.insert("meta".to_owned(), json!({ "idempotency-key": key }));
    }
    let params = CallToolRequestParams::new(tool.to_owned()).with_arguments(arguments);
    let request = ClientRequest::CallToolRequest(CallToolRequest::new(params));
    let options = PeerRequestOptions::with_timeout(WITHIN);
    let sent = client
        .send_request_with_option(request, options)
        .await
        .unwrap();
    match sent.await_response().await {
        Ok(ServerResult::CallToolResult(result)) => Ok(result.structured_content.unwrap()["order"]
            .as_u64()
            .unwrap()),
        Err(ServiceError::McpError(error)) => Err(error),
        other => panic!("{other:?}"),
    }
}

fn code(refused: &Result<u64, ErrorData>) -> Value {
    let error = refused.as_ref().unwrap_err();
    error.data.as_ref().unwrap()["code"].clone()
}

#[tokio::test]
async fn each_call_is_executed_once_in_every_form_of_the_protocol() {
    for modern in [true, false] {
        for (json, reports) in [(true, false), (true, true), (false, false), (false, true)] {
            let spoken = Spoken {
                modern,
                json,
                reports,
            };
            let (address, orders) = shop(spoken).await;
            let client = connect(&address, spoken).await;
            // The first call of another client has the same id as that of the first client.
            let another = connect(&address, spoken).await;
            for client in [&client, &client, &another, &another] {
                assert_eq!(
                    call(client, "buy", Some("k"), "hat").await,
                    Ok(1),
                    "{spoken:?}"
                );
            }
            assert_eq!(
                call(&client, "buy", Some("l"), "hat").await,
                Ok(2),
                "{spoken:?}"
            );
            let reused = call(&another, "buy", Some("k"), "coat").await;
            assert_eq!(code(&reused), "key-reused", "{spoken:?}");
            assert_eq!(
                code(&call(&client, "buy", None, "hat").await),
                "key-required"
            );
            assert_eq!(call(&client, "look", None, "").await, Ok(2), "{spoken:?}");
            assert_eq!(orders.load(Ordering::SeqCst), 2, "{spoken:?}");
        }
    }
}
