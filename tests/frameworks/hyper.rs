//! A hyper server on TCP without a framework, over HTTP/1.1 and HTTP/2.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST, TRAILER, UPGRADE};
use http::{Request, Response, StatusCode, Uri};
use http_body::Body;
use http_body_util::channel::Channel;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tower::{BoxError, Service, ServiceBuilder, ServiceExt, service_fn};
use tower_idempotency::options::{OnOversize, Require};
use tower_idempotency::{
    IdempotencyLayer, MemoryStore, RequestBody, RequestTrailers, RouteOptions, scope,
};

use crate::common::{Answering, Frames, Gate, Runs, Seen, post, with};

type Asked = Request<RequestBody<Incoming>>;
type Sent = UnsyncBoxBody<Bytes, Infallible>;

/// Real sockets need a real clock: a step that takes this long hangs.
async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(20), future)
        .await
        .expect("it hangs")
}

/// Serves until the test's runtime ends, and returns the address.
async fn serve<S, R>(service: S) -> SocketAddr
where
    S: Service<Request<Incoming>, Response = Response<R>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError> + 'static,
    R: Body<Data = Bytes> + Send + 'static,
    R::Error: Into<BoxError>,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, peer) = listener.accept().await.unwrap();
            let service = service
                .clone()
                .map_request(move |mut asked: Request<Incoming>| {
                    let peer = scope::PeerAddr(peer);
                    asked.extensions_mut().insert(peer);
                    asked
                });
            tokio::spawn(async move {
                let service = TowerToHyperService::new(service);
                let io = TokioIo::new(stream);
                // A client may end a connection in any way, so the result is
                // ignored.
                auto::Builder::new(TokioExecutor::new())
                    .serve_connection_with_upgrades(io, service)
                    .await
                    .ok();
            });
        }
    });
    address
}

/// Puts `layer` in front of `handler`, for hyper's request bodies.
macro_rules! app {
    ($layer:expr, $handler:expr) => {
        ServiceBuilder::new()
            .map_request(|asked: Request<Incoming>| asked.map(RequestBody::new))
            .layer($layer)
            .service_fn($handler)
    };
}

fn layer(change: impl FnOnce(RouteOptions) -> RouteOptions) -> IdempotencyLayer {
    IdempotencyLayer::builder(MemoryStore::new(), scope::shared())
        .defaults(change)
        .build()
        .unwrap()
}

/// A handler that responds, in several frames, with what it received and the
/// number of its execution.
fn echo(runs: &Runs) -> impl Fn(Asked) -> Answering<Frames> + Clone + Send + use<> {
    let runs = runs.clone();
    move |asked: Asked| {
        let run = runs.begin();
        Box::pin(async move {
            let (head, body) = asked.into_parts();
            let body = body.collect().await.expect("it was read before").to_bytes();
            let mut response = Response::new(Frames::new([
                Bytes::from(format!("run {run}: ")),
                body,
                Bytes::from("."),
            ]));
            *response.status_mut() = StatusCode::CREATED;
            if let Some(RequestTrailers(fields)) = head.extensions.get() {
                response.headers_mut().extend(fields.clone());
            }
            Ok(response)
        })
    }
}

/// The connection of a client.
enum Client {
    Http1(http1::SendRequest<Sent>),
    Http2(http2::SendRequest<Sent>),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Version {
    Http1,
    Http2,
}

const VERSIONS: [Version; 2] = [Version::Http1, Version::Http2];

impl Client {
    async fn connect(address: SocketAddr, version: Version) -> Self {
        let stream = TokioIo::new(TcpStream::connect(address).await.unwrap());
        match version {
            Version::Http1 => {
                let (sender, connection) = http1::handshake(stream).await.unwrap();
                tokio::spawn(connection.with_upgrades());
                Self::Http1(sender)
            }
            Version::Http2 => {
                let executor = TokioExecutor::new();
                let (sender, connection) = http2::handshake(executor, stream).await.unwrap();
                tokio::spawn(connection);
                Self::Http2(sender)
            }
        }
    }

