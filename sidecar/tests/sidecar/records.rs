//! What an operator does with records on the command line, on real stores.

use std::process::Output;
use std::sync::Arc;
use std::time::SystemTime;

use http::{Request, StatusCode};
use serde_json::Value;
use tower_idempotency::config::Config;
use tower_idempotency::store::{
    AnyStore, Claim, Claimed, Completion, Fingerprint, Lease, Outcome, RecordId, Release,
    ScopeDigest, Store,
};
use tower_idempotency_sidecar::Sidecar;

use crate::program::{Written, run, said};
use crate::servers::{fresh_directory, url};
use crate::support::{File, nobody};

const CHANGE: [&str; 4] = ["--who", "alice", "--why", "INC-7\nforged"];

/// A sidecar's file, and the store that it names.
struct Desk {
    file: Written,
    store: AnyStore,
    config: Config,
}

impl Desk {
    async fn new(name: &str, store: &str) -> Self {
        let text = File::new(nobody())
            .top(&format!("store = '{store}'"))
            .text();
        let file = Written::new(&format!("records-{name}.toml"), &text);
        AnyStore::migrate(store).await.unwrap();
        Self {
            file,
            store: AnyStore::connect(store).await.unwrap(),
            config: Config::from_toml(&text).unwrap(),
        }
    }

    async fn id(&self, key: &str) -> RecordId {
        let layer = Sidecar::layer(&self.config).await.unwrap();
        let request = Request::post("/payments").header("idempotency-key", key);
        let request = request.header("x-api-key", "alice").body(()).unwrap();
        layer.records().id_of(&request.into_parts().0).unwrap()
    }

    /// A claim whose owner does not know what became of the operation.
    async fn unknown(&self, key: &str) -> Lease {
        let lease = self.take(self.id(key).await).await;
        let how = Release::OutcomeUnknown;
        self.store
            .release(&lease.claim.id, &lease.claim.nonce, how)
            .await
            .unwrap();
        lease
    }

    async fn take(&self, id: RecordId) -> Lease {
        let claim = Claim::new(
            id,
            ScopeDigest::from_bytes([1; 32]),
            Fingerprint::from_bytes([2; 32]),
        );
        match self.store.claim(&claim).await.unwrap() {
            Claimed::Acquired(lease) => lease,
            other => panic!("{other:?}"),
        }
    }

