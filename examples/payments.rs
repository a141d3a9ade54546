//! A payments API that is safe to retry. First the program tells a story: a
//! client sends requests to the API over TCP, and each response is compared
//! with what the API promises (`payments/story.rs`). Then the program serves
//! the API, and you can send requests of your own.
//!
//! ```text
//! cargo run --example payments
//! cargo run --example payments -- --exit                     only the story
//! cargo run --example payments -- --listen 127.0.0.1:3000    where to serve
//! cargo run --example payments -- --card-ms 5000             a slow card processor
//!
//! # Records in a file: the second run replays the responses of the first.
//! cargo run --example payments --features sqlite -- --store sqlite:payments.db
//! ```
//!
//! On SIGTERM or Ctrl-C the server accepts no more requests. It finishes the
//! requests whose clients still wait, and then the operations whose clients
//! have left.

use std::future::IntoFuture;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU64;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tower_idempotency::options::Require;
use tower_idempotency::store::AnyStore;
use tower_idempotency::{ConfigError, IdempotencyContext, IdempotencyLayer, scope};

#[path = "payments/again.rs"]
mod again;
#[path = "payments/story.rs"]
mod story;

use story::CardProcessor;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Each key belongs to the caller that the header `x-api-key` names. A real
/// service checks that credential in a layer around the idempotency layer.
fn idempotency(store: AnyStore) -> Result<IdempotencyLayer, ConfigError> {
    IdempotencyLayer::builder(store, scope::header("x-api-key"))
        .route("POST /payments", |options| {
            options.require(Require::Required)
        })
        .route("POST /fares", |options| {
            options.require(Require::Required).retention(FARE_RETENTION)
        })
        .build()
}

fn app(shop: Arc<Shop>, idempotency: IdempotencyLayer) -> Router {
    Router::new()
        .route("/payments", post(pay))
        .route("/fares", post(pay))
        .route("/refunds", post(refund))
        .route("/ledger", get(ledger))
        .layer(idempotency)
        .with_state(shop)
}

/// How long a key of `/fares` is kept. Two taps of one card at a gate within
/// this time are one ride; a later tap is a new ride. All other keys are kept
/// for a day, which is the default.
const FARE_RETENTION: Duration = Duration::from_millis(300);

/// What the handlers share: the ledger, and the card processor that moves
/// money.
#[derive(Default)]
struct Shop {
    /// Each payment's id contains this text before its number.
    series: String,
    charges: AtomicU64,
    refunds: AtomicU64,
    processor: CardProcessor,
}

#[derive(Serialize)]
struct Payment {
    id: String,
    #[serde(flatten)]
    order: PaymentOrder,
    /// Which attempt made the payment. It is 2 or more if earlier attempts with
    /// the same key were not recorded.
    attempt: u64,
}

#[derive(Serialize, Deserialize)]
struct PaymentOrder {
    /// The amount is in the currency's smallest unit: 4200 means 42 euros.
    amount: NonZeroU64,
    currency: Currency,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum Currency {
    Chf,
    Eur,
    Gbp,
    Usd,
}

/// These routes require a key, so each request has an `IdempotencyContext`.
async fn pay(
    State(shop): State<Arc<Shop>>,
    Extension(operation): Extension<IdempotencyContext>,
    Json(order): Json<PaymentOrder>,
) -> Response {
    if !shop.processor.charge().await {
        // The layer does not record a 5xx response, so a retry with the same
        // key runs this handler again.
        let (status, wait) = (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, 1)]);
        return (status, wait, "The card processor is down.\n").into_response();
    }
    let number = 1 + shop.charges.fetch_add(1, Ordering::Relaxed);
    let payment = Payment {
        id: format!("pay_{}{number}", shop.series),
        order,
        attempt: operation.attempt(),
    };
    (StatusCode::CREATED, Json(payment)).into_response()
}

#[derive(Serialize)]
struct Refund {
    id: String,
    #[serde(flatten)]
    order: RefundOrder,
    safe_to_retry: bool,
}

