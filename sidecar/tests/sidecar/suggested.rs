//! A planted mix of requests, first through a sidecar that observes, then through one with the
//! configuration that the program suggests for what was seen: what was foretold comes true.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

use crate::program::{Written, run, said};
use crate::support::{File, Running, Step, Upstream, answer, ok, until};

const PAYMENTS: &str = "POST /v1/payments";
const CAPTURE: &str = "POST /v1/payments/{p2}/capture";
const TRANSFERS: &str = "POST /v1/transfers";
const NOTES: &str = "POST /v1/notes";

/// What became of the requests of one route, or would have become of them.
#[derive(Debug, Default, PartialEq, Eq)]
struct Fates {
    executed: u64,
    replayed: u64,
    rejected: BTreeMap<String, u64>,
}

impl Fates {
    fn of(executed: u64, replayed: u64, rejected: &[(&str, u64)]) -> Self {
        let rejected = rejected
            .iter()
            .map(|(code, count)| ((*code).into(), *count));
        Self {
            executed,
            replayed,
            rejected: rejected.collect(),
        }
    }
}

/// What was planted. A retry that is executed again has failed before, or has another caller.
fn planted() -> BTreeMap<&'static str, Fates> {
    BTreeMap::from([
        (
            PAYMENTS,
            Fates::of(
                5 + 1,
                3 + 1,
                &[("key-invalid", 1), ("key-reused", 1), ("scope-missing", 1)],
            ),
        ),
        // A retry that names the time at which it is sent would have been refused wrongly.
        (CAPTURE, Fates::of(2, 1, &[("key-reused", 2)])),
        (TRANSFERS, Fates::of(1, 1, &[("in-flight", 1)])),
        (NOTES, Fates::of(1 + 2, 1, &[])),
    ])
}

/// Each request without a key is passed on, and each that is executed as well.
const KEYLESS: [(&str, u64); 2] = [(NOTES, 2), ("POST /v1/search", 3)];

struct Mix {
    upstream: Upstream,
    /// The first transfer is held until then.
    go_on: Arc<Notify>,
}

impl Mix {
    async fn new() -> Self {
        let (is_held, go_on) = (Arc::<AtomicBool>::default(), Arc::<Notify>::default());
        let until = Arc::clone(&go_on);
        let upstream = Upstream::start(move |request| match request.target() {
            "/v1/transfers" if !is_held.swap(true, Ordering::SeqCst) => {
                [vec![Step::Wait(Arc::clone(&until))], ok("sent")].concat()
            }
            "/v1/notes" if request.body == b"fails" => {
                answer("500 Internal Server Error", "", "no")
            }
            _ => ok("done"),
        })
        .await;
        Self { upstream, go_on }
    }

