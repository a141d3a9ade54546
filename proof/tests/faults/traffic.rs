//! Clients send requests all the time to two services on one store, and write all
//! that they see into a book.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode};
use axum::routing::post;
use http_body_util::BodyExt;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tower::ServiceExt;
use tower_idempotency::store::AnyStore;
use tower_idempotency::{IdempotencyLayer, scope};

pub(crate) const STORE_TIMEOUT: Duration = Duration::from_millis(1500);
/// The lease lasts longer than any fault, so no operation may run twice.
pub(crate) const LEASE: Duration = Duration::from_secs(60);
/// A claim and a completion may each take the store's timeout; the rest is for a
/// busy machine.
const BOUND: Duration = Duration::from_secs(6);
/// The last attempt must end within this time after the fault.
const PATIENCE: Duration = Duration::from_secs(50);
const CLIENTS: usize = 8;
/// The operation of this key takes a second, that of any other key takes 2 ms.
pub(crate) const SLOW: &str = "slow";

pub(crate) async fn connect(url: &str) -> AnyStore {
    AnyStore::migrate(url).await.unwrap();
    AnyStore::connect(url).await.unwrap()
}

/// Returns a service with the layer in front of a handler that writes into the
/// book.
pub(crate) fn service(store: AnyStore, book: &Arc<Book>) -> Router {
    let layer = IdempotencyLayer::builder(store, scope::header("x-api-key"))
        .store_timeout(STORE_TIMEOUT)
        .defaults(|options| options.lease(LEASE))
        .build()
        .unwrap();
    let book = Arc::clone(book);
    let pay = async move |headers: HeaderMap| {
        let key = headers["idempotency-key"].to_str().unwrap().to_owned();
        let takes = if key == SLOW { 1_000 } else { 2 };
        let id = book.execution(key);
        sleep(Duration::from_millis(takes)).await;
        (StatusCode::CREATED, id)
    };
    Router::new().route("/payments", post(pay)).layer(layer)
}

/// The book holds what happened, by key.
#[derive(Default)]
pub(crate) struct Book(Mutex<Pages>);

#[derive(Default)]
struct Pages {
    runs: usize,
    executions: HashMap<String, Vec<Execution>>,
    answers: HashMap<String, Vec<String>>,
    requests: usize,
    turned_away: BTreeMap<String, usize>,
    unrecorded: usize,
    slowest: Duration,
    violations: Vec<String>,
}

#[derive(Debug)]
struct Execution {
    id: String,
    began: Instant,
}

impl Pages {
    fn unavailable(&self) -> usize {
        let unavailable = self.turned_away.get("store-unavailable");
        unavailable.copied().unwrap_or(0)
    }

    /// Returns the number of requests that were rejected as `store-unavailable`,
    /// and the number of responses.
    fn counts(&mut self) -> (usize, usize) {
        (
            self.unavailable(),
            self.answers.values().map(Vec::len).sum(),
        )
    }

    /// Checks that each key has one execution and that all its responses come from that execution.
    /// Returns how many keys are excused from that, since their first execution began in `lost`.
    fn judge(&mut self, lost: &Range<Instant>) -> usize {
        let mut excused = 0;
        for (key, executions) in &self.executions {
            let answers = self.answers.get(key).map_or(&[][..], Vec::as_slice);
            let first = &executions[0];
            let all_alike = answers.iter().all(|answer| *answer == first.id);
            if executions.len() == 1 && all_alike {
                continue;
            }
            if lost.contains(&first.began) {
                excused += 1;
            } else {
                let violation = format!("{key}: executed {executions:?}, answered {answers:?}");
                self.violations.push(violation);
            }
        }
        excused
    }
}

pub(crate) enum Seen {
    Answer,
    NotNow(String),
}

impl Book {
    fn pages<T>(&self, change: impl FnOnce(&mut Pages) -> T) -> T {
        change(&mut self.0.lock().unwrap())
    }

    fn execution(&self, key: String) -> String {
        self.pages(|pages| {
            pages.runs += 1;
            let of_key = pages.executions.entry(key).or_default();
            let id = format!("run {}, of this key {}", pages.runs, of_key.len() + 1);
            let began = Instant::now();
            of_key.push(Execution { id, began });
            of_key[of_key.len() - 1].id.clone()
        })
    }

    pub(crate) fn executions_of(&self, key: &str) -> usize {
        self.pages(|pages| pages.executions.get(key).map_or(0, Vec::len))
    }

    pub(crate) fn unavailable(&self) -> usize {
        self.pages(|pages| pages.unavailable())
    }

    pub(crate) fn violations(&self) -> Vec<String> {
        self.pages(|pages| pages.violations.clone())
    }

