//! Where the sidecar listens: a name, a Unix socket, or a socket that it is given.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::Stdio;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::process::Command;

use crate::program::{Serving, Written, program, said};
use crate::support::{Client, File, Upstream, get, ok, post, within};

/// A path in a folder that is removed when `Socket` is dropped.
struct Socket(PathBuf);

impl Socket {
    fn new(name: &str) -> Self {
        let name = format!("sidecar-{}-{name}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    fn path(&self) -> PathBuf {
        self.0.join("listen.sock")
    }

    /// Sends a request on a connection of its own, and returns the response.
    async fn exchange(&self, request: &str) -> String {
        let mut stream = UnixStream::connect(self.path()).await.unwrap();
        let request = request.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut read = String::new();
        within(stream.read_to_string(&mut read)).await.unwrap();
        read
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[tokio::test]
async fn it_listens_on_a_name() {
    let upstream = Upstream::start(|_| ok("done")).await;
    let file = File::new(upstream.address).top("listen = 'localhost:0'");
    let sidecar = file.start().await;
    // Version 4 comes first.
    assert!(sidecar.address.is_ipv4(), "{}", sidecar.address);
    assert_eq!(sidecar.exchange(&get("/")).await.text(), "done");
}

#[tokio::test]
async fn it_listens_on_a_unix_socket_which_counts_as_this_machine() {
    let upstream = Upstream::start(|_| ok("done")).await;
    let socket = Socket::new("unix");
    // A process that was killed leaves its socket behind.
    drop(UnixListener::bind(socket.path()).unwrap());
    let file = File::new(upstream.address)
        .top(&format!("listen = 'unix:{}'", socket.path().display()))
        .top("trusted_proxies = ['127.0.0.1']");
    let mut serving = Serving::run(program(), "unix.toml", &file).await;
    let request = post("/a", "k", "{}").replacen("\r\n", "\r\nX-Forwarded-For: 192.0.2.1\r\n", 1);
    for replayed in [false, true] {
        let response = socket.exchange(&request).await;
        assert!(response.starts_with("HTTP/1.1 200 OK\r\n"), "{response}");
        assert_eq!(
            response.contains("idempotency-replayed"),
            replayed,
            "{response}"
        );
    }
    let forwarded = upstream.last();
    assert_eq!(
        forwarded.field("x-forwarded-for"),
        Some("192.0.2.1, 127.0.0.1")
    );
    // Another process does not take the socket of one that runs.
    let written = Written::new("unix-taken.toml", &file.text());
    let output = within(program().args(["--config", written.path()]).output())
        .await
        .unwrap();
    let error = said(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(
        error.contains(&format!(
            "can't listen on unix:{}: ",
            socket.path().display()
        )),
        "{error}"
    );
    serving.signal("-TERM").await;
    serving.says("shut down").await;
    assert!(!socket.path().exists());
}

/// Runs the program with this socket as its descriptor 3, as service managers pass it.
async fn with_passed(socket: OwnedFd, name: &str, file: &File) -> Serving {
    let begin = "export LISTEN_FDS=1 LISTEN_PID=$$; exec \"$0\" \"$@\" 3<&0 0</dev/null";
    let mut shell = Command::new("sh");
    shell
        .args(["-c", begin, env!("CARGO_BIN_EXE_tower-idempotency-sidecar")])
        .stdin(Stdio::from(socket))
        .kill_on_drop(true)
        .env_remove("RUST_LOG");
    Serving::run(shell, name, file).await
}

#[tokio::test]
async fn it_listens_on_a_socket_that_a_service_manager_passes() {
    let upstream = Upstream::start(|_| ok("done")).await;
    let file = File::new(upstream.address).top("listen = 'fd:3'");
    let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = tcp.local_addr().unwrap();
    let serving = with_passed(tcp.into(), "fd-tcp.toml", &file).await;
    assert_eq!(serving.address, address);
    let mut client = Client::connect(address).await;
    client.send(&get("/")).await;
    assert_eq!(client.answer().await.text(), "done");
    let socket = Socket::new("fd");
    let unix = UnixListener::bind(socket.path()).unwrap();
    let mut serving = with_passed(unix.into(), "fd-unix.toml", &file).await;
    assert!(socket.exchange(&get("/")).await.ends_with("done"));
    serving.signal("-TERM").await;
    serving.says("shut down").await;
    // The socket is the service manager's.
    assert!(socket.path().exists());
    let written = Written::new("fd-none.toml", &file.text());
    let output = within(program().args(["--config", written.path()]).output())
        .await
        .unwrap();
    let error = said(&output.stderr);
    assert!(
        error.contains("can't listen on fd:3: no such descriptor was passed"),
        "{error}"
    );
}
