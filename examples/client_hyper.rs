//! A client that creates each order once, whatever fails in the network or at
//! the shop. This example uses hyper-util's client;
//! `proof/examples/client_reqwest.rs` does the same with reqwest.
//!
//! ```text
//! cargo run --example client_hyper --features client
//! cargo run --example client_hyper --features client -- --orders 10000
//!
//! # A batch can be killed and started again: each order is still created once.
//! cargo run --example client_hyper --features client -- --shop http://127.0.0.1:3000
//! ```
//!
//! The shop (`client/shop.rs`) drops connections before it reads a request and
//! in the middle of a response, responds with 409 and 503, and is sometimes too
//! slow.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::{Client as HttpClient, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use tower::{Layer, ServiceExt};
use tower_idempotency::client::{Client, ClientLayer, FullJitter, IdempotencyKey};

#[path = "client/batch.rs"]
pub(crate) mod batch;
#[path = "client/shop.rs"]
pub(crate) mod shop;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

#[derive(Clone)]
pub(crate) struct OrderClient {
    http: Client<HttpClient<HttpConnector, Full<Bytes>>>,
    shop: String,
}

impl OrderClient {
    pub(crate) fn new(shop: &str) -> Result<Self, BoxError> {
        let layer = ClientLayer::builder()
            .attempt_timeout(shop::PATIENCE)
            .backoff(FullJitter::new(
                Duration::from_millis(50),
                Duration::from_secs(2),
            ))
            .build()?;
        let http = HttpClient::builder(TokioExecutor::new()).build_http();
        Ok(Self {
            http: layer.layer(http),
            shop: shop.to_owned(),
        })
    }

    /// Creates an order and returns the id that the shop gave it. The key is
    /// derived from the order's number, so the same number gives the same id,
    /// also in another process.
    pub(crate) async fn create_order(&self, number: u64) -> Result<String, BoxError> {
        let order = json!({ "number": number, "item": "hat" }).to_string();
        let request = Request::post(format!("{}/orders", self.shop))
            .extension(IdempotencyKey::for_operation("order", number))
            .header(header::CONTENT_TYPE, "application/json")
            .header("x-api-key", "alice")
            .body(Full::from(order))?;
        let response = self.http.clone().oneshot(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        if status != StatusCode::CREATED {
            return Err(format!("order {number}: {status} {}", body.escape_ascii()).into());
        }
        let created: Value = serde_json::from_slice(&body)?;
        let id = created["id"].as_str().ok_or("an order without an id")?;
        Ok(id.to_owned())
    }
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let batch = batch::Batch::of_arguments().await?;
    let client = OrderClient::new(&batch.url)?;
    let create = move |number| {
        let client = client.clone();
        async move { client.create_order(number).await.map(drop) }
    };
    batch.send_and_tell(create).await
}
