//! These upstreams do not respond, or do not respond completely.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::net::{TcpSocket, TcpStream};

use crate::support::{
    File, Message, Running, Step, Upstream, answer, get, ok, post, until, within,
};

/// Starts an upstream that carries out `first` for the first request, and responds
/// `done` to the others.
pub(crate) async fn at_first(first: Vec<Step>) -> Upstream {
    let asked = Arc::<AtomicUsize>::default();
    Upstream::start(move |_| {
        if asked.fetch_add(1, Ordering::SeqCst) == 0 {
            first.clone()
        } else {
            ok("done")
        }
    })
    .await
}

pub(crate) async fn charge(sidecar: &Running) -> Message {
    sidecar.exchange(&post("/charges", "k", "{}")).await
}

#[tokio::test]
async fn an_upstream_that_is_not_reached_gives_the_key_back() {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap();
    let sidecar = File::new(address).start().await;
    for _ in 0..2 {
        let refused = charge(&sidecar).await;
        assert_eq!(
            (refused.status(), refused.code().as_str()),
            (502, "upstream-unreachable")
        );
    }
    let upstream = Upstream::listen(socket.listen(16).unwrap(), |_| ok("done"));
    let answer = charge(&sidecar).await;
    assert_eq!((answer.status(), answer.text()), (200, "done"));
    assert_eq!(upstream.last().field("idempotency-attempt"), Some("3"));
}

#[tokio::test]
async fn an_upstream_that_does_not_accept_in_time_gives_the_key_back() {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    // This listener accepts no connection, so its queue is soon full.
    let mut queue = Vec::new();
    while let Ok(stream) =
        tokio::time::timeout(Duration::from_millis(100), TcpStream::connect(address)).await
    {
        queue.push(stream.unwrap());
    }
    let file = File::new(address).top("connect_timeout = '100ms'");
    let sidecar = file.start().await;
    let refused = charge(&sidecar).await;
    assert_eq!(
        (refused.status(), refused.code().as_str()),
        (502, "upstream-unreachable")
    );
    let upstream = Upstream::listen(listener, |_| ok("done"));
    queue.clear();
    until(async || charge(&sidecar).await.status() == 200).await;
    assert!(upstream.last().field("idempotency-attempt") > Some("1"));
}

/// Checks that a second attempt is rejected while the first attempt may still be
/// running, and is executed after the first attempt's lease.
async fn is_in_doubt_until_its_lease_lapses(upstream: &Upstream, sidecar: &Running) {
    let second = charge(sidecar).await;
    assert_eq!(
        (second.status(), second.code().as_str()),
        (409, "in-flight")
    );
    assert!(second.field("retry-after").is_some());
    assert_eq!(upstream.seen().len(), 1);
    let mut after = second;
    until(async || {
        after = charge(sidecar).await;
        after.status() != 409
    })
    .await;
    assert_eq!((after.status(), after.text()), (200, "done"));
    assert_eq!(upstream.seen().len(), 2);
    assert_eq!(upstream.last().field("idempotency-attempt"), Some("2"));
}

#[tokio::test]
async fn an_upstream_that_breaks_off_keeps_the_record_in_flight_until_its_lease_lapses() {
    let upstream = at_first(vec![Step::Close]).await;
    let file = File::new(upstream.address).idempotency("lease = '1s'");
    let sidecar = file.start().await;
    let broken = charge(&sidecar).await;
    assert_eq!(
        (broken.status(), broken.code().as_str()),
        (502, "upstream-broken")
    );
    is_in_doubt_until_its_lease_lapses(&upstream, &sidecar).await;
}

#[tokio::test]
async fn an_upstream_that_breaks_off_within_its_status_line_is_no_other() {
    let part = Step::Write("HTTP/1.1 20".to_owned());
    let upstream = at_first(vec![part, Step::Close]).await;
    let file = File::new(upstream.address).idempotency("lease = '1s'");
    let sidecar = file.start().await;
    assert_eq!(charge(&sidecar).await.code(), "upstream-broken");
    is_in_doubt_until_its_lease_lapses(&upstream, &sidecar).await;
}

#[tokio::test]
async fn an_upstream_that_does_not_answer_in_time_is_in_doubt_too() {
    let upstream = at_first(vec![Step::Hang]).await;
    let file = File::new(upstream.address)
        .top("upstream_timeout = '200ms'")
        .idempotency("lease = '2s'");
    let sidecar = file.start().await;
    let late = charge(&sidecar).await;
    assert_eq!(
        (late.status(), late.code().as_str()),
        (504, "upstream-timeout")
    );
    let promised = "until the lease of this attempt has lapsed it is not executed again";
    assert!(late.text().contains(promised), "{}", late.text());
    is_in_doubt_until_its_lease_lapses(&upstream, &sidecar).await;
}

