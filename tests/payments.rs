//! The example `payments` as a program: what its story prints, how the program
//! ends, and the server that it runs afterwards.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::LazyLock;

use axum::body::Body;
use axum::http::{HeaderMap, Request};
use http_body_util::BodyExt;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};

/// The path where `cargo test` puts the built example. `cargo test --test
/// payments` builds no examples, so this code asks cargo to build it, with the
/// features of this test.
static PROGRAM: LazyLock<PathBuf> = LazyLock::new(|| {
    // The path of this test program is `target/PROFILE/deps/payments-HASH`.
    let this = std::env::current_exe().unwrap();
    let profile = this.parent().and_then(Path::parent).unwrap();
    let program = format!("examples/payments{}", std::env::consts::EXE_SUFFIX);
    let program = profile.join(program);
    let features: &[&str] = if cfg!(feature = "redis") {
        &["--workspace", "--all-features"]
    } else {
        &[]
    };
    if !features.is_empty() || !is_current(&program) {
        let name = match profile.file_name().and_then(|name| name.to_str()) {
            Some("debug") | None => "dev",
            Some(name) => name,
        };
        let status = Command::new(env!("CARGO"))
            .args(["build", "--example", "payments", "--profile", name])
            .args(features)
            .arg("--target-dir")
            .arg(profile.parent().unwrap())
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .status()
            .unwrap();
        assert!(status.success(), "the example does not build");
    }
    program
});

/// Whether the program is newer than all of its sources. Cargo lists the
/// sources in a file beside the program.
fn is_current(program: &Path) -> bool {
    let modified = |path: &Path| path.metadata().and_then(|data| data.modified()).ok();
    let list = std::fs::read_to_string(program.with_extension("d")).unwrap_or_default();
    let sources = list.split_once(": ").map_or("", |(_, sources)| sources);
    let built = modified(program);
    let is_older = |source: &str| {
        let source = modified(Path::new(source));
        source.is_some() && source <= built
    };
    !sources.is_empty() && sources.split_whitespace().all(is_older)
}

fn run(arguments: &[&str]) -> Output {
    Command::new(&*PROGRAM).args(arguments).output().unwrap()
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap()
}

#[test]
fn the_story_comes_out_as_promised() {
    let output = run(&["--exit"]);
    let stdout = text(output.stdout);
    assert!(output.status.success(), "{stdout}{}", text(output.stderr));
    let rows: Vec<String> = stdout
        .lines()
        .filter(|line| line.contains(" EUR "))
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    assert_eq!(
        rows,
        [
            "alice /payments shoes-1 42.00 EUR 201 pay_1 1 ok",
            "alice /payments shoes-1 42.00 EUR 201 pay_1 Idempotency-Replayed: true 1 ok",
            "alice /payments shoes-1 99.00 EUR 422 code: key-reused 1 ok",
            "alice /payments hat-1 19.90 EUR 409 code: in-flight, Retry-After: 1 1 ok",
            "alice /payments hat-1 19.90 EUR 201 pay_2 2 ok",
            "alice /payments hat-1 19.90 EUR 201 pay_2 Idempotency-Replayed: true 2 ok",
            "alice /payments (none) 42.00 EUR 400 code: key-required 2 ok",
            "alice /payments \"shoes-1 42.00 EUR 400 code: key-invalid 2 ok",
            "bob /payments shoes-1 42.00 EUR 201 pay_3 3 ok",
            "alice /payments bag-1 65.00 EUR 503 Retry-After: 1 3 ok",
            "alice /payments bag-1 65.00 EUR 201 pay_4 attempt: 2 4 ok",
            "alice /fares gate-7 2.80 EUR 201 pay_5 5 ok",
            "alice /fares gate-7 2.80 EUR 201 pay_6 6 ok",
        ]
    );
    assert!(stdout.ends_with("\nAll 13 came out as promised.\n"));
    assert!(stdout.lines().all(|line| line.chars().count() <= 110));
}

