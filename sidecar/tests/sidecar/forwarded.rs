//! These tests check which client a forwarded request says it comes from.

use crate::support::{File, Message, Upstream, ok};

const SENT: &str = "X-Forwarded-For: 198.51.100.7\r\n\
                    X-Forwarded-For: 203.0.113.9\r\n\
                    X-Forwarded-Proto: https\r\n\
                    X-Forwarded-Host: public.example\r\n\
                    X-Forwarded-Port: 443\r\n\
                    X-Forwarded-Prefix: /shop\r\n\
                    X_Forwarded_For: 198.51.100.8\r\n\
                    Forwarded: for=198.51.100.7\r\n";

async fn arrives(trusted: &str, sent: &str) -> Message {
    let upstream = Upstream::start(|_| ok("done")).await;
    let sidecar = File::new(upstream.address)
        .top(&format!("trusted_proxies = {trusted}"))
        .start()
        .await;
    let request = format!("GET / HTTP/1.1\r\nHost: shop.example\r\n{sent}\r\n");
    sidecar.exchange(&request).await;
    upstream.last()
}

fn forwarded(message: &Message) -> Vec<(String, String)> {
    let about = |name: &str| name.contains("forwarded");
    message
        .named()
        .into_iter()
        .filter(|(name, _)| about(name))
        .collect()
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    pairs.iter().map(own).collect()
}

#[tokio::test]
async fn of_a_stranger_nothing_is_believed() {
    let said_here = pairs(&[
        ("x-forwarded-for", "127.0.0.1"),
        ("x-forwarded-host", "shop.example"),
        ("x-forwarded-proto", "http"),
    ]);
    for trusted in ["[]", "['10.0.0.0/8']"] {
        assert_eq!(forwarded(&arrives(trusted, SENT).await), said_here);
        assert_eq!(forwarded(&arrives(trusted, "").await), said_here);
    }
}

#[tokio::test]
async fn a_trusted_proxy_is_believed_and_added_to_the_list() {
    assert_eq!(
        forwarded(&arrives("['127.0.0.0/8']", SENT).await),
        pairs(&[
            ("forwarded", "for=198.51.100.7"),
            ("x-forwarded-for", "198.51.100.7, 203.0.113.9, 127.0.0.1"),
            ("x-forwarded-host", "public.example"),
            ("x-forwarded-port", "443"),
            ("x-forwarded-prefix", "/shop"),
            ("x-forwarded-proto", "https"),
            ("x_forwarded_for", "198.51.100.8"),
        ])
    );
    assert_eq!(
        forwarded(&arrives("['127.0.0.1']", "").await),
        pairs(&[
            ("x-forwarded-for", "127.0.0.1"),
            ("x-forwarded-host", "shop.example"),
            ("x-forwarded-proto", "http"),
        ])
    );
}

#[tokio::test]
async fn a_trusted_network_in_ipv6_clothes_is_the_ipv4_one() {
    let believed = arrives("['::ffff:127.0.0.0/104']", "X-Forwarded-Proto: https\r\n").await;
    assert_eq!(believed.field("x-forwarded-proto"), Some("https"));
}

/// Two clients of one proxy are two callers. A client that is no trusted proxy
/// cannot pretend to be another caller.
#[tokio::test]
async fn a_scope_of_forwarded_addresses_sees_what_is_believed() {
    let upstream = Upstream::start(|_| ok("done")).await;
    let file = |trusted: &str, in_scope: &str| {
        File::new(upstream.address)
            .top(&format!("trusted_proxies = ['{trusted}']"))
            .idempotency(&format!(
                "scope = [{{ forwarded_ip = 'x-forwarded-for', trusted = ['{in_scope}'] }}]"
            ))
    };
    let post = |from: &str| {
        format!(
            "POST /a HTTP/1.1\r\nHost: a\r\nIdempotency-Key: k\r\nX-Forwarded-For: {from}\r\n\
             Content-Length: 0\r\n\r\n"
        )
    };
    for (trusted, in_scope) in [
        ("127.0.0.0/8", "127.0.0.0/8"),
        ("::ffff:127.0.0.0/104", "127.0.0.0/8"),
        ("127.0.0.0/8", "::ffff:127.0.0.0/104"),
    ] {
        let sidecar = file(trusted, in_scope).start().await;
        for (from, replayed) in [
            ("198.51.100.1", None),
            ("198.51.100.2", None),
            ("198.51.100.1", Some("true")),
        ] {
            let answer = sidecar.exchange(&post(from)).await;
            assert_eq!(answer.field("idempotency-replayed"), replayed, "{from}");
        }
    }
    let sidecar = file("10.0.0.0/8", "10.0.0.0/8").start().await;
    for (from, replayed) in [("198.51.100.1", None), ("198.51.100.2", Some("true"))] {
        let answer = sidecar.exchange(&post(from)).await;
        assert_eq!(answer.field("idempotency-replayed"), replayed, "{from}");
    }
}
