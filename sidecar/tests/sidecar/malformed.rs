//! Messages of HTTP/2 that RFC 9113 calls malformed, and connections that break its rules.

use crate::frames::{
    ALL, CONTINUATION, DATA, END_HEADERS, END_STREAM, Frame, Frames, GOAWAY, HEADERS, Outcome,
    PING, RST_STREAM, SETTINGS, WINDOW_UPDATE, fields,
};
use crate::support::{File, Running, Upstream, ok};

const PROTOCOL_ERROR: u32 = 1;
const FLOW_CONTROL_ERROR: u32 = 3;
const STREAM_CLOSED: u32 = 5;
const FRAME_SIZE_ERROR: u32 = 6;
const COMPRESSION_ERROR: u32 = 9;

pub(crate) async fn serving() -> (Upstream, Running) {
    let upstream = Upstream::start(|_| ok("done")).await;
    let sidecar = File::new(upstream.address).start().await;
    (upstream, sidecar)
}

/// RFC 9113, 8.1.1: a malformed request is a stream error, and the server may send a 400.
#[tokio::test]
async fn a_malformed_request_is_refused_alone() {
    let (upstream, sidecar) = serving().await;
    let get = |more: &[(&'static str, &'static str)]| fields("GET", "/", more);
    let without = |name: &str| {
        let mut all = get(&[]);
        all.retain(|(own, _)| *own != name);
        all
    };
    let replaced = |name: &str, value: &'static str| {
        let mut all = get(&[]);
        for (own, current) in &mut all {
            if *own == name {
                *current = value;
            }
        }
        all
    };
    for fields in [
        // 8.2.1: names and values.
        get(&[("X-Upper", "a")]),
        get(&[("x y", "a")]),
        get(&[("x:y", "a")]),
        get(&[("", "a")]),
        get(&[("x", "a\0b")]),
        get(&[("x", "a\r\nb: c")]),
        get(&[("x", " a")]),
        get(&[("x", "a ")]),
        get(&[("x", "\ta")]),
        get(&[("idempotency-key", "k\t")]),
        // 8.2.2: fields of one connection.
        get(&[("connection", "close")]),
        get(&[("keep-alive", "timeout=5")]),
        get(&[("proxy-connection", "close")]),
        get(&[("transfer-encoding", "chunked")]),
        get(&[("upgrade", "websocket")]),
        get(&[("te", "gzip")]),
        // 8.3: fields that begin with a colon.
        get(&[(":path", "/")]),
        get(&[(":status", "200")]),
        get(&[(":other", "a")]),
        get(&[("x", "a"), (":method", "GET")]),
        without(":method"),
        without(":scheme"),
        without(":path"),
        without(":authority"),
        replaced(":path", ""),
        replaced(":path", "a"),
        replaced(":path", "*"),
        replaced(":path", "http://a.example/"),
        replaced(":method", "G T"),
        replaced(":method", ""),
        replaced(":scheme", ""),
        replaced(":authority", ""),
        replaced(":authority", "user@a.example"),
        replaced(":authority", "a/b"),
        replaced(":authority", "a b"),
        get(&[("host", "b.example")]),
        get(&[("host", "a.example"), ("host", "a.example")]),
        get(&[("host", "")]),
        // 8.1.1: lengths.
        get(&[("content-length", "2")]),
        get(&[("content-length", "x")]),
        get(&[("content-length", "+0")]),
        get(&[("content-length", "0"), ("content-length", "0")]),
        get(&[("content-length", "0, 0")]),
    ] {
        let mut client = Frames::connect(&sidecar).await;
        client.send(&Frame::head(ALL, 1, &fields)).await;
        let outcome = client.outcome(1).await;
        match &outcome {
            Outcome::Reset(PROTOCOL_ERROR) | Outcome::Response(400, _) => {}
            // A server may end the whole connection (RFC 9113, 5.4.1): h2 does so for names and values.
            Outcome::GoAway(PROTOCOL_ERROR) => client = Frames::connect(&sidecar).await,
            _ => panic!("{fields:?}: {outcome:?}"),
        }
        // Other requests are served.
        client.send(&Frame::head(ALL, 3, &get(&[]))).await;
        let next = Outcome::Response(200, b"done".into());
        assert_eq!(client.outcome(3).await, next, "{fields:?}");
        let seen = upstream.seen().len();
        assert_eq!(seen, 1, "{fields:?}");
        upstream.forget();
    }
}

