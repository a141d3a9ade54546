//! Reaching the server.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::ConnectionManager;
use redis::cluster::{ClusterClient, ClusterClientBuilder};
use redis::cluster_async::ClusterConnection;
use redis::io::tcp::{TcpSettings, socket2::TcpKeepalive};
use redis::{Client, ConnectionAddr, ProtocolVersion, RedisResult};

use super::errors::not_opened;
use super::link::{CONNECT, Link, RESPOND, Server, settings};
use super::sentinel::{Sentinel, Sentinels};
use super::url::{Kind, Target, bad_url, is_plain, with_protocol};
use crate::store::StoreError;
use crate::store::tls::{install_provider, warn_of_plain_text};

/// How long a connection may be silent before it is closed.
const SILENCE: Duration = Duration::from_secs(5);

/// How a [`RedisStore`](super::RedisStore) reaches its server: from a URL
/// ([`from_url`](Self::from_url)), or from what the application has already.
///
/// | from | is |
/// | --- | --- |
/// | a URL | one server, a cluster, or the primary of sentinels; waiters are woken |
/// | [`redis::Client`] | one server; waiters are woken |
/// | [`redis::aio::ConnectionManager`] | one server; waiters look every 250 ms |
/// | [`redis::cluster_async::ClusterConnection`] | a cluster; waiters look every 250 ms |
///
/// Waking waiters needs a second connection, which the last two can't make: add
/// [`waking_by`](Self::waking_by).
///
/// A connection that the application made decides itself how long it waits for
/// a reply and how it reconnects. Its response timeout should not be below the
/// layer's `store_timeout`. A `ConnectionManager` whose reconnection the server
/// rejected, because of credentials or the limit of clients, never recovers, and
/// one whose server became a replica stays with that server;
/// the store replaces such a manager only if the store made it.
#[derive(Clone)]
pub struct RedisConnection {
    source: Source,
    wakers: Vec<Client>,
    /// Whether it is known that what is sent leaves the machine in plain text.
    is_plain: bool,
}

#[derive(Clone)]
enum Source {
    Client(Box<Client>),
    Nodes(Box<ClusterClient>),
    Sentinels(Box<Sentinels>),
    Manager(ConnectionManager),
    Cluster(ClusterConnection),
}

impl RedisConnection {
    /// Makes the connection from the URL of one server, or of a cluster:
    ///
    /// | URL | |
    /// | --- | --- |
    /// | `redis://[[user]:password@]host[:port][/db]` | one server, by TCP |
    /// | `redis+unix:///path/to.sock[?db=1&user=…&pass=…]` | one server, by its socket |
    /// | `redis://host1,redis://host2` | a cluster, some of its nodes |
    /// | `redis+cluster://[[user]:password@]host1[:port][,host2[:port]…]` | the same |
    /// | `redis+sentinel://[[user]:password@]host1[:port][,host2[:port]…]/name[/db]` | the primary that these sentinels have under the name |
    ///
    /// `valkey` may stand for `redis`, and `unix` for `redis+unix`. With TLS `rediss` stands for
    /// `redis` (feature `tls`), and the URL may name files: `ssl-ca` has the CAs that are trusted
    /// instead of the system's, and `ssl-cert` and `ssl-key` have the certificate of this client and
    /// its key. The files are read once, now.
    ///
    /// User, password and database are those of the primary. Sentinels that want credentials as well
    /// get `sentinel_user` and `sentinel_pass`. The store follows the primary after a failover.
    ///
    /// Connections speak RESP3, unless the URL ends in `?protocol=resp2`.
    ///
    /// Connecting may take 1 s, and a reply 5 s. A connection that is silent for 5 s is closed,
    /// and the next request opens a new one.
    ///
    /// # Errors
    /// If the URL is none of these. The error does not repeat the URL.
    pub fn from_url(url: &str) -> Result<Self, StoreError> {
        let target = Target::parse(url, &tcp_settings())?;
        let certificates = target.certificates.clone();
        let is_plain = target.servers.iter().any(|server| is_plain(server.addr()));
        let clients = target.servers.iter().cloned();
        let clients = clients.map(|server| certificates.client(server));
        let mut clients: Vec<Client> = clients.collect::<RedisResult<_>>().map_err(bad_url)?;
        let mut wakers = clients.iter().map(waker).collect::<Result<_, _>>()?;
        let source = match target.kind {
            Kind::Server => Source::Client(Box::new(clients.remove(0))),
            Kind::Cluster => {
                let protocol = target.servers[0].redis_settings().protocol();
                let builder = ClusterClientBuilder::new(target.servers)
                    .use_protocol(protocol)
                    .tcp_settings(tcp_settings())
                    .connection_timeout(CONNECT)
                    .response_timeout(RESPOND)
                    .retries(8)
                    .min_retry_wait(20)
                    .max_retry_wait(300);
                #[cfg(feature = "tls")]
                let builder = match &certificates.0 {
                    Some(certificates) => builder.certs(certificates.clone()),
                    None => builder,
                };
                Source::Nodes(Box::new(builder.build().map_err(bad_url)?))
            }
            Kind::Sentinels { name, primary } => {
                // The connection for notifications goes to the primary, which is not known yet.
                wakers = Vec::new();
                Source::Sentinels(Box::new(Sentinels {
                    nodes: clients.into_iter().map(Sentinel::from).collect(),
                    name,
                    primary: *primary,
                    certificates: target.certificates,
                }))
            }
        };
        Ok(Self {
            source,
            wakers,
            is_plain,
        })
    }