    async fn head<B>(&mut self, request: Request<B>) -> Response<Incoming>
    where
        B: Body<Data = Bytes, Error = Infallible> + Send + 'static,
    {
        let mut request = request.map(BodyExt::boxed_unsync);
        let answer = match self {
            Self::Http1(sender) => {
                let host = http::HeaderValue::from_static("shop.example");
                request.headers_mut().insert(HOST, host);
                within(sender.ready()).await.unwrap();
                within(sender.send_request(request)).await
            }
            Self::Http2(sender) => {
                let target = format!("http://shop.example{}", request.uri());
                *request.uri_mut() = target.parse::<Uri>().unwrap();
                within(sender.ready()).await.unwrap();
                within(sender.send_request(request)).await
            }
        };
        answer.unwrap()
    }

    async fn send<B>(&mut self, request: Request<B>) -> Seen
    where
        B: Body<Data = Bytes, Error = Infallible> + Send + 'static,
    {
        let response = self.head(request).await;
        within(Seen::whole(response)).await
    }
}

fn ask(target: &str, key: &str, body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    post(target, key, body)
}

#[tokio::test]
async fn a_retry_gets_the_same_bytes_with_their_length() {
    let every_byte: Vec<u8> = (0..=255).cycle().take(10_000).collect();
    for version in VERSIONS {
        let runs = Runs::default();
        let address = serve(app!(layer(|options| options), echo(&runs))).await;
        let mut client = Client::connect(address, version).await;
        let first = client
            .send(ask("/payments?x=1", "a", every_byte.clone()))
            .await;
        assert_eq!(first.status, 201, "{version:?}");
        let expected = [b"run 1: ", &*every_byte, b"."].concat();
        assert_eq!(first.body, expected);

        // The retry is sent on the same connection, and then on another one.
        let again = client
            .send(ask("/payments?x=1", "a", every_byte.clone()))
            .await;
        let mut client = Client::connect(address, version).await;
        let later = client
            .send(ask("/payments?x=1", "a", every_byte.clone()))
            .await;
        for replay in [again, later] {
            replay.assert_replays(&first);
            let length = replay.headers[CONTENT_LENGTH].to_str().unwrap();
            assert_eq!(length, expected.len().to_string());
            assert!(replay.headers.contains_key("date"));
        }
        let other = client
            .send(ask("/payments?x=2", "a", every_byte.clone()))
            .await;
        assert_eq!(other.refusal(), "422 key-reused");
        assert_eq!(runs.count(), 1);
    }
}

#[tokio::test]
async fn a_retry_over_another_version_is_the_same_operation() {
    for (one, other) in [
        (Version::Http1, Version::Http2),
        (Version::Http2, Version::Http1),
    ] {
        let runs = Runs::default();
        let address = serve(app!(layer(|options| options), echo(&runs))).await;
        let mut client = Client::connect(address, one).await;
        let first = client.send(ask("/payments?x=1", "a", "7 EUR")).await;
        let mut client = Client::connect(address, other).await;
        let again = client.send(ask("/payments?x=1", "a", "7 EUR")).await;
        again.assert_replays(&first);
        assert_eq!(runs.count(), 1);
    }
}

#[tokio::test]
async fn an_empty_answer_is_replayed_empty() {
    for version in VERSIONS {
        let address = serve(app!(layer(|options| options), async |_: Asked| {
            let response = Response::builder().status(204).header("x-id", "7");
            Ok::<_, Infallible>(response.body(Empty::<Bytes>::new()).unwrap())
        }))
        .await;
        let mut client = Client::connect(address, version).await;
        let first = client.send(ask("/", "a", "")).await;
        let again = client.send(ask("/", "a", "")).await;
        again.assert_replays(&first);
        assert_eq!((again.status, again.header("x-id")), (204, Some("7")));
        assert_eq!(again.header("content-length"), None);
    }
}

/// An HTTP/1.1 client that shows each byte of a response.
struct Wire {
    stream: TcpStream,
    read: Vec<u8>,
}

impl Wire {
    async fn connect(address: SocketAddr) -> Self {
        Self {
            stream: TcpStream::connect(address).await.unwrap(),
            read: Vec::new(),
        }
    }

