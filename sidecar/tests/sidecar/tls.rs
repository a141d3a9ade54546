//! The listeners speak TLS.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ProtocolVersion;
use rustls::version::TLS12;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use crate::certificates::{Authority, Folder, TlsClient, Valid};
use crate::frames::{ALL, Frame, Frames, Outcome, fields};
use crate::support::{Client, File, Running, Upstream, get, ok, post, until};

/// A sidecar whose certificate is one of `authority`.
async fn serving(
    authority: &Authority,
    change: impl FnOnce(File) -> File,
) -> (Upstream, Running, Folder) {
    let folder = Folder::new();
    folder.issue(&authority.issue("localhost", Valid::Now));
    let upstream = Upstream::start(|_| ok("done")).await;
    let file = File::new(upstream.address)
        .top(&folder.entry("tls", ""))
        .top("metrics = '127.0.0.1:0'");
    let sidecar = change(file).start().await;
    (upstream, sidecar, folder)
}

/// Sends a POST with this key over HTTP/1.1, and returns the response up to its end.
async fn exchange(client: &TlsClient, sidecar: &Running, key: &str) -> String {
    let mut stream = client.connect(sidecar.address).await.unwrap();
    let request = post("/a", key, "{}").replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut read = String::new();
    stream.read_to_string(&mut read).await.unwrap();
    read
}

#[tokio::test]
async fn a_client_chooses_its_version_of_http_by_alpn() {
    let authority = Authority::new();
    let (upstream, sidecar, _folder) = serving(&authority, |file| file).await;
    for protocols in [&["http/1.1"][..], &["other", "http/1.1"], &[]] {
        let client = authority.client(protocols);
        let first = exchange(&client, &sidecar, "k").await;
        assert!(first.starts_with("HTTP/1.1 200 OK\r\n"), "{first}");
    }
    // The first response is replayed, whichever version of HTTP a retry has.
    assert_eq!(upstream.seen().len(), 1);
    assert_eq!(upstream.last().field("x-forwarded-proto"), Some("https"));
    let client = authority.client(&["h2", "http/1.1"]);
    let stream = client.connect(sidecar.address).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (mut client, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    for (key, replayed) in [("k", true), ("other", false)] {
        let request = Request::post("https://shop.example/a")
            .header("idempotency-key", key)
            .body(Full::new(Bytes::from_static(b"{}")))
            .unwrap();
        let response = client.send_request(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        let is_replay = response.headers().contains_key("idempotency-replayed");
        assert_eq!(is_replay, replayed);
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, "done");
    }
    assert_eq!(upstream.seen().len(), 2);
    assert_eq!(upstream.last().field("x-forwarded-proto"), Some("https"));
    assert_eq!(upstream.last().field("host"), Some("shop.example"));
}

#[tokio::test]
async fn a_client_of_tls_1_2_is_served_and_one_that_offers_no_known_protocol_is_not() {
    let authority = Authority::new();
    let (_upstream, sidecar, _folder) = serving(&authority, |file| file).await;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = authority.config(&["http/1.1"], None);
    let old = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS12])
        .unwrap()
        .with_root_certificates(authority.roots())
        .with_no_client_auth();
    let old = TlsClient(Arc::new(old));
    let stream = old.connect(sidecar.address).await.unwrap();
    let version = stream.get_ref().1.protocol_version();
    assert_eq!(version, Some(ProtocolVersion::TLSv1_2));
    let response = exchange(&old, &sidecar, "k").await;
    assert!(response.starts_with("HTTP/1.1 200 OK\r\n"), "{response}");
    config.alpn_protocols = vec![b"spdy/3".to_vec()];
    let other = TlsClient(Arc::new(config)).connect(sidecar.address).await;
    assert!(other.is_err());
    until(async || {
        let sample = "idempotency_sidecar_tls_handshake_failures_total";
        sidecar.number(sample).await == 1
    })
    .await;
}

