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

/// Express and Django treat these spellings as the same route, so the layer must
/// treat a retry with another spelling as a retry.
#[tokio::test]
async fn a_retry_may_spell_the_path_otherwise() {
    let upstream = Upstream::start(|_| ok("done")).await;
    let sidecar = File::new(upstream.address)
        .idempotency("keys_per = 'route'")
        .start()
        .await;
    for (path, replayed) in [
        ("/orders", None),
        ("/orders/", Some("true")),
        ("/%6frders", Some("true")),
    ] {
        let request = crate::support::post(path, "k", "{}");
        let answer = sidecar.exchange(&request).await;
        assert_eq!(answer.field("idempotency-replayed"), replayed, "{path}");
    }
    assert_eq!(upstream.seen().len(), 1);
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