    /// Sends the mix. `holds` returns once the first transfer is known to be on its way. Returns what
    /// the clients were told.
    async fn send(
        &self,
        sidecar: &Running,
        holds: impl AsyncFnMut() -> bool,
    ) -> BTreeMap<String, Fates> {
        let mut told = BTreeMap::<String, Fates>::new();
        let mut send = async |path: &str, caller: &str, key: Option<&str>, body: &str| {
            let route = match path {
                "/v1/payments/A1/capture" | "/v1/payments/B2/capture" => CAPTURE.to_owned(),
                path => format!("POST {path}"),
            };
            let answer = sidecar.exchange(&post(path, caller, key, body)).await;
            let fates = told.entry(route).or_default();
            if answer.field("idempotency-replayed").is_some() {
                fates.replayed += 1;
            } else if answer.field("content-type").is_some() {
                *fates.rejected.entry(answer.code()).or_default() += 1;
            } else {
                fates.executed += 1;
            }
        };
        for key in ["a", "b", "c", "d", "e", "a", "a", "d"] {
            send("/v1/payments", "alice", Some(key), "one").await;
        }
        send("/v1/payments", "alice", Some("b"), "another body").await;
        send("/v1/payments", "bob", Some("b"), "another body").await;
        send("/v1/payments", "bob", Some("b"), "another body").await;
        send("/v1/payments", "alice", Some(""), "one").await;
        send("/v1/payments", "", Some("a"), "one").await;
        for (order, body) in [
            ("A1", r#"{"amount": 7, "sent_at": 1}"#),
            ("B2", r#"{"amount": 8, "sent_at": 2}"#),
            ("A1", r#"{"amount": 7, "sent_at": 3}"#),
            ("B2", r#"{"amount": 8, "sent_at": 4}"#),
            ("B2", r#"{"amount": 8, "sent_at": 2}"#),
        ] {
            let path = format!("/v1/payments/{order}/capture");
            send(&path, "alice", Some(order), body).await;
        }
        send("/v1/notes", "alice", Some("n"), "fails").await;
        send("/v1/notes", "alice", Some("m"), "kept").await;
        send("/v1/notes", "alice", Some("m"), "kept").await;
        // The note that failed is sent again, and fails again.
        send("/v1/notes", "alice", Some("n"), "fails").await;
        for caller in ["alice", "bob"] {
            send("/v1/notes", caller, None, "kept").await;
        }
        for _ in 0..3 {
            send("/v1/search", "alice", None, "q").await;
        }
        let mut first = sidecar.client().await;
        first
            .send(&post("/v1/transfers", "alice", Some("t"), "one"))
            .await;
        until(holds).await;
        send("/v1/transfers", "alice", Some("t"), "one").await;
        self.go_on.notify_one();
        let answer = first.answer().await;
        assert_eq!((answer.status(), answer.text()), (200, "sent"));
        send("/v1/transfers", "alice", Some("t"), "one").await;
        told.entry(TRANSFERS.to_owned()).or_default().executed += 1;
        told
    }
}

fn post(path: &str, caller: &str, key: Option<&str>, body: &str) -> String {
    let mut head = format!("POST {path} HTTP/1.1\r\nHost: shop.example\r\n");
    if !caller.is_empty() {
        write!(head, "X-Api-Key: {caller}\r\n").unwrap();
    }
    if let Some(key) = key {
        write!(head, "Idempotency-Key: {key}\r\n").unwrap();
    }
    format!("{head}Content-Length: {}\r\n\r\n{body}", body.len())
}

async fn suggested(sidecar: &Running) -> String {
    let from = format!("http://{}", sidecar.metrics.unwrap());
    let output = run(&["suggest", "--from", &from]).await;
    assert_eq!(output.status.code(), Some(0), "{}", said(&output.stderr));
    said(&output.stdout).to_owned()
}

/// What the comments of a suggestion foretell, by route.
fn foretold(suggestion: &str) -> BTreeMap<String, Fates> {
    let mut routes = BTreeMap::<String, Fates>::new();
    let mut route = String::new();
    for line in suggestion.lines() {
        let words: Vec<_> = line.split(' ').collect();
        let number = |at: usize| words[at].parse().unwrap();
        if let Some(pattern) = line.strip_prefix("match = ") {
            pattern.trim_matches('"').clone_into(&mut route);
            routes.insert(route.clone(), Fates::default());
        } else if line.contains("would have been executed") {
            let fates = routes.get_mut(&route).unwrap();
            let at = words.iter().position(|word| *word == "key.").unwrap();
            fates.executed = number(at + 1);
        } else if line.contains("duplicates given the recorded response") {
            assert!(line.ends_with("; 0 could not be observed."), "{line}");
            routes.get_mut(&route).unwrap().replayed = number(1);
        } else if line.contains("would have been rejected: ") {
            let rejected = &mut routes.get_mut(&route).unwrap().rejected;
            rejected.insert((*words.last().unwrap()).to_owned(), number(1));
        }
    }
    routes
}

#[tokio::test]
async fn protection_does_what_the_suggestion_foretold_of_a_planted_mix() {
    let mix = Mix::new().await;
    let file = File::new(mix.upstream.address)
        .top("metrics = '127.0.0.1:0'")
        .idempotency("scope = ['header:x-api-key']")
        .idempotency("mode = 'observe'");
    let observing = file.start().await;
    let held = "# 1 of 1 requests had a key. 1 would have been executed, and";
    let holds = async || {
        let text = suggested(&observing).await;
        let transfers = text.split(TRANSFERS).nth(1);
        transfers.is_some_and(|route| route.contains(held))
    };
    let told = mix.send(&observing, holds).await;
    // Each request was passed on, whatever would have become of it.
    let sent: u64 = told.values().map(|fates| fates.executed).sum();
    assert_eq!(sent, mix.upstream.seen().len() as u64);
    assert!(told.values().all(|fates| fates.replayed == 0), "{told:?}");
    assert!(
        told.values().all(|fates| fates.rejected.is_empty()),
        "{told:?}"
    );

    let suggestion = suggested(&observing).await;
    let foretold = foretold(&suggestion);
    let named: BTreeMap<_, _> = foretold
        .iter()
        .map(|(route, fates)| (&**route, fates))
        .collect();
    let planted = planted();
    assert_eq!(named, planted.iter().map(|(r, f)| (*r, f)).collect());
    for route in suggestion.split("[[route]]").skip(1) {
        let advises = route.contains("fingerprint_body = { json = { exclude");
        assert_eq!(advises, route.contains("key-reused"), "{route}");
        let is_required = route.contains("require = \"required\"");
        assert_eq!(is_required, !route.contains(NOTES), "{route}");
    }
    let written = Written::new("suggested.toml", &suggestion);
    let output = run(&["--check", "--config", written.path()]).await;
    assert_eq!(output.status.code(), Some(0), "{}", said(&output.stderr));

    let mix = Mix::new().await;
    // As the suggestion says: these addresses are the operator's own.
    let own = suggestion
        .replace("127.0.0.1:8080", "127.0.0.1:0")
        .replace("127.0.0.1:9000", &mix.upstream.address.to_string());
    let protecting = Running::start(&own).await;
    let is_held = async || {
        let seen = mix.upstream.seen();
        seen.iter().any(|seen| seen.target() == "/v1/transfers")
    };
    let mut told = mix.send(&protecting, is_held).await;
    for (route, keyless) in KEYLESS {
        told.get_mut(route).unwrap().executed -= keyless;
    }
    let search = told.remove("POST /v1/search");
    assert_eq!(search, Some(Fates::default()));
    assert_eq!(told, foretold);
    let executed: u64 = foretold.values().map(|fates| fates.executed).sum();
    let keyless: u64 = KEYLESS.iter().map(|(_, count)| count).sum();
    assert_eq!(mix.upstream.seen().len() as u64, executed + keyless);
}
