//! No spelling of a path evades the options of its route.

use crate::support::{File, Upstream, get, ok};

fn post(path: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
}

#[tokio::test]
async fn no_spelling_of_a_path_evades_its_policy() {
    let upstream = Upstream::start(|_| ok("done")).await;
    let sidecar = File::new(upstream.address)
        .route("POST /orders", "require = 'required'")
        .route("POST /orders/{id}/capture", "require = 'required'")
        .start()
        .await;
    for path in [
        "/orders",
        "/orders?x=1",
        "/orders/",
        "/%6frders",
        "/%6Frders/",
        "/%6F%72%64%65%72%73",
        "/orders/7/capture",
        "/orders/7/capture/",
        "/orders/%37/%63apture",
        "http://a/orders",
        "http://a/%6frders",
    ] {
        let answer = sidecar.exchange(&post(path)).await;
        assert_eq!(
            (answer.status(), answer.code().as_str()),
            (400, "key-required"),
            "{path}"
        );
    }
    for path in [
        "//orders",
        "/orders//",
        "/./orders",
        "/x/../orders",
        "/x/%2e%2e/orders",
        "/x/.%2E/orders",
        "/orders/.",
        "/orders%2f",
        "/x%2f..%2forders",
        "/%5corders",
        "/x\\..\\orders",
        "/orders%00",
        "/orders%0d%0a",
        "/orders;a=b",
        "/orders%3ba=b",
        "/%256frders",
        "/%25%36frders",
        "/%c0%afrders",
        "/%e0%80%afrders",
        "/orders%",
        "/orders%6",
        "/%u006frders",
    ] {
        let answer = sidecar.exchange(&post(path)).await;
        assert_eq!(
            (answer.status(), answer.code().as_str()),
            (400, "path-ambiguous"),
            "{path}"
        );
        assert_eq!(answer.field("cache-control"), Some("no-store"));
    }
    assert!(upstream.seen().is_empty());
}

