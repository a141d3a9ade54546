//! The sidecar before servers of the Model Context Protocol that were made with the official SDKs for
//! Python (revision 2026-07-28) and TypeScript (revision 2025-11-25, with sessions).

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::sidecar::{Directory, Sidecar};

const FILE: &str = r#"
listen = "127.0.0.1:8080"
upstream = "http://127.0.0.1:9000"
store = "memory:"

[idempotency]
scope = ["header:authorization"]

[[route]]
match = "POST /mcp"
preset = "mcp"
mcp_tools = { except = ["get_order", "count_orders"] }
require = "required"
"#;
const SCRIPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/contracts/sdks");
const INSTALLED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/sdks");
const WITHIN: Duration = Duration::from_secs(30);

/// A server behind a sidecar.
struct Shop {
    sidecar: Sidecar,
    /// The session, in revisions that have sessions.
    session: Option<String>,
    revision: &'static str,
    _server: Child,
    _directory: Directory,
}

/// The head and the messages of an answer.
struct Answer {
    headers: HeaderMap,
    messages: Vec<Value>,
}

impl Answer {
    fn is_replay(&self) -> bool {
        self.headers.contains_key("idempotency-replayed")
    }

    /// The answer itself, which comes last.
    fn last(&self) -> &Value {
        self.messages.last().expect("there is an answer")
    }

    fn order(&self) -> &Value {
        &self.last()["result"]["structuredContent"]["checkout"]["order"]["id"]
    }
}

impl Shop {
    async fn python() -> Self {
        let directory = Directory::fresh();
        let modules = Path::new(INSTALLED).join("python");
        let mut command = Command::new("python3");
        command
            .arg(Path::new(SCRIPTS).join("mcp_shop.py"))
            .arg(&modules);
        command.arg(directory.path().join("shop.db"));
        Self::start(command, &modules.join("mcp"), directory, "2026-07-28").await
    }

    async fn typescript() -> Self {
        let modules = Path::new(INSTALLED).join("node_modules");
        // `scripts/sdks` installs Node.js as well where the one of the system is too old.
        let own_node = Path::new(INSTALLED).join("node");
        let node = if own_node.exists() {
            own_node.as_path()
        } else {
            Path::new("node")
        };
        let mut command = Command::new(node);
        command
            .arg(Path::new(SCRIPTS).join("mcp_shop.mjs"))
            .arg(&modules);
        let sdk = modules.join("@modelcontextprotocol/sdk");
        let mut shop = Self::start(command, &sdk, Directory::fresh(), "2025-11-25").await;
        shop.session = Some(shop.new_session().await);
        shop
    }

    async fn start(
        mut command: Command,
        sdk: &Path,
        directory: Directory,
        revision: &'static str,
    ) -> Self {
        assert!(sdk.exists(), "not installed: run `scripts/sdks install`");
        let command = command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut server = command.kill_on_drop(true).spawn().unwrap();
        let mut lines = BufReader::new(server.stdout.take().unwrap()).lines();
        let port = timeout(WITHIN, lines.next_line())
            .await
            .expect("it comes up");
        let port = port.unwrap().expect("it says its port");
        let file = FILE
            .replace("127.0.0.1:8080", "127.0.0.1:0")
            .replace("127.0.0.1:9000", &format!("127.0.0.1:{port}"));
        Self {
            sidecar: Sidecar::start(&file),
            session: None,
            revision,
            _server: server,
            _directory: directory,
        }
    }

    async fn new_session(&self) -> String {
        let client = json!({ "name": "test", "version": "1" });
        let asked = json!({ "jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {
            "protocolVersion": self.revision, "capabilities": {}, "clientInfo": client,
        }});
        let answer = post(self.sidecar.address(), &[], &asked).await;
        answer.headers["mcp-session-id"]
            .to_str()
            .unwrap()
            .to_owned()
    }

    /// Calls a tool under this id. A key is put where the preset looks for it.
    async fn call(
        &self,
        id: Value,
        tool: &str,
        key: Option<&str>,
        progress: Option<&str>,
    ) -> Answer {
        let mut meta = json!({});
        if self.revision == "2026-07-28" {
            meta = json!({
                "io.modelcontextprotocol/protocolVersion": self.revision,
                "io.modelcontextprotocol/clientInfo": { "name": "test", "version": "1" },
                "io.modelcontextprotocol/clientCapabilities": {},
            });
        }
        if let Some(token) = progress {
            meta["progressToken"] = json!(token);
        }
        let mut arguments = json!({ "purchase": "hat", "id": 1, "checkout": {}, "meta": {} });
        if let Some(key) = key {
            arguments["meta"]["idempotency-key"] = json!(key);
        }
        let asked = json!({
            "jsonrpc": "2.0",
            "id": id,
            "method": "tools/call",
            "params": { "name": tool, "arguments": arguments, "_meta": meta },
        });
        let mut headers = vec![
            ("mcp-protocol-version", self.revision),
            ("mcp-method", "tools/call"),
            ("mcp-name", tool),
        ];
        headers.extend(self.session.as_deref().map(|own| ("mcp-session-id", own)));
        post(self.sidecar.address(), &headers, &asked).await
    }
}

