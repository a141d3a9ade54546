//! A checkout in four steps: reserve, charge, ship, mail. Each step calls a partner of the shop,
//! and its result is kept with the operation: an attempt that ends half-way is
//! continued by the client's retry, not begun again. `docs/steps.md` explains steps.
//!
//! ```text
//! cargo run --example checkout
//! ```
//!
//! The program sends one order again and again while the partners fail one after the other, and
//! prints what each attempt had to do. The package `proof` kills this shop at every point of every
//! step.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Extension, Json, Router};
use serde::{Deserialize, Serialize};
use tower_idempotency::options::Require;
use tower_idempotency::steps::{StepError, StepFault};
use tower_idempotency::store::Store;
use tower_idempotency::{ConfigError, IdempotencyContext, IdempotencyLayer, scope};

/// The steps of a checkout, in their order.
pub(crate) const STEPS: [&str; 4] = ["reserve", "charge", "ship", "mail"];

/// The services that the shop calls.
pub(crate) trait Partners: Clone + Send + Sync + 'static {
    /// Does one thing for an order, and returns its number. A call under the same key does nothing
    /// more, and returns the same number again.
    fn call(
        &self,
        what: &'static str,
        order: &Order,
        key: &str,
    ) -> impl Future<Output = Result<u64, Down>> + Send;
}

/// A partner can't be reached.
#[derive(Debug)]
pub(crate) struct Down(pub(crate) &'static str);

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Order {
    pub(crate) number: u64,
}

/// What the client is told once everything is done: the number of each thing that was done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Receipt {
    pub(crate) reservation: u64,
    pub(crate) charge: u64,
    pub(crate) parcel: u64,
    pub(crate) mail: u64,
}

pub(crate) fn shop<P: Partners>(partners: P, layer: IdempotencyLayer) -> Router {
    Router::new()
        .route("/checkout", post(checkout::<P>))
        .layer(layer)
        .with_state(partners)
}

pub(crate) fn idempotency(store: impl Store) -> Result<IdempotencyLayer, ConfigError> {
    IdempotencyLayer::builder(store, scope::header("x-api-key"))
        .route("POST /checkout", |options| {
            options.require(Require::Required).steps(true)
        })
        .build()
}

async fn checkout<P: Partners>(
    State(partners): State<P>,
    Extension(context): Extension<IdempotencyContext>,
    Json(order): Json<Order>,
) -> Result<Response, ShopError> {
    let step = async |what| {
        // An attempt that finds a result does not call the partner. One that finds none calls under
        // the key that any earlier attempt used: it may have died before its result was recorded.
        let done = context.step(what, async |step| {
            let number = partners.call(what, &order, step.key()).await;
            number.map_err(ShopError::Down)
        });
        done.await.map_err(StepError::flatten)
    };
    let receipt = Receipt {
        reservation: step("reserve").await?,
        charge: step("charge").await?,
        parcel: step("ship").await?,
        mail: step("mail").await?,
    };
    Ok((StatusCode::CREATED, Json(receipt)).into_response())
}

#[derive(Debug)]
enum ShopError {
    Down(Down),
    Step(StepFault),
}

impl From<StepFault> for ShopError {
    fn from(fault: StepFault) -> Self {
        Self::Step(fault)
    }
}

/// A 503 is not recorded: a retry goes on at the step that failed.
impl IntoResponse for ShopError {
    fn into_response(self) -> Response {
        let text = match self {
            Self::Down(Down(what)) => format!("we can't {what} at the moment, try again"),
            Self::Step(fault) => {
                eprintln!("a step failed: {fault}");
                "try again".to_owned()
            }
        };
        (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
    }
}

/// Partners in this process. Each of them fails when it is called for the first time: before or after
/// it has done its part.
#[derive(Clone, Default)]
struct Neighbours(Arc<Mutex<Ledger>>);

#[derive(Default)]
struct Ledger {
    /// The number of what was done, by what and under which key.
    done: HashMap<(&'static str, String), u64>,
    /// What was called for, in this attempt.
    calls: Vec<&'static str>,
    failed: Vec<&'static str>,
}

impl Partners for Neighbours {
    async fn call(&self, what: &'static str, _: &Order, key: &str) -> Result<u64, Down> {
        let mut ledger = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ledger.calls.push(what);
        let is_first = !ledger.failed.contains(&what);
        if is_first {
            ledger.failed.push(what);
        }
        // `reserve` and `ship` fail before they do anything; the two others do their part, and
        // their answers are lost.
        if is_first && ["reserve", "ship"].contains(&what) {
            return Err(Down(what));
        }
        let next = ledger.done.len() as u64 + 1;
        let number = *ledger.done.entry((what, key.to_owned())).or_insert(next);
        if is_first {
            Err(Down(what))
        } else {
            Ok(number)
        }
    }
}

#[cfg(not(test))]
#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    use axum::body::{Body, to_bytes};
    use axum::http::{Request, header::CONTENT_TYPE};
    use tower::ServiceExt;
    use tower_idempotency::MemoryStore;

    let partners = Neighbours::default();
    let shop = shop(partners.clone(), idempotency(MemoryStore::new())?);
    for attempt in 1.. {
        let request = Request::post("/checkout")
            .header(CONTENT_TYPE, "application/json")
            .header("x-api-key", "alice")
            .header("idempotency-key", "order-7")
            .body(Body::from(r#"{"number":7}"#))?;
        let response = shop.clone().oneshot(request).await?;
        let status = response.status();
        let body = to_bytes(response.into_body(), usize::MAX).await?;
        let calls = {
            let mut ledger = partners.0.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut ledger.calls)
        };
        println!(
            "attempt {attempt} calls {}\n  {status}: {}",
            calls.join(", "),
            String::from_utf8_lossy(&body)
        );
        if status == StatusCode::CREATED {
            break;
        }
    }
    let ledger = partners.0.lock().unwrap_or_else(PoisonError::into_inner);
    if ledger.done.len() != STEPS.len() {
        return Err(format!("{} things were done for one order", ledger.done.len()).into());
    }
    println!("each thing was done once");
    Ok(())
}
