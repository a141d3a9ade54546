//! These tests run the program itself: its arguments and its exit status.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Output, Stdio};

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::support::{Client, File, Upstream, nobody, ok, post, within};

pub(crate) fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tower-idempotency-sidecar"));
    command.kill_on_drop(true).env_remove("RUST_LOG");
    command
}

pub(crate) async fn run(arguments: &[&str]) -> Output {
    within(program().args(arguments).output()).await.unwrap()
}

/// The file is removed when `Written` is dropped.
pub(crate) struct Written(PathBuf);

impl Written {
    pub(crate) fn new(name: &str, text: &str) -> Self {
        let name = format!("sidecar-{}-{name}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, text).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for Written {
    fn drop(&mut self) {
        // SQLite has two more files.
        for suffix in ["", "-wal", "-shm"] {
            let _ = std::fs::remove_file(format!("{}{suffix}", self.path()));
        }
    }
}

pub(crate) fn said(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[tokio::test]
async fn it_says_what_it_takes_and_which_version_it_is() {
    for (argument, says) in [
        ("--help", "Usage: tower-idempotency-sidecar --config FILE"),
        ("-h", "Exit status:"),
        ("--version", env!("CARGO_PKG_VERSION")),
    ] {
        let output = run(&[argument]).await;
        assert_eq!(output.status.code(), Some(0));
        assert!(said(&output.stdout).contains(says), "{argument}");
    }
}

#[tokio::test]
async fn wrong_arguments_are_2() {
    for arguments in [
        &[][..],
        &["--check"],
        &["--config"],
        &["--confg", "a"],
        &["--config", "a", "more"],
        &["--config", "a", "--check", "--migrate"],
    ] {
        let output = run(arguments).await;
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(said(&output.stderr).contains("Usage:"), "{arguments:?}");
    }
}

#[tokio::test]
async fn a_file_that_is_wrong_is_1_and_says_where() {
    let upstream = nobody();
    let right = || File::new(upstream);
    for (name, text, place, says) in [
        (
            "typo.toml",
            right().idempotency("lese = '3s'").text(),
            ":7:1:",
            "lese",
        ),
        (
            "no-upstream.toml",
            "listen = '127.0.0.1:0'".to_owned(),
            "",
            "`upstream` is missing",
        ),
        (
            "no-store.toml",
            right().text().replace("store = 'memory:'\n", ""),
            "",
            "`store` is missing",
        ),
        (
            "cancel.toml",
            right().idempotency("on_disconnect = 'cancel'").text(),
            ":7:1:",
            "`idempotency.on_disconnect` can't be `cancel` here",
        ),
        (
            "cancel-route.toml",
            right().route("POST /a", "on_disconnect = 'cancel'").text(),
            ":10:1:",
            "`route[0].on_disconnect` can't be `cancel` here",
        ),
        (
            "cancel-other-methods.toml",
            right()
                .route("POST /a", "")
                .route("/a", "on_disconnect = 'cancel'")
                .text(),
            ":13:1:",
            "`route[1].on_disconnect` can't be `cancel` here",
        ),
        (
            "slash.toml",
            right().route("/b", "").route("POST /a/", "").text(),
            ":12:1:",
            "ends in a slash",
        ),
    ] {
        refuses(name, &text, place, says).await;
    }
    let output = run(&["--config", "/no/such/file.toml"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output.stderr).contains("/no/such/file.toml"));
}

#[tokio::test]
async fn what_a_proxy_can_t_keep_is_refused() {
    let upstream = nobody();
    let right = || File::new(upstream);
    for (name, text, place, says) in [
        (
            "forwarded.toml",
            right()
                .top("trusted_proxies = ['10.0.0.0/16']")
                .route(
                    "POST /a",
                    "scope = [{ forwarded_ip = 'x-forwarded-for', trusted = ['10.0.0.0/16', '10.1.0.0/16'] }]",
                )
                .text(),
            ":11:1:",
            "`route[0].scope` trusts 10.1.0.0/16 to say where a request comes from: list it in \
             `trusted_proxies` too",
        ),
        (
            "behind.toml",
            right()
                .top("trusted_proxies = ['10.0.0.0/16']")
                .idempotency("scope = ['header:x-api-key', 'peer-ip']")
                .text(),
            ":8:1:",
            "`idempotency.scope` lists `peer-ip`, which is a proxy's own address",
        ),
        (
            "overlong.toml",
            right()
                .top("upstream_timeout = '20m'")
                .route("POST /a", "max_operation = '1h'")
                .text(),
            ":",
            "`idempotency.max_operation` must not be shorter than `upstream_timeout`",
        ),
        (
            "exactly.toml",
            right().route("POST /a", "exactly_once = true").text(),
            ":10:1:",
            "`route[0].exactly_once` can't be promised here",
        ),
        (
            "steps.toml",
            right().idempotency("steps = true").text(),
            ":7:1:",
            "`idempotency.steps` can't be kept here",
        ),
        (
            "stripped.toml",
            right()
                .top("authorize = { url = 'http://127.0.0.1:1/', headers = ['x-account', 'x-key'] }")
                .idempotency("header = ['idempotency-key', 'X-Key']")
                .text(),
            ":8:1:",
            "`idempotency.header` names `x-key`, which the sidecar removes",
        ),
    ] {
        refuses(name, &text, place, says).await;
    }
}

/// Checks that the program refuses the file, and names this place in the file and
/// these words.
async fn refuses(name: &str, text: &str, place: &str, says: &str) {
    let file = Written::new(name, text);
    for arguments in [
        &["--config", file.path(), "--check"][..],
        &["--config", file.path()],
    ] {
        let output = run(arguments).await;
        let error = said(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{name}: {error}");
        let at = format!("{}{place}", file.path());
        assert!(
            error.contains(&at) && error.contains(says),
            "{name}: {error}"
        );
    }
}

#[cfg(feature = "redis")]
#[tokio::test]
async fn check_prints_the_contract_and_asks_nobody() {
    let file = File::new(nobody())
        // These addresses belong to no server, because `--check` must not connect.
        .top(&format!("listen = '{}'", nobody()))
        .top(&format!("store = 'redis://{}'", nobody()))
        .route("POST /orders", "require = 'required'");
    let file = Written::new("check.toml", &file.text());
    let output = run(&["--check", "--config", file.path()]).await;
    assert_eq!(output.status.code(), Some(0), "{}", said(&output.stderr));
    assert!(said(&output.stdout).contains("| `/orders` | POST | required |"));
}

#[tokio::test]
async fn a_store_or_an_address_that_can_t_be_used_is_1() {
    let upstream = Upstream::start(|_| ok("done")).await;
    let taken = format!("listen = '{}'", upstream.address);
    let file = Written::new(
        "taken.toml",
        &File::new(upstream.address).top(&taken).text(),
    );
    let output = run(&["--config", file.path()]).await;
    assert_eq!(output.status.code(), Some(1));
    let error = said(&output.stderr);
    assert!(
        error.contains(&format!("can't listen on {}: ", upstream.address)),
        "{error}"
    );
    let file = File::new(upstream.address).top("store = 'other:'");
    let file = Written::new("store.toml", &file.text());
    let output = run(&["--config", file.path()]).await;
    assert_eq!(output.status.code(), Some(1));
    let error = said(&output.stderr);
    assert!(
        error.contains(":3:1: `store` can't work") && error.contains("sqlite:"),
        "{error}"
    );
}

/// Run by `scripts/test`, which builds the program without any feature once.
#[cfg(not(feature = "redis"))]
#[tokio::test]
async fn a_store_that_is_not_compiled_in_is_refused_with_the_way_to_build_it() {
    let text = File::new(nobody())
        .top("store = 'redis://:hunter2@cache'")
        .text();
    let file = Written::new("not-compiled-in.toml", &text);
    for task in [&["--check"][..], &["--migrate"], &[]] {
        let arguments = [&["--config", file.path()], task].concat();
        let output = run(&arguments).await;
        assert_eq!(output.status.code(), Some(1), "{task:?}");
        let stderr = said(&output.stderr);
        assert!(
            stderr.contains(
                "`store` is a `redis:` URL, and this program was built without the feature `redis`: \
                 build it again with `--features redis`"
            ) && !stderr.contains("hunter2"),
            "{stderr}"
        );
    }
}

/// Run by `scripts/test`, which builds the program without any feature once.
#[cfg(not(feature = "tls"))]
#[tokio::test]
async fn what_needs_tls_is_refused_with_the_way_to_build_it() {
    for (entry, named) in [
        ("upstream = 'https://a.example'", "upstream"),
        ("authorize = 'https://a.example/check'", "authorize"),
        ("tls = { certificate = '/a.pem', key = '/b.pem' }", "tls"),
        (
            "metrics_tls = { certificate = '/a.pem', key = '/b.pem' }",
            "metrics_tls",
        ),
    ] {
        let file = File::new(nobody())
            .top("metrics = '127.0.0.1:0'")
            .top(entry);
        let file = Written::new("no-tls.toml", &file.text());
        for task in [&["--check"][..], &[]] {
            let output = run(&[&["--config", file.path()], task].concat()).await;
            assert_eq!(output.status.code(), Some(1), "{entry}");
            let says = format!(
                "`{named}` needs TLS, and this program was built without the feature `tls`: build it again with `--features tls`"
            );
            let stderr = said(&output.stderr);
            assert!(stderr.contains(&says), "{stderr}");
        }
    }
}

#[cfg(feature = "sqlite")]
#[tokio::test]
async fn migrate_makes_the_table_and_ends() {
    let database = Written::new("migrate.db", "");
    let store = format!("store = 'sqlite:{}'", database.path());
    let file = Written::new("migrate.toml", &File::new(nobody()).top(&store).text());
    let output = run(&["--config", file.path(), "--migrate"]).await;
    assert_eq!(output.status.code(), Some(0), "{}", said(&output.stderr));
    let has_table = |suffix: &str| {
        let file = format!("{}{suffix}", database.path());
        let table = b"CREATE TABLE idempotency_records";
        std::fs::read(file).is_ok_and(|written| written.windows(table.len()).any(|at| at == table))
    };
    assert!(has_table("") || has_table("-wal"));
}

/// This is the running program.
pub(crate) struct Serving {
    pub(crate) child: Child,
    pub(crate) address: SocketAddr,
    pub(crate) log: tokio::io::Lines<BufReader<tokio::process::ChildStderr>>,
    _file: Written,
}

impl Serving {
    pub(crate) async fn start(name: &str, file: &File) -> Self {
        Self::run(program(), name, file).await
    }

    pub(crate) async fn run(mut program: Command, name: &str, file: &File) -> Self {
        let file = Written::new(name, &file.text());
        let mut child = program
            .args(["--config", file.path()])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
        let address = loop {
            let line = within(log.next_line()).await.unwrap();
            let line = line.expect("the program listens");
            // A warning of the store may come first.
            if let Some((_, address)) = line.split_once("listening address=") {
                // A Unix socket has no address.
                break address.parse().unwrap_or(([0; 4], 0).into());
            }
        };
        Self {
            child,
            address,
            log,
            _file: file,
        }
    }

    pub(crate) async fn signal(&self, signal: &str) {
        let id = self.child.id().unwrap().to_string();
        let sent = Command::new("kill").args([signal, &id]).status().await;
        assert!(sent.unwrap().success());
    }

    pub(crate) async fn says(&mut self, what: &str) {
        self.says_line(what).await;
    }

    /// Returns the line of the log that says this.
    pub(crate) async fn says_line(&mut self, what: &str) -> String {
        loop {
            let line = within(self.log.next_line()).await.unwrap();
            let line = line.expect("more of the log");
            if line.contains(what) {
                return line;
            }
        }
    }
}

#[tokio::test]
async fn running_out_of_file_descriptors_is_told() {
    let upstream = Upstream::start(|_| ok("done")).await;
    let mut limited = Command::new("sh");
    limited
        .args(["-c", "ulimit -n 30; exec \"$0\" \"$@\""])
        .arg(env!("CARGO_BIN_EXE_tower-idempotency-sidecar"))
        .kill_on_drop(true)
        .env_remove("RUST_LOG");
    let mut serving = Serving::run(limited, "descriptors.toml", &File::new(upstream.address)).await;
    let mut clients = Vec::new();
    for _ in 0..30 {
        clients.push(Client::connect(serving.address).await);
    }
    serving.says("WARN").await;
    drop(clients);
    let mut client = Client::connect(serving.address).await;
    client.send(&post("/a", "k", "{}")).await;
    assert_eq!(client.answer().await.text(), "done");
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn it_says_which_limits_it_has_too_few_file_descriptors_for() {
    let upstream = nobody();
    let limits = "limits = { max_connections = 300, max_upstream_requests = 100 }";
    let file = File::new(upstream).top(limits);
    let written = Written::new("descriptors.toml", &file.text());
    // The program raises the soft limit itself.
    for (set, warns) in [("-n 500", true), ("-n 528", false), ("-S -n 400", false)] {
        let begin = format!("ulimit {set}; exec \"$0\" --config \"$1\"");
        let program = env!("CARGO_BIN_EXE_tower-idempotency-sidecar");
        let mut child = Command::new("sh");
        child.args(["-c", &begin, program, written.path()]);
        child.kill_on_drop(true).env_remove("RUST_LOG");
        let mut child = child.stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut log = String::new();
        while !log.contains("listening") {
            log += &within(lines.next_line()).await.unwrap().unwrap();
        }
        let says = "together they need 528 file descriptors, and the process may have 500";
        assert_eq!(log.contains(says), warns, "{log}");
    }
}