    /// Wakes waiters by connections of this client: to the same server, or to
    /// any node of the same cluster. Each call adds a client.
    #[must_use]
    pub fn waking_by(mut self, client: Client) -> Self {
        self.wakers.push(client);
        self
    }

    pub(super) async fn establish(self) -> Result<(Link, Vec<Client>), StoreError> {
        let mut wakers = self.wakers;
        let link = match self.source {
            Source::Manager(manager) => Link::Server(Server::new(manager, None, false)),
            Source::Cluster(cluster) => Link::Cluster(cluster),
            Source::Client(client) => Link::Server(server(*client, false).await?),
            Source::Sentinels(mut sentinels) => {
                let primary = sentinels.ask().await.map_err(not_opened)?;
                let client = sentinels.client_of(&primary).map_err(not_opened)?;
                wakers.push(waker(&client)?);
                let server = server(client, true).await?;
                tokio::spawn(sentinels.lead(Arc::downgrade(&server), primary));
                Link::Server(server)
            }
            Source::Nodes(client) => {
                let cluster = client.get_async_connection().await;
                Link::Cluster(cluster.map_err(not_opened)?)
            }
        };
        if self.is_plain {
            warn_of_plain_text("`rediss:` instead of `redis:`");
        }
        Ok((link, wakers))
    }
}

async fn server(client: Client, is_led: bool) -> Result<Arc<Server>, StoreError> {
    let manager = ConnectionManager::new_with_config(client.clone(), settings()).await;
    let manager = manager.map_err(not_opened)?;
    Ok(Server::new(manager, Some(client), is_led))
}

/// Writes neither the address nor the credentials.
impl fmt::Debug for RedisConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisConnection").finish_non_exhaustive()
    }
}

impl From<Client> for RedisConnection {
    fn from(client: Client) -> Self {
        let address = client.get_connection_info().addr();
        if matches!(address, ConnectionAddr::TcpTls { .. }) {
            install_provider();
        }
        Self {
            is_plain: is_plain(address),
            source: Source::Client(Box::new(client.clone())),
            wakers: vec![client],
        }
    }
}

impl From<ConnectionManager> for RedisConnection {
    fn from(manager: ConnectionManager) -> Self {
        Self {
            source: Source::Manager(manager),
            wakers: Vec::new(),
            is_plain: false,
        }
    }
}

impl From<ClusterConnection> for RedisConnection {
    fn from(cluster: ClusterConnection) -> Self {
        Self {
            source: Source::Cluster(cluster),
            wakers: Vec::new(),
            is_plain: false,
        }
    }
}

/// Returns the client of the connection for notifications.
pub(super) fn waker(client: &Client) -> Result<Client, StoreError> {
    let info = client.get_connection_info().clone();
    Client::open(with_protocol(info, ProtocolVersion::RESP2)).map_err(bad_url)
}

fn tcp_settings() -> TcpSettings {
    let keepalive = TcpKeepalive::new()
        .with_time(SILENCE)
        .with_interval(Duration::from_secs(1));
    let settings = TcpSettings::default()
        .set_nodelay(true)
        .set_keepalive(keepalive);
    // Keep-alive does not notice a peer that no longer acknowledges data that
    // was sent: this timeout does.
    #[cfg(any(target_os = "android", target_os = "fuchsia", target_os = "linux"))]
    let settings = settings.set_user_timeout(SILENCE);
    settings
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    #[test]
    fn neither_errors_nor_debug_repeat_a_credential() {
        for url in [
            "postgres://me:s3cret@host/db",
            "redis://me:s3cret@",
            "redis://me:s3cret@host/notanumber",
            "redis://me:s3cret@host:port",
            "s3cret",
            "",
            "redis+cluster://me:s3cret@a,b/x",
        ] {
            let error = RedisConnection::from_url(url).unwrap_err();
            let mut text = format!("{error} {error:?}");
            let mut source = std::error::Error::source(&error);
            while let Some(error) = source {
                write!(text, " {error} {error:?}").unwrap();
                source = error.source();
            }
            assert!(!text.contains("s3cret"), "{text}");
            assert!(text.contains("mend the URL"), "{text}");
        }
        let url = "redis://me:s3cret@host,redis://me:s3cret@other";
        let connection = RedisConnection::from_url(url).unwrap();
        assert!(!format!("{connection:?}").contains("s3cret"));
    }
}
