//! The sidecar speaks TLS to its upstream and to its authorizer.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use http::Version;
use rustls::ServerConfig;
use rustls::server::WebPkiClientVerifier;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;
use tokio_rustls::TlsAcceptor;

use crate::certificates::{Authority, Folder, Issued, Valid};
use crate::http2::Http2;
use crate::program::{Serving, Written, program, said};
use crate::support::{Client, File, Running, Step, Upstream, answer, get, ok, post, until, within};

/// A server of TLS in front of servers without it, one for each protocol of ALPN.
struct TlsServer {
    port: u16,
    config: Arc<Mutex<Arc<ServerConfig>>>,
    connected: Arc<Mutex<Vec<AbortHandle>>>,
    connections: Arc<AtomicUsize>,
    /// The names that clients asked for.
    names: Arc<Mutex<Vec<Option<String>>>>,
}

fn server_config(own: &Issued, protocols: &[&str], of_clients: Option<&Authority>) -> ServerConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider));
    let builder = builder.with_safe_default_protocol_versions().unwrap();
    let builder = match of_clients {
        None => builder.with_no_client_auth(),
        Some(authority) => {
            let roots = Arc::new(authority.roots());
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider).build();
            builder.with_client_cert_verifier(verifier.unwrap())
        }
    };
    let mut config = builder
        .with_single_cert(vec![own.der()], own.private_key())
        .unwrap();
    config.alpn_protocols = protocols.iter().map(|own| own.as_bytes().into()).collect();
    config
}

impl TlsServer {
    async fn start(config: ServerConfig, http1: SocketAddr, http2: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Self {
            port: listener.local_addr().unwrap().port(),
            config: Arc::new(Mutex::new(Arc::new(config))),
            connected: Arc::default(),
            connections: Arc::default(),
            names: Arc::default(),
        };
        let config = Arc::clone(&server.config);
        let connected = Arc::clone(&server.connected);
        let connections = Arc::clone(&server.connections);
        let names = Arc::clone(&server.names);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = TlsAcceptor::from(Arc::clone(&config.lock().unwrap()));
                let (connections, names) = (Arc::clone(&connections), Arc::clone(&names));
                let task = tokio::spawn(async move {
                    let Ok(mut secured) = acceptor.accept(stream).await else {
                        return;
                    };
                    connections.fetch_add(1, Ordering::SeqCst);
                    let session = secured.get_ref().1;
                    let name = session.server_name().map(str::to_owned);
                    names.lock().unwrap().push(name);
                    let is_http2 = session.alpn_protocol() == Some(b"h2");
                    let address = if is_http2 { http2 } else { http1 };
                    let mut plain = TcpStream::connect(address).await.unwrap();
                    let _ = copy_bidirectional(&mut secured, &mut plain).await;
                });
                connected.lock().unwrap().push(task.abort_handle());
            }
        });
        server
    }

    /// Ends all connections, and has another configuration from now on.
    fn change(&self, config: ServerConfig) {
        *self.config.lock().unwrap() = Arc::new(config);
        for task in self.connected.lock().unwrap().drain(..) {
            task.abort();
        }
    }
}

/// Both kinds of upstream, and a server of TLS in front of them.
struct Both {
    http1: Upstream,
    http2: Http2,
    server: TlsServer,
    folder: Folder,
}

impl Both {
    async fn start(config: ServerConfig) -> Self {
        let http1 = Upstream::start(|_| ok("done")).await;
        let http2 = Http2::start().await;
        let server = TlsServer::start(config, http1.address, http2.address).await;
        Self {
            http1,
            http2,
            server,
            folder: Folder::new(),
        }
    }

    /// The file of a sidecar that trusts this authority.
    fn file(&self, host: &str, authority: &Authority, more: &str) -> File {
        let ca = self.folder.write("ca.pem", &authority.pem());
        let port = self.server.port;
        File::new(self.http1.address)
            .top(&format!("upstream = 'https://{host}:{port}'"))
            .top(&format!("upstream_tls = {{ ca = '{ca}'{more} }}"))
    }
}

async fn charge(sidecar: &Running, key: &str) -> (u16, String) {
    let response = sidecar.exchange(&post("/charges", key, "hello")).await;
    let text = if response.status() == 200 {
        response.text().to_owned()
    } else {
        response.code()
    };
    (response.status(), text)
}

fn done(text: &str) -> (u16, String) {
    (200, text.to_owned())
}

fn unreached() -> (u16, String) {
    (502, "upstream-unreachable".to_owned())
}