#[tokio::test]
async fn a_method_in_small_letters_evades_no_policy() {
    let upstream = Upstream::start(|_| ok("done")).await;
    let sidecar = File::new(upstream.address).start().await;
    for method in ["post", "Post", "pATCH"] {
        let request = format!("{method} /a HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
        let answer = sidecar.exchange(&request).await;
        assert_eq!(
            (answer.status(), answer.code().as_str()),
            (400, "method-invalid")
        );
    }
    assert!(upstream.seen().is_empty());
    let purge = "PURGE //a/..%2f HTTP/1.1\r\nHost: a\r\n\r\n";
    assert_eq!(sidecar.exchange(purge).await.status(), 200);
}

#[tokio::test]
async fn the_upstream_gets_the_path_as_it_was_sent() {
    let upstream = Upstream::start(|_| ok("done")).await;
    let sidecar = File::new(upstream.address).start().await;
    for path in ["/%6frders/?q=%6f//", "/caf%c3%a9/", "/a%20b", "/%41?"] {
        assert_eq!(sidecar.exchange(&post(path)).await.status(), 200);
        assert_eq!(upstream.last().target(), path);
    }
}

#[tokio::test]
async fn what_no_policy_protects_passes_whatever_its_path() {
    let upstream = Upstream::start(|_| ok("done")).await;
    let sidecar = File::new(upstream.address).start().await;
    for path in ["//a", "/a/../b", "/%2e%2e/%2f", "/a;b", "/%", "/%00"] {
        assert_eq!(sidecar.exchange(&get(path)).await.status(), 200, "{path}");
        assert_eq!(upstream.last().target(), path);
    }
}

/// Express and Django route these spellings alike, and another upstream may not: the key belongs to
/// the request that was sent.
#[tokio::test]
async fn another_spelling_of_a_path_is_another_request() {
    for keys_per in ["scope", "route"] {
        let upstream = Upstream::start(|_| ok("done")).await;
        let sidecar = File::new(upstream.address)
            .idempotency(&format!("keys_per = '{keys_per}'"))
            .start()
            .await;
        for (at, (one, other)) in [
            ("/orders", "/orders/"),
            ("/orders/", "/orders"),
            ("/a%62c", "/abc"),
            ("/caf%c3%a9", "/caf%C3%A9"),
            ("/orders?q=%6f", "/orders?q=o"),
        ]
        .into_iter()
        .enumerate()
        {
            let key = format!("k{at}");
            let ask = |path| crate::support::post(path, &key, "{}");
            let first = sidecar.exchange(&ask(one)).await;
            assert_eq!((first.status(), first.text()), (200, "done"), "{one}");
            let second = sidecar.exchange(&ask(other)).await;
            let seen = (second.status(), second.code());
            assert_eq!(seen, (422, "key-reused".to_owned()), "{one}, {other}");
            let retry = sidecar.exchange(&ask(one)).await;
            assert_eq!(retry.field("idempotency-replayed"), Some("true"), "{one}");
            assert_eq!(upstream.last().target(), one);
            assert_eq!(upstream.seen().len(), at + 1);
        }
    }
}

/// RFC 9112, 3.2.2: the absolute form of a target is the same request.
#[tokio::test]
async fn the_absolute_form_of_a_target_is_the_same_request() {
    let upstream = Upstream::start(|_| ok("done")).await;
    let sidecar = File::new(upstream.address).start().await;
    for (path, replayed) in [("/orders/", None), ("http://a/orders/", Some("true"))] {
        let answer = sidecar
            .exchange(&crate::support::post(path, "k", "{}"))
            .await;
        assert_eq!(answer.field("idempotency-replayed"), replayed, "{path}");
    }
}

#[tokio::test]
async fn case_matters_unless_the_file_says_it_does_not() {
    let upstream = Upstream::start(|_| ok("done")).await;
    let file = || File::new(upstream.address).route("POST /orders", "require = 'required'");
    let sidecar = file().start().await;
    assert_eq!(sidecar.exchange(&post("/Orders")).await.status(), 200);
    let sidecar = file().top("ignore_path_case = true").start().await;
    for path in ["/Orders", "/ORDERS/", "/%4Frders"] {
        assert_eq!(sidecar.exchange(&post(path)).await.status(), 400, "{path}");
    }
    assert_eq!(sidecar.exchange(&post("/Other")).await.status(), 200);
    assert_eq!(upstream.last().target(), "/Other");
    // The part of a path that a pattern captures may differ by its case alone.
    let capture = |path| crate::support::post(path, "k", "{}");
    assert_eq!(
        sidecar.exchange(&capture("/orders/aB3")).await.status(),
        200
    );
    let other = sidecar.exchange(&capture("/orders/Ab3")).await;
    assert_eq!(other.status(), 422);
}

/// The Kelvin sign and the long s become `k` and `s` in lower case: a framework that folds all of
/// Unicode would route these paths as it routes `/orders/kept`.
#[tokio::test]
async fn where_case_is_ignored_a_path_is_ascii() {
    let upstream = Upstream::start(|_| ok("done")).await;
    let file = || File::new(upstream.address).route("POST /orders/kept", "require = 'required'");
    let paths = [
        "/orders/%E2%84%AAept",
        "/order%C5%BF/kept",
        "/orders/kept%C3%A9",
        "/%EF%BC%AFrders/kept",
    ];
    let sidecar = file().start().await;
    for path in paths {
        assert_eq!(sidecar.exchange(&post(path)).await.status(), 200, "{path}");
    }
    let sidecar = file().top("ignore_path_case = true").start().await;
    for path in paths {
        let answer = sidecar.exchange(&post(path)).await;
        let seen = (answer.status(), answer.code());
        assert_eq!(seen, (400, "path-ambiguous".to_owned()), "{path}");
    }
    assert_eq!(upstream.seen().len(), paths.len());
}

#[tokio::test]
async fn where_case_is_ignored_a_key_per_route_is_for_every_case_of_a_path() {
    let upstream = Upstream::start(|_| ok("done")).await;
    let sidecar = File::new(upstream.address)
        .top("ignore_path_case = true")
        .idempotency("keys_per = 'route'")
        .start()
        .await;
    for (path, status) in [("/Orders", 200), ("/orders", 422), ("/other", 200)] {
        let request = crate::support::post(path, "k", "{}");
        assert_eq!(sidecar.exchange(&request).await.status(), status, "{path}");
    }
}