#[test]
fn wrong_arguments_end_in_status_2_and_the_usage() {
    for arguments in [
        &["--exist"][..],
        &["--exit", "now"],
        &["--listen"],
        &["--listen", "127.0.0.1"],
        &["--listen", "127.0.0.1:http"],
        &["--card-ms", "soon"],
    ] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(output.stdout.is_empty());
        assert!(
            text(output.stderr).contains("Usage: payments [--exit] [--listen ADDR] [--card-ms MS]")
        );
    }
    let help = run(&["--help"]);
    assert!(help.status.success());
    assert!(text(help.stdout).starts_with("Usage: payments"));
}

#[test]
fn an_address_that_is_taken_ends_in_status_1_before_the_story() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = run(&["--exit", "--listen", &address]);
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty());
    assert!(text(output.stderr).contains(&format!("can't listen on {address}: ")));
}

/// The program while it serves. Dropping this value stops the program, however
/// the test ends.
struct Server {
    program: Child,
    address: String,
    /// The lines that the program prints after the invitation.
    says: Box<dyn Iterator<Item = String>>,
}

impl Server {
    fn start() -> Self {
        Self::start_with(&[])
    }

    fn start_with(arguments: &[&str]) -> Self {
        let mut program = Command::new(&*PROGRAM)
            .args(["--listen", "127.0.0.1:0"])
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = program.stdout.take().unwrap();
        // The value exists before the output is read, so that the program is
        // also stopped if reading fails.
        let mut server = Self {
            program,
            address: String::new(),
            says: Box::new(std::iter::empty()),
        };
        let mut lines = BufReader::new(stdout).lines().map(Result::unwrap);
        server.address = lines
            .find_map(|line| {
                let (_, url) = line.split_once("is on http://")?;
                url.split_whitespace().next().map(str::to_owned)
            })
            .expect("the program says where it serves");
        let ledger = format!("curl -i http://{}/ledger", server.address);
        assert!(lines.any(|line| line == ledger));
        server.says = Box::new(lines);
        server
    }

    async fn send(&self, request: &str, headers: &[(&str, &str)], body: Value) -> Answer {
        let (method, path) = request.split_once(' ').unwrap();
        let mut request = Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", self.address))
            .header("content-type", "application/json");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let client = Client::builder(TokioExecutor::new()).build_http();
        let request = request.body(Body::from(body.to_string())).unwrap();
        let (head, body) = client.request(request).await.unwrap().into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Answer {
            status: head.status.as_u16(),
            headers: head.headers,
            text: text(body.to_vec()),
        }
    }

    async fn ledger(&self) -> (u64, u64) {
        let answer = self.send("GET /ledger", &[], Value::Null).await.json();
        let count = |name: &str| answer[name].as_u64().unwrap();
        (count("charges"), count("refunds"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.program.kill().ok();
        self.program.wait().ok();
    }
}

struct Answer {
    status: u16,
    headers: HeaderMap,
    text: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("not JSON: {}", self.text))
    }

    fn is_replay(&self) -> bool {
        self.headers.contains_key("idempotency-replayed")
    }
}

const ME: (&str, &str) = ("x-api-key", "me");

#[tokio::test]
async fn the_server_starts_clean_and_charges_once() {
    let server = Server::start();
    assert_eq!(server.ledger().await, (0, 0));
    // The story used this key, but the server has a ledger and records of its
    // own.
    let (alice, key) = (("x-api-key", "alice"), ("idempotency-key", "shoes-1"));
    let order = json!({ "amount": 4200, "currency": "EUR" });
    let first = server
        .send("POST /payments", &[alice, key], order.clone())
        .await;
    assert_eq!((first.status, first.is_replay()), (201, false));
    assert_eq!(
        first.json(),
        json!({ "id": "pay_1", "amount": 4200, "currency": "EUR", "attempt": 1 })
    );
    let again = server.send("POST /payments", &[alice, key], order).await;
    assert_eq!((again.status, again.is_replay()), (201, true));
    assert_eq!(again.text, first.text);
    assert_eq!(server.ledger().await, (1, 0));
}

