//! A connection that sends commands.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::cluster_async::ClusterConnection;
use redis::{Client, Cmd, ErrorKind, RedisResult, Value};
use tokio::time::Instant;

use super::errors::{is_of_connecting, is_of_wrong_server};
use crate::runtime::{Mutex, MutexGuard};
use crate::store::redial::{Redial, Redials};

/// After how long without a reply a request that is dropped has its connection replaced. The
/// server, or the way to it, may be gone without a sign, while the address leads to another.
const SILENT: Duration = Duration::from_millis(500);

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

    /// Completes when the store gives up its connection the next time. The connection to a cluster
    /// follows the cluster by itself.
    pub(super) fn next_redial(&self) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        match self {
            Link::Cluster(_) => Box::pin(std::future::pending()),
            Link::Server(server) => Box::pin(server.redials.next()),
        }
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
    redials: Redials,
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
        Arc::new(Self {
            manager,
            made_of,
            redials: Redials::default(),
        })
    }

    /// A manager without a connection returns the error of its last attempt to
    /// connect, which may be old. Nothing was sent then, so a second try is
    /// safe. After a refused connection the manager connects again; after any
    /// other error, such as wrong credentials or the server's limit of clients,
    /// it never does, and has to be replaced. So has a manager whose server refuses
    /// by its state, such as a primary that became a replica: this server did
    /// nothing, and the address may lead to another one by now.
    async fn send(&self, command: &Cmd) -> RedisResult<Value> {
        let mut used = self.lock().clone();
        let unanswered = Unanswered {
            server: self,
            number: used.number,
            since: Instant::now(),
        };
        let answered = self.send_on(&mut used, command).await;
        std::mem::forget(unanswered);
        answered
    }

    async fn send_on(&self, used: &mut Numbered, command: &Cmd) -> RedisResult<Value> {
        match command.query_async(&mut used.manager).await {
            Err(error) if error.is_connection_refusal() => {
                command.query_async(&mut used.manager).await
            }
            Err(error) if is_of_connecting(&error) || is_of_wrong_server(&error) => {
                match self.replace(used.number) {
                    // After a `Parse` error the bytes of the connection are no replies, and it is
                    // unknown to which requests they belong.
                    Some(mut manager) if error.kind() != ErrorKind::Parse => {
                        command.query_async(&mut manager).await
                    }
                    _ => Err(error),
                }
            }
            answer => answer,
        }
    }

    /// Returns a manager for a second try: the one that has replaced the manager of this number,
    /// or a new one. Returns `None` if the manager of this number is so new that the server would
    /// do the same again.
    fn replace(&self, number: u64) -> Option<ConnectionManager> {
        let (client, config) = self.made_of.as_ref()?;
        let mut current = self.lock();
        if current.number == number {
            if self.redials.after_error(0) == Redial::None {
                return None;
            }
            let another = ConnectionManager::new_lazy_with_config(client.clone(), config.clone());
            *current = Numbered {
                number: number + 1,
                manager: another.ok()?,
            };
        }
        Some(current.manager.clone())
    }

    fn lock(&self) -> MutexGuard<'_, Numbered> {
        self.manager.lock()
    }
}

/// A request whose reply has not come. The driver closes a connection without replies only for
/// a request that waits long enough, and the layer drops its requests earlier.
struct Unanswered<'a> {
    server: &'a Server,
    number: u64,
    since: Instant,
}

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        if self.since.elapsed() >= SILENT {
            drop(self.server.replace(self.number));
        }
    }
}