#[derive(Default, Serialize, Deserialize)]
struct RefundOrder {
    payment: Option<String>,
    /// If the order names no amount, the whole payment is refunded.
    amount: Option<NonZeroU64>,
}

/// This route does not require a key. A request without a key has no
/// `IdempotencyContext`, and a retry of such a request refunds the money again.
async fn refund(
    State(shop): State<Arc<Shop>>,
    operation: Option<Extension<IdempotencyContext>>,
    order: Option<Json<RefundOrder>>,
) -> (StatusCode, Json<Refund>) {
    let Json(order) = order.unwrap_or_default();
    let number = 1 + shop.refunds.fetch_add(1, Ordering::Relaxed);
    let refund = Refund {
        id: format!("ref_{number}"),
        order,
        safe_to_retry: operation.is_some(),
    };
    (StatusCode::CREATED, Json(refund))
}

async fn ledger(State(shop): State<Arc<Shop>>) -> Json<Value> {
    Json(json!({
        "charges": shop.charges.load(Ordering::Relaxed),
        "refunds": shop.refunds.load(Ordering::Relaxed),
    }))
}

const USAGE: &str = "\
Usage: payments [--exit] [--listen ADDR] [--card-ms MS] [--store URL]

Tells the story of a payments API that is safe to retry, then serves that API.

  --exit         end after the story: status 0 if every line came out as promised, else 1
  --listen ADDR  where to serve, such as 127.0.0.1:3000; default: a free port of 127.0.0.1
  --card-ms MS   how long the card processor of that server takes; default: 0
  --store URL    where records are kept: sqlite:FILE, postgres://…, mysql://…, redis://…, each
                 with the feature of its name; then the story is one of two processes
  --help         print this";

struct Options {
    help: bool,
    exit: bool,
    listen: String,
    card_takes: Duration,
    store: Option<String>,
}

impl Options {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut options = Self {
            help: false,
            exit: false,
            listen: "127.0.0.1:0".to_owned(),
            card_takes: Duration::ZERO,
            store: None,
        };
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--help" | "-h" => options.help = true,
                "--exit" => options.exit = true,
                "--listen" => {
                    let address = arguments.next().unwrap_or_default();
                    let port = address.rsplit_once(':').map(|(_, port)| port);
                    if port.is_none_or(|port| port.parse::<u16>().is_err()) {
                        return Err(format!("--listen takes HOST:PORT, not `{address}`"));
                    }
                    options.listen = address;
                }
                "--card-ms" => {
                    let millis = arguments.next().unwrap_or_default();
                    options.card_takes = match millis.parse() {
                        Ok(millis) => Duration::from_millis(millis),
                        Err(_) => return Err(format!("--card-ms takes a number, not `{millis}`")),
                    };
                }
                "--store" => {
                    let Some(url) = arguments.next() else {
                        return Err("--store takes a URL, such as sqlite:payments.db".to_owned());
                    };
                    options.store = Some(url);
                }
                _ => return Err(format!("unknown argument `{argument}`")),
            }
        }
        Ok(options)
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = std::env::args_os().skip(1);
    let options = match Options::parse(arguments.map(|own| own.to_string_lossy().into_owned())) {
        Ok(options) => options,
        Err(wrong) => {
            eprintln!("payments: {wrong}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    if options.help {
        println!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    match run(&options).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("payments: {}", with_causes(&*error));
            ExitCode::FAILURE
        }
    }
}