    /// Sends one request, and writes down its result.
    pub(crate) async fn ask(&self, service: &Router, key: &str) -> Seen {
        let request = Request::post("/payments")
            .header("x-api-key", "alice")
            .header("idempotency-key", key)
            .body(Body::from("4200"))
            .unwrap();
        let asked = Instant::now();
        let answer = timeout(BOUND, async {
            let (head, body) = service.clone().oneshot(request).await.unwrap().into_parts();
            (head, body.collect().await.unwrap().to_bytes())
        });
        let answer = answer.await;
        self.pages(|pages| {
            pages.requests += 1;
            pages.slowest = pages.slowest.max(asked.elapsed());
            let Ok((head, body)) = answer else {
                pages.violations.push(format!("{key}: no answer"));
                return Seen::NotNow("no answer".to_owned());
            };
            let body = String::from_utf8_lossy(&body).into_owned();
            if head.status == StatusCode::CREATED {
                pages.unrecorded += usize::from(head.headers.contains_key("idempotency-status"));
                let answers = pages.answers.entry(key.to_owned()).or_default();
                answers.push(body);
                return Seen::Answer;
            }
            let code = body.split(r#""code":""#).nth(1).unwrap_or(&body);
            let code = code.split('"').next().unwrap_or(code).to_owned();
            *pages.turned_away.entry(code.clone()).or_default() += 1;
            if !["in-flight", "store-unavailable"].contains(&code.as_str()) {
                let violation = format!("{key}: {} {body}", head.status);
                pages.violations.push(violation);
            }
            Seen::NotNow(code)
        })
    }

    /// Sends requests until there is a response of the handler.
    pub(crate) async fn insist(&self, service: &Router, key: &str) {
        let begun = Instant::now();
        while let Seen::NotNow(_) = self.ask(service, key).await {
            if begun.elapsed() > PATIENCE {
                let violation = format!("{key}: turned away for {PATIENCE:?}");
                return self.pages(|pages| pages.violations.push(violation));
            }
            sleep(Duration::from_millis(25)).await;
        }
    }
}

pub(crate) struct Traffic {
    book: Arc<Book>,
    services: [Router; 2],
    clients: JoinSet<()>,
    stopping: Arc<AtomicBool>,
}

/// `Found` is the result of all traffic.
pub(crate) struct Found {
    keys: usize,
    requests: usize,
    codes: BTreeMap<String, usize>,
    pub(crate) turned_away: usize,
    unrecorded: usize,
    slowest: Duration,
    pub(crate) excused: usize,
    pub(crate) violations: Vec<String>,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            keys,
            requests,
            codes,
            unrecorded,
            slowest,
            excused,
            ..
        } = self;
        write!(
            f,
            "{keys} keys, {requests} requests, turned away {codes:?}, {unrecorded} unrecorded in time, \
             slowest {slowest:.1?}, {excused} forgotten"
        )
    }
}

impl Traffic {
    pub(crate) fn start(first: AnyStore, second: AnyStore) -> Self {
        let book = Arc::new(Book::default());
        let services = [first, second].map(|store| service(store, &book));
        let stopping = Arc::new(AtomicBool::new(false));
        let mut clients = JoinSet::new();
        for client in 0..CLIENTS {
            let (book, services) = (Arc::clone(&book), services.clone());
            let stopping = Arc::clone(&stopping);
            clients.spawn(async move {
                let key = |number: usize| format!("client-{client}-payment-{number}");
                for number in 0.. {
                    if stopping.load(Ordering::Relaxed) {
                        return;
                    }
                    let (new, old) = (key(number), key(number / 2));
                    // Both services get the same new payment at once. After that
                    // comes a retry of a payment that was completed long ago.
                    tokio::join!(
                        book.insist(&services[0], &new),
                        book.insist(&services[1], &new),
                    );
                    book.insist(&services[number % 2], &old).await;
                }
            });
        }
        Self {
            book,
            services,
            clients,
            stopping,
        }
    }

    /// Waits for a second in which responses come and no request is rejected as
    /// `store-unavailable`.
    pub(crate) async fn is_calm(&self, within: Duration) {
        let begun = Instant::now();
        loop {
            let before = self.book.pages(Pages::counts);
            sleep(Duration::from_secs(1)).await;
            let after = self.book.pages(Pages::counts);
            if after.0 == before.0 && after.1 >= before.1 + CLIENTS {
                return;
            }
            assert!(
                begun.elapsed() < within,
                "no calm within {within:?}: {:?}",
                self.book.pages(|pages| pages.turned_away.clone())
            );
        }
    }

    /// Requests every key once more, and judges the book.
    pub(crate) async fn stop(self) -> Found {
        let now = Instant::now();
        self.stop_after_loss(now..now).await
    }

    /// Does the same. Operations that began in `lost` may have been forgotten by the store.
    pub(crate) async fn stop_after_loss(mut self, lost: Range<Instant>) -> Found {
        self.stopping.store(true, Ordering::Relaxed);
        while let Some(client) = self.clients.join_next().await {
            client.unwrap();
        }
        let book = &self.book;
        let keys: Vec<String> = book.pages(|pages| pages.answers.keys().cloned().collect());
        for key in &keys {
            book.insist(&self.services[0], key).await;
        }
        book.pages(|pages| {
            let excused = pages.judge(&lost);
            Found {
                keys: keys.len(),
                requests: pages.requests,
                codes: pages.turned_away.clone(),
                turned_away: pages.unavailable(),
                unrecorded: pages.unrecorded,
                slowest: pages.slowest,
                excused,
                violations: std::mem::take(&mut pages.violations),
            }
        })
    }
}
