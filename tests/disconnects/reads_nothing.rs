//! Clients that read nothing: what is read ahead of them is limited in sum, and after
//! `send_timeout` they are let go.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinHandle;
use tower_idempotency::options::OnDisconnect;
use tower_idempotency::store::Store;
use tower_idempotency::{IdempotencyLayer, IdempotencyLayerBuilder, RouteOptions, scope};

use crate::app::{MOMENT, Sent, app, created, handler, settled};
use crate::client::{Client, WAYS, retry};
use crate::server::Server;
use crate::support::Runs;
use crate::support::body::{Script, Step};
use crate::support::store::Steered;
use crate::{LIMIT, within};

const MIB: usize = 1 << 20;
/// What is read of each response, room or not: 64 KiB and one frame more.
const AHEAD: usize = 2 * FRAME;
const FRAME: usize = 64 << 10;
/// What a server and its socket take of a response whose client reads nothing.
const IN_THE_SOCKET: usize = MIB;
const RESPONSE: usize = 10 * MIB;

fn layer(
    store: &(impl Store + Clone),
    change: impl FnOnce(IdempotencyLayerBuilder) -> IdempotencyLayerBuilder,
    route: impl FnOnce(RouteOptions) -> RouteOptions,
) -> IdempotencyLayer {
    let builder = IdempotencyLayer::builder(store.clone(), scope::shared())
        .store_timeout(LIMIT)
        .defaults(|options| route(options.max_recorded_body(2 * RESPONSE)));
    change(builder).build().unwrap()
}

/// A client that sends requests and reads nothing of the responses.
enum Silent {
    Http1(TcpStream),
    /// Its window is zero, so the server may send heads alone.
    Http2(SendRequest<Full<Bytes>>),
}

impl Silent {
    async fn connect(address: SocketAddr, http2: bool) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        // What the socket takes is not read ahead by the server.
        socket.set_recv_buffer_size(4096).unwrap();
        let stream = socket.connect(address).await.unwrap();
        if !http2 {
            return Self::Http1(stream);
        }
        let mut http = http2::Builder::new(TokioExecutor::new());
        let http = http.initial_stream_window_size(0);
        let (sender, connection) = http.handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(async { drop(connection.await) });
        Self::Http2(sender)
    }

    /// Returns what keeps the request open.
    async fn ask(&mut self, key: &str) -> Option<JoinHandle<Option<Response<Incoming>>>> {
        match self {
            Self::Http1(stream) => {
                let request = format!(
                    "POST /payments HTTP/1.1\r\nhost: a\r\nidempotency-key: {key}\r\ncontent-length: 5\r\n\r\n7 EUR"
                );
                stream.write_all(request.as_bytes()).await.unwrap();
                None
            }
            Self::Http2(sender) => {
                let request = Request::post("http://shop.example/payments")
                    .header("idempotency-key", key)
                    .body(Full::from("7 EUR"))
                    .unwrap();
                let response = sender.send_request(request);
                Some(tokio::spawn(async { response.await.ok() }))
            }
        }
    }
}

/// Waits until operations have begun and have all ended.
async fn all_ended(layer: &IdempotencyLayer, store: &Steered, runs: &Runs) {
    within(async {
        while store.stats().in_flight > 0 || runs.count() == 0 {
            tokio::time::sleep(MOMENT).await;
        }
    })
    .await;
    settled(layer).await;
}

/// Returns how many bytes a body has given.
type GivenBytes = Box<dyn Fn() -> usize + Send>;

/// What the bodies of a handler's responses have given.
#[derive(Clone, Default)]
struct Given(Arc<Mutex<Vec<GivenBytes>>>);

impl Given {
    fn watch(&self, body: &Script) {
        self.0.lock().unwrap().push(Box::new(body.given()));
    }

    fn all(&self) -> usize {
        self.0.lock().unwrap().iter().map(|given| given()).sum()
    }

