//! These responses begin and then stall.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::AsyncReadExt;
use tokio::sync::Notify;

use crate::failures::{at_first, charge};
use crate::support::{Client, File, Running, Step, Upstream, get, ok, post, until, within};

#[tokio::test]
async fn an_answer_whose_body_stalls_is_one_that_breaks_off() {
    let stalls = |status: &str| {
        let head = format!("HTTP/1.1 {status}\r\nContent-Length: 10\r\n\r\nhalf");
        vec![Step::Write(head), Step::Hang]
    };
    for (status, code) in [
        ("201 Created", "response-unavailable"),
        ("503 Service Unavailable", "in-flight"),
    ] {
        let upstream = at_first(stalls(status)).await;
        let file = File::new(upstream.address)
            .top("upstream_timeout = '200ms'")
            .top("metrics = '127.0.0.1:0'")
            .idempotency("max_detached = 1");
        let sidecar = file.start().await;
        // No client waits for this response.
        let mut client = sidecar.client().await;
        client.send(&post("/charges", "k", "{}")).await;
        until(async || upstream.seen().len() == 1).await;
        client.reset();
        until(async || {
            sidecar
                .exchange(&post("/charges", "free", "{}"))
                .await
                .status()
                == 200
        })
        .await;
        assert_eq!(charge(&sidecar).await.code(), code, "{status}");
        let mut metrics = Client::connect(sidecar.metrics.unwrap()).await;
        metrics.send(&get("/metrics")).await;
        let timed_out = "idempotency_sidecar_upstream_failures_total{kind=\"timeout\"} 1\n";
        assert!(metrics.answer().await.text().contains(timed_out));
    }
}

#[tokio::test]
async fn a_client_that_waits_for_an_answer_that_stalls_sees_it_cut() {
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf".to_owned();
    let upstream = at_first(vec![Step::Write(head), Step::Hang]).await;
    let file = File::new(upstream.address).top("upstream_timeout = '200ms'");
    let sidecar = file.start().await;
    let mut client = sidecar.client().await;
    client.send(&post("/charges", "k", "{}")).await;
    assert!(client.try_answer().await.is_none());
    assert!(client.is_closed().await);
}

/// The clock is paused: it moves only when all tasks wait.
#[tokio::test(start_paused = true)]
async fn what_is_not_protected_may_rest_for_minutes_and_event_streams_for_ever() {
    let go_on = Arc::new(Notify::new());
    let events = "text/event-stream; charset=utf-8";
    let hour = Duration::from_hours(1);
    for (request, content_type, rest) in [
        (get("/"), "text/plain", Duration::from_mins(4)),
        (get("/"), events, hour),
        (post("/charges", "k", "{}"), events, hour),
    ] {
        let upstream = {
            let go_on = Arc::clone(&go_on);
            Upstream::start(move |_| {
                let head = format!(
                    "HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\nContent-Length: 5\r\n\r\n"
                );
                let (wait, later) = (Step::Wait(Arc::clone(&go_on)), "later".to_owned());
                vec![Step::Write(head), wait, Step::Write(later)]
            })
            .await
        };
        let sidecar = File::new(upstream.address).start().await;
        let mut client = sidecar.client().await;
        client.send(&request).await;
        assert_eq!(client.head().await.status(), 200);
        tokio::time::sleep(rest).await;
        go_on.notify_one();
        let mut body = [0; 5];
        within(client.0.read_exact(&mut body)).await.unwrap();
        assert_eq!(&body, b"later", "{content_type}");
    }
}

/// Begins a request without protection whose body has 10 bytes.
async fn begun(sidecar: &Running) -> Client {
    let mut client = sidecar.client().await;
    let head = "PUT /a HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n";
    client.send(&format!("{head}half")).await;
    client
}

#[tokio::test]
async fn a_body_without_protection_that_stalls_is_not_waited_for() {
    let upstream = Upstream::start(|_| ok("done")).await;
    let file = File::new(upstream.address).top("limits.client_timeout = '300ms'");
    let sidecar = file.top("metrics = '127.0.0.1:0'").start().await;
    let mut client = begun(&sidecar).await;
    let refused = client.answer().await;
    assert_eq!(
        (refused.status(), &*refused.code()),
        (400, "body-unreadable")
    );
    assert_eq!(sidecar.refusals("client_timeout").await, 1);
    // A client that sends something now and then is no such client.
    let mut client = begun(&sidecar).await;
    for _ in 0..6 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        client.send("x").await;
    }
    assert_eq!(client.answer().await.text(), "done");
    assert_eq!(upstream.seen().len(), 1);
}

#[tokio::test]
async fn a_response_without_protection_that_stalls_is_cut_unless_it_is_of_events() {
    let upstream = Upstream::start(|request| {
        let kind = match request.target() {
            "/events" => "text/event-stream",
            _ => "text/plain",
        };
        let head = format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: 10\r\n");
        vec![Step::Write(format!("{head}\r\nhalf")), Step::Hang]
    })
    .await;
    let file = File::new(upstream.address).top("limits.unprotected_idle_timeout = '300ms'");
    let sidecar = file.top("metrics = '127.0.0.1:0'").start().await;
    let mut events = sidecar.client().await;
    events.send(&get("/events")).await;
    events.head().await;
    let mut client = sidecar.client().await;
    client.send(&get("/")).await;
    assert!(client.try_answer().await.is_none());
    assert!(client.is_closed().await);
    assert_eq!(sidecar.refusals("unprotected_idle_timeout").await, 1);
    let mut half = [0; 4];
    within(events.0.read_exact(&mut half)).await.unwrap();
    let more = tokio::time::timeout(Duration::from_millis(500), events.is_closed());
    assert!(more.await.is_err(), "the events were cut off");
}

#[tokio::test]
async fn an_upstream_has_its_time_from_the_last_byte_of_a_slow_upload() {
    let upstream = Upstream::start(|_| vec![Step::Hang]).await;
    let timeout = Duration::from_secs(1);
    let file = File::new(upstream.address).top("upstream_timeout = '1s'");
    let sidecar = file.start().await;
    let mut client = begun(&sidecar).await;
    // Longer than `upstream_timeout` in all, and the last byte is not the first that is sent late.
    for _ in 0..5 {
        tokio::time::sleep(timeout / 2).await;
        client.send("x").await;
    }
    tokio::time::sleep(timeout / 2).await;
    let last = Instant::now();
    client.send("x").await;
    assert_eq!(client.answer().await.status(), 504);
    let waited = last.elapsed();
    assert!(waited >= timeout, "refused {waited:?} after the last byte");
}