#[tokio::test]
async fn a_body_of_another_length_is_refused_and_reaches_nobody() {
    let (upstream, sidecar) = serving().await;
    for key in [&[][..], &[("idempotency-key", "k")]] {
        let head = |length| {
            let mut all = fields("POST", "/a", &[("content-length", length)]);
            all.extend(key);
            Frame::head(END_HEADERS, 1, &all)
        };
        for (length, data, flags) in [
            ("3", "hello", END_STREAM),
            ("3", "hello", 0),
            ("9", "hello", END_STREAM),
            ("0", "hello", END_STREAM),
        ] {
            let mut client = Frames::connect(&sidecar).await;
            client.send(&head(length)).await;
            client.send(&Frame::new(DATA, flags, 1, data)).await;
            assert_eq!(
                client.outcome(1).await,
                Outcome::Reset(PROTOCOL_ERROR),
                "{length}"
            );
        }
        // Trailers that are no trailers.
        for (flags, trailers) in [
            (ALL, &[("X-Upper", "a")][..]),
            (END_HEADERS, &[("x-sum", "7")]),
        ] {
            let mut client = Frames::connect(&sidecar).await;
            client.send(&head("5")).await;
            client.send(&Frame::new(DATA, 0, 1, "hello")).await;
            client.send(&Frame::head(flags, 1, trailers)).await;
            let outcome = client.outcome(1).await;
            assert!(
                matches!(
                    outcome,
                    Outcome::Reset(PROTOCOL_ERROR) | Outcome::GoAway(PROTOCOL_ERROR)
                ),
                "{trailers:?}: {outcome:?}"
            );
        }
    }
    assert!(upstream.seen().is_empty());
}

/// Not even a reset without an error ends a body: only `END_STREAM` does.
#[tokio::test]
async fn a_body_that_its_client_resets_is_never_taken_for_whole() {
    const NO_ERROR: u32 = 0;
    const CANCEL: u32 = 8;
    let (upstream, sidecar) = serving().await;
    for key in [&[][..], &[("idempotency-key", "k")]] {
        let mut head = fields("POST", "/a", &[("expect", "100-continue")]);
        head.extend(key);
        for code in [[NO_ERROR; 10].as_slice(), &[CANCEL, STREAM_CLOSED]].concat() {
            let mut client = Frames::connect(&sidecar).await;
            client.send(&Frame::head(END_HEADERS, 1, &head)).await;
            // The body is read from now on.
            assert_eq!(client.next(HEADERS).await.status(), 100);
            client.send(&Frame::new(DATA, 0, 1, "half")).await;
            client.send(&Frame::new(PING, 0, 0, [0; 8])).await;
            client.next(PING).await;
            let reset = Frame::new(RST_STREAM, 0, 1, code.to_be_bytes());
            client.send(&reset).await;
            client
                .send(&Frame::head(ALL, 3, &fields("GET", "/next", &[])))
                .await;
            let next = Outcome::Response(200, b"done".into());
            assert_eq!(client.outcome(3).await, next);
        }
        // Whatever is executed has arrived by then.
        let mut client = Frames::connect(&sidecar).await;
        client
            .send(&Frame::head(END_HEADERS, 1, &fields("POST", "/a", key)))
            .await;
        client.send(&Frame::new(DATA, END_STREAM, 1, "whole")).await;
        let whole = Outcome::Response(200, b"done".into());
        assert_eq!(client.outcome(1).await, whole);
    }
    let bodies: Vec<_> = upstream
        .seen()
        .iter()
        .map(|seen| seen.text().to_owned())
        .collect();
    let posted: Vec<_> = bodies.iter().filter(|body| !body.is_empty()).collect();
    assert_eq!(posted, ["whole", "whole"]);
}