async fn post(to: SocketAddr, headers: &[(&str, &str)], body: &Value) -> Answer {
    let mut request = Request::post(format!("http://{to}/mcp"))
        .header("authorization", "Bearer agent-1")
        .header("accept", "application/json, text/event-stream")
        .header("content-type", "application/json");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::<Bytes>::from(body.to_string())).unwrap();
    let client = Client::builder(TokioExecutor::new()).build_http();
    let answered = timeout(WITHIN, client.request(request))
        .await
        .expect("in time");
    let (head, body) = answered.unwrap().into_parts();
    let body = timeout(WITHIN, body.collect()).await.expect("in time");
    let body = body.unwrap().to_bytes();
    let text = std::str::from_utf8(&body).unwrap();
    assert_eq!(head.status, 200, "{text}");
    let is_stream = head.headers["content-type"] == "text/event-stream";
    let data = text.lines().filter_map(|line| line.strip_prefix("data: "));
    let texts: Vec<_> = if is_stream {
        data.collect()
    } else {
        vec![text]
    };
    let messages = texts.into_iter().filter(|text| !text.is_empty());
    Answer {
        headers: head.headers,
        messages: messages
            .map(|text| serde_json::from_str(text).unwrap())
            .collect(),
    }
}

async fn a_call_is_executed_once(shop: &Shop) {
    let first = shop
        .call(json!(1), "complete_checkout", Some("k"), None)
        .await;
    assert_eq!(
        (&first.last()["id"], first.order()),
        (&json!(1), &json!(1)),
        "{}",
        first.last()
    );
    for id in [json!(2), json!("b")] {
        let again = shop
            .call(id.clone(), "complete_checkout", Some("k"), None)
            .await;
        assert!(again.is_replay());
        assert_eq!((&again.last()["id"], again.order()), (&id, &json!(1)));
    }
    let other = shop
        .call(json!(3), "complete_checkout", Some("l"), None)
        .await;
    assert_eq!(other.order(), &json!(2));
    let keyless = shop.call(json!("c"), "complete_checkout", None, None).await;
    let error = keyless.last();
    assert_eq!(
        (&error["id"], &error["error"]["data"]["code"]),
        (&json!("c"), &json!("key-required"))
    );
}

/// The progress of an answer belongs to the token of the call that gets the answer.
async fn a_stream_is_replayed_for_its_retry(shop: &Shop, tool: &str) {
    let first = shop.call(json!(7), tool, Some("s"), Some("t-1")).await;
    assert_eq!(first.messages.len(), 2, "{:?}", first.messages);
    let again = shop.call(json!(8), tool, Some("s"), Some("t-2")).await;
    assert!(again.is_replay());
    assert_eq!(again.messages[0]["params"]["progressToken"], "t-2");
    assert_eq!(again.last()["id"], 8);
    assert_eq!(again.last()["result"], first.last()["result"]);
}

#[tokio::test]
async fn a_server_of_the_sdk_for_python_executes_each_call_once() {
    let shop = Shop::python().await;
    a_call_is_executed_once(&shop).await;
    a_stream_is_replayed_for_its_retry(&shop, "create_checkout").await;
    for _ in 0..2 {
        let found = shop.call(json!(9), "get_order", None, None).await;
        assert!(!found.is_replay());
        assert_eq!(
            found.last()["result"]["structuredContent"]["order"]["id"],
            1
        );
    }
}

#[tokio::test]
async fn a_server_of_the_sdk_for_typescript_executes_each_call_once() {
    let mut shop = Shop::typescript().await;
    a_call_is_executed_once(&shop).await;
    a_stream_is_replayed_for_its_retry(&shop, "complete_checkout").await;
    // A client that lost its session has another one when it sends the call again.
    shop.session = Some(shop.new_session().await);
    let again = shop
        .call(json!(1), "complete_checkout", Some("k"), None)
        .await;
    assert!(again.is_replay());
    assert_eq!(again.order(), &json!(1));
    assert!(!again.headers.contains_key("mcp-session-id"));
    let counted = shop.call(json!(2), "count_orders", None, None).await;
    assert_eq!(counted.last()["result"]["structuredContent"]["orders"], 3);
}