#[tokio::test]
async fn an_upstream_chooses_its_version_of_http_by_alpn() {
    let authority = Authority::new();
    let own = authority.issue("localhost", Valid::Now);
    // The upstream of HTTP/2 sends the request's body back.
    for (protocols, entry, expected) in [
        (&["h2", "http/1.1"][..], None, done("hello")),
        (&["http/1.1"], None, done("done")),
        (&[], None, done("done")),
        (&["h2"], None, done("hello")),
        (&["h2", "http/1.1"], Some("false"), done("done")),
        (&["h2", "http/1.1"], Some("true"), done("hello")),
        (&["http/1.1"], Some("true"), unreached()),
        (&["h2"], Some("false"), unreached()),
    ] {
        let both = Both::start(server_config(&own, protocols, None)).await;
        let mut file = both.file("localhost", &authority, "");
        if let Some(entry) = entry {
            file = file.top(&format!("upstream_http2 = {entry}"));
        }
        let sidecar = file.start().await;
        for key in ["a", "b", "c"] {
            let charged = charge(&sidecar, key).await;
            assert_eq!(charged, expected, "{protocols:?} {entry:?}");
        }
        let names = both.server.names.lock().unwrap();
        let sni = Some("localhost".to_owned());
        assert!(names.iter().all(|name| *name == sni), "{names:?}");
        // A connection is kept. One more has told the version of HTTP.
        let connections = both.server.connections.load(Ordering::SeqCst);
        match (&expected, entry) {
            ((200, _), None) => assert_eq!(connections, 2, "{protocols:?}"),
            ((200, _), Some(_)) => assert_eq!(connections, 1, "{protocols:?} {entry:?}"),
            _ => {}
        }
        if expected == done("hello") {
            let head = both.http2.seen().pop().unwrap();
            assert_eq!(head.version, Version::HTTP_2);
            assert_eq!(head.uri, "https://shop.example/charges");
        } else if expected == done("done") {
            let head = both.http1.last();
            assert_eq!(head.start, "POST /charges HTTP/1.1");
            assert_eq!(head.field("host"), Some("shop.example"));
            assert_eq!(head.field("x-forwarded-proto"), Some("http"));
        }
    }
}

#[tokio::test]
async fn an_upstream_that_speaks_another_version_from_now_on_is_asked_again() {
    let authority = Authority::new();
    let own = authority.issue("localhost", Valid::Now);
    let both = Both::start(server_config(&own, &["h2", "http/1.1"], None)).await;
    let sidecar = both.file("localhost", &authority, "").start().await;
    assert_eq!(charge(&sidecar, "a").await, done("hello"));
    both.server.change(server_config(&own, &["http/1.1"], None));
    // A request that is sent while a connection ends may be in doubt, which this test is not about.
    let mut number = 0;
    until(async || {
        number += 1;
        charge(&sidecar, &format!("k{number}")).await.0 == 200
    })
    .await;
    assert_eq!(charge(&sidecar, "b").await, done("done"));
}

#[tokio::test]
async fn a_server_that_is_not_the_one_of_the_url_gets_nothing() {
    let (authority, other) = (Authority::new(), Authority::new());
    for (issued_to, valid, host, trusted) in [
        ("localhost", Valid::Now, "localhost", &other),
        ("localhost", Valid::Until2020, "localhost", &authority),
        ("localhost", Valid::From2090, "localhost", &authority),
        ("localhost", Valid::Now, "127.0.0.1", &authority),
        ("other.example", Valid::Now, "localhost", &authority),
    ] {
        let own = authority.issue(issued_to, valid);
        for protocols in [&["h2", "http/1.1"][..], &["http/1.1"]] {
            let both = Both::start(server_config(&own, protocols, None)).await;
            let file = both.file(host, trusted, "");
            for entry in [
                "drain_timeout = '1s'",
                "upstream_http2 = true",
                "upstream_http2 = false",
            ] {
                let sidecar = file.clone().top(entry).start().await;
                // Nothing was executed, so that the key is free again.
                for _ in 0..2 {
                    assert_eq!(charge(&sidecar, "k").await, unreached());
                }
            }
            assert!(both.http1.seen().is_empty() && both.http2.seen().is_empty());
        }
    }
    // The name of an address is the address.
    let own = authority.issue("127.0.0.1", Valid::Now);
    let both = Both::start(server_config(&own, &["http/1.1"], None)).await;
    let sidecar = both.file("127.0.0.1", &authority, "").start().await;
    assert_eq!(charge(&sidecar, "k").await, done("done"));
}

#[tokio::test]
async fn an_upstream_that_asks_for_a_certificate_gets_it() {
    let (authority, of_clients) = (Authority::new(), Authority::new());
    let own = authority.issue("localhost", Valid::Now);
    let folder = Folder::new();
    for (certificate, is_known) in [
        (Some(of_clients.issue("sidecar", Valid::Now)), true),
        (Some(authority.issue("sidecar", Valid::Now)), false),
        (None, false),
    ] {
        for protocols in [&["h2"][..], &["http/1.1"]] {
            let both = Both::start(server_config(&own, protocols, Some(&of_clients))).await;
            let more = certificate.as_ref().map_or(String::new(), |own| {
                folder.issue(own);
                let folder = folder.path().display();
                format!(", certificate = '{folder}/cert.pem', key = '{folder}/key.pem'")
            });
            let file = both.file("localhost", &authority, &more);
            let file = file.top(&format!("upstream_http2 = {}", protocols == ["h2"]));
            let sidecar = file.start().await;
            for _ in 0..2 {
                let charged = charge(&sidecar, "k").await;
                // Over TLS 1.3 a server refuses a certificate when a request may be sent already; it has
                // not read the request, so that the key is free again.
                assert_eq!(charged.0 == 200, is_known, "{protocols:?}: {charged:?}");
                assert!(
                    is_known || charged == unreached(),
                    "{protocols:?}: {charged:?}"
                );
            }
        }
    }
}

