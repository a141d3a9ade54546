//! An agent: an MCP client that buys, and that sends a call again whenever it does not know how
//! the call ended.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rmcp::model::{
    CallToolRequest, CallToolRequestParams, ClientRequest, ErrorData, JsonObject, ProtocolVersion,
    ServerResult,
};
use rmcp::service::{PeerRequestOptions, RunningService};
use rmcp::transport::StreamableHttpClientTransport;
use rmcp::transport::streamable_http_client::StreamableHttpClientTransportConfig;
use rmcp::{ClientLifecycleMode, ClientServiceExt, RoleClient, ServiceError};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};
use tower_idempotency::client::IdempotencyKey;

use super::cutter::Cutter;
use super::shop::{COMPLETE, CREATE, FIND, PURCHASE};

const CONNECTS_WITHIN: Duration = Duration::from_secs(5);
const ANSWERS_WITHIN: Duration = Duration::from_secs(10);
/// An agent gives up after so long without an answer to one call.
const PATIENCE: Duration = Duration::from_secs(120);

/// In so many of 100 purchases the agent forgets what it did, and starts over.
const STARTS_OVER: u32 = 5;

/// So often an agent tries a step whose outcome was unknown.
const MOST_TRIES: u32 = 5;

/// What an agent knows of a purchase at its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bought {
    pub(crate) purchase: String,
    /// The number of the order, or why there is none.
    pub(crate) order: Result<i64, String>,
}

/// What an agent did, in numbers.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Effort {
    pub(crate) calls: u64,
    pub(crate) connections: u64,
    pub(crate) refusals: u64,
    pub(crate) started_over: u64,
    pub(crate) looked_up: u64,
}

pub(crate) struct Agent {
    name: String,
    shops: Arc<Vec<Cutter>>,
    draws: StdRng,
    client: Option<RunningService<RoleClient, ()>>,
    pub(crate) effort: Effort,
}

/// Why a call has no result.
enum Missing {
    /// The stream broke off, or there is no connection.
    NoAnswer,
    /// The server says that the same call can be sent again later.
    Later,
    /// The server can't say how the call ended.
    OutcomeUnknown,
    Never(String),
}

impl Missing {
    fn why(self) -> String {
        match self {
            Self::NoAnswer => "no answer".to_owned(),
            Self::Later => "refused until later".to_owned(),
            Self::OutcomeUnknown => "outcome-unknown".to_owned(),
            Self::Never(why) => why,
        }
    }
}

impl Agent {
    pub(crate) fn new(number: u32, seed: u64, shops: Arc<Vec<Cutter>>) -> Self {
        Self {
            name: format!("agent-{number}"),
            shops,
            draws: StdRng::seed_from_u64(seed ^ (u64::from(number) << 32)),
            client: None,
            effort: Effort::default(),
        }
    }

    /// Buys one item. The keys come from the task and its steps, so that an agent which starts over
    /// sends the same ones.
    pub(crate) async fn buy(&mut self, task: u32) -> Bought {
        let purchase = format!("{}/{task}", self.name);
        let mut order = self.steps(&purchase).await;
        if order.is_ok() && self.draws.random_range(0..100) < STARTS_OVER {
            self.effort.started_over += 1;
            self.client = None;
            order = self.steps(&purchase).await;
        }
        Bought { purchase, order }
    }

    async fn steps(&mut self, purchase: &str) -> Result<i64, String> {
        let mut tries = 1;
        let arguments = json!({
            PURCHASE: purchase,
            "checkout": { "line_items": [{ "item": { "id": "hat" }, "quantity": 1 }] },
        });
        // Another checkout does no harm.
        let created = loop {
            match self.call(CREATE, purchase, arguments.clone(), tries).await {
                Err(Missing::OutcomeUnknown) if tries < MOST_TRIES => tries += 1,
                created => break created.map_err(Missing::why)?,
            }
        };
        let checkout = created["checkout"]["id"].as_i64();
        let checkout = checkout.ok_or_else(|| format!("no checkout in {created}"))?;
        let arguments = json!({
            PURCHASE: purchase,
            "id": checkout,
            "checkout": { "payment": { "instruments": [] } },
        });
        for tries in 1..=MOST_TRIES {
            match self
                .call(COMPLETE, purchase, arguments.clone(), tries)
                .await
            {
                Ok(completed) => {
                    let order = completed["checkout"]["order"]["id"].as_i64();
                    return order.ok_or_else(|| format!("no order in {completed}"));
                }
                Err(Missing::OutcomeUnknown) => {
                    self.effort.looked_up += 1;
                    let looked_for = json!({ PURCHASE: purchase });
                    let found = self.call(FIND, purchase, looked_for, 1).await;
                    let found = found.map_err(Missing::why)?;
                    if let Some(order) = found["order"]["id"].as_i64() {
                        return Ok(order);
                    }
                }
                Err(other) => return Err(other.why()),
            }
        }
        Err(Missing::OutcomeUnknown.why())
    }

