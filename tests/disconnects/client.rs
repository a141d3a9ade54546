//! Clients, and the ways in which they disconnect.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::channel::{Channel, Sender};
use http_body_util::{BodyExt, Either, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper::rt::Executor;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::{JoinHandle, JoinSet};

use crate::support::Seen;
use crate::wire::{Part, Wire};
use crate::within;

/// How a client disconnects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leaves {
    Closing,
    /// The client closes its sending side and would still read.
    HalfClosing,
    /// The client resets the connection.
    Resetting,
    Http2Closing,
    /// The client resets the stream, and the connection stays open.
    Http2Resetting,
}

pub(crate) const WAYS: [Leaves; 5] = [
    Leaves::Closing,
    Leaves::HalfClosing,
    Leaves::Resetting,
    Leaves::Http2Closing,
    Leaves::Http2Resetting,
];

type Upload = Either<Full<Bytes>, Channel<Bytes, io::Error>>;

/// A client that sends one request.
pub(crate) struct Client {
    way: Leaves,
    kind: Kind,
}

enum Kind {
    Http1(Wire),
    Http2(Http2),
}

struct Http2 {
    sender: SendRequest<Upload>,
    tasks: Tasks,
    upload: Option<Sender<Bytes, io::Error>>,
    asking: Option<JoinHandle<hyper::Result<Response<Incoming>>>>,
    body: Option<Incoming>,
}

/// The tasks of an HTTP/2 connection. The connection is closed when they are
/// dropped.
#[derive(Clone, Default)]
struct Tasks(Arc<Mutex<JoinSet<()>>>);

impl<F> Executor<F> for Tasks
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, task: F) {
        let task = async { drop(task.await) };
        self.0.lock().unwrap().spawn(task);
    }
}

/// What is left of a client that has left: over HTTP/2, the connection may
/// still be open.
#[must_use]
pub(crate) struct Gone {
    _kind: Option<Kind>,
}

/// The target of requests for which a test names none.
const TARGET: &str = "/payments";

impl Client {
    pub(crate) async fn connect(address: SocketAddr, way: Leaves) -> Self {
        let kind = match way {
            Leaves::Closing | Leaves::HalfClosing | Leaves::Resetting => {
                Kind::Http1(Wire::connect(address).await)
            }
            Leaves::Http2Closing | Leaves::Http2Resetting => {
                let stream = TokioIo::new(TcpStream::connect(address).await.unwrap());
                let tasks = Tasks::default();
                let (sender, connection) = handshake(tasks.clone(), stream).await.unwrap();
                tasks.execute(async { drop(connection.await) });
                Kind::Http2(Http2 {
                    sender,
                    tasks,
                    upload: None,
                    asking: None,
                    body: None,
                })
            }
        };
        Self { way, kind }
    }

    /// A client for another request on the same HTTP/2 connection.
    pub(crate) fn another_stream(&self) -> Self {
        let Kind::Http2(http2) = &self.kind else {
            panic!("HTTP/1 has one stream");
        };
        Self {
            way: self.way,
            kind: Kind::Http2(Http2 {
                sender: http2.sender.clone(),
                tasks: http2.tasks.clone(),
                upload: None,
                asking: None,
                body: None,
            }),
        }
    }

    /// Sends a complete request.
    pub(crate) async fn ask(&mut self, key: &str) {
        self.ask_for(TARGET, key).await;
    }

    pub(crate) async fn ask_for(&mut self, target: &str, key: &str) {
        match &mut self.kind {
            Kind::Http1(wire) => wire.say(&(head(target, key) + "7 EUR")).await,
            Kind::Http2(http2) => {
                let body = Either::Left(Full::from("7 EUR"));
                http2.ask(target, key, body).await;
            }
        }
    }

    /// Sends a request without the end of its body.
    pub(crate) async fn begin(&mut self, key: &str) {
        match &mut self.kind {
            Kind::Http1(wire) => wire.say(&(head(TARGET, key) + "7 E")).await,
            Kind::Http2(http2) => {
                let (mut upload, body) = Channel::new(1);
                upload.send_data(Bytes::from("7 E")).await.unwrap();
                http2.upload = Some(upload);
                http2.ask(TARGET, key, Either::Right(body)).await;
            }
        }
    }

