//! The pub/sub connection.

use std::error::Error;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_core::Stream;
use redis::Client;
use redis::aio::{PubSubSink, PubSubStream};
use tokio::time::timeout;

use super::keys::Keys;
use crate::record::RecordId;
use crate::store::notify::{Channels, Listen};

type BoxError = Box<dyn Error + Send + Sync>;

/// For one server to take a connection.
const CONNECT: Duration = Duration::from_millis(700);

/// Any one of these servers: in a cluster a message reaches every node.
pub(super) struct Servers {
    pub(super) clients: Vec<Client>,
    pub(super) keys: Keys,
}

impl Listen for Servers {
    type Channels = PubSub;

    async fn connect(&self) -> Result<PubSub, BoxError> {
        let mut failed: BoxError = "no server is known".into();
        // Not always the same one first, and none for so long that the next
        // would have no time left.
        let first = rand::random_range(0..self.clients.len().max(1));
        for client in self
            .clients
            .iter()
            .cycle()
            .skip(first)
            .take(self.clients.len())
        {
            match timeout(CONNECT, client.get_async_pubsub()).await {
                Ok(Ok(connection)) => {
                    let (sink, stream) = connection.split();
                    return Ok(PubSub {
                        sink,
                        stream,
                        keys: self.keys.clone(),
                    });
                }
                Ok(Err(error)) => failed = error.into(),
                Err(late) => failed = late.into(),
            }
        }
        Err(failed)
    }
}

pub(super) struct PubSub {
    sink: PubSubSink,
    stream: PubSubStream,
    keys: Keys,
}

impl Channels for PubSub {
    /// Answers once the server has confirmed every one.
    async fn listen(&mut self, ids: &[RecordId]) -> Result<(), BoxError> {
        Ok(self.sink.subscribe(self.names(ids)).await?)
    }

    async fn leave(&mut self, ids: &[RecordId]) -> Result<(), BoxError> {
        Ok(self.sink.unsubscribe(self.names(ids)).await?)
    }

    fn poll_change(&mut self, cx: &mut Context<'_>) -> Poll<Option<RecordId>> {
        loop {
            let Poll::Ready(message) = Pin::new(&mut self.stream).poll_next(cx) else {
                return Poll::Pending;
            };
            let Some(message) = message else {
                return Poll::Ready(None);
            };
            if let Some(id) = self.keys.id(message.get_channel_name()) {
                return Poll::Ready(Some(id));
            }
        }
    }
}

impl PubSub {
    fn names(&self, ids: &[RecordId]) -> Vec<String> {
        ids.iter().map(|id| self.keys.of(id)).collect()
    }
}
