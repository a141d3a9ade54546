//! The primary that sentinels name, and the task that follows it.

use std::collections::HashMap;
use std::sync::Weak;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ConnectionInfo};
use redis::{ErrorKind, RedisError, RedisResult};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::{info, warn};

use super::link::Server;
use super::url::Certificates;
use crate::error::cause;

/// How long a sentinel may take to accept a connection, and to reply.
const PATIENCE: Duration = Duration::from_millis(500);
/// How often the sentinels are asked for the primary.
const PAUSE: Duration = Duration::from_secs(1);

/// The sentinels of one primary.
#[derive(Clone)]
pub(super) struct Sentinels {
    pub(super) nodes: Vec<Sentinel>,
    /// The name that the sentinels have for the primary.
    pub(super) name: String,
    /// How to connect to the primary, but for its address.
    pub(super) primary: ConnectionInfo,
    pub(super) certificates: Certificates,
}

#[derive(Clone)]
pub(super) struct Sentinel {
    pub(super) client: Client,
    /// The connection of the last question, if it was answered.
    connection: Option<MultiplexedConnection>,
}

/// The primary, as a sentinel names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Primary {
    /// The number of the election that made this server the primary: each has a higher one.
    epoch: u64,
    host: String,
    port: u16,
}

impl From<Client> for Sentinel {
    fn from(client: Client) -> Self {
        Self {
            client,
            connection: None,
        }
    }
}

impl Sentinel {
    async fn ask(&mut self, name: &str) -> RedisResult<Primary> {
        let mut connection = if let Some(connection) = self.connection.take() {
            connection
        } else {
            let config = AsyncConnectionConfig::new()
                .set_connection_timeout(Some(PATIENCE))
                .set_response_timeout(Some(PATIENCE));
            self.client
                .get_multiplexed_async_connection_with_config(&config)
                .await?
        };
        let mut question = Cmd::new();
        question.arg("SENTINEL").arg("MASTER").arg(name);
        let fields: HashMap<String, String> = question.query_async(&mut connection).await?;
        self.connection = Some(connection);
        let number = |field: &str| fields.get(field)?.parse().ok();
        let found = (|| {
            Some(Primary {
                epoch: number("config-epoch")?,
                host: fields.get("ip")?.clone(),
                port: u16::try_from(number("port")?).ok()?,
            })
        })();
        found.ok_or_else(|| RedisError::from((ErrorKind::Parse, "what answers is no sentinel")))
    }
}

impl Sentinels {
    /// Asks all sentinels at the same time, and returns the primary of the newest election. A
    /// sentinel that was cut off from the others still names the one before.
    ///
    /// # Errors
    /// If no sentinel names one.
    pub(super) async fn ask(&mut self) -> RedisResult<Primary> {
        let mut asked = JoinSet::new();
        for mut sentinel in self.nodes.drain(..) {
            let name = self.name.clone();
            asked.spawn(async move {
                let answer = sentinel.ask(&name).await;
                (sentinel, answer)
            });
        }
        let mut newest: RedisResult<Primary> =
            Err((ErrorKind::Client, "there is no sentinel to ask").into());
        for (sentinel, answer) in asked.join_all().await {
            self.nodes.push(sentinel);
            newest = match (newest, answer) {
                (Ok(newest), Ok(other)) if newest.epoch >= other.epoch => Ok(newest),
                (_, Ok(other)) => Ok(other),
                (Ok(newest), Err(_)) => Ok(newest),
                // A sentinel that does not know the name says more than one that is gone.
                (Err(newest), Err(_)) if matches!(newest.kind(), ErrorKind::Server(_)) => {
                    Err(newest)
                }
                (Err(_), Err(other)) => Err(other),
            };
        }
        newest
    }

    pub(super) fn client_of(&self, primary: &Primary) -> RedisResult<Client> {
        let (host, port) = (primary.host.clone(), primary.port);
        let address = match self.primary.addr() {
            ConnectionAddr::TcpTls { .. } => ConnectionAddr::TcpTls {
                host,
                port,
                insecure: false,
                tls_params: None,
            },
            _ => ConnectionAddr::Tcp(host, port),
        };
        self.certificates
            .client(self.primary.clone().set_addr(address))
    }

    /// Leads the server's connections to each new primary, until the server is dropped.
    ///
    /// The sentinels are asked every second, and at once if the present primary refuses to serve. A
    /// primary that only the sentinels can't reach would keep on confirming writes that the next
    /// primary does not have.
    pub(super) async fn lead(mut self, server: Weak<Server>, mut primary: Primary) {
        loop {
            let Some(refused) = server.upgrade().map(|server| server.next_redial()) else {
                return;
            };
            let _ = timeout(PAUSE, refused).await;
            let found = match self.ask().await {
                Ok(found) => found,
                Err(error) => {
                    warn!(error = cause(&error), "no sentinel names the primary");
                    continue;
                }
            };
            let is_same = (&found.host, found.port) == (&primary.host, primary.port);
            if found.epoch < primary.epoch || is_same {
                continue;
            }
            let (Ok(client), Some(server)) = (self.client_of(&found), server.upgrade()) else {
                continue;
            };
            if server.move_to(client) {
                info!("the sentinels have elected another primary, which the store follows");
                primary = found;
            }
        }
    }
}
