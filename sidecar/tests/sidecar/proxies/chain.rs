//! A proxy, the sidecar, the same proxy again, and a service, by the files in `deploy/proxies`.

use std::fmt::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Request, Response, StatusCode, Version, request};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::sync::Semaphore;

use crate::support::{Running, free_port, until};

const FILES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/proxies");
const INSTALLED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/proxies");

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Proxy {
    Caddy,
    Envoy,
    Haproxy,
    Nginx,
}

pub(super) const ALL: [Proxy; 4] = [Proxy::Caddy, Proxy::Envoy, Proxy::Haproxy, Proxy::Nginx];

/// A part of a proxy's file, and what a test puts in its place.
type Change = (String, String);

fn change(old: &str, new: &str) -> Change {
    (old.to_owned(), new.to_owned())
}

impl Proxy {
    fn file(self) -> &'static str {
        match self {
            Self::Caddy => "Caddyfile",
            Self::Envoy => "envoy.yaml",
            Self::Haproxy => "haproxy.cfg",
            Self::Nginx => "nginx.conf",
        }
    }

    fn command(self, file: &str, directory: &Path) -> Command {
        let installed = Path::new(INSTALLED);
        let mut command;
        match self {
            Self::Caddy => {
                command = Command::new(installed.join("bin/caddy"));
                command.args(["run", "--adapter", "caddyfile", "--config", file]);
                command.env("HOME", directory);
            }
            Self::Envoy => {
                command = Command::new(installed.join("envoy/_bin/envoy"));
                command.args(["--concurrency", "1", "--use-dynamic-base-id", "-c", file]);
            }
            Self::Haproxy => {
                command = Command::new("haproxy");
                command.args(["-db", "-f", file]);
            }
            Self::Nginx => {
                command = Command::new("nginx");
                let own = directory.display();
                let main = format!("daemon off; master_process off; pid {own}/pid;");
                command.args(["-e", "stderr", "-g", &main, "-c", file]);
            }
        }
        // Debian has some of them where only the path of root leads.
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{path}:/usr/sbin"));
        command
    }

    /// The time limit of each try of a request with a key.
    pub(super) fn tries_for(self, time: &str) -> Vec<Change> {
        let (entry, time) = match self {
            Self::Caddy => ("response_header_timeout ", time.to_owned()),
            Self::Envoy => (
                "per_try_timeout: ",
                format!("0.{}", time.replace("00ms", "s")),
            ),
            Self::Haproxy => ("timeout server ", time.to_owned()),
            Self::Nginx => ("proxy_read_timeout ", time.to_owned()),
        };
        vec![(format!("{entry}5s"), format!("{entry}{time}"))]
    }

    /// The time limit of a request without a key.
    pub(super) fn waits_for(self, time: &str) -> Vec<Change> {
        let (entry, time) = match self {
            Self::Caddy => ("response_header_timeout ", time.to_owned()),
            Self::Envoy => ("timeout: ", format!("0.{}", time.replace("00ms", "s"))),
            Self::Haproxy => ("timeout server ", time.to_owned()),
            Self::Nginx => ("proxy_read_timeout ", time.to_owned()),
        };
        vec![(format!("{entry}65s"), format!("{entry}{time}"))]
    }

    /// HTTP/2 wherever the proxy can: without TLS, and with a service that speaks it.
    pub(super) fn http2(self) -> Vec<Change> {
        match self {
            Self::Caddy => vec![change("versions 1.1 #", "versions h2c 2 #")],
            Self::Envoy => vec![change(
                "{ http_protocol_options",
                "{ http2_protocol_options",
            )],
            Self::Haproxy => vec![
                change("127.0.0.1:9001 ", "127.0.0.1:9001 proto h2 "),
                change("127.0.0.1:9002", "127.0.0.1:9002 proto h2"),
            ],
            Self::Nginx => vec![change("127.0.0.1:8000;", "127.0.0.1:8000 http2;")],
        }
    }

    /// The sidecar may speak HTTP/2 to the proxy behind it.
    pub(super) fn http2_behind(self) -> Vec<Change> {
        match self {
            Self::Nginx => vec![change("127.0.0.1:9000;", "127.0.0.1:9000 http2;")],
            _ => Vec::new(),
        }
    }
}

/// A service that counts. `/slow` waits until `finish`, and `/breaks` does not respond at all.
#[derive(Clone)]
pub(super) struct Service {
    pub(super) address: SocketAddr,
    heads: Arc<Mutex<Vec<request::Parts>>>,
    ended: Arc<AtomicUsize>,
    finish: Arc<Semaphore>,
}

impl Service {
    pub(super) async fn start(version: Version) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let service = Self {
            address: listener.local_addr().unwrap(),
            heads: Arc::default(),
            ended: Arc::default(),
            finish: Arc::new(Semaphore::new(0)),
        };
        let serving = service.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (stream, service) = (TokioIo::new(stream), serving.clone());
                let execute = service_fn(move |request| service.clone().execute(request));
                tokio::spawn(async move {
                    if version == Version::HTTP_2 {
                        let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                        let _ = server.serve_connection(stream, execute).await;
                    } else {
                        let server = hyper::server::conn::http1::Builder::new();
                        let _ = server.serve_connection(stream, execute).await;
                    }
                });
            }
        });
        service
    }

    async fn execute(
        self,
        request: Request<Incoming>,
    ) -> Result<Response<Full<Bytes>>, std::io::Error> {
        let (head, body) = request.into_parts();
        body.collect().await.map_err(std::io::Error::other)?;
        let path = head.uri.path().to_owned();
        let number = {
            let mut heads = self.heads.lock().unwrap();
            heads.push(head);
            heads.len()
        };
        match path.as_str() {
            "/slow" => self.finish.acquire().await.unwrap().forget(),
            "/breaks" => return Err(std::io::Error::other("the service breaks off")),
            _ => {}
        }
        self.ended.fetch_add(1, Ordering::SeqCst);
        let mut response = Response::new(Full::from(number.to_string()));
        *response.status_mut() = StatusCode::CREATED;
        Ok(response)
    }

    /// Lets one slow execution end.
    pub(super) fn finish(&self) {
        self.finish.add_permits(1);
    }

    pub(super) fn began(&self) -> usize {
        self.heads.lock().unwrap().len()
    }

    pub(super) fn ended(&self) -> usize {
        self.ended.load(Ordering::SeqCst)
    }

    /// The heads of the requests whose execution began.
    pub(super) fn heads(&self) -> Vec<request::Parts> {
        self.heads.lock().unwrap().clone()
    }
}

