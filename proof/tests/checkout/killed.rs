//! A process that serves the shop, with its records in SQLite, and is killed while every order stands
//! at its point.

use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{Path as Named, State};
use axum::routing::post;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio::sync::Semaphore;
use tower_idempotency::store::AnyStore;
use tower_idempotency::{IdempotencyLayer, scope};

use crate::checkout::{self, Down, Order, Partners, Receipt};
use crate::partners::Ledger;
use crate::point::{Ended, EndedStore, Ending, Held, Never, POINTS};
use crate::servers::fresh_directory;

/// How often the process is killed.
const KILLS: u64 = 12;
/// The orders of each process: each point several times.
const ORDERS: u64 = 7 * POINTS;
const LEASE: Duration = Duration::from_secs(1);
/// For everything that waits for the other process.
const PATIENCE: Duration = Duration::from_secs(60);

const STORE: &str = "CHECKOUT_STORE";
const PARTNERS: &str = "CHECKOUT_PARTNERS";
const HOLDS: &str = "CHECKOUT_HOLDS";

/// 12 kills, 84 orders each: 1 008 runs.
#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn a_checkout_goes_on_wherever_its_process_is_killed() {
    use std::os::unix::process::ExitStatusExt;

    let directory = fresh_directory("checkout");
    std::fs::create_dir_all(&directory).unwrap();
    let store = format!("sqlite:{}", directory.join("records.db").display());
    AnyStore::migrate(&store).await.unwrap();
    let world = World::start().await;
    for kill in 0..KILLS {
        let orders = kill * ORDERS..(kill + 1) * ORDERS;
        let mut first = Shop::start(&store, &world, true).await;
        let attempts: Vec<_> = orders
            .clone()
            .map(|order| tokio::spawn(first.request(order).send()))
            .collect();
        let all = world.held.acquire_many(u32::try_from(ORDERS).unwrap());
        let all = tokio::time::timeout(PATIENCE, all).await;
        all.expect("every order comes to its point")
            .unwrap()
            .forget();
        first.process.start_kill().unwrap();
        let ended = first.process.wait().await.unwrap();
        assert_eq!(ended.signal(), Some(9), "it was not killed: {ended}");
        for attempt in attempts {
            assert!(attempt.await.unwrap().is_err(), "no attempt was answered");
        }
        let second = Shop::start(&store, &world, false).await;
        let receipts: Vec<_> = orders
            .map(|order| (order, tokio::spawn(second.receipt(order))))
            .collect();
        for (order, receipt) in receipts {
            let receipt = receipt.await.unwrap();
            let checked = world.ledger.check(order, &receipt);
            checked.unwrap_or_else(|wrong| panic!("kill {kill}: {wrong}"));
        }
    }
    std::fs::remove_dir_all(&directory).unwrap();
}

/// This is no test but the process that the test kills.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "the test above starts it"]
async fn the_shop() {
    let [Ok(store), Ok(partners), Ok(holds)] = [STORE, PARTNERS, HOLDS].map(std::env::var) else {
        return;
    };
    let store = AnyStore::connect(&store).await.unwrap();
    let partners = Remote {
        url: partners,
        client: reqwest::Client::new(),
    };
    let app = if holds == "true" {
        let remote = partners.clone();
        let ending = Held(move |order| {
            let remote = remote.clone();
            async move { drop(remote.post(&format!("held/{order}")).await) }
        });
        shop(partners, store, ending)
    } else {
        shop(partners, store, Never)
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("\nport {}", listener.local_addr().unwrap().port());
    axum::serve(listener, app).await.unwrap();
}

fn shop(partners: Remote, store: AnyStore, ending: impl Ending) -> Router {
    let partners = Ended {
        partners,
        ending: ending.clone(),
    };
    let layer = IdempotencyLayer::builder(EndedStore { store, ending }, scope::shared())
        .defaults(|options| options.steps(true).lease(LEASE))
        // A call of the store that stands at its point is not given up before the kill.
        .store_timeout(PATIENCE * 10)
        .build();
    checkout::shop(partners, layer.unwrap())
}

/// The partners, which live in the process of the test.
#[derive(Clone)]
struct Remote {
    url: String,
    client: reqwest::Client,
}

impl Remote {
    async fn post(&self, path: &str) -> reqwest::Result<String> {
        let sent = self.client.post(format!("{}/{path}", self.url)).send();
        sent.await?.error_for_status()?.text().await
    }
}

impl Partners for Remote {
    async fn call(&self, what: &'static str, order: &Order, key: &str) -> Result<u64, Down> {
        let number = self
            .post(&format!("call/{what}/{}/{key}", order.number))
            .await;
        number
            .ok()
            .and_then(|number| number.parse().ok())
            .ok_or(Down(what))
    }
}

/// What outlives the shop: its partners' ledger, and who stands at a point.
struct World {
    ledger: Ledger,
    held: Arc<Semaphore>,
    url: String,
}

impl World {
    async fn start() -> Self {
        let (ledger, held) = (Ledger::default(), Arc::new(Semaphore::new(0)));
        let called =
            |State((ledger, _)): State<(Ledger, Arc<Semaphore>)>,
             Named((what, order, key)): Named<(String, u64, String)>| async move {
                ledger.call(&what, order, &key).to_string()
            };
        let stands = |State((_, held)): State<(Ledger, Arc<Semaphore>)>| async move {
            held.add_permits(1);
        };
        let app = Router::new()
            .route("/call/{what}/{order}/{key}", post(called))
            .route("/held/{order}", post(stands))
            .with_state((ledger.clone(), Arc::clone(&held)));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { ledger, held, url }
    }
}

/// A process that serves the shop. It never outlives this handle.
struct Shop {
    process: Child,
    url: String,
    client: reqwest::Client,
}

impl Shop {
    async fn start(store: &str, world: &World, holds: bool) -> Self {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "killed::the_shop", "--nocapture"])
            .env(STORE, store)
            .env(PARTNERS, &world.url)
            .env(HOLDS, holds.to_string())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut says = BufReader::new(process.stdout.take().unwrap()).lines();
        let port = async {
            while let Some(line) = says.next_line().await.unwrap() {
                if let Some(port) = line.strip_prefix("port ") {
                    return port.to_owned();
                }
            }
            panic!("the shop does not open");
        };
        let port = tokio::time::timeout(PATIENCE, port).await.unwrap();
        Self {
            process,
            url: format!("http://127.0.0.1:{port}/checkout"),
            client: reqwest::Client::new(),
        }
    }

    fn request(&self, order: u64) -> reqwest::RequestBuilder {
        self.client
            .post(&self.url)
            .header("content-type", "application/json")
            .header("idempotency-key", format!("order-{order}"))
            .body(format!("{{\"number\":{order}}}"))
    }

    /// Sends the order until it is done: the lease of the attempt that was killed has to lapse.
    fn receipt(&self, order: u64) -> impl Future<Output = Receipt> + Send + use<> {
        let request = self.request(order);
        async move {
            let began = Instant::now();
            loop {
                let again = request.try_clone().expect("its body is there");
                let response = again.send().await.unwrap();
                if response.status() == 201 {
                    let body = response.bytes().await.unwrap();
                    return serde_json::from_slice(&body).unwrap();
                }
                assert_eq!(response.status(), 409, "order {order}");
                assert!(began.elapsed() < PATIENCE, "order {order} is not done");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}
