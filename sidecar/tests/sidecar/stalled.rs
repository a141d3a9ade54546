//! These responses begin and then stall.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::sync::Notify;

use crate::failures::{at_first, charge};
use crate::support::{Client, File, Step, Upstream, get, post, until, within};

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
async fn what_is_not_protected_and_event_streams_may_rest() {
    let go_on = Arc::new(Notify::new());
    for (request, content_type) in [
        (get("/"), "text/plain"),
        (
            post("/charges", "k", "{}"),
            "text/event-stream; charset=utf-8",
        ),
    ] {
        let upstream = {
            let go_on = Arc::clone(&go_on);
            Upstream::start(move |_| {
                let head = format!(
                    "HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\nContent-Length: 5\r\n\r\n"
                );
                let (wait, rest) = (Step::Wait(Arc::clone(&go_on)), "later".to_owned());
                vec![Step::Write(head), wait, Step::Write(rest)]
            })
            .await
        };
        let sidecar = File::new(upstream.address).start().await;
        let mut client = sidecar.client().await;
        client.send(&request).await;
        assert_eq!(client.head().await.status(), 200);
        tokio::time::sleep(Duration::from_hours(1)).await;
        go_on.notify_one();
        let mut body = [0; 5];
        within(client.0.read_exact(&mut body)).await.unwrap();
        assert_eq!(&body, b"later", "{content_type}");
    }
}