    /// Calls a tool until there is a result. `tries` is 1 for the step of the task, and more where
    /// an earlier try is known to have done nothing.
    async fn call(
        &mut self,
        tool: &str,
        task: &str,
        mut arguments: Value,
        tries: u32,
    ) -> Result<Value, Missing> {
        let key = IdempotencyKey::for_operation(task, format!("{tool}/{tries}"));
        arguments["meta"] = json!({
            "ucp-agent": { "profile": "https://agents.example/profile.json" },
            "idempotency-key": key.as_str(),
        });
        let Value::Object(arguments) = arguments else {
            unreachable!("the arguments are an object");
        };
        let begun = Instant::now();
        let mut pause = Duration::from_millis(20);
        loop {
            let missing = match self.attempt(tool, arguments.clone()).await {
                Ok(result) => return Ok(result),
                Err(missing) => missing,
            };
            match missing {
                Missing::Never(_) | Missing::OutcomeUnknown => return Err(missing),
                Missing::Later => self.effort.refusals += 1,
                Missing::NoAnswer => self.client = None,
            }
            if begun.elapsed() > PATIENCE {
                let why = format!("{tool} had no answer for {PATIENCE:?}");
                return Err(Missing::Never(why));
            }
            sleep(pause.mul_f64(self.draws.random_range(0.5..1.0))).await;
            pause = (pause * 2).min(Duration::from_millis(500));
        }
    }

    /// Sends the call once, under an id that the client has not used yet.
    async fn attempt(&mut self, tool: &str, arguments: JsonObject) -> Result<Value, Missing> {
        if self.client.is_none() {
            self.client = Some(self.connect().await.ok_or(Missing::NoAnswer)?);
        }
        let client = self.client.as_ref().expect("it is connected");
        self.effort.calls += 1;
        let call = CallToolRequestParams::new(tool.to_owned()).with_arguments(arguments);
        let request = ClientRequest::CallToolRequest(CallToolRequest::new(call));
        let options = PeerRequestOptions::with_timeout(ANSWERS_WITHIN);
        let answered = async {
            let sent = client.send_request_with_option(request, options).await?;
            sent.await_response().await
        };
        match answered.await {
            Ok(ServerResult::CallToolResult(result)) if result.is_error != Some(true) => {
                let content = result.structured_content;
                content.ok_or_else(|| Missing::Never("a result without content".to_owned()))
            }
            Ok(other) => Err(Missing::Never(format!("{tool}: {other:?}"))),
            Err(ServiceError::McpError(error)) => Err(refused(&error)),
            Err(_) => Err(Missing::NoAnswer),
        }
    }

    async fn connect(&mut self) -> Option<RunningService<RoleClient, ()>> {
        self.effort.connections += 1;
        let shop = &self.shops[self.draws.random_range(0..self.shops.len())];
        let address = format!("http://{}/mcp", shop.address);
        let config =
            StreamableHttpClientTransportConfig::with_uri(address).auth_header(&*self.name);
        let transport = StreamableHttpClientTransport::from_config(config);
        let lifecycle = ClientLifecycleMode::Discover {
            preferred_versions: vec![ProtocolVersion::V_2026_07_28],
        };
        let connected = ().serve_with_lifecycle(transport, lifecycle);
        timeout(CONNECTS_WITHIN, connected).await.ok()?.ok()
    }
}

/// What the agent makes of an error: the layer says in `data` what may be done.
fn refused(error: &ErrorData) -> Missing {
    let data = error.data.clone().unwrap_or_default();
    match (data["code"].as_str(), data["retry"].as_str()) {
        (Some("outcome-unknown"), _) => Missing::OutcomeUnknown,
        (_, Some("same-key")) => Missing::Later,
        (Some(code), _) => Missing::Never(code.to_owned()),
        // The shop failed, and no order was placed.
        (None, _) if error.code.0 == -32603 => Missing::Later,
        (None, _) => Missing::Never(error.to_string()),
    }
}