    async fn say(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).await.unwrap();
    }

    /// Reads until `enough` returns how many bytes to take, and takes them.
    async fn until(&mut self, enough: impl Fn(&[u8]) -> Option<usize>) -> String {
        let length = loop {
            if let Some(length) = enough(&self.read) {
                break length;
            }
            let more = within(self.stream.read_buf(&mut self.read)).await.unwrap();
            let text = String::from_utf8_lossy(&self.read);
            assert!(more > 0, "the connection was closed after: {text}");
        };
        let rest = self.read.split_off(length);
        String::from_utf8(std::mem::replace(&mut self.read, rest)).unwrap()
    }

    /// Reads a head, with the empty line after it.
    async fn head(&mut self) -> String {
        let end = |read: &[u8]| read.windows(4).position(|four| four == b"\r\n\r\n");
        self.until(|read| Some(end(read)? + 4)).await
    }

    /// Reads a response that announces its length.
    async fn answer(&mut self) -> (String, String) {
        let head = self.head().await;
        let length = head.lines().find_map(|line| {
            let value = line.strip_prefix("content-length: ")?;
            value.parse::<usize>().ok()
        });
        let length = length.unwrap_or_else(|| panic!("no length: {head}"));
        let body = self.until(|read| (read.len() >= length).then_some(length));
        (head, body.await)
    }

    /// Reads everything until the server closes the connection.
    async fn rest(mut self) -> String {
        within(self.stream.read_to_end(&mut self.read)).await.ok();
        String::from_utf8(self.read).unwrap()
    }
}

#[tokio::test]
async fn a_connection_stays_usable_after_a_replay() {
    let runs = Runs::default();
    let address = serve(app!(layer(|options| options), echo(&runs))).await;
    let mut wire = Wire::connect(address).await;
    let mut ask = async |key: &str| {
        let request = format!(
            "POST / HTTP/1.1\r\nhost: a\r\nidempotency-key: {key}\r\ncontent-length: 5\r\n\r\n7 EUR"
        );
        wire.say(&request).await;
        let (head, body) = wire.answer().await;
        assert!(head.starts_with("HTTP/1.1 201 Created\r\n"), "{head}");
        assert!(!head.contains("connection: close"), "{head}");
        (head.contains("idempotency-replayed: true"), body)
    };
    assert_eq!(ask("a").await, (false, "run 1: 7 EUR.".to_owned()));
    assert_eq!(ask("a").await, (true, "run 1: 7 EUR.".to_owned()));
    assert_eq!(ask("b").await, (false, "run 2: 7 EUR.".to_owned()));
    assert_eq!(ask("a").await, (true, "run 1: 7 EUR.".to_owned()));
    assert_eq!(runs.count(), 2);
}