/// Plays the story and, without `--exit`, serves the API afterwards. Returns
/// whether every line of the story came out as promised and the server finished
/// all operations.
async fn run(options: &Options) -> Result<bool, BoxError> {
    // The listener is bound before the story, so that a wrong address fails at
    // once. Clients that connect during the story are served after it, with a
    // ledger of their own.
    let listen = &options.listen;
    let listener = TcpListener::bind(listen)
        .await
        .map_err(|error| format!("can't listen on {listen}: {error}"))?;
    let url = options.store.as_deref().unwrap_or("memory:");
    AnyStore::migrate(url).await?;
    let store = AnyStore::connect(url).await?;
    let told = match options.store {
        Some(_) => again::tell(store.clone()).await,
        None => story::tell().await,
    };
    let kept = told.map_err(|error| format!("the story broke off: {}", with_causes(&*error)))?;
    if options.exit {
        return Ok(kept);
    }
    invite(listener.local_addr()?);
    let shop = Arc::new(Shop {
        processor: CardProcessor::that_takes(options.card_takes),
        ..match options.store {
            Some(_) => Shop::of_this_process(),
            None => Shop::default(),
        }
    });
    let idempotency = idempotency(store)?;
    let (stopping, stop) = tokio::sync::oneshot::channel();
    let told = async {
        told_to_stop().await;
        stopping.send(()).ok();
    };
    let server = axum::serve(listener, app(Arc::clone(&shop), idempotency.clone()))
        .with_graceful_shutdown(told)
        .into_future();
    // Clients that are still connected get their responses. But a client that
    // never reads its response must not keep the server from finishing the
    // other operations.
    let too_long = async {
        stop.await.ok();
        tokio::time::sleep(GRACE).await;
    };
    tokio::select! {
        served = server => served?,
        () = too_long => println!("\nSome clients did not take their answers in time."),
    }
    // All connected clients have their responses by now. The operations that
    // are left run for clients that have disconnected and will retry.
    let left = idempotency.drain(Duration::ZERO).await;
    println!("\nStopping. Payments that run on without their client: {left}.");
    let undone = idempotency.drain(SHUTDOWN).await;
    let charges = shop.charges.load(Ordering::Relaxed);
    println!("Stopped. Charges: {charges}. Given up: {undone}.");
    Ok(kept && undone == 0)
}

/// Joins an error and its causes: `Display` of an error describes only its own
/// level.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut said = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        said = format!("{said}: {cause}");
        next = cause.source();
    }
    said
}

/// How long the server waits at shutdown: `GRACE` for clients that are still
/// connected, then `SHUTDOWN` for operations whose clients have left. The sum
/// must be less than what the supervisor waits between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(10);
const SHUTDOWN: Duration = Duration::from_secs(15);

/// Resolves on Ctrl-C, or on the SIGTERM that supervisors and containers send.
async fn told_to_stop() {
    let interrupted = async { tokio::signal::ctrl_c().await.unwrap_or_default() };
    #[cfg(unix)]
    let terminated = async {
        use tokio::signal::unix::{SignalKind, signal};
        match signal(SignalKind::terminate()) {
            Ok(mut terminate) => terminate.recv().await,
            Err(_) => std::future::pending().await,
        };
    };
    #[cfg(not(unix))]
    let terminated = std::future::pending();
    tokio::select! {
        () = interrupted => {}
        () = terminated => {}
    }
}

fn invite(mut address: SocketAddr) {
    if address.ip().is_unspecified() {
        let (v4, v6) = (Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into());
        address.set_ip(if address.is_ipv4() { v4 } else { v6 });
    }
    println!(
        r#"
Now you: a fresh server with an empty ledger is on http://{address} until Ctrl-C.

# A payment of 42.00 EUR. Send it twice: the second answer is a replay.
curl -i http://{address}/payments -H 'x-api-key: me' -H 'Idempotency-Key: lunch-1' \
  -H 'content-type: application/json' -d '{{"amount": 4200, "currency": "EUR"}}'

# The same key for another amount: refused.
curl -i http://{address}/payments -H 'x-api-key: me' -H 'Idempotency-Key: lunch-1' \
  -H 'content-type: application/json' -d '{{"amount": 9900, "currency": "EUR"}}'

# A refund may come without a key, but then a retry refunds again. Try it with one.
curl -i http://{address}/refunds -H 'x-api-key: me' \
  -H 'content-type: application/json' -d '{{"payment": "pay_1"}}'

# How many charges and refunds that made.
curl -i http://{address}/ledger"#
    );
}