#[tokio::test]
async fn a_refund_runs_each_time_without_a_key_and_once_with_one() {
    let server = Server::start();
    let order = json!({ "payment": "pay_1", "amount": 100 });
    for (number, headers) in [(1, &[][..]), (2, &[ME])] {
        let answer = server.send("POST /refunds", headers, order.clone()).await;
        assert_eq!((answer.status, answer.is_replay()), (201, false));
        assert_eq!(answer.json()["id"], format!("ref_{number}"));
        assert_eq!(answer.json()["safe_to_retry"], false);
    }
    let headers = [ME, ("idempotency-key", "\"r\"")];
    for replay in [false, true] {
        let answer = server.send("POST /refunds", &headers, order.clone()).await;
        assert_eq!((answer.status, answer.is_replay()), (201, replay));
        assert_eq!(answer.json()["id"], "ref_3");
        assert_eq!(answer.json()["safe_to_retry"], true);
    }
    assert_eq!(server.ledger().await, (0, 3));
}

#[tokio::test]
async fn wrong_requests_are_refused_and_charge_nothing() {
    let server = Server::start();
    let order = json!({ "amount": 4200, "currency": "EUR" });
    for (headers, code) in [
        (&[ME][..], "key-required"),
        (&[ME, ("idempotency-key", "\"a")], "key-invalid"),
        (&[ME, ("idempotency-key", "")], "key-invalid"),
        (&[("idempotency-key", "a")], "scope-missing"),
    ] {
        let answer = server.send("POST /payments", headers, order.clone()).await;
        assert_eq!((answer.status, &answer.json()["code"]), (400, &json!(code)));
    }
    for (key, order, reason) in [
        (
            "1",
            json!({ "amount": "x", "currency": "EUR" }),
            "amount: invalid type",
        ),
        (
            "2",
            json!({ "amount": -1, "currency": "EUR" }),
            "amount: invalid value",
        ),
        (
            "3",
            json!({ "amount": 0, "currency": "EUR" }),
            "amount: invalid value",
        ),
        (
            "4",
            json!({ "amount": 1, "currency": "XYZ" }),
            "currency: unknown variant",
        ),
        ("5", json!({ "currency": "EUR" }), "missing field `amount`"),
    ] {
        let headers = [ME, ("idempotency-key", key)];
        let answer = server.send("POST /payments", &headers, order).await;
        assert_eq!(answer.status, 422);
        assert!(answer.text.contains(reason), "{}", answer.text);
    }
    assert_eq!(server.ledger().await, (0, 0));
}

#[cfg(unix)]
#[tokio::test]
async fn a_payment_whose_client_has_left_is_finished_before_the_server_stops() {
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpStream;

    let mut server = Server::start_with(&["--card-ms", "1500"]);
    let order = json!({ "amount": 4200, "currency": "EUR" });
    let mut charges = 0;
    let client = loop {
        charges += 1;
        let key = format!("k{charges}");
        let body = order.to_string();
        let request = format!(
            "POST /payments HTTP/1.1\r\nhost: shop\r\nx-api-key: me\r\nidempotency-key: {key}\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        let mut client = TcpStream::connect(&server.address).await.unwrap();
        client.write_all(request.as_bytes()).await.unwrap();
        let headers = [ME, ("idempotency-key", &*key)];
        let second = server.send("POST /payments", &headers, order.clone());
        if second.await.status == 409 {
            // The first request is in flight, as this test needs. Without a 409
            // the second request was the faster one, and the loop tries again.
            break client;
        }
    };
    drop(client);
    let pid = server.program.id().to_string();
    let killed = Command::new("kill").args(["-TERM", &pid]).status().unwrap();
    assert!(killed.success());
    let last = server.says.by_ref().last().unwrap();
    assert_eq!(last, format!("Stopped. Charges: {charges}. Given up: 0."));
    assert!(server.program.wait().unwrap().success());
}

#[test]
fn a_store_whose_feature_is_off_or_that_is_none_ends_in_status_1_and_says_so() {
    let mut wrong = vec![(
        "mongodb://app:hunter2@db",
        "there is no store of the kind `mongodb:`",
    )];
    if cfg!(not(feature = "redis")) {
        wrong.push(("redis://:hunter2@db", "needs the feature `redis`"));
    }
    for (url, why) in wrong {
        let output = run(&["--exit", "--store", url]);
        let stderr = text(output.stderr);
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(
            stderr.contains(why) && !stderr.contains("hunter2"),
            "{stderr}"
        );
    }
    assert_eq!(run(&["--store"]).status.code(), Some(2));
}
