//! Clients of HTTP/2 that ask for more than they may, or without end.

use std::time::Duration;

use crate::frames::{
    ALL, CONTINUATION, DATA, END_HEADERS, END_STREAM, Frame, Frames, Outcome, PING, RST_STREAM,
    SETTINGS, block, fields,
};
use crate::malformed::serving;
use crate::support::{File, Step, Upstream, get, ok, until};

const REFUSED_STREAM: u32 = 7;
const ENHANCE_YOUR_CALM: u32 = 11;

#[tokio::test]
async fn no_more_streams_are_served_than_the_sidecar_announced() {
    let upstream = Upstream::start(|_| vec![Step::Hang]).await;
    let sidecar = File::new(upstream.address).start().await;
    let mut client = Frames::connect(&sidecar).await;
    let announced = client
        .settings
        .chunks(6)
        .find(|setting| setting[..2] == [0, 3]);
    assert_eq!(announced, Some(&[0, 3, 0, 0, 0, 200][..]));
    for at in 0..200 {
        client
            .send(&Frame::head(ALL, 2 * at + 1, &fields("GET", "/", &[])))
            .await;
    }
    until(async || upstream.seen().len() == 200).await;
    client
        .send(&Frame::head(ALL, 401, &fields("GET", "/", &[])))
        .await;
    assert_eq!(client.outcome(401).await, Outcome::Reset(REFUSED_STREAM));
    assert_eq!(upstream.seen().len(), 200);
}

#[tokio::test]
async fn a_client_that_resets_its_streams_at_once_is_sent_away() {
    let (upstream, sidecar) = serving().await;
    let mut client = Frames::connect(&sidecar).await;
    let mut burst = Vec::new();
    for at in 0..2000 {
        let stream = 2 * at + 1;
        burst.extend(Frame::head(ALL, stream, &fields("GET", "/", &[])).bytes());
        burst.extend(Frame::new(RST_STREAM, 0, stream, [0, 0, 0, 8]).bytes());
    }
    client.write(&burst).await;
    assert_eq!(
        client.outcome(9999).await,
        Outcome::GoAway(ENHANCE_YOUR_CALM)
    );
    assert!(upstream.seen().len() < 200, "{}", upstream.seen().len());
}

/// Each stream has reached the upstream before it is reset, and leaves its place to the next one.
#[tokio::test]
async fn a_client_that_resets_streams_that_run_is_sent_away_and_others_are_served() {
    let upstream = Upstream::start(|seen| match seen.target() {
        "/slow" => vec![Step::Hang],
        _ => ok("done"),
    })
    .await;
    let file = File::new(upstream.address).top("limits.max_resets_per_second = 250");
    let sidecar = file.top("metrics = '127.0.0.1:0'").start().await;
    let mut client = Frames::connect(&sidecar).await;
    for round in 0..4 {
        let streams = (0..100).map(|at| 200 * round + 2 * at + 1);
        for stream in streams.clone() {
            let head = Frame::head(ALL, stream, &fields("GET", "/slow", &[]));
            client.send(&head).await;
        }
        tokio::time::sleep(Duration::from_millis(60)).await;
        for stream in streams {
            client
                .send(&Frame::new(RST_STREAM, 0, stream, [0, 0, 0, 8]))
                .await;
        }
    }
    assert_eq!(
        client.outcome(9999).await,
        Outcome::GoAway(ENHANCE_YOUR_CALM)
    );
    assert_eq!(sidecar.refusals("max_resets_per_second").await, 1);
    let reached = upstream.seen().len();
    assert!((200..400).contains(&reached), "{reached}");
    assert_eq!(sidecar.exchange(&get("/")).await.status(), 200);
}

#[tokio::test]
async fn a_client_may_give_up_all_its_streams_at_once() {
    let upstream = Upstream::start(|_| vec![Step::Hang]).await;
    let sidecar = File::new(upstream.address).start().await;
    let mut client = Frames::connect(&sidecar).await;
    for at in 0..200 {
        let head = Frame::head(ALL, 2 * at + 1, &fields("GET", "/", &[]));
        client.send(&head).await;
    }
    until(async || upstream.seen().len() == 200).await;
    for at in 0..200 {
        client
            .send(&Frame::new(RST_STREAM, 0, 2 * at + 1, [0, 0, 0, 8]))
            .await;
    }
    client
        .send(&Frame::head(ALL, 401, &fields("GET", "/healthz", &[])))
        .await;
    assert_eq!(
        client.outcome(401).await,
        Outcome::Response(200, b"ok\n".to_vec())
    );
}

#[tokio::test]
async fn a_head_without_end_and_empty_frames_without_end_are_no_work() {
    let (upstream, sidecar) = serving().await;
    let path = fields("POST", "/", &[]);
    for (first, then) in [
        (
            Frame::head(END_STREAM, 1, &path),
            Frame::new(CONTINUATION, 0, 1, block(&[("x", "a")])),
        ),
        (Frame::head(0, 1, &path), Frame::new(CONTINUATION, 0, 1, [])),
        (
            Frame::head(END_HEADERS, 1, &path),
            Frame::new(DATA, 0, 1, []),
        ),
    ] {
        let mut client = Frames::connect(&sidecar).await;
        client.send(&first).await;
        client.write(&then.bytes().repeat(2000)).await;
        let outcome = client.outcome(1).await;
        assert_eq!(outcome, Outcome::GoAway(ENHANCE_YOUR_CALM), "{then:?}");
    }
    assert!(upstream.seen().is_empty());
}

/// The sidecar reads no more than it can answer, so its memory does not grow.
#[tokio::test]
async fn what_asks_for_answers_is_not_read_from_a_client_that_reads_none() {
    let (_upstream, sidecar) = serving().await;
    for frame in [
        Frame::new(PING, 0, 0, [0; 8]),
        Frame::new(SETTINGS, 0, 0, []),
        Frame::new(SETTINGS, 0, 0, [0, 4, 0, 0, 0xff, 0xff]),
    ] {
        let mut client = Frames::connect(&sidecar).await;
        assert!(
            client.is_stopped(&frame.bytes(), 128 << 20).await,
            "{frame:?}"
        );
    }
    // Others are served meanwhile.
    assert_eq!(sidecar.exchange(&get("/")).await.status(), 200);
}