    /// A store that can't list says so.
    async fn lists(&self, id: &str) {
        let output = self.run(&["list", "--state", "unknown", "--json"]).await;
        let stderr = said(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{stderr}");
        let listed: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(listed["records"][0]["id"], *id, "{listed}");
    }

    async fn run(&self, arguments: &[&str]) -> Output {
        let start = ["records", arguments[0], "--config", self.file.path()];
        run(&[&start[..], &arguments[1..]].concat()).await
    }

    async fn json(&self, arguments: &[&str], status: i32) -> Value {
        let output = self.run(&[arguments, &["--json"]].concat()).await;
        let stderr = said(&output.stderr);
        assert_eq!(
            output.status.code(),
            Some(status),
            "{arguments:?}: {stderr}"
        );
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

fn of(seen: &Value) -> String {
    seen["records"][0]["version"].as_str().unwrap().to_owned()
}

fn completed() -> Outcome {
    let completion = Completion::new(StatusCode::CREATED, "paid\u{1b}[2J", SystemTime::now());
    Outcome::Completed(Arc::new(completion))
}

async fn life(name: &str, store: &str) {
    let desk = Desk::new(name, store).await;
    it_happened(&desk, name).await;
    the_record_moves_on(&desk).await;
    it_did_not_happen(&desk).await;
}

async fn it_happened(desk: &Desk, name: &str) {
    let lease = desk.unknown("happened").await;
    let id = lease.claim.id.to_string();
    desk.lists(&id).await;
    let request = [
        "show",
        "--request",
        "POST /payments",
        "--key",
        "happened",
        "--caller",
        "alice",
    ];
    let shown = desk.json(&request, 0).await;
    assert_eq!(
        (&shown["records"][0]["id"], &shown["records"][0]["state"]),
        (&id.as_str().into(), &"lapsed".into())
    );
    let by_headers = [
        "show",
        "--request",
        "POST /payments",
        "--header",
        "Idempotency-Key: happened",
        "--header",
        "X-Api-Key: alice",
    ];
    assert_eq!(desk.json(&by_headers, 0).await["records"][0]["id"], *id);

    let seen = of(&shown);
    let body = Written::new(&format!("records-{name}-body"), "{\"paid\":true}");
    let happened = [
        "resolve",
        &id,
        "--happened",
        "--status",
        "201",
        "--header",
        "x-by: hand",
        "--body",
        body.path(),
        "--seen",
        &seen,
    ];
    let resolved = desk.json(&[&happened[..], &CHANGE].concat(), 0).await;
    assert_eq!(
        (&resolved["result"], &resolved["record"]["state"]),
        (&"recorded".into(), &"completed".into())
    );
    let shown = desk.json(&["show", &id, "--body"], 0).await;
    let response = &shown["records"][0]["response"];
    assert_eq!(
        (&response["status"], &response["body"]),
        (&201.into(), &"{\"paid\":true}".into())
    );
    assert_eq!(response["headers"][0][0], "x-by");
    let bare = desk.json(&["show", &id], 0).await;
    assert_eq!(bare["records"][0]["response"].get("headers"), None);
    // The version that was seen before is of the past.
    let forget = ["forget", &id, "--seen", &seen];
    let output = desk.run(&[&forget[..], &CHANGE].concat()).await;
    let stderr = said(&output.stderr);
    assert_eq!(output.status.code(), Some(4), "{stderr}");
    assert!(stderr.contains("has moved on since you saw it"), "{stderr}");
    let events: Vec<_> = stderr
        .lines()
        .filter(|line| line.contains("idempotency::audit"))
        .collect();
    assert_eq!(events.len(), 1, "{stderr}");
    for part in [
        "WARN",
        "who=\"alice\"",
        "why=\"INC-7\\\\nforged\"",
        "result=\"moved\"",
        &id,
    ] {
        assert!(events[0].contains(part), "{part}: {stderr}");
    }
    let done = of(&shown);
    let forget = ["forget", &id, "--seen", &done];
    assert_eq!(
        desk.json(&[&forget[..], &CHANGE].concat(), 0).await["result"],
        "gone"
    );
    assert_eq!(
        desk.json(&[&forget[..], &CHANGE].concat(), 3).await["result"],
        "absent"
    );
    desk.json(&["show", &id], 3).await;
}

async fn the_record_moves_on(desk: &Desk) {
    // The owner completes between show and resolve.
    let late = desk.unknown("late").await;
    let id = late.claim.id.to_string();
    let seen = of(&desk.json(&["show", &id], 0).await);
    desk.store.complete(&late, &completed()).await.unwrap();
    for action in [
        &["resolve", &id, "--happened", "--sealed", "--seen", &seen][..],
        &["resolve", &id, "--did-not-happen", "--seen", &seen],
        &["forget", &id, "--seen", &seen],
        &["forget", &id, "--force", "--seen", &seen],
    ] {
        let refused = desk.json(&[action, &CHANGE].concat(), 4).await;
        assert_eq!(
            (&refused["result"], &refused["record"]["state"]),
            (&"moved".into(), &"completed".into()),
            "{action:?}"
        );
    }
    let shown = desk.run(&["show", &id, "--body"]).await;
    assert!(
        said(&shown.stdout).contains("paid\\u{1b}[2J"),
        "{}",
        said(&shown.stdout)
    );

    // A retry takes over between show and forget.
    let first = desk.unknown("retried").await;
    let id = first.claim.id.to_string();
    let seen = of(&desk.json(&["show", &id], 0).await);
    let retry = desk.take(first.claim.id).await;
    assert_eq!(retry.attempt, 2);
    let forget = ["forget", &id, "--seen", &seen];
    assert_eq!(
        desk.json(&[&forget[..], &CHANGE].concat(), 4).await["result"],
        "moved"
    );
    desk.store.renew(&retry).await.unwrap();
}

async fn it_did_not_happen(desk: &Desk) {
    let free = desk.unknown("free").await.claim.id.to_string();
    let seen = of(&desk.json(&["show", &free], 0).await);
    let freeing = ["resolve", &free, "--did-not-happen", "--seen", &seen];
    let freed = desk.run(&[&freeing[..], &CHANGE].concat()).await;
    assert_eq!(freed.status.code(), Some(0), "{}", said(&freed.stderr));
    assert!(said(&freed.stdout).contains("a retry executes"));
}

#[tokio::test]
async fn records_are_shown_and_settled_in_sqlite() {
    let directory = fresh_directory("records");
    std::fs::create_dir_all(&directory).unwrap();
    life(
        "sqlite",
        &format!("sqlite:{}/records.db", directory.display()),
    )
    .await;
    std::fs::remove_dir_all(directory).unwrap();
}

#[tokio::test]
async fn records_are_shown_and_settled_in_postgres() {
    let table = format!("records_{}", std::process::id());
    life(
        "postgres",
        &format!("{}?table={table}", url("TEST_POSTGRES_URL")),
    )
    .await;
}

#[tokio::test]
async fn records_are_shown_and_settled_in_redis() {
    let prefix = format!("records-{}:", std::process::id());
    life(
        "redis",
        &format!("{}?prefix={prefix}", url("TEST_REDIS_URL")),
    )
    .await;
}

#[tokio::test]
async fn wrong_arguments_are_2_and_say_what_is_missing() {
    let id = "0".repeat(64);
    for (arguments, says) in [
        (&["records"][..], "list, show, resolve, forget"),
        (&["records", "drop"], "`records drop`"),
        (&["records", "show"], "say which record"),
        (&["records", "show", "xyz"], "64 hexadecimal digits"),
        (&["records", "list", "--seen", "1.1"], "no option `--seen`"),
        (&["records", "list", "--state", "odd"], "a state"),
        (
            &["records", "list", "--older-than", "soon"],
            "no length of time",
        ),
        (
            &["records", "forget", &id, "--why", "y", "--seen", "1.1"],
            "`--who` is missing",
        ),
        (
            &["records", "forget", &id, "--who", "w", "--seen", "1.1"],
            "`--why` is missing",
        ),
        (
            &["records", "forget", &id, "--who", "w", "--why", "y"],
            "`--seen` is missing",
        ),
        (
            &[
                "records", "forget", &id, "--who", " ", "--why", "y", "--force",
            ],
            "`who` is missing",
        ),
        (
            &[
                "records", "resolve", &id, "--who", "w", "--why", "y", "--force",
            ],
            "what became of",
        ),
        (&["records", "list"], "--config FILE is missing"),
    ] {
        let output = run(arguments).await;
        let stderr = said(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {stderr}");
        assert!(stderr.contains(says), "{arguments:?}: {stderr}");
    }
}

#[tokio::test]
async fn the_records_of_a_process_are_not_to_be_had_from_outside() {
    let file = Written::new("records-memory.toml", &File::new(nobody()).text());
    let output = run(&["--config", file.path(), "records", "list"]).await;
    let stderr = said(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("`store` is `memory:`"), "{stderr}");
}