/// Both responses arrive in one record of TLS, so that the second is not in the socket any more.
#[tokio::test]
async fn a_second_response_in_the_same_record_answers_nothing() {
    let authority = Authority::new();
    let own = authority.issue("localhost", Valid::Now);
    let http1 = Upstream::start(|_| {
        let own = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nown";
        let stale = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nstale";
        vec![Step::Write(format!("{own}{stale}"))]
    })
    .await;
    let config = server_config(&own, &["http/1.1"], None);
    let server = TlsServer::start(config, http1.address, http1.address).await;
    let folder = Folder::new();
    let ca = folder.write("ca.pem", &authority.pem());
    let sidecar = File::new(http1.address)
        .top(&format!("upstream = 'https://localhost:{}'", server.port))
        .top(&format!("upstream_tls = {{ ca = '{ca}' }}"))
        .start()
        .await;
    for key in 0..20 {
        assert_eq!(charge(&sidecar, &key.to_string()).await, done("own"));
    }
}

#[tokio::test]
async fn an_authorizer_of_https_is_asked_over_either_version() {
    let authority = Authority::new();
    let own = authority.issue("localhost", Valid::Now);
    let upstream = Upstream::start(|_| ok("done")).await;
    let yes = Upstream::start(|_| answer("204 No Content", "X-Account: alice\r\n", "")).await;
    let http2 = Http2::start().await;
    let folder = Folder::new();
    let ca = folder.write("ca.pem", &authority.pem());
    for protocols in [&["h2"][..], &["http/1.1"]] {
        let config = server_config(&own, protocols, None);
        let server = TlsServer::start(config, yes.address, http2.address).await;
        let url = format!("https://localhost:{}/check?by=us", server.port);
        let file = |ca: &str| {
            File::new(upstream.address).top(&format!(
                "authorize = {{ url = '{url}', headers = ['x-account'], tls = {{ ca = '{ca}' }} }}"
            ))
        };
        let sidecar = file(&ca).start().await;
        assert_eq!(charge(&sidecar, "k").await, done("done"));
        let untrusted = folder.write("other.pem", &Authority::new().pem());
        let sidecar = file(&untrusted).start().await;
        let refused = charge(&sidecar, "k").await;
        assert_eq!(refused, (502, "authorizer-unavailable".to_owned()));
    }
    assert_eq!(yes.last().start, "GET /check?by=us HTTP/1.1");
    let asked = http2.seen().pop().unwrap();
    assert_eq!(asked.uri.path_and_query().unwrap(), "/check?by=us");
    assert_eq!(upstream.seen().len(), 2);
}

/// rustls-native-certs reads the file that `SSL_CERT_FILE` names, as OpenSSL does.
#[tokio::test]
async fn without_a_ca_the_authorities_of_the_system_are_trusted() {
    let authority = Authority::new();
    let own = authority.issue("localhost", Valid::Now);
    let both = Both::start(server_config(&own, &["http/1.1"], None)).await;
    let ca = both.folder.write("ca.pem", &authority.pem());
    let port = both.server.port;
    let file = File::new(both.http1.address).top(&format!("upstream = 'https://localhost:{port}'"));
    let mut with = program();
    with.env("SSL_CERT_FILE", &ca).env_remove("SSL_CERT_DIR");
    let serving = Serving::run(with, "system.toml", &file).await;
    let mut client = Client::connect(serving.address).await;
    client.send(&get("/")).await;
    assert_eq!(client.answer().await.text(), "done");
    let written = Written::new("no-system.toml", &file.text());
    let mut without = program();
    without
        .env("SSL_CERT_FILE", "/dev/null")
        .env_remove("SSL_CERT_DIR");
    let output = within(without.args(["--config", written.path()]).output())
        .await
        .unwrap();
    let error = said(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    let says = "`upstream` is of `https`, and the system has no authorities that could be trusted";
    assert!(error.contains(says), "{error}");
}

#[tokio::test]
async fn a_server_off_this_machine_without_tls_is_told_once() {
    // An address for documentation (RFC 5737), where nobody is.
    for (upstream, warnings) in [("http://192.0.2.1:9", 1), ("http://localhost:9", 0)] {
        let file = File::new("127.0.0.1:9".parse().unwrap())
            .top(&format!("upstream = '{upstream}'"))
            .top("connect_timeout = '100ms'");
        let mut serving = Serving::start("plain.toml", &file).await;
        for _ in 0..2 {
            let mut client = Client::connect(serving.address).await;
            client.send(&get("/")).await;
            assert_eq!(client.answer().await.status(), 502);
        }
        serving.signal("-TERM").await;
        let mut log = String::new();
        while let Some(line) = within(serving.log.next_line()).await.unwrap() {
            log += &line;
            log.push('\n');
        }
        let says = "requests to `upstream` leave this machine without encryption";
        assert_eq!(log.matches(says).count(), warnings, "{log}");
    }
}