    /// Waits until no body gives more.
    async fn settled(&self) -> usize {
        within(async {
            let mut before = usize::MAX;
            loop {
                let now = self.all();
                if now == before {
                    return now;
                }
                before = now;
                tokio::time::sleep(MOMENT).await;
            }
        })
        .await
    }
}

/// A response of [`RESPONSE`] bytes in frames that are all there at once.
fn large(given: &Given) -> Response<Sent> {
    let body = Script::repeated(vec![b'x'; FRAME], RESPONSE / FRAME);
    given.watch(&body);
    created(body)
}

#[tokio::test]
async fn of_clients_that_read_nothing_no_more_is_read_ahead_than_all_together_may_have() {
    for http2 in [false, true] {
        let (store, runs, given) = (Steered::new(), Runs::default(), Given::default());
        let layer = layer(&store, |b| b.max_read_ahead(16 * MIB), |options| options);
        let service = {
            let given = given.clone();
            handler(&runs, move |_| std::future::ready(large(&given)))
        };
        let server = Server::start_with_small_sockets(app(&layer, service));
        let mut clients = Vec::new();
        for key in 0..40 {
            let mut client = Silent::connect(server.address, http2).await;
            let asked = client.ask(&key.to_string()).await;
            server.begun().await;
            clients.push((client, asked));
        }
        let read = given.settled().await;
        eprintln!(
            "{http2} {:?}",
            given
                .0
                .lock()
                .unwrap()
                .iter()
                .map(|g| g() / FRAME)
                .collect::<Vec<_>>()
        );
        assert!(
            read <= 16 * MIB + 40 * (AHEAD + IN_THE_SOCKET),
            "{read} bytes"
        );
        // One that reads gets its whole response.
        let read = retry(server.address, "reads").await;
        assert_eq!((read.status, read.body.len()), (201, RESPONSE));
        // Whoever leaves changes nothing: each operation ends, and is recorded or sealed.
        drop(clients);
        all_ended(&layer, &store, &runs).await;
        let stats = store.stats();
        assert_eq!((stats.completed + stats.sealed, runs.count()), (41, 41));
        assert!(stats.sealed > 0 && stats.completed > 0, "{stats:?}");
    }
}

/// What runs ahead of a client that reads nothing is dropped with the client, and the operation
/// goes on: it is recorded where there was room for it, else sealed.
#[tokio::test]
async fn a_client_that_reads_nothing_for_a_time_is_let_go_and_its_operation_goes_on() {
    for http2 in [false, true] {
        for (room, late) in [(16 * MIB, "201"), (0, "409 response-unavailable")] {
            let (store, runs, given) = (Steered::new(), Runs::default(), Given::default());
            let change = |b: IdempotencyLayerBuilder| b.max_read_ahead(room).send_timeout(MOMENT);
            let layer = layer(&store, change, |options| options);
            let service = {
                let given = given.clone();
                handler(&runs, move |_| {
                    // The first frame comes later, so nothing is read before the head is sent.
                    let steps = [Step::Yield]
                        .into_iter()
                        .chain((0..RESPONSE / FRAME).map(|_| Step::Data(vec![b'x'; FRAME].into())));
                    let body = Script::new(steps);
                    given.watch(&body);
                    std::future::ready(created(body))
                })
            };
            let server = Server::start_with_small_sockets(app(&layer, service));
            let mut client = Silent::connect(server.address, http2).await;
            let asked = client.ask("k").await;
            server.begun().await;
            all_ended(&layer, &store, &runs).await;
            assert_eq!(given.all(), RESPONSE, "the operation went on to its end");
            let retried = retry(server.address, "k").await;
            if late == "201" {
                assert_eq!((retried.status, retried.is_replay()), (201, true));
                assert_eq!(retried.body.len(), RESPONSE);
            } else {
                assert_eq!(retried.refusal(), late);
            }
            assert_eq!(runs.count(), 1);
            // The response ends in an error, not as if it were whole.
            if let Silent::Http1(mut stream) = client {
                let mut read = Vec::new();
                stream.read_to_end(&mut read).await.ok();
                assert!(read.len() < RESPONSE, "{} bytes", read.len());
            } else {
                drop((client, asked));
            }
        }
    }
}

