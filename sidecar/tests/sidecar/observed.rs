//! A sidecar that observes passes everything on, and suggests a configuration for what it has seen.

use tower_idempotency::config::Config;
use tower_idempotency_sidecar::Sidecar;

use crate::program::{run, said};
use crate::support::{
    Client, File, Message, Running, Step, Upstream, answer, get, ok, post, until,
};

fn observing(upstream: &Upstream) -> File {
    File::new(upstream.address)
        .top("metrics = '127.0.0.1:0'")
        .idempotency("scope = ['header:x-api-key']")
        .idempotency("mode = 'observe'")
}

async fn observed(sidecar: &Running) -> Message {
    let mut client = Client::connect(sidecar.metrics.unwrap()).await;
    client.send(&get("/observed")).await;
    client.answer().await
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
    let suggested = observed(&sidecar).await;
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
    let config = Config::from_toml(observed(&sidecar).await.text()).unwrap();
    Sidecar::contract(&config).unwrap();
}

/// The limit is full while the first request runs, and nothing waits to be observed.
#[tokio::test]
async fn a_request_that_there_was_no_room_to_observe_is_counted_as_that() {
    let upstream = Upstream::start(|request| match request.target() {
        "/hangs" => vec![Step::Hang],
        _ => ok("paid"),
    })
    .await;
    let file = observing(&upstream).idempotency("max_in_flight_operations = 1");
    let sidecar = file.start().await;
    let mut hangs = sidecar.client().await;
    hangs.send(&by("alice", post("/hangs", "h", "{}"))).await;
    until(async || upstream.seen().len() == 1).await;
    let paid = sidecar.exchange(&by("bob", post("/pays", "k", "{}"))).await;
    assert_eq!(paid.text(), "paid");
    let suggested = observed(&sidecar).await;
    let (_, route) = suggested.text().split_once("\"POST /pays\"\n").unwrap();
    assert!(
        route.starts_with(
            "# 1 of 1 requests had a key. 0 would have been executed, and\n\
             # 0 duplicates given the recorded response; 1 could not be observed.\n"
        ),
        "{route}"
    );
}

/// A suggestion without a route would look like one for a service without keys.
#[tokio::test]
async fn a_sidecar_that_only_protects_says_that_nothing_is_observed() {
    let upstream = Upstream::start(|_| ok("paid")).await;
    let file = File::new(upstream.address).top("metrics = '127.0.0.1:0'");
    let sidecar = file
        .idempotency("scope = ['header:x-api-key']")
        .start()
        .await;
    sidecar.exchange(&by("alice", post("/a", "k", "{}"))).await;
    let told = observed(&sidecar).await;
    assert_eq!(told.status(), 404);
    assert!(
        told.text().contains("mode = \"observe\""),
        "{}",
        told.text()
    );
    let from = format!("http://{}", sidecar.metrics.unwrap());
    let output = run(&["suggest", "--from", &from]).await;
    assert_ne!(output.status.code(), Some(0));
    assert_eq!(said(&output.stdout), "");
    let error = said(&output.stderr);
    assert!(error.contains("Nothing is observed"), "{error}");
}