#[tokio::test]
async fn a_connection_that_breaks_the_rules_is_ended() {
    let (upstream, sidecar) = serving().await;
    let open = Frame::head(END_HEADERS, 1, &fields("POST", "/a", &[]));
    let whole = Frame::head(ALL, 1, &fields("GET", "/a", &[]));
    let setting = |name: u16, value: u32| {
        let payload = [&name.to_be_bytes()[..], &value.to_be_bytes()].concat();
        Frame::new(SETTINGS, 0, 0, payload)
    };
    let window = |stream: u32, by: u32| Frame::new(WINDOW_UPDATE, 0, stream, by.to_be_bytes());
    for (frames, code) in [
        // 4.1, 4.2: frames of a wrong size.
        (
            vec![open.clone(), Frame::new(DATA, 0, 1, vec![0; 20_000])],
            FRAME_SIZE_ERROR,
        ),
        (vec![Frame::new(SETTINGS, 0, 0, [0; 5])], FRAME_SIZE_ERROR),
        (vec![Frame::new(SETTINGS, 1, 0, [0; 6])], FRAME_SIZE_ERROR),
        (vec![Frame::new(PING, 0, 0, [0; 7])], FRAME_SIZE_ERROR),
        (
            vec![Frame::new(WINDOW_UPDATE, 0, 0, [0; 3])],
            FRAME_SIZE_ERROR,
        ),
        (
            vec![open.clone(), Frame::new(RST_STREAM, 0, 1, [0; 3])],
            FRAME_SIZE_ERROR,
        ),
        // 4.3: a head that cannot be decoded.
        (
            vec![Frame::new(HEADERS, ALL, 1, [0xff; 20])],
            COMPRESSION_ERROR,
        ),
        // 5.1, 5.1.1: frames on streams where they cannot be.
        (vec![Frame::new(DATA, 0, 1, "a")], PROTOCOL_ERROR),
        (vec![Frame::new(DATA, 0, 0, "a")], PROTOCOL_ERROR),
        (vec![Frame::new(RST_STREAM, 0, 1, [0; 4])], PROTOCOL_ERROR),
        (vec![window(1, 1)], PROTOCOL_ERROR),
        (
            vec![Frame::head(ALL, 2, &fields("GET", "/", &[]))],
            PROTOCOL_ERROR,
        ),
        (
            vec![Frame::head(ALL, 0, &fields("GET", "/", &[]))],
            PROTOCOL_ERROR,
        ),
        (vec![Frame::new(PING, 0, 1, [0; 8])], PROTOCOL_ERROR),
        (vec![Frame::new(SETTINGS, 0, 1, [])], PROTOCOL_ERROR),
        (vec![Frame::new(GOAWAY, 0, 1, [0; 8])], PROTOCOL_ERROR),
        // 6.1, 6.2: padding that is longer than its frame.
        (
            vec![open.clone(), Frame::new(DATA, 8, 1, [9, 0])],
            PROTOCOL_ERROR,
        ),
        // 6.5.2: settings of no legal value.
        (vec![setting(2, 2)], PROTOCOL_ERROR),
        (vec![setting(4, 1 << 31)], FLOW_CONTROL_ERROR),
        (vec![setting(5, 1)], PROTOCOL_ERROR),
        // 6.9: windows.
        (vec![window(0, 0)], PROTOCOL_ERROR),
        (vec![window(0, (1 << 31) - 1)], FLOW_CONTROL_ERROR),
        // 6.10: a head in parts, with something between them.
        (
            vec![Frame::new(CONTINUATION, END_HEADERS, 1, [])],
            PROTOCOL_ERROR,
        ),
        (
            vec![
                Frame::head(END_STREAM, 1, &fields("GET", "/", &[])),
                Frame::new(PING, 0, 0, [0; 8]),
            ],
            PROTOCOL_ERROR,
        ),
        // 8.4: a client pushes nothing.
        (
            vec![whole, Frame::new(5, END_HEADERS, 1, [0, 0, 0, 2])],
            PROTOCOL_ERROR,
        ),
    ] {
        let mut client = Frames::connect(&sidecar).await;
        for frame in &frames {
            client.send(frame).await;
        }
        // Stream 9 is never answered.
        let outcome = client.outcome(9).await;
        // For some frames h2 has no code but the general one (RFC 9113, 7).
        let codes = [code, PROTOCOL_ERROR];
        let ended = codes.map(Outcome::GoAway).contains(&outcome);
        assert!(ended, "{frames:?}: {outcome:?}");
    }
    assert!(upstream.seen().len() <= 1);
}

/// h2 drops such fields. Nothing of them reaches the upstream.
#[tokio::test]
async fn trailers_say_nothing_that_begins_with_a_colon() {
    let (upstream, sidecar) = serving().await;
    let mut client = Frames::connect(&sidecar).await;
    let head = fields("POST", "/a", &[("trailer", "x-sum")]);
    client.send(&Frame::head(END_HEADERS, 1, &head)).await;
    client.send(&Frame::new(DATA, 0, 1, "hello")).await;
    let trailers = [(":path", "/b"), ("x-sum", "7")];
    client.send(&Frame::head(ALL, 1, &trailers)).await;
    let done = Outcome::Response(200, b"done".into());
    assert_eq!(client.outcome(1).await, done);
    assert_eq!(upstream.last().target(), "/a");
    assert_eq!(
        upstream.last().trailers,
        [("x-sum".to_owned(), "7".to_owned())]
    );
}