/// A proxy that the file trusts says which scheme its client used.
#[tokio::test]
async fn a_trusted_proxy_says_which_scheme_its_client_used() {
    let authority = Authority::new();
    for (trusted, proto) in [("['127.0.0.1']", "http"), ("[]", "https")] {
        let trusted = format!("trusted_proxies = {trusted}");
        let (upstream, sidecar, _folder) = serving(&authority, |file| file.top(&trusted)).await;
        let bridge = authority.client(&[]).bridge(sidecar.address).await;
        let mut client = Client::connect(bridge).await;
        let said = "X-Forwarded-Proto: http\r\nForwarded: proto=http\r\n\r\n";
        client
            .send(&post("/a", "k", "{}").replace("\r\n\r\n", &format!("\r\n{said}")))
            .await;
        assert_eq!(client.answer().await.status(), 200);
        assert_eq!(upstream.last().field("x-forwarded-proto"), Some(proto));
    }
}

/// What HTTP/1.1 and HTTP/2 refuse does not depend on what is below them.
#[tokio::test]
async fn what_is_refused_without_tls_is_refused_the_same_with_it() {
    let authority = Authority::new();
    let (upstream, secured, _folder) = serving(&authority, |file| file).await;
    let plain = File::new(upstream.address).start().await;
    let bridge = authority
        .client(&["http/1.1"])
        .bridge(secured.address)
        .await;
    let body = "\r\n5\r\nhello\r\n0\r\n\r\n";
    for request in [
        "GET / HTTP/1.1\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nHost: a b\r\n\r\n".to_owned(),
        "GET a.example HTTP/1.1\r\nHost: a.example\r\n\r\n".to_owned(),
        "CONNECT a.example:80 HTTP/1.1\r\nHost: a.example:80\r\n\r\n".to_owned(),
        "post /a HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n".to_owned(),
        "POST /a//b HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n".to_owned(),
        format!("POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n{body}"),
        format!("POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n{body}"),
        format!(
            "GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n",
            "x".repeat(64 << 10)
        ),
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r!".to_owned(),
        "POST /a HTTP/1.1\r\nHost: a\r\nIdempotency-Key: \"\r\nContent-Length: 0\r\n\r\n"
            .to_owned(),
    ] {
        let mut responses = Vec::new();
        for address in [plain.address, bridge] {
            let mut client = Client::connect(address).await;
            client.send(&request).await;
            let response = client.try_answer().await;
            let response = response.map(|own| (own.start.clone(), own.text().to_owned()));
            responses.push(response);
        }
        assert!(responses[0].is_some(), "{request}");
        assert_eq!(responses[0], responses[1], "{request}");
    }
    assert!(upstream.seen().is_empty());
    let bridge = authority.client(&["h2"]).bridge(secured.address).await;
    for (name, value) in [
        ("connection", "close"),
        ("x", " a"),
        ("host", "b.example"),
        ("content-length", "2"),
        ("X-Upper", "a"),
    ] {
        let mut outcomes = Vec::new();
        for address in [plain.address, bridge] {
            let mut client = Frames::connect_to(address).await;
            let head = fields("GET", "/", &[(name, value)]);
            client.send(&Frame::head(ALL, 1, &head)).await;
            outcomes.push(client.outcome(1).await);
        }
        assert!(!matches!(outcomes[0], Outcome::Response(200, _)), "{name}");
        assert_eq!(outcomes[0], outcomes[1], "{name}");
    }
    assert!(upstream.seen().is_empty());
}

/// A client that has chosen a version of HTTP is not served in the other.
#[tokio::test]
async fn the_version_that_alpn_chose_is_the_one_that_is_spoken() {
    let authority = Authority::new();
    let (upstream, sidecar, _folder) = serving(&authority, |file| file).await;
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    for (protocol, sent) in [("http/1.1", &preface[..]), ("h2", get("/").as_bytes())] {
        let client = authority.client(&[protocol]);
        let mut stream = client.connect(sidecar.address).await.unwrap();
        stream.write_all(sent).await.unwrap();
        let mut read = Vec::new();
        let _ = stream.read_to_end(&mut read).await;
        assert!(!read.starts_with(b"HTTP/1.1 200"), "{protocol}");
    }
    assert!(upstream.seen().is_empty());
}

