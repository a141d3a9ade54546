//! A sidecar that observes passes everything on, and suggests a configuration for what it has seen.

use tower_idempotency::config::Config;
use tower_idempotency_sidecar::Sidecar;

use crate::support::{Client, File, Upstream, answer, get, ok, post};

fn observing(upstream: &Upstream) -> File {
    File::new(upstream.address)
        .top("metrics = '127.0.0.1:0'")
        .idempotency("scope = ['header:x-api-key']")
        .idempotency("mode = 'observe'")
}

fn by(caller: &str, request: String) -> String {
    request.replacen("\r\n", &format!("\r\nX-Api-Key: {caller}\r\n"), 1)
}

/// What the upstream gets and what the client gets are what they are through a sidecar that ignores
/// every route. The first line of a request, a date and an address apart, each byte counts.
#[tokio::test]
async fn both_sides_get_what_they_get_through_a_sidecar_that_ignores_keys() {
    let mut exchanges = Vec::new();
    for change in ["mode = 'observe'", "require = 'ignored'"] {
        let upstream = Upstream::start(|request| match request.target() {
            "/fails" => answer("500 Internal Server Error", "X-Own: 1\r\n", "no"),
            _ => ok("paid"),
        })
        .await;
        let file = File::new(upstream.address).idempotency("scope = ['header:x-api-key']");
        let sidecar = file.idempotency(change).start().await;
        let mut answers = Vec::new();
        for request in [
            by("alice", post("/a", "k", "{}")),
            by("alice", post("/a", "k", "{}")),
            by("alice", post("/a", "k", "other")),
            by("alice", post("/fails", "f", "{}")),
            by("alice", post("/a", "", "{}")),
        ] {
            let mut answer = sidecar.exchange(&request).await;
            answer
                .fields
                .retain(|(name, _)| !name.eq_ignore_ascii_case("date"));
            answers.push((answer.start, answer.fields, answer.body));
        }
        let seen = upstream.seen().into_iter().map(|mut request| {
            // The port of the upstream and that of the client are other ones in each run.
            request.fields.retain(|(name, _)| {
                !["host", "forwarded", "x-forwarded-host"].contains(&&*name.to_ascii_lowercase())
            });
            (request.start, request.fields, request.body)
        });
        exchanges.push((answers, seen.collect::<Vec<_>>()));
    }
    assert_eq!(exchanges[0].1.len(), 5);
    assert_eq!(exchanges[0], exchanges[1]);
}

#[tokio::test]
async fn a_configuration_is_suggested_for_what_was_seen() {
    let upstream = Upstream::start(|_| ok("paid")).await;
    let sidecar = observing(&upstream).start().await;
    for number in 0..3 {
        let path = format!("/v1/payments/{number}/capture");
        let secret = format!("secret-key-{number}");
        for body in ["secret-body", "secret-body", "secret-other"] {
            sidecar
                .exchange(&by("secret-caller", post(&path, &secret, body)))
                .await;
        }
    }
    let keyless = by("secret-caller", post("/v1/search", "", "q"));
    let keyless = keyless.replace("Idempotency-Key: \r\n", "");
    sidecar.exchange(&keyless).await;
    let mut client = Client::connect(sidecar.metrics.unwrap()).await;
    client.send(&get("/observed")).await;
    let suggested = client.answer().await;
    let text = suggested.text();
    for line in [
        "scope = [\"header:x-api-key\"]",
        "header = [\"idempotency-key\"]",
        "match = \"POST /v1/payments/{p2}/capture\"",
        "# 9 of 9 requests had a key. 3 would have been executed, and",
        "# 3 duplicates given the recorded response; 0 could not be observed.",
        "# 3 would have been rejected: key-reused",
        "require = \"required\"",
    ] {
        assert!(text.lines().any(|own| own == line), "{line}: {text}");
    }
    assert!(!text.contains("search"), "{text}");
    assert!(!text.contains("secret"), "{text}");
    let config = Config::from_toml(text).unwrap();
    let contract = Sidecar::contract(&config).unwrap().markdown();
    assert!(contract.contains("/v1/payments/{p2}/capture"), "{contract}");
}

#[tokio::test]
async fn without_a_request_the_suggestion_is_a_configuration_too() {
    let upstream = Upstream::start(|_| ok("paid")).await;
    let sidecar = observing(&upstream).start().await;
    let mut client = Client::connect(sidecar.metrics.unwrap()).await;
    client.send(&get("/observed")).await;
    let config = Config::from_toml(client.answer().await.text()).unwrap();
    Sidecar::contract(&config).unwrap();
}
