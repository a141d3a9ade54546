//! The sidecar serves some paths itself.

use crate::support::{Client, File, Upstream, get, nobody, ok, post};

#[tokio::test]
async fn it_says_that_it_is_well() {
    let upstream = Upstream::start(|_| ok("upstream")).await;
    let sidecar = File::new(upstream.address).start().await;
    let answer = sidecar.exchange(&get("/healthz")).await;
    assert_eq!((answer.status(), answer.text()), (200, "ok\n"));
    let mut client = sidecar.client().await;
    client
        .send("HEAD /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
        .await;
    assert_eq!(client.head().await.status(), 200);
    assert!(upstream.seen().is_empty());
    for request in [
        get("/healthz/"),
        get("/health"),
        post("/healthz", "k", "{}"),
    ] {
        assert_eq!(sidecar.exchange(&request).await.text(), "upstream");
    }
}

#[tokio::test]
async fn its_paths_can_be_others_or_none() {
    let upstream = Upstream::start(|_| ok("upstream")).await;
    let file = || File::new(upstream.address);
    let sidecar = file().top("healthz = '/up'").start().await;
    assert_eq!(sidecar.exchange(&get("/up")).await.text(), "ok\n");
    assert_eq!(sidecar.exchange(&get("/healthz")).await.text(), "upstream");
    let sidecar = file().top("healthz = false").start().await;
    assert_eq!(sidecar.exchange(&get("/healthz")).await.text(), "upstream");
}

/// Returns the status and the text of a probe.
async fn probe(address: std::net::SocketAddr, path: &str) -> (u16, String) {
    let mut client = Client::connect(address).await;
    client.send(&get(path)).await;
    let response = client.answer().await;
    (response.status(), response.text().to_owned())
}

fn well() -> (u16, String) {
    (200, "ok\n".to_owned())
}

#[cfg(feature = "redis")]
#[tokio::test]
async fn it_is_ready_when_the_store_can_be_reached_and_alive_in_any_case() {
    let upstream = Upstream::start(|_| ok("upstream")).await;
    let file = || File::new(upstream.address).top("metrics = '127.0.0.1:0'");
    let sidecar = file().start().await;
    for address in [sidecar.address, sidecar.metrics.unwrap()] {
        for path in ["/livez", "/readyz", "/healthz"] {
            assert_eq!(probe(address, path).await, well(), "{path}");
        }
    }
    let nowhere = format!("store = 'redis://{}'", nobody());
    let sidecar = file().top(&nowhere).start().await;
    let unready = (503, "the store can't be reached\n".to_owned());
    for address in [sidecar.address, sidecar.metrics.unwrap()] {
        assert_eq!(probe(address, "/livez").await, well());
        assert_eq!(probe(address, "/readyz").await, unready);
        assert_eq!(probe(address, "/healthz").await, well());
    }
    let others = file().top("livez = '/up'").top("readyz = false");
    let sidecar = others.start().await;
    assert_eq!(probe(sidecar.address, "/up").await, well());
    for path in ["/livez", "/readyz"] {
        let forwarded = (200, "upstream".to_owned());
        assert_eq!(probe(sidecar.address, path).await, forwarded, "{path}");
    }
}

/// The store's file and its journal are the same afterwards, byte by byte.
#[cfg(feature = "sqlite")]
#[tokio::test]
async fn asking_whether_it_is_ready_writes_nothing() {
    let upstream = Upstream::start(|_| ok("upstream")).await;
    let database = crate::program::Written::new("ready.db", "");
    let store = format!("sqlite:{}", database.path());
    tower_idempotency::store::AnyStore::migrate(&store)
        .await
        .unwrap();
    let file = File::new(upstream.address).top(&format!("store = '{store}'"));
    let sidecar = file.start().await;
    assert_eq!(sidecar.exchange(&post("/a", "k", "{}")).await.status(), 200);
    let written = || {
        let file = |suffix| std::fs::read(format!("{}{suffix}", database.path())).ok();
        ["", "-wal"].map(file)
    };
    let before = written();
    assert!(before.iter().flatten().any(|file| !file.is_empty()));
    assert_eq!(probe(sidecar.address, "/readyz").await, well());
    assert!(before == written());
}

#[tokio::test]
async fn it_serves_its_contract_where_it_is_told_to() {
    let upstream = Upstream::start(|_| ok("upstream")).await;
    let file = || File::new(upstream.address).route("POST /orders", "require = 'required'");
    let sidecar = file().top("contract = '/idempotency'").start().await;
    let answer = sidecar.exchange(&get("/idempotency")).await;
    assert_eq!(
        answer.field("content-type"),
        Some("text/markdown; charset=utf-8")
    );
    assert!(answer.text().contains("/orders"), "{}", answer.text());
    let json = sidecar.exchange(&get("/idempotency?format=json")).await;
    let json: serde_json::Value = serde_json::from_slice(&json.body).unwrap();
    // The sidecar adds its own errors, and says what it cannot know about the
    // service.
    let codes = json["gateway"].as_array().unwrap().iter();
    let codes: Vec<_> = codes.map(|error| error["code"].as_str().unwrap()).collect();
    assert_eq!(
        codes,
        [
            "upstream-unreachable",
            "upstream-broken",
            "upstream-timeout",
            "path-ambiguous",
            "method-invalid",
            "host-invalid",
            "request-malformed",
            "transfer-coding-unknown",
            "connect-refused",
        ]
    );
    let page = answer.text();
    assert!(page.contains("| `upstream-timeout` | 504 |"), "{page}");
    assert!(
        page.contains("If the service breaks off, or takes too long to respond")
            && page.contains("gets 409 `in-flight` for up to"),
        "the service can break off: {page}"
    );
    let openapi = sidecar.exchange(&get("/idempotency?format=openapi")).await;
    let openapi: serde_json::Value = serde_json::from_slice(&openapi.body).unwrap();
    let responses = &openapi["paths"]["/orders"]["post"]["responses"];
    assert!(responses["504"]["description"].is_string(), "{responses}");
    let bad = responses["400"]["description"].as_str().unwrap();
    assert!(bad.contains("key-required") && bad.contains("path-ambiguous"));
    assert!(upstream.seen().is_empty());
    // Rejections link to the contract, unless the file names another page.
    let refused = sidecar.exchange(&post("/orders", "\"", "{}")).await;
    let link = "</idempotency>; rel=\"describedby\"";
    assert_eq!(refused.field("link"), Some(link));
    let elsewhere = file()
        .top("contract = '/idempotency'")
        .idempotency("docs_url = 'https://a.example/'");
    let refused = elsewhere
        .start()
        .await
        .exchange(&post("/orders", "\"", "{}"))
        .await;
    let link = "<https://a.example/>; rel=\"describedby\"";
    assert_eq!(refused.field("link"), Some(link));
    let sidecar = file().start().await;
    assert_eq!(
        sidecar.exchange(&get("/idempotency")).await.text(),
        "upstream"
    );
}

#[tokio::test]
async fn its_second_address_has_what_operators_ask_for_and_nothing_else() {
    let sidecar = File::new(nobody()).top("metrics = '127.0.0.1:0'");
    let sidecar = sidecar.start().await;
    let mut client = Client::connect(sidecar.metrics.unwrap()).await;
    for (path, status) in [("/healthz", 200), ("/metrics", 200), ("/other", 404)] {
        client.send(&get(path)).await;
        assert_eq!(client.answer().await.status(), status, "{path}");
    }
}
