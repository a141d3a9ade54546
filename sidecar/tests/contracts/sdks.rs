//! Stripe's own libraries, for Node.js and Python, take no refusal for a payment. They tell errors
//! from results by the body, which the problem documents of the layer would not pass.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::process::Command;
use tokio::time::timeout;

use crate::api::Api;
use crate::refusals::refusals;
use crate::upstream::{Reply, Upstream};

const FILE: &str = include_str!("stripe.toml");
const SCRIPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/contracts/sdks");
const INSTALLED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/sdks");
const INTENT: &str = r#"{"id":"pi_1","object":"payment_intent"}"#;
const WITHIN: Duration = Duration::from_secs(30);

#[derive(Clone, Copy)]
enum Library {
    Node,
    Python,
}

impl Library {
    /// Makes these calls one after the other, and returns what became of each.
    async fn calls(self, to: SocketAddr, calls: Value) -> Vec<Value> {
        // `scripts/sdks` installs Node.js as well where the one of the system is too old.
        let own_node = Path::new(INSTALLED).join("node");
        let (program, script, modules) = match self {
            Self::Node if own_node.exists() => (own_node.as_path(), "stripe.mjs", "node_modules"),
            Self::Node => (Path::new("node"), "stripe.mjs", "node_modules"),
            Self::Python => (Path::new("python3"), "stripe_calls.py", "python"),
        };
        let modules = Path::new(INSTALLED).join(modules);
        let installed = modules.join("stripe").exists();
        assert!(installed, "not installed: run `scripts/sdks install`");
        let asked = json!({ "port": to.port(), "calls": calls, "modules": modules });
        let output = Command::new(program)
            .arg(Path::new(SCRIPTS).join(script))
            .arg(asked.to_string())
            .kill_on_drop(true)
            .output();
        let output = timeout(WITHIN, output).await.expect("it ends").unwrap();
        let complaints = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{complaints}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// The name of an error's class.
    fn error(self, name: &str) -> String {
        match self {
            Self::Node => format!("Stripe{name}"),
            Self::Python => name.to_owned(),
        }
    }
}

fn call(key: &str, amount: u32, retries: u32) -> Value {
    json!({ "key": key, "amount": amount, "retries": retries })
}

fn intent() -> Reply {
    Reply::status(200).body(INTENT)
}

/// Gives the library every refusal that the file describes, as the response to a payment.
async fn no_refusal_is_a_payment(library: Library) {
    let upstream = Upstream::start().await;
    let all = refusals(FILE);
    for refused in &all {
        let reply = Reply::status(refused.status).body(refused.body.to_string());
        upstream.answers_next(reply);
    }
    let calls = all.iter().map(|refused| call(&refused.code, 1, 0));
    let outcomes = library.calls(upstream.address(), calls.collect()).await;
    assert_eq!(outcomes.len(), all.len());
    for (refused, outcome) in all.iter().zip(&outcomes) {
        let code = &refused.code;
        let error = outcome["error"].as_str().unwrap_or("none");
        assert!(error.ends_with("Error"), "{code}: {outcome}");
        assert_eq!(outcome["status"], refused.status, "{code}");
        let class = match &**code {
            "key-too-long" => "InvalidRequestError",
            "key-reused" => "IdempotencyError",
            "upstream-unreachable" | "upstream-broken" | "upstream-timeout" => "APIError",
            _ => continue,
        };
        assert_eq!(error, library.error(class), "{code}");
    }
}

async fn a_payment_is_made_once(library: Library) {
    let api = Api::start(FILE).await;
    api.answers_next(intent());
    let calls = json!([call("k", 1, 0), call("k", 1, 0), call("k", 2, 2)]);
    let outcomes = library.calls(api.address(), calls).await;
    let reused = json!({ "error": library.error("IdempotencyError"), "status": 400 });
    assert_eq!(
        outcomes,
        [json!({ "id": "pi_1" }), json!({ "id": "pi_1" }), reused]
    );
    assert_eq!(api.executions(), 1);
}

/// The library sends a payment again that is in flight, as it does with Stripe.
async fn a_retry_of_the_library_gets_the_payment_that_was_in_flight(library: Library) {
    let api = Api::start(FILE).await;
    api.answers_next(intent());
    let mut held = api.holds_next();
    let first = tokio::spawn(library.calls(api.address(), json!([call("k", 1, 0)])));
    held.arrived().await;
    let second = tokio::spawn(library.calls(api.address(), json!([call("k", 1, 5)])));
    let refused = async {
        while !api.log().contains("in-flight") {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(WITHIN, refused).await.expect("it is refused");
    held.let_go();
    assert_eq!(first.await.unwrap(), [json!({ "id": "pi_1" })]);
    assert_eq!(second.await.unwrap(), [json!({ "id": "pi_1" })]);
    assert_eq!(api.executions(), 1);
}

async fn a_payment_that_did_not_reach_the_service_is_an_error(library: Library) {
    let api = Api::start_without_upstream(FILE).await;
    let outcomes = library.calls(api.address(), json!([call("k", 1, 1)])).await;
    let error = json!({ "error": library.error("APIError"), "status": 502 });
    assert_eq!(outcomes, [error]);
}

macro_rules! holds_for {
    ($($library:ident $module:ident: $($promise:ident),+;)+) => {$(
        mod $module {
            $(
                #[tokio::test]
                async fn $promise() {
                    super::$promise(super::Library::$library).await;
                }
            )+
        }
    )+};
}

holds_for! {
    Node node:
        no_refusal_is_a_payment,
        a_payment_is_made_once,
        a_retry_of_the_library_gets_the_payment_that_was_in_flight,
        a_payment_that_did_not_reach_the_service_is_an_error;
    Python python:
        no_refusal_is_a_payment,
        a_payment_is_made_once,
        a_retry_of_the_library_gets_the_payment_that_was_in_flight,
        a_payment_that_did_not_reach_the_service_is_an_error;
}