/// A server asks for the next part of a response when its client has read the last one, so one byte
/// now and then is nothing.
#[tokio::test]
async fn a_client_that_reads_a_byte_now_and_then_is_let_go_too() {
    let (store, runs, given) = (Steered::new(), Runs::default(), Given::default());
    let change = |b: IdempotencyLayerBuilder| b.max_read_ahead(0).send_timeout(MOMENT * 4);
    let layer = layer(&store, change, |options| options);
    let service = {
        let given = given.clone();
        handler(&runs, move |_| std::future::ready(large(&given)))
    };
    let server = Server::start_with_small_sockets(app(&layer, service));
    let stream = TcpStream::connect(server.address).await.unwrap();
    let mut http = http2::Builder::new(TokioExecutor::new());
    let http = http.initial_stream_window_size(1);
    let (mut sender, connection) = http.handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(async { drop(connection.await) });
    let request = Request::post("http://shop.example/payments")
        .header("idempotency-key", "k")
        .body(Full::<Bytes>::default())
        .unwrap();
    let response = sender.send_request(request).await.unwrap();
    let bytes = Arc::new(Mutex::new(0));
    let read = Arc::clone(&bytes);
    let reading = tokio::spawn(async move {
        let mut body = response.into_body();
        while let Some(Ok(frame)) = body.frame().await {
            *read.lock().unwrap() += frame.into_data().unwrap().len();
            tokio::time::sleep(MOMENT).await;
        }
    });
    all_ended(&layer, &store, &runs).await;
    assert_eq!((given.all(), store.stats().sealed), (RESPONSE, 1));
    let read = *bytes.lock().unwrap();
    assert!((2..FRAME).contains(&read), "{read} bytes");
    reading.abort();
}

/// A handler that says nothing for long is no client that reads nothing.
#[tokio::test]
async fn a_client_that_waits_for_its_handler_is_not_let_go() {
    for way in WAYS {
        let (store, runs) = (Steered::new(), Runs::default());
        let layer = layer(&store, |b| b.send_timeout(MOMENT), |options| options);
        let service = handler(&runs, |_| {
            let steps = [b"one ", b"two "]
                .map(|data| [Step::Data(data.to_vec().into()), Step::Wait(MOMENT * 4)]);
            std::future::ready(created(Script::new(steps.into_iter().flatten())))
        });
        let server = Server::start(app(&layer, service)).await;
        let mut client = Client::connect(server.address, way).await;
        client.ask("k").await;
        let answer = client.answer().await.expect("the whole response");
        assert_eq!((answer.status, answer.text()), (201, "one two "), "{way:?}");
    }
}

/// Where the operation ends with its client, it ends with one that reads nothing too; and so
/// does a stream without an end.
#[tokio::test]
async fn what_ends_with_its_client_ends_with_one_that_reads_nothing() {
    for http2 in [false, true] {
        for events in [false, true] {
            let (store, runs) = (Steered::new(), Runs::default());
            let layer = layer(
                &store,
                |b| b.send_timeout(MOMENT).max_read_ahead(0),
                |options| {
                    options
                        .on_disconnect(OnDisconnect::Cancel)
                        .skip_types(["text/event-stream"])
                },
            );
            let service = handler(&runs, move |_| {
                let mut response = created(Script::endless(vec![b'x'; FRAME]));
                if events {
                    let value = HeaderValue::from_static("text/event-stream");
                    response.headers_mut().insert(CONTENT_TYPE, value);
                }
                std::future::ready(response)
            });
            let server = Server::start_with_small_sockets(app(&layer, service));
            let mut client = Silent::connect(server.address, http2).await;
            let asked = client.ask("k").await;
            server.begun().await;
            all_ended(&layer, &store, &runs).await;
            let stats = store.stats();
            let ended = if events { stats.released } else { stats.sealed };
            assert_eq!(ended, 1, "{stats:?}");
            drop((client, asked));
        }
    }
}
