//! This module has a gRPC service as `tonic-build` would write it, and the stacks
//! in which the service can stand.

use std::convert::Infallible;
use std::future::{Future, ready};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::Request;
use tokio::net::TcpListener;
use tokio_stream::Stream;
use tonic::body::Body;
use tonic::metadata::MetadataValue;
use tonic::server::NamedService;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Response, Status, Streaming};
use tonic_prost::ProstCodec;
use tower::{Service, ServiceBuilder, service_fn};
use tower_idempotency::{IdempotencyLayer, RequestBody};

use crate::client::Client;
use crate::support::{Gate, Runs};

/// This message is the only one of the service.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Note {
    #[prost(string, tag = "1")]
    pub(crate) text: String,
}

impl Note {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self { text: text.into() }
    }
}

pub(crate) type Codec = ProstCodec<Note, Note>;
type Notes = Pin<Box<dyn Stream<Item = Result<Note, Status>> + Send>>;

/// An execution returns either a status without any message, or messages and
/// perhaps a status after the messages.
pub(crate) type ResponseHead = Result<Vec<Result<Note, Status>>, Status>;

/// The script returns what execution N returns.
type Script = dyn Fn(usize) -> ResponseHead + Send + Sync;

/// This is the service `shop.Shop`: `Pay` is unary, `List` streams its response,
/// `Upload` streams its request, and `Chat` streams both.
#[derive(Clone)]
pub(crate) struct Shop {
    runs: Runs,
    script: Arc<Script>,
    /// Executions wait at this gate; an execution that streams waits after its
    /// first message.
    gate: Option<Gate>,
}

impl Shop {
    /// Returns a shop that responds `run N` to each call.
    pub(crate) fn new(runs: &Runs) -> Self {
        Self::answering(runs, |run| Ok(vec![Ok(Note::new(format!("run {run}")))]))
    }

    pub(crate) fn answering(
        runs: &Runs,
        script: impl Fn(usize) -> ResponseHead + Send + Sync + 'static,
    ) -> Self {
        Self {
            runs: runs.clone(),
            script: Arc::new(script),
            gate: None,
        }
    }

    pub(crate) fn behind(mut self, gate: &Gate) -> Self {
        self.gate = Some(gate.clone());
        self
    }

    async fn pass(&self) {
        if let Some(gate) = &self.gate {
            gate.pass().await;
        }
    }

    async fn pay(self) -> Result<Response<Note>, Status> {
        let run = self.runs.begin();
        self.pass().await;
        let note = (self.script)(run)?.remove(0)?;
        Ok(with_metadata(run, note))
    }

    fn list(self) -> Result<Response<Notes>, Status> {
        let run = self.runs.begin();
        let notes = (self.script)(run)?;
        let (send, notes_to_come) = tokio::sync::mpsc::channel(1);
        tokio::spawn(async move {
            for (number, note) in notes.into_iter().enumerate() {
                if number == 1 {
                    self.pass().await;
                }
                // The handler ignores a client that is gone, because the layer
                // handles that.
                send.send(note).await.ok();
            }
        });
        let notes = tokio_stream::wrappers::ReceiverStream::new(notes_to_come);
        Ok(with_metadata(run, Box::pin(notes)))
    }

    /// Responds with all received messages, joined.
    async fn upload(self, mut asked: Streaming<Note>) -> Result<Response<Note>, Status> {
        let run = self.runs.begin();
        let mut text = format!("run {run}:");
        while let Some(note) = asked.message().await? {
            text.push(' ');
            text.push_str(&note.text);
        }
        Ok(Response::new(Note::new(text)))
    }

    /// Sends each received message back.
    fn chat(&self, asked: Streaming<Note>) -> Response<Streaming<Note>> {
        self.runs.begin();
        Response::new(asked)
    }
}

/// Adds metadata of every kind: text, two values of one name, and bytes.
fn with_metadata<T>(run: usize, message: T) -> Response<T> {
    let mut response = Response::new(message);
    let metadata = response.metadata_mut();
    metadata.insert("x-run", run.into());
    metadata.append("x-note", MetadataValue::from_static("one"));
    metadata.append("x-note", MetadataValue::from_static("two"));
    metadata.insert_bin("x-trace-bin", MetadataValue::from_bytes(&[0, 255, 7]));
    response
}

impl NamedService for Shop {
    const NAME: &'static str = "shop.Shop";
}

impl Service<Request<Body>> for Shop {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let shop = self.clone();
        let mut grpc = tonic::server::Grpc::new(Codec::default());
        Box::pin(async move {
            Ok(match request.uri().path() {
                "/shop.Shop/Pay" => {
                    let pay = service_fn(|_: tonic::Request<Note>| shop.clone().pay());
                    grpc.unary(pay, request).await
                }
                "/shop.Shop/List" => {
                    let list = service_fn(|_: tonic::Request<Note>| ready(shop.clone().list()));
                    grpc.server_streaming(list, request).await
                }
                "/shop.Shop/Upload" => {
                    let upload = service_fn(|asked: tonic::Request<Streaming<Note>>| {
                        shop.clone().upload(asked.into_inner())
                    });
                    grpc.client_streaming(upload, request).await
                }
                "/shop.Shop/Chat" => {
                    let chat = service_fn(|asked: tonic::Request<Streaming<Note>>| {
                        ready(Ok(shop.chat(asked.into_inner())))
                    });
                    grpc.streaming(chat, request).await
                }
                path => Status::unimplemented(path).into_http(),
            })
        })
    }
}

/// A gRPC server can have layers in these two places.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Stack {
    /// `Server::layer` takes the layer. Its body needs a [`RequestBody`] around it.
    Tonic,
    /// The axum router of tonic's routes takes the layer.
    Axum,
}

impl Stack {
    pub(crate) const ALL: [Self; 2] = [Self::Tonic, Self::Axum];

    pub(crate) async fn serve(self, layer: IdempotencyLayer, shop: Shop) -> Client {
        match self {
            Self::Tonic => serve_with(Server::builder(), layer, shop).await,
            Self::Axum => serve_router(Routes::new(shop).into_axum_router().layer(layer)).await,
        }
    }
}

pub(crate) async fn serve_router(app: axum::Router) -> Client {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async { axum::serve(listener, app).await.unwrap() });
    Client::to(address)
}

/// Serves the shop with tonic's own server.
pub(crate) async fn serve(layer: IdempotencyLayer, shop: Shop) -> Client {
    Stack::Tonic.serve(layer, shop).await
}

/// Serves the shop with tonic's own server and these settings.
pub(crate) async fn serve_with(server: Server, layer: IdempotencyLayer, shop: Shop) -> Client {
    let stack = ServiceBuilder::new()
        .map_request(|asked: Request<Body>| asked.map(RequestBody::new))
        .layer(layer)
        .map_request(|asked: Request<RequestBody<Body>>| asked.map(Body::new))
        .into_inner();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = server.layer(stack).add_service(shop);
    tokio::spawn(async {
        let incoming = TcpIncoming::from(listener);
        server.serve_with_incoming(incoming).await.unwrap();
    });
    Client::to(address)
}