#[tokio::test]
async fn a_refused_request_is_not_told_to_continue() {
    let runs = Runs::default();
    let by_api_key = scope::header("x-api-key");
    let layer = IdempotencyLayer::builder(MemoryStore::new(), by_api_key)
        .defaults(|options| options.require(Require::Required).max_request_body(8))
        .build()
        .unwrap();
    let address = serve(app!(layer, echo(&runs))).await;
    let refused = [
        ("x-api-key: me\r\ncontent-length: 5", "key-required"),
        (
            "x-api-key: me\r\nidempotency-key: a\r\nidempotency-key: b\r\ncontent-length: 5",
            "key-invalid",
        ),
        (
            "x-api-key: me\r\nidempotency-key:\r\ncontent-length: 5",
            "key-invalid",
        ),
        ("idempotency-key: a\r\ncontent-length: 5", "scope-missing"),
        (
            "x-api-key: me\r\nidempotency-key: a\r\ncontent-length: 9",
            "body-too-large",
        ),
    ];
    for (headers, code) in refused {
        let mut wire = Wire::connect(address).await;
        let request =
            format!("POST / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\n{headers}\r\n\r\n");
        wire.say(&request).await;
        let (head, body) = wire.answer().await;
        assert!(head.starts_with("HTTP/1.1 4"), "{code}: {head}");
        assert!(body.contains(&format!(r#""code":"{code}""#)), "{body}");
    }
    assert_eq!(runs.count(), 0);
}

#[tokio::test]
async fn a_good_request_is_told_to_continue_before_it_is_answered() {
    let runs = Runs::default();
    let address = serve(app!(layer(|options| options), echo(&runs))).await;
    // The layer must read the retry's body too, since the retry might be
    // another request.
    for replayed in [false, true] {
        let mut wire = Wire::connect(address).await;
        wire.say(
            "POST / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\nidempotency-key: a\r\n\
             content-length: 5\r\n\r\n",
        )
        .await;
        assert_eq!(wire.head().await, "HTTP/1.1 100 Continue\r\n\r\n");
        wire.say("7 EUR").await;
        let (head, body) = wire.answer().await;
        assert!(head.starts_with("HTTP/1.1 201 Created\r\n"), "{head}");
        assert_eq!(head.contains("idempotency-replayed: true"), replayed);
        assert_eq!(body, "run 1: 7 EUR.");
    }
    assert_eq!(runs.count(), 1);
}

#[tokio::test]
async fn a_chunked_upload_is_compared_by_its_bytes() {
    let runs = Runs::default();
    let address = serve(app!(
        layer(|options| options.max_request_body(8)),
        echo(&runs)
    ))
    .await;
    let mut wire = Wire::connect(address).await;
    let mut ask = async |chunks: &str| {
        let head = "POST / HTTP/1.1\r\nhost: a\r\nidempotency-key: a\r\n\
                    transfer-encoding: chunked\r\ntrailer: x-checksum\r\n\r\n";
        wire.say(head).await;
        wire.say(chunks).await;
        wire.answer().await
    };
    let (head, body) = ask("3\r\n7 E\r\n2\r\nUR\r\n0\r\nx-checksum: abc\r\n\r\n").await;
    assert_eq!(body, "run 1: 7 EUR.");
    assert!(head.contains("x-checksum: abc"), "{head}");
    let (head, body) = ask("5\r\n7 EUR\r\n0\r\n\r\n").await;
    assert_eq!(body, "run 1: 7 EUR.");
    assert!(head.contains("idempotency-replayed: true"), "{head}");
    let (_, body) = ask("5\r\n8 EUR\r\n0\r\n\r\n").await;
    assert!(body.contains("key-reused"), "{body}");
    let (_, body) = ask("5\r\n12345\r\n4\r\n6789\r\n0\r\n\r\n").await;
    assert!(body.contains("body-too-large"), "{body}");
    assert_eq!(runs.count(), 1);
}

#[tokio::test]
async fn a_body_that_breaks_off_is_not_executed() {
    let runs = Runs::default();
    let address = serve(app!(layer(|options| options), echo(&runs))).await;
    let head = "POST / HTTP/1.1\r\nhost: a\r\nidempotency-key: a\r\ncontent-length: 5\r\n\r\n";
    let mut wire = Wire::connect(address).await;
    wire.say(head).await;
    wire.say("7 E").await;
    wire.stream.shutdown().await.unwrap();
    assert!(!wire.rest().await.contains("run 1"));
    assert_eq!(runs.count(), 0);

    let mut wire = Wire::connect(address).await;
    wire.say(head).await;
    wire.say("7 EUR").await;
    let (head, body) = wire.answer().await;
    assert_eq!(body, "run 1: 7 EUR.");
    assert!(!head.contains("idempotency-replayed"), "{head}");
}

#[tokio::test]
async fn http_1_0_gets_whole_answers() {
    let runs = Runs::default();
    let address = serve(app!(layer(|options| options), echo(&runs))).await;
    for replayed in [false, true] {
        let mut wire = Wire::connect(address).await;
        wire.say("POST / HTTP/1.0\r\nidempotency-key: a\r\ncontent-length: 5\r\n\r\n7 EUR")
            .await;
        let answer = wire.rest().await;
        assert!(answer.contains("content-length: 13\r\n"), "{answer}");
        assert!(answer.ends_with("\r\n\r\nrun 1: 7 EUR."), "{answer}");
        assert_eq!(answer.contains("idempotency-replayed: true"), replayed);
    }
}

async fn trailed(_: Asked) -> Result<Response<Frames>, Infallible> {
    let body = Frames::new(["seven ", "euros"]).and_trailer("x-checksum", "abc");
    let response = Response::builder().header(TRAILER, "x-checksum");
    Ok(response.body(body).unwrap())
}

/// Requests the trailers without the layer first, to show that it is not the
/// layer that makes the difference.
async fn trailers_arrive(version: Version) {
    let without = ServiceBuilder::new()
        .map_request(|asked: Request<Incoming>| asked.map(RequestBody::new))
        .service_fn(trailed);
    let addresses = [
        serve(without).await,
        serve(app!(layer(|options| options), trailed)).await,
    ];
    for (address, replayed) in [
        (addresses[0], false),
        (addresses[1], false),
        (addresses[1], true),
    ] {
        let mut client = Client::connect(address, version).await;
        let asked = with(ask("/", "a", ""), "te", "trailers");
        let answer = client.send(asked).await;
        assert_eq!(
            (answer.text(), answer.is_replay()),
            ("seven euros", replayed)
        );
        assert_eq!(answer.header("trailer"), Some("x-checksum"));
        let trailers = answer.trailers.expect("the layer keeps the trailers");
        assert_eq!(trailers["x-checksum"], "abc");
    }
}

#[tokio::test]
async fn trailers_reach_a_client_of_http_1_with_the_first_answer_and_the_replay() {
    trailers_arrive(Version::Http1).await;
}

#[tokio::test]
async fn trailers_reach_a_client_of_http_2_with_the_first_answer_and_the_replay() {
    trailers_arrive(Version::Http2).await;
}

#[tokio::test]
async fn a_requests_trailers_reach_the_handler() {
    for version in VERSIONS {
        let address = serve(app!(layer(|options| options), echo(&Runs::default()))).await;
        let mut client = Client::connect(address, version).await;
        let upload = || {
            let body = Frames::new(["7 ", "EUR"]).and_trailer("x-checksum", "abc");
            with(ask("/", "a", ""), "trailer", "x-checksum").map(|_| body)
        };
        let first = client.send(upload()).await;
        assert_eq!(first.text(), "run 1: 7 EUR.");
        assert_eq!(first.header("x-checksum"), Some("abc"), "{version:?}");
        client.send(upload()).await.assert_replays(&first);
    }
}

#[tokio::test]
async fn events_reach_the_client_as_they_are_sent() {
    for version in VERSIONS {
        let (mut events, body) = Channel::<Bytes>::new(8);
        let body = Arc::new(Mutex::new(Some(body)));
        let handler = move |_: Asked| {
            let body = body.lock().unwrap().take().expect("it runs once");
            let response = Response::builder().header(CONTENT_TYPE, "text/event-stream");
            std::future::ready(Ok::<_, Infallible>(response.body(body).unwrap()))
        };
        let address = serve(app!(layer(|options| options), handler)).await;
        let mut client = Client::connect(address, version).await;
        let answer = client.head(ask("/", "a", "")).await;
        assert_eq!(answer.status(), 200);
        let mut body = answer.into_body();
        for event in ["data: 1\n\n", "data: 2\n\n"] {
            events.send_data(Bytes::from(event)).await.unwrap();
            let frame = within(body.frame()).await.unwrap().unwrap();
            assert_eq!(frame.into_data().unwrap(), event);
        }
        let mut client = Client::connect(address, version).await;
        let again = client.send(ask("/", "a", "")).await;
        assert_eq!(again.refusal(), "409 response-unavailable");
    }
}

#[tokio::test]
async fn an_answer_too_large_to_record_arrives_whole() {
    let long: Bytes = (0..=255).cycle().take(3 << 20).collect();
    for version in VERSIONS {
        // The response's length is known in advance, or it is not.
        for known in [true, false] {
            let (runs, long) = (Runs::default(), long.clone());
            let handler = {
                let (runs, long) = (runs.clone(), long.clone());
                move |_: Asked| {
                    runs.begin();
                    let pieces = Frames::new(long.chunks(10_000).map(Bytes::copy_from_slice));
                    let body = if known {
                        Full::new(long.clone()).boxed_unsync()
                    } else {
                        pieces.boxed_unsync()
                    };
                    std::future::ready(Ok::<_, Infallible>(Response::new(body)))
                }
            };
            let address = serve(app!(layer(|options| options), handler)).await;
            let mut client = Client::connect(address, version).await;
            let first = client.send(ask("/", "a", "")).await;
            assert!(
                first.body == long,
                "{version:?}: {} bytes",
                first.body.len()
            );
            let again = client.send(ask("/", "a", "")).await;
            assert_eq!(again.refusal(), "409 response-unavailable");
            assert_eq!(runs.count(), 1);
        }
    }
}

#[tokio::test]
async fn under_rerun_a_retry_executes_once_the_large_answer_was_sent() {
    let long: Bytes = (0..=255).cycle().take(1 << 20).collect();
    for version in VERSIONS {
        let (runs, long) = (Runs::default(), long.clone());
        let handler = {
            let (runs, long) = (runs.clone(), long.clone());
            move |_: Asked| {
                runs.begin();
                std::future::ready(Ok::<_, Infallible>(Response::new(Full::new(long.clone()))))
            }
        };
        let options =
            |options: RouteOptions| options.max_recorded_body(8).oversize(OnOversize::Rerun);
        let address = serve(app!(layer(options), handler)).await;
        let mut client = Client::connect(address, version).await;
        for run in 1..=3 {
            // The client may have the whole response before the server has
            // finished with the operation.
            let answer = within(async {
                loop {
                    let answer = client.send(ask("/", "a", "")).await;
                    if answer.status == 200 {
                        break answer;
                    }
                    assert_eq!(answer.refusal(), "409 in-flight");
                }
            });
            assert!(answer.await.body == long);
            assert_eq!(runs.count(), run, "{version:?}");
        }
    }
}

#[tokio::test]
async fn a_connection_can_be_upgraded_and_a_retry_is_not() {
    let handler = async |mut asked: Asked| {
        let upgraded = hyper::upgrade::on(&mut asked);
        tokio::spawn(async move {
            let mut stream = TokioIo::new(upgraded.await.unwrap());
            let mut word = [0; 4];
            stream.read_exact(&mut word).await.unwrap();
            word.reverse();
            stream.write_all(&word).await.unwrap();
        });
        let response = Response::builder()
            .status(StatusCode::SWITCHING_PROTOCOLS)
            .header("connection", "upgrade")
            .header(UPGRADE, "backwards");
        Ok::<_, Infallible>(response.body(Empty::<Bytes>::new()).unwrap())
    };
    let address = serve(app!(layer(|options| options), handler)).await;
    let request = "POST / HTTP/1.1\r\nhost: a\r\nidempotency-key: a\r\nconnection: upgrade\r\n\
                   upgrade: backwards\r\ncontent-length: 0\r\n\r\n";
    let mut wire = Wire::connect(address).await;
    wire.say(request).await;
    let head = wire.head().await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    wire.say("ping").await;
    let word = wire.until(|read| (read.len() >= 4).then_some(4)).await;
    assert_eq!(word, "gnip");

    let mut wire = Wire::connect(address).await;
    wire.say(request).await;
    let (head, body) = wire.answer().await;
    assert!(head.starts_with("HTTP/1.1 409 "), "{head}");
    assert!(body.contains("response-unavailable"), "{body}");
}

/// Notifies the test when it is dropped.
struct Dropped(Arc<Notify>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

#[tokio::test]
async fn a_client_that_hangs_up_gets_the_answer_on_another_connection() {
    for version in VERSIONS {
        let (runs, gate, left) = (Runs::default(), Gate::closed(), Arc::new(Notify::new()));
        let handler = {
            let (runs, gate) = (runs.clone(), gate.clone());
            move |_: Asked| {
                let (run, gate) = (runs.begin(), gate.clone());
                async move {
                    gate.pass().await;
                    let answer = Full::<Bytes>::from(format!("run {run}"));
                    Ok::<_, Infallible>(Response::new(answer))
                }
            }
        };
        let inner = app!(layer(|options| options), handler);
        let outer = {
            let left = Arc::clone(&left);
            service_fn(move |asked| {
                let (inner, dropped) = (inner.clone(), Dropped(Arc::clone(&left)));
                async move {
                    let answer = inner.oneshot(asked).await;
                    drop(dropped);
                    answer
                }
            })
        };
        let address = serve(outer).await;
        let mut client = Client::connect(address, version).await;
        let asking = tokio::spawn(async move { client.send(ask("/", "a", "")).await });
        within(gate.begun()).await;
        asking.abort();
        assert!(asking.await.unwrap_err().is_cancelled());
        // The server has dropped the request.
        within(left.notified()).await;

        let mut client = Client::connect(address, version).await;
        let early = client.send(ask("/", "a", "")).await;
        assert_eq!(early.refusal(), "409 in-flight", "{version:?}");
        gate.open();
        let late = within(async {
            loop {
                let answer = client.send(ask("/", "a", "")).await;
                if answer.status == 200 {
                    break answer;
                }
            }
        });
        let late = late.await;
        assert!(late.is_replay());
        assert_eq!((late.text(), runs.count()), ("run 1", 1));
    }
}

#[tokio::test]
async fn callers_are_told_apart_by_address_and_not_by_port() {
    let runs = Runs::default();
    let layer = IdempotencyLayer::new(MemoryStore::new(), scope::peer_ip()).unwrap();
    let address = serve(app!(layer, echo(&runs))).await;
    let mut client = Client::connect(address, Version::Http1).await;
    let first = client.send(ask("/", "a", "")).await;
    assert_eq!(first.status, 201);
    let mut client = Client::connect(address, Version::Http1).await;
    client.send(ask("/", "a", "")).await.assert_replays(&first);
}

#[tokio::test]
async fn a_reverse_proxy_asks_its_upstream_once() {
    use hyper_util::client::legacy;

    let runs = Runs::default();
    let upstream = service_fn({
        let runs = runs.clone();
        move |asked: Request<Incoming>| {
            let run = runs.begin();
            async move {
                let body = asked.into_body().collect().await?.to_bytes();
                let answer = [format!("run {run}: ").as_bytes(), &body].concat();
                Ok::<_, hyper::Error>(Response::new(Full::<Bytes>::from(answer)))
            }
        }
    });
    let upstream = serve(upstream).await;
    let client: legacy::Client<_, RequestBody<Incoming>> =
        legacy::Client::builder(TokioExecutor::new()).build_http();
    let proxy = ServiceBuilder::new()
        .map_request(|asked: Request<Incoming>| asked.map(RequestBody::new))
        .layer(layer(|options| options))
        .map_request(move |mut asked: Asked| {
            let target = format!("http://{upstream}{}", asked.uri().path());
            *asked.uri_mut() = target.parse().unwrap();
            *asked.version_mut() = http::Version::HTTP_11;
            asked
        })
        .service(client);
    let address = serve(proxy).await;
    for version in VERSIONS {
        let key = format!("{version:?}");
        let mut client = Client::connect(address, version).await;
        // The first body is sent in chunks, the second one with a length.
        let upload = ask("/", &key, "").map(|_| Frames::new(["7 ", "EUR"]));
        let first = client.send(upload).await;
        assert!(first.text().ends_with(": 7 EUR"), "{first:?}");
        client
            .send(ask("/", &key, "7 EUR"))
            .await
            .assert_replays(&first);
    }
    assert_eq!(runs.count(), 2);
}
