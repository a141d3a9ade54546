//! The shop: a server of MCP with the tools of a purchase, as the Universal Commerce
//! Protocol names them.
//!
//! `create_checkout` reports progress, so its answer is a stream of events. The answer of
//! `complete_checkout` is one JSON document, and the shop commits it together with the order
//! (G7): a server that is killed leaves both or neither.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::request::Parts;
use http::{HeaderValue, Response};
use http_body_util::Full;
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CallToolResult, ErrorData, JsonObject,
    ListToolsResult, PaginatedRequestParams, ProgressNotificationParam, RequestId,
    ServerCapabilities, ServerConfig, ServerJsonRpcMessage, ServerResult, Tool, ToolAnnotations,
};
use rmcp::service::RequestContext;
use rmcp::{RoleServer, ServerHandler};
use serde_json::{Value, json};
use sqlx::Sqlite;
use tower_idempotency::exactly_once::{CommitError, SqlClaim};

use super::ledger::{Ledger, add_order};

pub(crate) const CREATE: &str = "create_checkout";
pub(crate) const COMPLETE: &str = "complete_checkout";
/// The tool that only reads: it looks for the order of a purchase.
pub(crate) const FIND: &str = "get_order";

/// The member of a tool's arguments that has the name of the purchase. The layer does not look
/// at it: it tells the checker which orders belong together.
pub(crate) const PURCHASE: &str = "purchase";

#[derive(Clone, Debug)]
pub(crate) struct Shop {
    pub(crate) ledger: Ledger,
}

#[derive(Debug)]
enum Failed {
    Ledger(sqlx::Error),
    Commit(CommitError),
}

impl std::fmt::Display for Failed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the order was not placed")
    }
}

impl std::error::Error for Failed {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Ledger(error) => Some(error),
            Self::Commit(error) => Some(error),
        }
    }
}

impl From<sqlx::Error> for Failed {
    fn from(error: sqlx::Error) -> Self {
        Self::Ledger(error)
    }
}

impl From<CommitError> for Failed {
    fn from(error: CommitError) -> Self {
        Self::Commit(error)
    }
}

impl ServerHandler for Shop {
    fn get_info(&self) -> ServerConfig {
        ServerConfig::new(ServerCapabilities::builder().enable_tools().build())
    }

    async fn list_tools(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        let tools = [
            (CREATE, "Creates a checkout of one item.", false),
            (COMPLETE, "Pays a checkout and places its order.", false),
            (FIND, "Looks for the order of a purchase.", true),
        ];
        let tool = |(name, description, reads)| {
            let tool = Tool::new(name, description, any_object());
            tool.annotate(ToolAnnotations::new().read_only(reads))
        };
        Ok(ListToolsResult::with_all_items(
            tools.into_iter().map(tool).collect(),
        ))
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let arguments = Value::Object(request.arguments.unwrap_or_default());
        let purchase = arguments[PURCHASE].as_str();
        let purchase = purchase.ok_or_else(|| ErrorData::invalid_params("no purchase", None))?;
        let result = match &*request.name {
            CREATE => self.create(purchase, &context).await,
            COMPLETE => {
                let checkout = arguments["id"].as_i64();
                let checkout =
                    checkout.ok_or_else(|| ErrorData::invalid_params("no checkout", None))?;
                self.complete(purchase, checkout, &context).await
            }
            FIND => self.find(purchase).await,
            _ => return Err(ErrorData::invalid_params("no such tool", None)),
        };
        // The agent sends the call again after an internal error.
        let result = result.map_err(|failed| ErrorData::internal_error(whole(&failed), None))?;
        Ok(CallToolResponse::Complete(result))
    }
}

impl Shop {
    async fn create(
        &self,
        purchase: &str,
        context: &RequestContext<RoleServer>,
    ) -> Result<CallToolResult, Failed> {
        if let Some(token) = context.meta.get_progress_token() {
            let progress = ProgressNotificationParam::new(token, 1.0).with_message("in stock");
            // The agent may be gone. That does not change the checkout.
            let _ = context.peer.notify_progress(progress).await;
        }
        let checkout = self.ledger.add_checkout(purchase).await?;
        Ok(CallToolResult::structured(json!({
            "checkout": { "id": checkout, "status": "ready_for_complete" },
        })))
    }

    async fn find(&self, purchase: &str) -> Result<CallToolResult, Failed> {
        let order = self.ledger.order_of(purchase).await?;
        let order = order.map(|id| json!({ "id": id }));
        Ok(CallToolResult::structured(json!({ "order": order })))
    }

    async fn complete(
        &self,
        purchase: &str,
        checkout: i64,
        context: &RequestContext<RoleServer>,
    ) -> Result<CallToolResult, Failed> {
        let parts = context.extensions.get::<Parts>();
        let claim = parts.and_then(|parts| SqlClaim::<Sqlite>::of(&parts.extensions).ok());
        let Some(claim) = claim else {
            let mut connection = self.ledger.0.acquire().await?;
            return Ok(completed(
                checkout,
                add_order(&mut connection, purchase, checkout).await?,
            ));
        };
        // A transaction that the database gave up is run again.
        let placed = &AtomicI64::new(0);
        let committed = claim.transact(&self.ledger.0, move |mut transaction| async move {
            let order = add_order(&mut transaction, purchase, checkout).await?;
            placed.store(order, Ordering::Relaxed);
            let answer = answer(context.id.clone(), completed(checkout, order));
            Ok::<_, Failed>((transaction, answer))
        });
        committed.await?;
        // The layer sends what was committed, whatever this handler returns.
        Ok(completed(checkout, placed.load(Ordering::Relaxed)))
    }
}

fn completed(checkout: i64, order: i64) -> CallToolResult {
    CallToolResult::structured(json!({
        "checkout": { "id": checkout, "status": "completed", "order": { "id": order } },
    }))
}

/// The answer as rmcp would send it.
fn answer(id: RequestId, result: CallToolResult) -> Response<Full<Bytes>> {
    let message = ServerJsonRpcMessage::response(ServerResult::CallToolResult(result), id);
    let body = serde_json::to_vec(&message).expect("a message can be written");
    let mut response = Response::new(Full::from(body));
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}

fn any_object() -> Arc<JsonObject> {
    Arc::new(JsonObject::from_iter([("type".into(), json!("object"))]))
}

fn whole(error: &dyn std::error::Error) -> String {
    let chain = std::iter::successors(Some(error), |error| error.source());
    chain
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}
