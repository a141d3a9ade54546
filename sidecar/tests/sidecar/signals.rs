//! What the program does when it gets a signal, and when nobody reads its log.

use std::sync::Arc;

use tokio::process::Command;
use tokio::sync::Notify;

use crate::program::Serving;
use crate::support::{Client, File, Step, Upstream, get, nobody, ok, post, until, within};

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
async fn a_signal_that_asks_for_an_end_finishes_what_runs() {
    for signal in ["-TERM", "-INT", "-QUIT"] {
        let go_on = Arc::new(Notify::new());
        let upstream = waiting(&go_on).await;
        let name = format!("signal{signal}.toml");
        let mut serving = Serving::start(&name, &File::new(upstream.address)).await;
        let mut client = Client::connect(serving.address).await;
        client.send(&post("/a", "k", "{}")).await;
        until(async || upstream.seen().len() == 1).await;
        serving.signal(signal).await;
        serving.says("draining").await;
        go_on.notify_one();
        assert_eq!(client.answer().await.text(), "done");
        let status = within(serving.child.wait()).await.unwrap();
        assert_eq!(status.code(), Some(0));
    }
}

#[tokio::test]
async fn a_second_signal_of_any_kind_waits_for_nothing() {
    for (first, second) in [("-TERM", "-TERM"), ("-QUIT", "-INT")] {
        waits_for_nothing(first, second).await;
    }
}

async fn waits_for_nothing(first: &str, second: &str) {
    let go_on = Arc::new(Notify::new());
    let upstream = waiting(&go_on).await;
    let mut serving = Serving::start(
        &format!("twice{first}{second}.toml"),
        &File::new(upstream.address),
    )
    .await;
    let mut client = Client::connect(serving.address).await;
    client.send(&post("/a", "k", "{}")).await;
    until(async || upstream.seen().len() == 1).await;
    serving.signal(first).await;
    serving.says("draining").await;
    serving.signal(second).await;
    let status = within(serving.child.wait()).await.unwrap();
    assert_eq!(status.code(), Some(1));
    assert!(client.is_closed().await);
}

/// Service managers send SIGHUP to have a program read its files again.
#[tokio::test]
async fn sighup_ends_nothing() {
    let upstream = Upstream::start(|_| ok("done")).await;
    let mut serving = Serving::start("hup.toml", &File::new(upstream.address)).await;
    for _ in 0..2 {
        serving.signal("-HUP").await;
        serving.says("SIGHUP").await;
    }
    let mut client = Client::connect(serving.address).await;
    client.send(&get("/")).await;
    assert_eq!(client.answer().await.text(), "done");
    serving.signal("-TERM").await;
    serving.says("draining").await;
    let status = within(serving.child.wait()).await.unwrap();
    assert_eq!(status.code(), Some(0));
}

#[tokio::test]
async fn a_log_that_nobody_reads_stops_nothing() {
    let file = File::new(nobody());
    let serving = Serving::start("unread.toml", &file).await;
    let Serving {
        mut child,
        address,
        log,
        ..
    } = serving;
    drop(log);
    for _ in 0..2 {
        let mut client = Client::connect(address).await;
        // The sidecar logs that the upstream is not reached.
        client.send(&get("/")).await;
        assert_eq!(client.answer().await.status(), 502);
    }
    let id = child.id().unwrap().to_string();
    let sent = Command::new("kill").args(["-TERM", &id]).status().await;
    assert!(sent.unwrap().success());
    let status = within(child.wait()).await.unwrap();
    assert_eq!(status.code(), Some(0));
}

/// A program whose error is not read keeps its exit status.
#[tokio::test]
async fn an_error_that_nobody_reads_has_the_same_status() {
    for (arguments, code) in [
        (&["--wrong"][..], 2),
        (&["--config", "/no/such/file.toml"], 1),
    ] {
        let mut child = crate::program::program()
            .args(arguments)
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stderr.take());
        let status = within(child.wait()).await.unwrap();
        assert_eq!(status.code(), Some(code));
    }
}
