//! Clients send each key to all processes at once, and again while another process
//! has the operation in flight.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::check::Answer;

/// This many keys are in work at once, each with all of its attempts. That keeps
/// the processes busy while some attempts wait for a store that is only polled (SQL
/// without NOTIFY).
const AT_ONCE: usize = 24;

type Http = Client<HttpConnector, Full<Bytes>>;

/// Returns all responses, and how many requests were needed.
pub(crate) async fn attempt(ports: &[u16], keys: usize, attempts: usize) -> (Vec<Answer>, usize) {
    let http = Client::builder(TokioExecutor::new()).build_http();
    let requests = Arc::new(AtomicUsize::new(0));
    let room = Arc::new(Semaphore::new(AT_ONCE * attempts));
    // The time in the keys separates each run from the records of earlier runs.
    let run = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let run = run.unwrap().as_nanos();
    let mut answers = Vec::new();
    let mut clients = JoinSet::new();
    for number in 0..keys {
        // A client that fails ends the test at once.
        while let Some(answer) = clients.try_join_next() {
            answers.push(answer.unwrap());
        }
        // One permit covers all of a key's attempts, so that the attempts meet.
        let some = u32::try_from(attempts).unwrap();
        let permit = Arc::clone(&room).acquire_many_owned(some).await.unwrap();
        let permit = Arc::new(permit);
        for attempt in 0..attempts {
            let port = ports[(number + attempt) % ports.len()];
            let key = format!("key-{run}-{number}");
            // For every other key the servers wait, not the clients.
            let path = if number % 2 == 0 {
                "payments"
            } else {
                "waiting"
            };
            let uri = format!("http://127.0.0.1:{port}/{path}");
            let (http, requests) = (http.clone(), Arc::clone(&requests));
            let permit = Arc::clone(&permit);
            clients.spawn(async move {
                let answer = until_answered(&http, &uri, &key, &requests).await;
                drop(permit);
                answer
            });
        }
    }
    answers.extend(clients.join_all().await);
    (answers, requests.load(Ordering::Relaxed))
}

/// A client tolerates `store-unavailable` for this long.
const PATIENCE: Duration = Duration::from_secs(30);

async fn until_answered(http: &Http, uri: &str, key: &str, requests: &AtomicUsize) -> Answer {
    let begun = Instant::now();
    loop {
        requests.fetch_add(1, Ordering::Relaxed);
        let request = Request::post(uri)
            .header("x-api-key", "alice")
            .header("idempotency-key", key)
            .body(Full::from(r#"{"amount": 4200}"#))
            .unwrap();
        let (head, body) = http.request(request).await.unwrap().into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let body = String::from_utf8_lossy(&body).into_owned();
        match head.status {
            StatusCode::CREATED => {
                return Answer {
                    key: key.to_owned(),
                    id: body,
                    replayed: head.headers.contains_key("idempotency-replayed"),
                };
            }
            StatusCode::CONFLICT if body.contains("in-flight") => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            // The store may be unavailable while connections are opened on a busy
            // machine.
            StatusCode::SERVICE_UNAVAILABLE
                if body.contains("store-unavailable") && begun.elapsed() < PATIENCE =>
            {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            status => panic!("{key}: {status} {body}"),
        }
    }
}
