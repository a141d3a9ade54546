//! A page in Chromium runs the recipe of `docs/browsers.md`, behind nginx.

use std::fmt::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::process::{Child, Command};
use tokio::sync::{Notify, mpsc};
use tokio::time::timeout;

use crate::support::{File, Message, Step, Upstream, answer, free_port, until};

const PAGE: &str = include_str!("browsers.html");
const RECIPE: &str = include_str!("../../docs/browsers.md");
const WITHIN: Duration = Duration::from_secs(30);

/// The block of the recipe in this language.
fn block(language: &str) -> &'static str {
    let (_, block) = RECIPE.split_once(&format!("```{language}\n")).unwrap();
    block.split_once("\n```").unwrap().0
}

/// A directory that is removed when `Directory` is dropped.
struct Directory(PathBuf);

impl Directory {
    fn fresh() -> Self {
        let path = std::env::temp_dir().join(format!("browsers-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // Processes of Chromium write a while longer than the one that the test ends.
        for _ in 0..40 {
            if std::fs::remove_dir_all(&self.0).is_ok() {
                break;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

fn run(program: &str, arguments: &[&str]) -> Child {
    let mut command = Command::new(program);
    command.args(arguments).kill_on_drop(true);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let hint = format!("{program} runs; `scripts/test --install` installs it");
    command.stderr(Stdio::null()).spawn().expect(&hint)
}

/// Runs nginx with the recipe's part of a configuration, with the addresses of this test.
async fn nginx(directory: &Path, sidecar: SocketAddr, pages: [&str; 2]) -> (Child, SocketAddr) {
    let address = free_port();
    let server = block("nginx")
        .replace("127.0.0.1:8000", &address.to_string())
        .replace("127.0.0.1:8080", &sidecar.to_string())
        .replace("https://shop.example.com", pages[0])
        .replace("https://admin.example.com", pages[1]);
    let own = directory.display();
    let file = format!(
        "daemon off;\nmaster_process off;\npid {own}/pid;\nerror_log {own}/log;\nevents {{}}\nhttp {{\n\
         access_log off;\nclient_body_temp_path {own}/body;\nproxy_temp_path {own}/proxy;\n\
         fastcgi_temp_path {own}/1;\nuwsgi_temp_path {own}/2;\nscgi_temp_path {own}/3;\n{server}\n}}\n"
    );
    let path = directory.join("nginx.conf");
    std::fs::write(&path, file).unwrap();
    let path = path.to_str().unwrap();
    let log = directory.join("log");
    let program = if Path::new("/usr/sbin/nginx").exists() {
        "/usr/sbin/nginx"
    } else {
        "nginx"
    };
    let mut child = run(program, &["-c", path, "-e", log.to_str().unwrap()]);
    until(async || {
        let said = || std::fs::read_to_string(&log).unwrap_or_default();
        assert!(child.try_wait().unwrap().is_none(), "{}", said());
        tokio::net::TcpStream::connect(address).await.is_ok()
    })
    .await;
    (child, address)
}

/// A service that sets fields of CORS itself, for whichever page asks. An order of `slow` waits
/// until `/release` is asked for; `/arrived` waits until there is one.
async fn service() -> Upstream {
    let (arrived, release) = (Arc::<Notify>::default(), Arc::<Notify>::default());
    let orders = Arc::<AtomicUsize>::default();
    Upstream::start(move |request| {
        let origin = request.field("origin").unwrap_or("null");
        let fields = format!(
            "Access-Control-Allow-Origin: {origin}\r\nAccess-Control-Allow-Headers: Content-Type, \
             Idempotency-Key\r\nContent-Type: application/json\r\n"
        );
        let slow = request.body == br#"{"sku":"slow"}"#;
        let mut steps = Vec::new();
        if slow {
            arrived.notify_one();
            steps.push(Step::Wait(Arc::clone(&release)));
        }
        if request.start.starts_with("POST") {
            let number = orders.fetch_add(1, Ordering::SeqCst) + 1;
            steps.extend(answer(
                "201 Created",
                &fields,
                &format!("{{\"number\":{number}}}"),
            ));
            return steps;
        }
        match request.target() {
            "/arrived" => steps.push(Step::Wait(Arc::clone(&arrived))),
            "/release" => release.notify_one(),
            _ => {}
        }
        steps.extend(answer("200 OK", &fields, "{}"));
        steps
    })
    .await
}

/// A server of the page, which hands on what the page posts.
async fn pages(told: mpsc::UnboundedSender<Value>) -> Upstream {
    let other_has_told = Arc::<Notify>::default();
    Upstream::start(move |request: &Message| {
        let html = |body: &str| answer("200 OK", "Content-Type: text/html\r\n", body);
        match request.target() {
            "/results" => {
                let results: Value = serde_json::from_slice(&request.body).unwrap();
                if results.get("other_replay").is_some() {
                    other_has_told.notify_one();
                }
                told.send(results).unwrap();
                html("")
            }
            "/order.mjs" => answer("200 OK", "Content-Type: text/javascript\r\n", block("js")),
            "/other-has-told" => {
                let mut steps = vec![Step::Wait(Arc::clone(&other_has_told))];
                steps.extend(html(""));
                steps
            }
            _ => html(PAGE),
        }
    })
    .await
}

#[tokio::test]
async fn a_page_of_another_origin_reads_every_response_if_nginx_adds_the_fields() {
    let directory = Directory::fresh();
    let service = service().await;
    let sidecar = File::new(service.address).start().await;
    let (told, mut results) = mpsc::unbounded_channel();
    let pages = pages(told).await;
    let port = pages.address.port();
    let origins = [
        &*format!("http://127.0.0.1:{port}"),
        &*format!("http://localhost:{port}"),
    ];
    let (_nginx, via) = nginx(&directory.0, sidecar.address, origins).await;
    let bases = json!({
        "via": format!("http://{via}"),
        "direct": format!("http://{}", sidecar.address),
    });
    let mut hash = String::new();
    for byte in bases.to_string().bytes() {
        write!(hash, "%{byte:02x}").unwrap();
    }
    let profile = format!("--user-data-dir={}", directory.0.join("profile").display());
    let page = format!("{}/#{hash}", origins[0]);
    let _chromium = run(
        "chromium",
        &[
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            &profile,
            &page,
        ],
    );
    let mut read = json!({});
    for _ in 0..3 {
        let told = timeout(WITHIN, results.recv()).await;
        let Ok(Some(Value::Object(told))) = told else {
            panic!("the page stands still after {read:#}");
        };
        read.as_object_mut().unwrap().extend(told);
    }
    let executed =
        |number: u64| json!({ "status": 201, "number": number, "replayed": null, "wait": null });
    let replayed =
        |number: u64| json!({ "status": 201, "number": number, "replayed": "true", "wait": null });
    let refused = |status: u16, code: &str, wait: Value| json!({ "status": status, "code": code, "replayed": null, "wait": wait });
    // The browser tells the page nothing of a response without the fields.
    let opaque = json!({ "error": "TypeError" });
    let expected = json!({
        "ordered": executed(1),
        "first": executed(2),
        "replay": replayed(2),
        "reused": refused(422, "key-reused", Value::Null),
        "in_flight": refused(409, "in-flight", json!("1")),
        "running": executed(3),
        // The service's own fields are in its first response and in its record; the mark is not exposed.
        "first_without": executed(4),
        "replay_without": executed(4),
        "reused_without": opaque,
        "other_replay": replayed(2),
        // The record has the fields for the first origin.
        "other_replay_without": opaque,
        "resumed": replayed(5),
        "left": null,
    });
    assert_eq!(read, expected, "{read:#}");
}