    /// Reads the head of the response. `None` if there is no response.
    pub(crate) async fn head(&mut self) -> Option<(u16, HeaderMap)> {
        match &mut self.kind {
            Kind::Http1(wire) => wire.head().await,
            Kind::Http2(http2) => {
                let asking = http2.asking.take().expect("it has asked");
                let answer = within(asking).await.unwrap().ok()?;
                let (head, body) = answer.into_parts();
                http2.body = Some(body);
                Some((head.status.as_u16(), head.headers))
            }
        }
    }

    /// Reads the next part of the response's body.
    pub(crate) async fn part(&mut self) -> Part {
        match &mut self.kind {
            Kind::Http1(wire) => wire.part().await,
            Kind::Http2(http2) => {
                let body = http2.body.as_mut().expect("its head was read");
                match within(body.frame()).await {
                    None => Part::End(None),
                    Some(Err(_)) => Part::Cut,
                    Some(Ok(frame)) => match frame.into_data() {
                        Ok(data) => Part::Data(data.to_vec()),
                        Err(frame) => Part::End(frame.into_trailers().ok()),
                    },
                }
            }
        }
    }

    /// Reads so many bytes of the response's body.
    pub(crate) async fn data(&mut self, length: usize) -> Vec<u8> {
        let mut body = Vec::new();
        while body.len() < length {
            match self.part().await {
                Part::Data(data) => body.extend(data),
                other => panic!("after {} bytes: {other:?}", body.len()),
            }
        }
        assert_eq!(body.len(), length);
        body
    }

    /// Reads the whole response. `None` if there is none, or if it is cut off.
    pub(crate) async fn answer(&mut self) -> Option<Seen> {
        let (status, headers) = self.head().await?;
        let (body, trailers) = self.rest().await?;
        Some(Seen {
            status,
            headers,
            body,
            trailers,
        })
    }

    /// Reads the rest of the body. `None` if the body is cut off.
    pub(crate) async fn rest(&mut self) -> Option<(Bytes, Option<HeaderMap>)> {
        let mut body = Vec::new();
        loop {
            match self.part().await {
                Part::Data(data) => body.extend(data),
                Part::End(trailers) => return Some((body.into(), trailers)),
                Part::Cut => return None,
            }
        }
    }

    pub(crate) async fn leave(mut self) -> Gone {
        match (&mut self.kind, self.way) {
            (Kind::Http1(wire), Leaves::HalfClosing) => {
                wire.stream.shutdown().await.unwrap();
                return Gone {
                    _kind: Some(self.kind),
                };
            }
            (Kind::Http1(wire), Leaves::Resetting) => wire.stream.set_zero_linger().unwrap(),
            (Kind::Http1(_), _) => {}
            (Kind::Http2(http2), Leaves::Http2Closing) => {
                let mut tasks = std::mem::take(&mut *http2.tasks.0.lock().unwrap());
                tasks.shutdown().await;
            }
            (Kind::Http2(http2), _) => {
                if let Some(upload) = http2.upload.take() {
                    upload.abort(io::Error::other("gone"));
                }
                if let Some(asking) = http2.asking.take() {
                    asking.abort();
                }
                http2.body = None;
                return Gone {
                    _kind: Some(self.kind),
                };
            }
        }
        Gone { _kind: None }
    }
}

impl Http2 {
    async fn ask(&mut self, target: &str, key: &str, body: Upload) {
        let request = Request::post(format!("http://shop.example{target}"))
            .header("idempotency-key", key)
            .body(body)
            .unwrap();
        within(self.sender.ready()).await.unwrap();
        self.asking = Some(tokio::spawn(self.sender.send_request(request)));
    }
}

/// The head of a request whose body has five bytes.
fn head(target: &str, key: &str) -> String {
    format!(
        "POST {target} HTTP/1.1\r\nhost: a\r\nidempotency-key: {key}\r\ncontent-length: 5\r\n\r\n"
    )
}

/// Sends a request on a connection of its own.
pub(crate) async fn ask(address: SocketAddr, key: &str) -> Option<Seen> {
    ask_for(address, TARGET, key).await
}

pub(crate) async fn ask_for(address: SocketAddr, target: &str, key: &str) -> Option<Seen> {
    let mut client = Client::connect(address, Leaves::Closing).await;
    client.ask_for(target, key).await;
    client.answer().await
}

/// Like [`ask`], but fails the test if there is no response.
pub(crate) async fn retry(address: SocketAddr, key: &str) -> Seen {
    ask(address, key).await.expect("a retry is answered")
}
