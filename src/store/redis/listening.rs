//! The pub/sub connection.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_core::Stream;
use redis::Client;
use redis::aio::{PubSubSink, PubSubStream};
use tokio::time::timeout;

use super::connection::waker;
use super::keys::Keys;
use super::link::Link;
use crate::error::BoxError;
use crate::record::RecordId;
use crate::store::notify::{Channels, Listen, Notification};

/// How long one server may take to accept a connection.
const CONNECT: Duration = Duration::from_millis(700);

/// The servers of the store. One connection to any of them is enough, because in a cluster a
/// message reaches every node.
pub(super) struct Servers {
    pub(super) clients: Vec<Client>,
    pub(super) keys: Keys,
    /// The connection for requests, which finds out that the address leads to another server.
    pub(super) link: Link,
}

impl Listen for Servers {
    type Channels = PubSub;

    async fn connect(&self) -> Result<PubSub, BoxError> {
        let given_up = self.link.next_redial();
        let mut failed: BoxError = "no server is known".into();
        let clients = match self.link.primary() {
            Some(primary) => vec![waker(&primary)?],
            None => self.clients.clone(),
        };
        // A random server comes first, so that connections are spread over all.
        // `CONNECT` is short, so that the next server gets its turn in time.
        let first = rand::random_range(0..clients.len().max(1));
        for client in clients.iter().cycle().skip(first).take(clients.len()) {
            match timeout(CONNECT, client.get_async_pubsub()).await {
                Ok(Ok(connection)) => {
                    let (sink, stream) = connection.split();
                    return Ok(PubSub {
                        sink,
                        stream,
                        keys: self.keys.clone(),
                        given_up,
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
    /// Completes when the store gives up its connection for requests: this one is to the same
    /// server.
    given_up: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl Channels for PubSub {
    /// A subscription lasts until `UNSUBSCRIBE`.
    const LASTS: Option<Duration> = None;
    const IS_RELIABLE: bool = true;

    /// Returns once the server has confirmed every subscription.
    async fn listen(&mut self, ids: &[RecordId]) -> Result<Vec<RecordId>, BoxError> {
        self.sink.subscribe(self.names(ids)).await?;
        Ok(Vec::new())
    }

    async fn leave(&mut self, ids: &[RecordId]) -> Result<(), BoxError> {
        Ok(self.sink.unsubscribe(self.names(ids)).await?)
    }

    fn poll_notification(&mut self, cx: &mut Context<'_>) -> Poll<Notification> {
        if self.given_up.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Notification::Disconnected);
        }
        loop {
            let Poll::Ready(message) = Pin::new(&mut self.stream).poll_next(cx) else {
                return Poll::Pending;
            };
            let Some(message) = message else {
                return Poll::Ready(Notification::Disconnected);
            };
            if let Some(id) = self.keys.id(message.get_channel_name()) {
                return Poll::Ready(Notification::Changed(id));
            }
        }
    }
}

impl PubSub {
    fn names(&self, ids: &[RecordId]) -> Vec<String> {
        ids.iter().map(|id| self.keys.of(id)).collect()
    }
}
