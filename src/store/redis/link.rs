//! A connection that sends commands.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::cluster_async::ClusterConnection;
use redis::{Client, Cmd, ErrorKind, Pipeline, RedisResult, Value};
use tokio::time::Instant;

use super::errors::{is_of_connecting, is_of_wrong_server};
use crate::runtime::{Mutex, MutexGuard};
use crate::store::redial::{Redial, Redials};

/// After how long without a reply a request that is dropped has its connection replaced. The
/// server, or the way to it, may be gone without a sign, while the address leads to another.
const SILENT: Duration = Duration::from_millis(500);

/// How long one attempt to connect may take.
pub(super) const CONNECT: Duration = Duration::from_secs(1);
/// How long a reply may take. Longer than any useful `store_timeout`; this
/// limit only ends requests for which the layer no longer waits.
pub(super) const RESPOND: Duration = Duration::from_secs(5);

/// The settings of a manager. A request that waits for a connection fails soon if there is none,
/// and the next request tries again.
pub(super) fn settings() -> ConnectionManagerConfig {
    ConnectionManagerConfig::new()
        .set_number_of_retries(0)
        .set_connection_timeout(Some(CONNECT))
        .set_response_timeout(Some(RESPOND))
}

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
            Link::Server(server) => Box::pin(server.next_redial()),
        }
    }

    /// The client of the present primary that sentinels name.
    pub(super) fn primary(&self) -> Option<Client> {
        match self {
            Link::Server(server) if server.is_led => server.lock().client.clone(),
            _ => None,
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
    /// Whether sentinels lead the connection from one server to another.
    is_led: bool,
    redials: Redials,
}

#[derive(Clone)]
struct Numbered {
    number: u64,
    manager: ConnectionManager,
    /// The client for a new manager. `None` if the application made the manager.
    client: Option<Client>,
}

impl Server {
    pub(super) fn new(
        manager: ConnectionManager,
        client: Option<Client>,
        is_led: bool,
    ) -> Arc<Self> {
        let number = 0;
        Arc::new(Self {
            manager: Mutex::new(Numbered {
                number,
                manager,
                client,
            }),
            is_led,
            redials: Redials::default(),
        })
    }

    /// Sends every request after this one to the server of this client.
    pub(super) fn move_to(&self, client: Client) -> bool {
        let manager = ConnectionManager::new_lazy_with_config(client.clone(), settings());
        let Ok(manager) = manager else { return false };
        let mut current = self.lock();
        *current = Numbered {
            number: current.number + 1,
            manager,
            client: Some(client),
        };
        drop(current);
        self.redials.give_up_all();
        true
    }

    /// Completes when the store gives up its connections the next time.
    pub(super) fn next_redial(&self) -> impl Future<Output = ()> + Send + use<> {
        self.redials.next()
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

    /// Sends commands that only read, in one round trip.
    pub(super) async fn send_all(&self, commands: &Pipeline) -> RedisResult<Vec<Value>> {
        let mut manager = self.lock().manager.clone();
        commands.query_async(&mut manager).await
    }

    async fn send_on(&self, used: &mut Numbered, command: &Cmd) -> RedisResult<Value> {
        match command.query_async(&mut used.manager).await {
            Err(error) if error.is_connection_refusal() => {
                // Sentinels may have led the connection to another server.
                let mut current = self.lock().manager.clone();
                command.query_async(&mut current).await
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
        let mut current = self.lock();
        let client = current.client.clone()?;
        if current.number == number {
            if self.redials.after_error(0) == Redial::None {
                return None;
            }
            let another = ConnectionManager::new_lazy_with_config(client.clone(), settings());
            *current = Numbered {
                number: number + 1,
                manager: another.ok()?,
                client: Some(client),
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
