//! A connection that sends commands.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::cluster_async::ClusterConnection;
use redis::{Client, Cmd, ErrorKind, RedisResult, Value};

use super::errors::is_of_connecting;

/// A connection that reconnects by itself.
#[derive(Clone)]
pub(super) enum Link {
    Server(Arc<Server>),
    Cluster(ClusterConnection),
}

impl Link {
    pub(super) fn is_cluster(&self) -> bool {
        matches!(self, Link::Cluster(_))
    }

    pub(super) async fn send(&self, command: &Cmd) -> RedisResult<Value> {
        match self {
            Link::Cluster(cluster) => command.query_async(&mut cluster.clone()).await,
            Link::Server(server) => server.send(command).await,
        }
    }
}

/// One server.
pub(super) struct Server {
    manager: Mutex<Numbered>,
    /// The client and the settings for a new manager. `None` if the application made the manager.
    made_of: Option<(Client, ConnectionManagerConfig)>,
}

#[derive(Clone)]
struct Numbered {
    number: u64,
    manager: ConnectionManager,
}

impl Server {
    pub(super) fn new(
        manager: ConnectionManager,
        made_of: Option<(Client, ConnectionManagerConfig)>,
    ) -> Arc<Self> {
        let manager = Mutex::new(Numbered { number: 0, manager });
        Arc::new(Self { manager, made_of })
    }

    /// A manager without a connection returns the error of its last attempt to
    /// connect, which may be old. Nothing was sent then, so a second try is
    /// safe. After a refused connection the manager connects again; after any
    /// other error, such as wrong credentials or the server's limit of clients,
    /// it never does, and has to be replaced.
    async fn send(&self, command: &Cmd) -> RedisResult<Value> {
        let mut used = self.lock().clone();
        match command.query_async(&mut used.manager).await {
            Err(error) if error.is_connection_refusal() => {
                command.query_async(&mut used.manager).await
            }
            Err(error) if is_of_connecting(&error) => match self.replace(used.number) {
                // After a `Parse` error the bytes of the connection are no replies, and it is
                // unknown to which requests they belong.
                Some(mut manager) if error.kind() != ErrorKind::Parse => {
                    command.query_async(&mut manager).await
                }
                _ => Err(error),
            },
            answer => answer,
        }
    }

    fn replace(&self, number: u64) -> Option<ConnectionManager> {
        let (client, config) = self.made_of.as_ref()?;
        let mut current = self.lock();
        if current.number == number {
            let another = ConnectionManager::new_lazy_with_config(client.clone(), config.clone());
            *current = Numbered {
                number: number + 1,
                manager: another.ok()?,
            };
        }
        Some(current.manager.clone())
    }

    fn lock(&self) -> MutexGuard<'_, Numbered> {
        self.manager.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