#[tokio::test]
async fn under_refuse_what_is_in_doubt_stays_so() {
    let upstream = at_first(vec![Step::Close]).await;
    let sidecar = File::new(upstream.address)
        .idempotency("lease = '300ms'")
        .idempotency("on_lapsed_lease = 'refuse'")
        .start()
        .await;
    assert_eq!(charge(&sidecar).await.code(), "upstream-broken");
    until(async || charge(&sidecar).await.code() == "outcome-unknown").await;
    assert_eq!(upstream.seen().len(), 1);
}

#[tokio::test]
async fn an_answer_whose_body_breaks_off_is_never_taken_for_whole() {
    let cut = |status: &str| {
        let head = format!("HTTP/1.1 {status}\r\nContent-Length: 10\r\n\r\nhalf");
        vec![Step::Write(head), Step::Close]
    };
    for (status, code) in [
        // The status says that the operation took place.
        ("201 Created", "response-unavailable"),
        // The status does not tell whether the operation has ended.
        ("503 Service Unavailable", "in-flight"),
    ] {
        let upstream = at_first(cut(status)).await;
        let sidecar = File::new(upstream.address).start().await;
        let mut client = sidecar.client().await;
        client.send(&post("/charges", "k", "{}")).await;
        assert!(client.try_answer().await.is_none(), "{status}");
        let second = charge(&sidecar).await;
        assert_eq!(
            (second.status(), second.code().as_str()),
            (409, code),
            "{status}"
        );
        assert_eq!(upstream.seen().len(), 1);
    }
}

#[tokio::test]
async fn an_upstream_that_is_still_at_it_by_its_own_word_is_asked_again() {
    let conflict = |fields: &str| answer("409 Conflict", fields, "still running");
    let upstream = at_first(conflict("Retry-After: 1\r\n")).await;
    let sidecar = File::new(upstream.address).start().await;
    assert_eq!(charge(&sidecar).await.text(), "still running");
    assert_eq!(charge(&sidecar).await.text(), "done");
    // A conflict without `Retry-After` is recorded like any other response.
    let upstream = at_first(conflict("")).await;
    let sidecar = File::new(upstream.address).start().await;
    for _ in 0..2 {
        assert_eq!(charge(&sidecar).await.text(), "still running");
    }
    assert_eq!(upstream.seen().len(), 1);
}

#[tokio::test]
async fn without_a_key_nobody_is_told_to_send_it_again() {
    let upstream = Upstream::start(|_| vec![Step::Close]).await;
    let sidecar = File::new(upstream.address).start().await;
    let broken = sidecar.exchange(&get("/")).await;
    assert_eq!(
        (broken.status(), broken.code().as_str()),
        (502, "upstream-broken")
    );
    let problem: serde_json::Value = serde_json::from_slice(&broken.body).unwrap();
    assert_eq!(problem["retry"], serde_json::Value::Null);
    assert_eq!(upstream.seen().len(), 1);
}

/// The upstream reads a second request on a kept connection, and closes the
/// connection. A connection pool that sent the request again would execute the
/// request twice.
#[tokio::test]
async fn a_request_on_a_connection_that_dies_is_not_sent_again() {
    for protected in [true, false] {
        let upstream = Upstream::start(|request| {
            if request.target() == "/warm" {
                ok("warm")
            } else {
                vec![Step::Close]
            }
        })
        .await;
        let sidecar = File::new(upstream.address).start().await;
        let mut client = sidecar.client().await;
        client.send(&get("/warm")).await;
        assert_eq!(client.answer().await.text(), "warm");
        let request = if protected {
            post("/charges", "k", "{}")
        } else {
            "POST /charges HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}".to_owned()
        };
        client.send(&request).await;
        assert_eq!(client.answer().await.code(), "upstream-broken");
        assert_eq!(upstream.seen().len(), 2);
    }
}

/// This upstream closes each connection after its response without saying so
/// before, as most servers do after a while. A request that finds its connection
/// dead goes to another connection, and no request is executed twice.
#[tokio::test]
async fn a_request_that_finds_its_connection_dead_goes_to_another_once() {
    let upstream = Upstream::start(|_| {
        let mut steps = ok("done");
        steps.push(Step::Close);
        steps
    })
    .await;
    let sidecar = File::new(upstream.address).start().await;
    let mut client = sidecar.client().await;
    let mut served = 0;
    for key in 0..200 {
        client.send(&post("/charges", &key.to_string(), "{}")).await;
        let answer = within(client.answer()).await;
        served += usize::from(answer.status() == 200);
        if key % 3 == 0 {
            tokio::task::yield_now().await;
        }
    }
    let mut times = HashMap::<String, usize>::new();
    for request in upstream.seen() {
        let key = request.field("idempotency-key").unwrap().to_owned();
        *times.entry(key).or_default() += 1;
    }
    assert!(times.values().all(|times| *times == 1), "{times:?}");
    assert!(served > 100, "{served}");
}
