//! Each client asks for one key after the other, through any app, until the client
//! has a final response. Then the client asks a few times more.

use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use http_body_util::BodyExt;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use turmoil::net::TcpStream;

use crate::app::PORT;
use crate::log::{Answer, Log, What};
use crate::plan::{APPS, Plan, app, chance, client};

pub(crate) struct Client {
    pub(crate) name: String,
    pub(crate) keys: Vec<String>,
    pub(crate) chance: StdRng,
    pub(crate) log: Log,
}

impl Client {
    pub(crate) fn new(plan: &Plan, number: u64, log: Log) -> Self {
        let mut chance = chance(plan.seed, 100 + number);
        let mut keys: Vec<_> = (0..plan.keys).map(|key| format!("key-{key}")).collect();
        keys.shuffle(&mut chance);
        // Each client asks for some of the keys, and each key has several clients
        // that ask for it.
        keys.truncate(usize::try_from(plan.keys * 2 / 3).unwrap());
        Self {
            name: client(number),
            keys,
            chance,
            log,
        }
    }

    pub(crate) async fn run(mut self) -> turmoil::Result {
        for key in std::mem::take(&mut self.keys) {
            self.pause(0..2000).await;
            let mut once_more = self.chance.random_range(1..=3);
            loop {
                let answer = self.ask(&key).await;
                if !answer.is_some_and(|answer| answer.is_final()) {
                    self.pause(50..800).await;
                } else if once_more > 0 {
                    once_more -= 1;
                    self.pause(0..1500).await;
                } else {
                    break;
                }
            }
        }
        self.log.add(&self.name, What::Satisfied);
        Ok(())
    }

    async fn pause(&mut self, millis: std::ops::Range<u64>) {
        sleep(Duration::from_millis(self.chance.random_range(millis))).await;
    }

    /// Sends one request, and gives up after a while.
    async fn ask(&mut self, key: &str) -> Option<Answer> {
        let app = app(self.chance.random_range(0..APPS));
        // Some clients wait long enough to see the end of an owner that was
        // overtaken.
        let most = if self.chance.random_ratio(1, 3) {
            15_000
        } else {
            4000
        };
        let patience = Duration::from_millis(self.chance.random_range(200..most));
        let request = self.log.number();
        self.log.add(
            &self.name,
            What::Asked {
                key: key.to_owned(),
                request,
                app: app.clone(),
            },
        );
        let why = match timeout(patience, exchange(&app, key)).await {
            Ok(Ok(answer)) => {
                let what = What::Answered {
                    request,
                    answer: answer.clone(),
                };
                self.log.add(&self.name, what);
                return Some(answer);
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("given up after {patience:?}"),
        };
        self.log.add(&self.name, What::Failed { request, why });
        None
    }
}

async fn exchange(app: &str, key: &str) -> turmoil::Result<Answer> {
    let stream = TcpStream::connect((app, PORT)).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // Dropping this set closes the connection, also when the client gives up.
    let mut running = JoinSet::new();
    running.spawn(connection);
    let request = Request::post("/payments")
        .header("host", app)
        .header("x-api-key", "the same for all")
        .header("idempotency-key", key)
        .body(Body::from(format!("pay for {key}")))?;
    let (head, body) = sender.send_request(request).await?.into_parts();
    let body = String::from_utf8(body.collect().await?.to_bytes().to_vec())?;
    let header = |name| head.headers.get(name).and_then(|value| value.to_str().ok());
    let problem: Option<Value> = serde_json::from_str(&body).ok();
    Ok(Answer {
        status: head.status.as_u16(),
        execution: header("x-execution").and_then(|number| number.parse().ok()),
        code: problem.and_then(|problem| Some(problem.get("code")?.as_str()?.to_owned())),
        unrecorded: header("idempotency-status") == Some("unrecorded"),
        replayed: header("idempotency-replayed") == Some("true"),
        body,
    })
}

impl Answer {
    /// Returns whether the response comes from a handler and is recorded.
    pub(crate) fn is_recorded(&self) -> bool {
        self.execution.is_some() && self.status < 500 && !self.unrecorded
    }

    /// Returns whether every retry will get the same response, unless an operator
    /// resolves the record.
    fn is_final(&self) -> bool {
        let final_codes = ["response-unavailable", "outcome-unknown"];
        self.is_recorded()
            || self
                .code
                .as_deref()
                .is_some_and(|code| final_codes.contains(&code))
    }
}
