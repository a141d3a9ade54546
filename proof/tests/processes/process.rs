//! This module is one of the processes: a handle on the process from outside, a
//! server from inside.

use std::env;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader, Lines};
use tokio::net::TcpListener;
use tokio::process::{Child, ChildStdout, Command};
use tower_idempotency::options::OnInFlight;
use tower_idempotency::store::AnyStore;
use tower_idempotency::{IdempotencyLayer, scope};

use crate::check::Execution;

const STORE: &str = "PROCESSES_STORE";
const NUMBER: &str = "PROCESSES_NUMBER";

pub(crate) struct Process {
    number: usize,
    child: Child,
    says: Lines<BufReader<ChildStdout>>,
}

impl Process {
    pub(crate) fn start(number: usize, store: &str) -> Self {
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["--ignored", "--exact", "serves", "--nocapture"])
            .env(STORE, store)
            .env(NUMBER, number.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let says = BufReader::new(child.stdout.take().unwrap()).lines();
        Self {
            number,
            child,
            says,
        }
    }

    pub(crate) async fn port(&mut self) -> u16 {
        self.line("port ").await.parse().unwrap()
    }

    /// Stops the process, and returns all that the process executed.
    pub(crate) async fn stop(mut self) -> Vec<Execution> {
        drop(self.child.stdin.take());
        let mut executions = Vec::new();
        let count = self.line("executions ").await.parse().unwrap();
        for _ in 0..count {
            let line = self.line("execution ").await;
            let (key, id) = line.split_once(' ').unwrap();
            executions.push(Execution {
                process: self.number,
                key: key.to_owned(),
                id: id.to_owned(),
            });
        }
        assert!(self.child.wait().await.unwrap().success());
        executions
    }

    /// Returns the rest of the next line that contains `beginning`.
    async fn line(&mut self, beginning: &str) -> String {
        loop {
            let line = self.says.next_line().await.unwrap();
            let line = line.unwrap_or_else(|| panic!("process {} ended early", self.number));
            // The test harness prints text of its own before the first such line.
            if let Some((_, rest)) = line.split_once(beginning) {
                return rest.to_owned();
            }
        }
    }
}

/// Serves until the standard input ends, so that no process outlives its test.
#[tokio::main(worker_threads = 2)]
pub(crate) async fn serve() {
    let url = env::var(STORE).expect("this is run by the tests of several processes");
    let number = env::var(NUMBER).unwrap();
    // All three processes migrate at once.
    AnyStore::migrate(&url).await.unwrap();
    let store = AnyStore::connect(&url).await.unwrap();
    let layer = IdempotencyLayer::builder(store, scope::header("x-api-key"))
        // A busy machine must not fail the test.
        .store_timeout(Duration::from_secs(30))
        .defaults(|options| options.retention(Duration::from_secs(600)))
        .route("POST /waiting", |options| {
            options.on_in_flight(OnInFlight::Wait(Duration::from_secs(5)))
        })
        .build()
        .unwrap();

    let executed = Arc::new(Mutex::new(Vec::new()));
    let handler = post({
        let executed = Arc::clone(&executed);
        async move |headers: HeaderMap| {
            let key = headers["idempotency-key"].to_str().unwrap().to_owned();
            let id = {
                let mut executed = executed.lock().unwrap();
                let id = format!("{number}-{}", executed.len());
                executed.push((key, id.clone()));
                id
            };
            // The handler takes long enough that other attempts find its operation
            // in flight.
            tokio::time::sleep(Duration::from_millis(3)).await;
            (StatusCode::CREATED, id)
        }
    });
    let app = Router::new()
        .route("/payments", handler.clone())
        .route("/waiting", handler)
        .layer(layer);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("port {}", listener.local_addr().unwrap().port());

    let mut ended = tokio::io::stdin();
    let mut rest = Vec::new();
    tokio::select! {
        served = async { axum::serve(listener, app).await } => served.unwrap(),
        read = ended.read_to_end(&mut rest) => drop(read),
    }
    let executed = executed.lock().unwrap();
    println!("executions {}", executed.len());
    for (key, id) in executed.iter() {
        println!("execution {key} {id}");
    }
}
