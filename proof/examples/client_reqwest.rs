//! This program creates each order once, whatever the network and the shop do. It
//! uses reqwest; `examples/client_hyper.rs` explains more and does the same with
//! hyper-util's client.
//!
//! ```text
//! cargo run -p proof --example client_reqwest -- --orders 10000
//! ```

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::util::BoxCloneSyncService;
use tower::{Layer, ServiceExt, service_fn};
use tower_idempotency::client::{BufferedBody, ClientLayer, Error, FullJitter, IdempotencyKey};

#[path = "../../examples/client/batch.rs"]
pub(crate) mod batch;
#[path = "../../examples/client/shop.rs"]
pub(crate) mod shop;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The application's client takes requests whose bodies are bytes, whatever HTTP
/// client it contains.
type Http = BoxCloneSyncService<Request<Bytes>, Response<BufferedBody<reqwest::Body>>, Error>;

#[derive(Clone)]
pub(crate) struct OrderClient {
    http: Http,
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
        // reqwest's own retries are off: they would know nothing of the layer's
        // retries and timeouts.
        let client = reqwest::Client::builder()
            .retry(reqwest::retry::never())
            .build()?;
        // reqwest's client is a service over reqwest's own types, so this function
        // converts them.
        let http = service_fn(move |request: Request<Bytes>| {
            let client = client.clone();
            async move {
                let answered = client.execute(request.try_into()?).await?;
                Ok::<Response<reqwest::Body>, reqwest::Error>(answered.into())
            }
        });
        Ok(Self {
            http: BoxCloneSyncService::new(layer.layer(http)),
            shop: shop.to_owned(),
        })
    }

    /// Creates the order and returns the shop's id for the order. The same number
    /// always gives the same id, in another process too, because the key is derived
    /// from the number.
    pub(crate) async fn create_order(&self, number: u64) -> Result<String, BoxError> {
        let order = json!({ "number": number, "item": "hat" }).to_string();
        let request = Request::post(format!("{}/orders", self.shop))
            .extension(IdempotencyKey::for_operation("order", number))
            .header(header::CONTENT_TYPE, "application/json")
            .header("x-api-key", "alice")
            .body(Bytes::from(order))?;
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
