//! A gateway between the sidecar and the service gives up on a request that the service still
//! executes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

use crate::support::{File, Upstream, get, ok, post, until, within};

/// The service executes a POST until `finish`, and counts.
#[derive(Default)]
struct Service {
    began: AtomicUsize,
    running: AtomicUsize,
    most: AtomicUsize,
    ended: AtomicUsize,
    has_begun: Notify,
    finish: Notify,
}

impl Service {
    async fn execute(self: Arc<Self>, mut stream: BufReader<TcpStream>) {
        let mut line = String::new();
        while line != "\r\n" {
            line.clear();
            stream.read_line(&mut line).await.unwrap();
        }
        let mut body = [0; 2];
        stream.read_exact(&mut body).await.unwrap();
        self.began.fetch_add(1, Ordering::SeqCst);
        let running = self.running.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(running, Ordering::SeqCst);
        self.has_begun.notify_one();
        self.finish.notified().await;
        self.running.fetch_sub(1, Ordering::SeqCst);
        self.ended.fetch_add(1, Ordering::SeqCst);
        // The gateway has closed this connection meanwhile.
        let _ = stream
            .write_all(b"HTTP/1.1 201 Created\r\nContent-Length: 4\r\n\r\ndone")
            .await;
    }

    async fn start(self: &Arc<Self>) -> std::net::SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let service = Arc::clone(self);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(Arc::clone(&service).execute(BufReader::new(stream)));
            }
        });
        address
    }
}

/// Returns a gateway that forwards the first bytes of a connection and responds with `status`
/// without waiting for the service.
async fn gateway(service: &Arc<Service>, status: &'static str) -> std::net::SocketAddr {
    let behind = service.start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let service = Arc::clone(service);
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let service = Arc::clone(&service);
            tokio::spawn(async move {
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n{}") {
                    if client.read_buf(&mut request).await.unwrap() == 0 {
                        return;
                    }
                }
                let mut upstream = TcpStream::connect(behind).await.unwrap();
                upstream.write_all(&request).await.unwrap();
                service.has_begun.notified().await;
                let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 6\r\n\r\nlate.\n");
                client.write_all(answer.as_bytes()).await.unwrap();
            });
        }
    });
    address
}

#[tokio::test]
async fn while_a_service_runs_on_behind_its_gateway_no_second_execution_begins() {
    for status in ["502 Bad Gateway", "504 Gateway Timeout"] {
        for on_lapsed_lease in ["rerun", "refuse"] {
            let service = Arc::<Service>::default();
            let sidecar = File::new(gateway(&service, status).await)
                .idempotency("lease = '1s'")
                .idempotency(&format!("on_lapsed_lease = '{on_lapsed_lease}'"))
                .start()
                .await;
            let charge = async || sidecar.exchange(&post("/charges", "k", "{}")).await;
            let first = charge().await;
            assert_eq!(
                (first.text(), &first.start[9..12]),
                ("late.\n", &status[..3])
            );
            let second = charge().await;
            assert_eq!(
                (second.status(), second.code().as_str()),
                (409, "in-flight")
            );
            assert_eq!(service.running.load(Ordering::SeqCst), 1);
            service.finish.notify_one();
            until(async || service.ended.load(Ordering::SeqCst) == 1).await;
            let mut after = charge().await;
            until(async || {
                after = charge().await;
                !matches!(after.status(), 409) || after.code() != "in-flight"
            })
            .await;
            let began = service.began.load(Ordering::SeqCst);
            if on_lapsed_lease == "refuse" {
                assert_eq!(after.code(), "outcome-unknown");
                assert_eq!(began, 1);
            } else {
                // The lease has lapsed, and the first execution has ended.
                assert_eq!(after.text(), "late.\n");
                assert_eq!(began, 2);
            }
            assert_eq!(service.most.load(Ordering::SeqCst), 1, "{status}");
        }
    }
}

#[tokio::test]
async fn a_file_says_otherwise_which_statuses_leave_the_outcome_in_doubt() {
    let upstream = Upstream::start(|request| {
        let status = request.target().trim_start_matches('/').to_owned();
        crate::support::answer(&format!("{status} Whatever"), "", "no")
    })
    .await;
    let file = File::new(upstream.address);
    for (file, doubtful) in [
        (file.clone(), &["502", "504"][..]),
        (file.clone().idempotency("in_doubt = []"), &[]),
        (
            file.clone().idempotency("in_doubt = ['502-503']"),
            &["502", "503"],
        ),
        (file.clone().idempotency("in_doubt = [503]"), &["503"]),
        (
            file.route("POST /502", "in_doubt = []")
                .route("POST /503", "in_doubt = ['5xx']"),
            &["503", "504"],
        ),
    ] {
        let sidecar = file.start().await;
        for status in ["500", "502", "503", "504"] {
            let charge = post(&format!("/{status}"), status, "{}");
            assert_eq!(sidecar.exchange(&charge).await.text(), "no");
            let again = sidecar.exchange(&charge).await;
            let is_doubtful = again.status() == 409;
            assert_eq!(
                is_doubtful,
                doubtful.contains(&status),
                "{status} {}",
                file.text()
            );
        }
    }
}

/// A contract says which responses leave the outcome in doubt.
#[tokio::test]
async fn the_contract_names_what_leaves_the_outcome_in_doubt() {
    let upstream = Upstream::start(|_| ok("done")).await;
    let sidecar = File::new(upstream.address)
        .top("contract = '/contract'")
        .start()
        .await;
    let mut client = sidecar.client().await;
    client.send(&get("/contract")).await;
    let contract = within(client.answer()).await;
    let says = "After responses with status 502 and 504 the operation may still be running";
    assert!(contract.text().contains(says), "{}", contract.text());
}