/// What a test says about a chain before it starts.
pub(super) struct Plan {
    proxy: Proxy,
    services: [SocketAddr; 2],
    changes: Vec<Change>,
    sidecar: String,
}

pub(super) struct Chain {
    /// Where clients connect to the proxy.
    pub(super) front: SocketAddr,
    pub(super) sidecar: Running,
    _proxy: Child,
    _directory: Directory,
}

impl Chain {
    /// Both servers of the service are this one, unless the plan says otherwise.
    pub(super) fn of(proxy: Proxy, service: &Service) -> Plan {
        let file = std::fs::read_to_string(format!("{FILES}/sidecar.toml")).unwrap();
        let listen = "listen = \"127.0.0.1:8080\"";
        assert!(file.contains(listen));
        let metrics = "metrics = \"127.0.0.1:0\"\nlisten = \"127.0.0.1:0\"";
        Plan {
            proxy,
            services: [service.address; 2],
            changes: Vec::new(),
            sidecar: file.replace(listen, metrics),
        }
    }

    /// Returns how many requests the sidecar has received.
    pub(super) async fn requests(&self) -> u64 {
        let sample = "idempotency_sidecar_requests_total";
        self.sidecar.number(sample).await
    }

    pub(super) async fn requests_in_flight(&self) -> u64 {
        let sample = "idempotency_sidecar_requests_in_flight";
        self.sidecar.number(sample).await
    }
}

impl Plan {
    /// The first of the two servers of the service is this one.
    pub(super) fn beside(mut self, other: SocketAddr) -> Self {
        self.services[0] = other;
        self
    }

    pub(super) fn change(mut self, changes: Vec<Change>) -> Self {
        self.changes.extend(changes);
        self
    }

    pub(super) fn change_sidecar(mut self, old: &str, new: &str) -> Self {
        assert!(self.sidecar.contains(old), "{old}");
        self.sidecar = self.sidecar.replace(old, new);
        self
    }

    pub(super) async fn start(self) -> Chain {
        let (front, behind) = (free_port(), free_port());
        let plan = self.change_sidecar("127.0.0.1:9000", &behind.to_string());
        let sidecar = Running::start(&plan.sidecar).await;
        let path = format!("{FILES}/{}", plan.proxy.file());
        let mut file = std::fs::read_to_string(path).unwrap();
        for (old, new) in &plan.changes {
            assert!(file.contains(old), "{old} is in {}", plan.proxy.file());
            file = file.replace(old, new);
        }
        let [one, two] = plan.services;
        let addresses = [front, sidecar.address, behind, one, two];
        let ports = ["8000", "8080", "9000", "9001", "9002"];
        // First names, so that no port is taken for another one's placeholder.
        for (old, name) in ports.iter().zip(["{a}", "{b}", "{c}", "{d}", "{e}"]) {
            assert!(file.contains(old), "{old} is in {}", plan.proxy.file());
            file = file.replace(old, name);
        }
        for (address, name) in addresses.iter().zip(["{a}", "{b}", "{c}", "{d}", "{e}"]) {
            file = file.replace(name, &address.port().to_string());
        }
        let directory = Directory::fresh(front.port());
        if plan.proxy == Proxy::Nginx {
            // Debian's nginx writes bodies where only its own user may.
            let mut http = "http {\n".to_owned();
            for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
                writeln!(
                    http,
                    "{kind}_temp_path {};",
                    directory.0.join(kind).display()
                )
                .unwrap();
            }
            file = file.replace("http {\n", &http);
        }
        let path = directory.0.join(plan.proxy.file());
        std::fs::write(&path, file).unwrap();
        let log = directory.0.join("log");
        let written = std::fs::File::create(&log).unwrap();
        let mut command = plan.proxy.command(path.to_str().unwrap(), &directory.0);
        command.stdin(Stdio::null()).kill_on_drop(true);
        command.stdout(written.try_clone().unwrap()).stderr(written);
        let mut proxy = command.spawn().unwrap_or_else(|error| {
            panic!(
                "{:?}: {error}: `scripts/test --install` installs it",
                plan.proxy
            )
        });
        for address in [front, behind] {
            until(async || {
                let said = || std::fs::read_to_string(&log).unwrap();
                assert!(proxy.try_wait().unwrap().is_none(), "{}", said());
                TcpStream::connect(address).await.is_ok()
            })
            .await;
        }
        Chain {
            front,
            sidecar,
            _proxy: proxy,
            _directory: directory,
        }
    }
}

/// A directory that is removed when `Directory` is dropped.
struct Directory(PathBuf);

impl Directory {
    fn fresh(port: u16) -> Self {
        let name = format!("proxies-{}-{port}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
