//! HTTP/1: each byte of a server whose layer observes is a byte of a server without a layer.

use crate::served::{Client, Events, Http, observing, serve};

/// What a client does.
#[derive(Clone, Copy, Debug)]
enum Step {
    Write(&'static str),
    /// Reads until so many of these texts have come.
    Read(&'static str, usize),
    Large(usize),
}
use Step::{Large, Read, Write};

const ECHO: &str = "POST /echo HTTP/1.1\r\nhost: a\r\nx-api-key: alice\r\n";

/// A request whose connection ends after it.
macro_rules! last {
    ($path:literal, $headers:literal, $body:literal) => {
        concat!(
            "POST ",
            $path,
            " HTTP/1.1\r\nhost: a\r\nx-api-key: alice\r\nconnection: close\r\n",
            $headers,
            "\r\n",
            $body
        )
    };
}

const KEYED: &str = last!(
    "/echo",
    "idempotency-key: k\r\ncontent-length: 4\r\n",
    "paid"
);

/// Each connection in turn, and the steps on it.
const CASES: &[(&str, &[&[Step]])] = &[
    (
        "the first request and two retries",
        &[&[Write(KEYED)], &[Write(KEYED)], &[Write(KEYED)]],
    ),
    (
        "another body with the same key",
        &[
            &[Write(KEYED)],
            &[Write(last!(
                "/echo",
                "idempotency-key: k\r\ncontent-length: 5\r\n",
                "other"
            ))],
        ],
    ),
    (
        "keys that are refused elsewhere",
        &[
            &[Write(last!(
                "/echo",
                "idempotency-key: \r\ncontent-length: 1\r\n",
                "a"
            ))],
            &[Write(last!(
                "/echo",
                "idempotency-key: a\r\nidempotency-key: b\r\ncontent-length: 1\r\n",
                "a"
            ))],
            &[Write(last!("/required", "content-length: 1\r\n", "a"))],
            &[Write(
                "POST /echo HTTP/1.1\r\nhost: a\r\nconnection: close\r\nidempotency-key: k\r\ncontent-length: 1\r\n\r\na",
            )],
        ],
    ),
    (
        "chunks that the handler echoes one by one, and trailers in both directions",
        &[&[
            Write(ECHO),
            Write(
                "idempotency-key: c\r\nte: trailers\r\nconnection: close, te\r\ntransfer-encoding: chunked\r\ntrailer: x-end\r\n\r\n",
            ),
            Write("3\r\none\r\n"),
            Read("one\r\n", 1),
            Write("3\r\ntwo\r\n"),
            Read("two\r\n", 1),
            Write("0\r\nx-end: 1\r\n\r\n"),
        ]],
    ),
    (
        "trailers of the handler's own",
        &[&[Write(last!(
            "/trailers",
            "idempotency-key: t\r\nte: trailers\r\ncontent-length: 1\r\n",
            "a"
        ))]],
    ),
    (
        "a client that waits to be told to go on",
        &[&[
            Write("POST /whole HTTP/1.1\r\nhost: a\r\nx-api-key: alice\r\n"),
            Write(
                "idempotency-key: e\r\nexpect: 100-continue\r\nconnection: close\r\ncontent-length: 2\r\n\r\n",
            ),
            Read("HTTP/1.1 100 Continue\r\n\r\n", 1),
            Write("ok"),
        ]],
    ),
    (
        "a handler that does not read the body that a client waits with",
        &[&[Write(last!(
            "/ignore",
            "idempotency-key: i\r\nexpect: 100-continue\r\ncontent-length: 9\r\n",
            ""
        ))]],
    ),
    (
        "a body that the handler does not read",
        &[&[Write(last!(
            "/ignore",
            "idempotency-key: i\r\ncontent-length: 4\r\n",
            "paid"
        ))]],
    ),
    (
        "a handler that fails, and that panics",
        &[
            &[Write(last!(
                "/fails",
                "idempotency-key: f\r\ncontent-length: 1\r\n",
                "a"
            ))],
            &[Write(last!(
                "/error",
                "idempotency-key: f\r\ncontent-length: 1\r\n",
                "a"
            ))],
            &[Write(last!(
                "/panic",
                "idempotency-key: f\r\ncontent-length: 1\r\n",
                "a"
            ))],
            &[Write(last!(
                "/broken",
                "idempotency-key: f\r\ncontent-length: 1\r\n",
                "a"
            ))],
            &[Write(last!(
                "/panic-late",
                "idempotency-key: f\r\ncontent-length: 1\r\n",
                "a"
            ))],
        ],
    ),
    (
        "no body at all, and a response without one",
        &[
            &[Write(last!("/echo", "idempotency-key: n\r\n", ""))],
            &[Write(last!(
                "/echo",
                "idempotency-key: n\r\ncontent-length: 0\r\n",
                ""
            ))],
            &[Write(last!(
                "/none",
                "idempotency-key: n2\r\ncontent-length: 1\r\n",
                "a"
            ))],
        ],
    ),
    (
        "more than is recorded, in both directions",
        &[
            &[Write(last!(
                "/large",
                "idempotency-key: l\r\ncontent-length: 1\r\n",
                "a"
            ))],
            &[
                Write(last!(
                    "/large",
                    "idempotency-key: l2\r\ncontent-length: 2097152\r\n",
                    ""
                )),
                Large(2 << 20),
            ],
        ],
    ),
    (
        "one request after another on a connection, and two at once",
        &[&[
            Write(ECHO),
            Write("idempotency-key: p\r\ncontent-length: 1\r\n\r\na"),
            Read("\r\n0\r\n\r\n", 1),
            Write(ECHO),
            Write("idempotency-key: p\r\ncontent-length: 1\r\n\r\na"),
            Write(KEYED),
        ]],
    ),
    (
        "a client that speaks HTTP/1.0",
        &[&[Write(
            "POST /echo HTTP/1.0\r\nx-api-key: alice\r\nidempotency-key: o\r\ncontent-length: 1\r\n\r\na",
        )]],
    ),
    (
        "chunks that are no chunks",
        &[&[
            Write(ECHO),
            Write("idempotency-key: m\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n"),
            Read("one\r\n", 1),
            Write("no chunk\r\n"),
        ]],
    ),
];

async fn transcript(address: std::net::SocketAddr, connections: &[&[Step]]) -> Vec<String> {
    let mut all = Vec::new();
    for steps in connections {
        let mut client = Client::connect(address).await;
        for step in *steps {
            match step {
                Write(bytes) => client.write(bytes.as_bytes()).await,
                Large(length) => client.write(&vec![b'y'; *length]).await,
                Read(text, times) => {
                    let seen =
                        |read: &[u8]| String::from_utf8_lossy(read).matches(text).count() >= *times;
                    while !seen(&client.read) {
                        assert!(client.more().await, "the connection ended before {text:?}");
                    }
                }
            }
        }
        let read = client.into_end().await;
        // The boundaries of frames in a large body depend on what a socket takes at once.
        let text = String::from_utf8_lossy(&read).into_owned();
        all.push(if text.len() > 1 << 20 {
            unchunked(&text)
        } else {
            text
        });
    }
    all
}

/// The head, and how many bytes of data follow.
fn unchunked(text: &str) -> String {
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let data = |byte: &&u8| **byte == b'x' || **byte == b'y';
    format!("{head} {}", body.as_bytes().iter().filter(data).count())
}

#[tokio::test]
async fn every_byte_is_that_of_a_server_without_a_layer() {
    for (case, connections) in CASES {
        println!("{case}");
        let layer = observing(|options| options);
        let (plain, of_plain) = serve(None, Http::One).await;
        let (observed, of_observed) = serve(Some(layer), Http::One).await;
        let expected = transcript(plain, connections).await;
        assert!(expected.iter().any(|text| !text.is_empty()), "{case}");
        assert_eq!(transcript(observed, connections).await, expected, "{case}");
        assert_events(&of_observed, &of_plain, case).await;
    }
}

async fn assert_events(observed: &Events, plain: &Events, case: &str) {
    let expected = plain.all();
    assert_eq!(observed.reach(expected.len()).await, expected, "{case}");
}

/// The handler learns that its client has left as it would without a layer: it is dropped, or its
/// body ends in an error.
#[tokio::test]
async fn a_client_that_leaves_is_gone_as_without_a_layer() {
    const WAITS: &str = "POST /never HTTP/1.1\r\nhost: a\r\nx-api-key: alice\r\nidempotency-key: w\r\ncontent-length: 1\r\n\r\na";
    const UPLOADS: &str = "POST /echo HTTP/1.1\r\nhost: a\r\nx-api-key: alice\r\nidempotency-key: u\r\ncontent-length: 9\r\n\r\nhalf";
    for (sent, until, events) in [
        (WAITS, "waits", 3),
        (UPLOADS, "/echo (9, Some(9)) false", 3),
    ] {
        let mut all = Vec::new();
        for layer in [None, Some(observing(|options| options))] {
            let (address, events_of) = serve(layer, Http::One).await;
            let mut client = Client::connect(address).await;
            client.write(sent.as_bytes()).await;
            while !events_of.all().iter().any(|event| event == until) {
                tokio::task::yield_now().await;
            }
            drop(client);
            all.push(events_of.reach(events).await);
        }
        assert_eq!(all[0], all[1]);
    }
}
