//! At shutdown the sidecar finishes running requests, and accepts no other
//! requests.

use std::sync::Arc;

use tokio::net::TcpStream;
use tokio::sync::Notify;

use crate::support::{Client, File, Step, Upstream, get, ok, post, until, within};

/// Starts an upstream that responds when `go_on` is notified.
async fn waiting(go_on: &Arc<Notify>) -> Upstream {
    let go_on = Arc::clone(go_on);
    Upstream::start(move |_| {
        let mut steps = vec![Step::Wait(Arc::clone(&go_on))];
        steps.extend(ok("done"));
        steps
    })
    .await
}

#[tokio::test]
async fn a_running_request_is_finished() {
    let go_on = Arc::new(Notify::new());
    let upstream = waiting(&go_on).await;
    let file = File::new(upstream.address).top("metrics = '127.0.0.1:0'");
    let sidecar = file.start().await;
    let (address, metrics) = (sidecar.address, sidecar.metrics.unwrap());
    let mut idle = sidecar.client().await;
    idle.send(&get("/healthz")).await;
    assert_eq!(idle.answer().await.status(), 200);
    let mut running = Vec::new();
    for request in [get("/"), post("/a", "k", "{}")] {
        let mut client = sidecar.client().await;
        client.send(&request).await;
        running.push(client);
    }
    until(async || upstream.seen().len() == 2).await;
    let mut ended = sidecar.stop();
    assert!(idle.is_closed().await, "an idle connection is closed");
    assert!(
        TcpStream::connect(address).await.is_err(),
        "no other is accepted"
    );
    let mut health = Client::connect(metrics).await;
    health.send(&get("/healthz")).await;
    let answer = health.answer().await;
    assert_eq!((answer.status(), answer.text()), (503, "draining\n"));
    assert!(!ended.is_finished());
    for client in &mut running {
        go_on.notify_one();
        assert_eq!(client.answer().await.text(), "done");
        assert!(client.is_closed().await);
    }
    within(&mut ended).await.unwrap();
}

#[tokio::test]
async fn an_operation_whose_client_has_left_is_finished() {
    let go_on = Arc::new(Notify::new());
    let upstream = waiting(&go_on).await;
    let sidecar = File::new(upstream.address).start().await;
    let mut client = sidecar.client().await;
    client.send(&post("/a", "k", "{}")).await;
    until(async || upstream.seen().len() == 1).await;
    client.reset();
    let mut ended = sidecar.stop();
    let early = tokio::time::timeout(std::time::Duration::from_millis(200), &mut ended);
    assert!(early.await.is_err());
    go_on.notify_one();
    within(&mut ended).await.unwrap();
}

#[tokio::test]
async fn what_does_not_end_in_time_is_cut_off() {
    let go_on = Arc::new(Notify::new());
    let upstream = waiting(&go_on).await;
    let file = File::new(upstream.address).top("drain_timeout = '200ms'");
    let sidecar = file.start().await;
    let mut client = sidecar.client().await;
    client.send(&get("/")).await;
    until(async || upstream.seen().len() == 1).await;
    within(sidecar.stop()).await.unwrap();
    assert!(client.is_closed().await);
}

#[tokio::test(start_paused = true)]
async fn it_is_not_ready_for_a_while_before_it_accepts_no_more_connections() {
    let upstream = Upstream::start(|_| ok("done")).await;
    let file = File::new(upstream.address)
        .top("metrics = '127.0.0.1:0'")
        .top("drain_delay = '60s'");
    let sidecar = file.start().await;
    let (address, metrics) = (sidecar.address, sidecar.metrics.unwrap());
    let mut ended = sidecar.stop();
    let begun = tokio::time::Instant::now();
    for (path, expected) in [
        ("/readyz", (503, "draining\n")),
        ("/healthz", (503, "draining\n")),
        ("/livez", (200, "ok\n")),
        ("/", (200, "done")),
    ] {
        let mut client = Client::connect(address).await;
        client.send(&get(path)).await;
        let response = client.answer().await;
        assert_eq!((response.status(), response.text()), expected, "{path}");
    }
    let mut client = Client::connect(metrics).await;
    client.send(&get("/readyz")).await;
    assert_eq!(client.answer().await.status(), 503);
    drop(client);
    (&mut ended).await.unwrap();
    assert!(begun.elapsed().as_secs() >= 60);
    assert!(TcpStream::connect(address).await.is_err());
}
