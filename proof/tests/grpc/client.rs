//! This module holds the shop's client, and what the client saw.

use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use http::uri::PathAndQuery;
use tokio::time::sleep;
use tokio_stream::{Stream, StreamExt};
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::transport::Endpoint;
use tonic::{Code, Response, Status, Streaming};

use crate::shop::{Codec, Note};
use crate::support::API_KEY;

/// Returns a call by Alice.
pub(crate) fn ask<T>(key: &'static str, message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    let metadata = request.metadata_mut();
    metadata.insert(API_KEY, MetadataValue::from_static("alice"));
    metadata.insert("idempotency-key", MetadataValue::from_static(key));
    request
}

/// Returns a call by Alice whose message does not matter.
pub(crate) fn order(key: &'static str) -> tonic::Request<Note> {
    ask(key, Note::new("one book"))
}

/// `Listed` is what a client saw of a streamed response.
#[derive(Debug)]
pub(crate) struct Listed {
    /// This is the metadata before the messages. It is `None` if the response has
    /// headers alone.
    pub(crate) metadata: Option<MetadataMap>,
    pub(crate) messages: Vec<Note>,
    /// The status has the trailers as its metadata.
    pub(crate) status: Status,
}

#[derive(Clone)]
pub(crate) struct Client {
    grpc: tonic::client::Grpc<tonic::transport::Channel>,
    pub(crate) address: SocketAddr,
}

impl Client {
    pub(crate) fn to(address: SocketAddr) -> Self {
        let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
        Self {
            grpc: tonic::client::Grpc::new(endpoint.connect_lazy()),
            address,
        }
    }

    async fn ready(&self) -> tonic::client::Grpc<tonic::transport::Channel> {
        let mut grpc = self.grpc.clone();
        grpc.ready().await.expect("the server is there");
        grpc
    }

    pub(crate) async fn pay(&self, asked: tonic::Request<Note>) -> Result<Response<Note>, Status> {
        let pay = PathAndQuery::from_static("/shop.Shop/Pay");
        soon(async { self.ready().await.unary(asked, pay, Codec::default()).await }).await
    }

    /// Calls again as long as the status says that the operation is in flight.
    pub(crate) async fn pay_in_the_end(
        &self,
        asked: impl Fn() -> tonic::Request<Note>,
    ) -> Result<Response<Note>, Status> {
        loop {
            match self.pay(asked()).await {
                Err(status) if status.code() == Code::Aborted => {
                    sleep(Duration::from_millis(2)).await;
                }
                paid => return paid,
            }
        }
    }

    /// Calls `List`, and returns before the first message.
    pub(crate) async fn begin_list(
        &self,
        asked: tonic::Request<Note>,
    ) -> Result<Response<Streaming<Note>>, Status> {
        let list = PathAndQuery::from_static("/shop.Shop/List");
        let mut grpc = self.ready().await;
        grpc.server_streaming(asked, list, Codec::default()).await
    }

    pub(crate) async fn list(&self, asked: tonic::Request<Note>) -> Listed {
        soon(async {
            let (metadata, mut stream, _) = match self.begin_list(asked).await {
                Ok(begun) => begun.into_parts(),
                Err(status) => {
                    return Listed {
                        metadata: None,
                        messages: Vec::new(),
                        status,
                    };
                }
            };
            let mut messages = Vec::new();
            let status = loop {
                match stream.message().await {
                    Ok(Some(note)) => messages.push(note),
                    Ok(None) => {
                        let trailers = stream.trailers().await.unwrap().unwrap_or_default();
                        break Status::with_metadata(Code::Ok, "", trailers);
                    }
                    Err(status) => break status,
                }
            };
            Listed {
                metadata: Some(metadata),
                messages,
                status,
            }
        })
        .await
    }

    pub(crate) async fn upload(
        &self,
        asked: tonic::Request<impl Stream<Item = Note> + Send + 'static>,
    ) -> Result<Response<Note>, Status> {
        let upload = PathAndQuery::from_static("/shop.Shop/Upload");
        let mut grpc = self.ready().await;
        soon(grpc.client_streaming(asked, upload, Codec::default())).await
    }

    pub(crate) async fn chat(
        &self,
        asked: tonic::Request<impl Stream<Item = Note> + Send + 'static>,
    ) -> Result<impl Stream<Item = Result<Note, Status>> + Unpin, Status> {
        let chat = PathAndQuery::from_static("/shop.Shop/Chat");
        let mut grpc = self.ready().await;
        let answered = soon(grpc.streaming(asked, chat, Codec::default())).await?;
        Ok(answered.into_inner())
    }
}

/// Returns the next message of a stream.
pub(crate) async fn next<T>(stream: &mut (impl Stream<Item = T> + Unpin)) -> Option<T> {
    soon(stream.next()).await
}

/// Sockets need a real clock, so a future that takes this long counts as hanging.
pub(crate) async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(20), future)
        .await
        .expect("it hangs")
}

pub(crate) fn is_replay(metadata: &MetadataMap) -> bool {
    metadata
        .get("idempotency-replayed")
        .is_some_and(|v| v == "true")
}