#[tokio::test]
async fn a_client_needs_a_certificate_where_one_is_required() {
    let (authority, of_clients) = (Authority::new(), Authority::new());
    let folder = Folder::new();
    let ca = folder.write("clients.pem", &of_clients.pem());
    folder.issue(&authority.issue("localhost", Valid::Now));
    let upstream = Upstream::start(|_| ok("done")).await;
    let file = File::new(upstream.address);
    let file = file.top(&folder.entry("tls", &format!(", client_ca = '{ca}'")));
    let sidecar = file.start().await;
    let known = of_clients.issue("client", Valid::Now);
    let expired = of_clients.issue("client", Valid::Until2020);
    let unknown = authority.issue("client", Valid::Now);
    for (certificate, is_served) in [
        (Some(&known), true),
        (None, false),
        (Some(&expired), false),
        (Some(&unknown), false),
    ] {
        let client = match certificate {
            Some(own) => authority.client_with(&[], own),
            None => authority.client(&[]),
        };
        // With TLS 1.3 a client learns after its handshake that its certificate is refused.
        let bridge = client.bridge(sidecar.address).await;
        let mut client = Client::connect(bridge).await;
        client.send(&get("/")).await;
        let response = client.try_answer().await;
        assert_eq!(response.is_some_and(|own| own.status() == 200), is_served);
    }
    assert_eq!(upstream.seen().len(), 1);
}

#[tokio::test]
async fn metrics_are_served_over_tls_with_a_certificate_of_their_own() {
    let (authority, of_metrics) = (Authority::new(), Authority::new());
    let folder = Folder::new();
    folder.issue(&of_metrics.issue("localhost", Valid::Now));
    let entry = folder.entry("metrics_tls", "");
    let (_upstream, sidecar, _folder) = serving(&authority, |file| file.top(&entry)).await;
    let metrics = sidecar.metrics.unwrap();
    assert!(authority.client(&[]).connect(metrics).await.is_err());
    let mut stream = of_metrics.client(&[]).connect(metrics).await.unwrap();
    let request = get("/metrics").replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut read = String::new();
    stream.read_to_string(&mut read).await.unwrap();
    assert!(read.contains("idempotency_sidecar_connections"), "{read}");
}

/// A handshake counts as a connection of its peer, and has the time of a head.
#[tokio::test(start_paused = true)]
async fn a_handshake_that_never_ends_is_a_connection_and_not_waited_for() {
    let authority = Authority::new();
    let limits =
        "limits = { max_connections = 16, max_connections_per_peer = 3, head_timeout = '10s' }";
    let (_upstream, sidecar, _folder) = serving(&authority, |file| file.top(limits)).await;
    // The beginning of a `ClientHello` of 16 KiB, of which the rest never comes.
    let begun = [
        &b"\x16\x03\x01\x40\x00\x01\x00\x3f\xfc\x03\x03"[..],
        &[7; 64],
    ]
    .concat();
    for sent in [&b""[..], b"\x16", &begun] {
        let mut clients = Vec::new();
        for _ in 0..3 {
            let mut client = sidecar.client().await;
            client.0.write_all(sent).await.unwrap();
            clients.push(client);
        }
        let beginning = Instant::now();
        let mut beyond = sidecar.client().await;
        assert!(beyond.is_closed().await);
        assert!(beginning.elapsed() < Duration::from_secs(5));
        for client in &mut clients {
            assert!(client.is_closed().await);
        }
        let after = beginning.elapsed();
        assert!(
            after >= Duration::from_secs(9) && after < Duration::from_secs(15),
            "{after:?}"
        );
    }
    assert_eq!(sidecar.refusals("head_timeout").await, 9);
    assert_eq!(sidecar.refusals("max_connections_per_peer").await, 3);
}
