//! Reaching the server.

use std::fmt;
use std::time::Duration;

use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::cluster::{ClusterClient, ClusterClientBuilder};
use redis::cluster_async::ClusterConnection;
use redis::io::tcp::{TcpSettings, socket2::TcpKeepalive};
use redis::{Client, ConnectionInfo, IntoConnectionInfo, ProtocolVersion, RedisResult};

use super::errors::{not_opened, refused};
use super::link::{Link, Server};
use crate::store::StoreError;

/// How long one attempt to connect may take.
const CONNECT: Duration = Duration::from_secs(1);
/// How long a reply may take. Longer than any useful `store_timeout`; this
/// limit only ends requests for which the layer no longer waits.
const RESPOND: Duration = Duration::from_secs(5);
/// How long a connection may be silent before it is closed.
const SILENCE: Duration = Duration::from_secs(5);

/// How a [`RedisStore`](super::RedisStore) reaches its server: from a URL
/// ([`from_url`](Self::from_url)), or from what the application has already.
///
/// | from | is |
/// | --- | --- |
/// | a URL | one server or a cluster; waiters are woken |
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
}

#[derive(Clone)]
enum Source {
    Client(Box<Client>),
    Nodes(Box<ClusterClient>),
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
    ///
    /// `valkey` may stand for `redis`, `unix` for `redis+unix`, and with TLS
    /// `rediss` for `redis`: turn on a TLS feature of the `redis` crate.
    /// Connections speak RESP3, unless the URL ends in `?protocol=resp2`.
    ///
    /// Connecting may take 1 s, and a reply 5 s. A connection that is silent for 5 s is closed,
    /// and the next request opens a new one.
    ///
    /// # Errors
    /// If the URL is none of these. The error does not repeat the URL.
    pub fn from_url(url: &str) -> Result<Self, StoreError> {
        let nodes = nodes(url);
        let (main, wakers): (Vec<_>, Vec<_>) = nodes
            .urls
            .iter()
            .map(|url| infos(url))
            .collect::<Result<Vec<_>, _>>()?
            .into_iter()
            .unzip();
        let wakers = wakers.into_iter().map(Client::open);
        let wakers = wakers.collect::<RedisResult<_>>().map_err(bad_url)?;
        let source = if nodes.cluster {
            let protocol = main[0].redis_settings().protocol();
            ClusterClientBuilder::new(main)
                .use_protocol(protocol)
                .tcp_settings(tcp_settings())
                .connection_timeout(CONNECT)
                .response_timeout(RESPOND)
                .retries(8)
                .min_retry_wait(20)
                .max_retry_wait(300)
                .build()
                .map(|client| Source::Nodes(Box::new(client)))
        } else {
            Client::open(main.into_iter().next().expect("at least one"))
                .map(|client| Source::Client(Box::new(client)))
        };
        Ok(Self {
            source: source.map_err(bad_url)?,
            wakers,
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
        let link = match self.source {
            Source::Manager(manager) => Link::Server(Server::new(manager, None)),
            Source::Cluster(cluster) => Link::Cluster(cluster),
            Source::Client(client) => {
                // A request that waits for a connection fails soon if there is
                // none, and the next request tries again.
                let config = ConnectionManagerConfig::new()
                    .set_number_of_retries(0)
                    .set_connection_timeout(Some(CONNECT))
                    .set_response_timeout(Some(RESPOND));
                let manager =
                    ConnectionManager::new_with_config((*client).clone(), config.clone()).await;
                let manager = manager.map_err(not_opened)?;
                Link::Server(Server::new(manager, Some((*client, config))))
            }
            Source::Nodes(client) => {
                let cluster = client.get_async_connection().await;
                Link::Cluster(cluster.map_err(not_opened)?)
            }
        };
        Ok((link, self.wakers))
    }
}

/// Writes neither the address nor the credentials.
impl fmt::Debug for RedisConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisConnection").finish_non_exhaustive()
    }
}

impl From<Client> for RedisConnection {
    fn from(client: Client) -> Self {
        Self {
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
        }
    }
}

impl From<ClusterConnection> for RedisConnection {
    fn from(cluster: ClusterConnection) -> Self {
        Self {
            source: Source::Cluster(cluster),
            wakers: Vec::new(),
        }
    }
}

struct Nodes {
    urls: Vec<String>,
    cluster: bool,
}

/// A list of nodes is a list of URLs, or of hosts that share a scheme and
/// credentials. A comma in a password makes neither.
fn nodes(url: &str) -> Nodes {
    let listed = |urls: &str, scheme: &str| {
        let mut split: Vec<String> = Vec::new();
        for part in urls.split(',') {
            match split.last_mut() {
                Some(last) if scheme.is_empty() && !part.contains("://") => {
                    last.push(',');
                    last.push_str(part);
                }
                _ if part.contains("://") => split.push(part.to_owned()),
                _ => split.push(format!("{scheme}{part}")),
            }
        }
        split
    };
    for (scheme, node) in [
        ("redis+cluster://", "redis://"),
        ("rediss+cluster://", "rediss://"),
        ("valkey+cluster://", "redis://"),
        ("valkeys+cluster://", "rediss://"),
    ] {
        if let Some(rest) = url.strip_prefix(scheme) {
            let (credentials, hosts) = match rest.rsplit_once('@') {
                Some((credentials, hosts)) => (format!("{node}{credentials}@"), hosts),
                None => (node.to_owned(), rest),
            };
            return Nodes {
                urls: listed(hosts, &credentials),
                cluster: true,
            };
        }
    }
    let urls = listed(url, "");
    let cluster = urls.len() > 1;
    Nodes { urls, cluster }
}

/// Returns the settings of the connection for requests, and those of the connection for
/// notifications.
fn infos(url: &str) -> Result<(ConnectionInfo, ConnectionInfo), StoreError> {
    let info = url.into_connection_info().map_err(bad_url)?;
    let info = info.set_tcp_settings(tcp_settings());
    let settings = info.redis_settings().clone();
    // Under RESP3 the driver learns at once that a connection is lost;
    // otherwise the next request would fail.
    let protocol = if url.contains("protocol=") {
        settings.protocol()
    } else {
        ProtocolVersion::RESP3
    };
    let of = |protocol| {
        let settings = settings.clone().set_protocol(protocol);
        info.clone().set_redis_settings(settings)
    };
    Ok((of(protocol), of(ProtocolVersion::RESP2)))
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

fn bad_url(error: redis::RedisError) -> StoreError {
    refused(
        error,
        "mend the URL: it is redis://[[user]:password@]host[:port][/db] or one of the forms that \
         RedisConnection::from_url lists, with reserved characters of a password percent-encoded",
    )
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    #[test]
    fn a_list_of_nodes_is_a_cluster() {
        let of = |url| {
            let nodes = nodes(url);
            (nodes.cluster, nodes.urls)
        };
        let strings = |urls: &[&str]| urls.iter().map(|url| (*url).to_owned()).collect();
        assert_eq!(of("redis://a"), (false, strings(&["redis://a"])));
        assert_eq!(
            of("redis://a:1,redis://b:2"),
            (true, strings(&["redis://a:1", "redis://b:2"]))
        );
        assert_eq!(of("redis+cluster://a:1"), (true, strings(&["redis://a:1"])));
        assert_eq!(
            of("rediss+cluster://u:p,w@a,b:2"),
            (true, strings(&["rediss://u:p,w@a", "rediss://u:p,w@b:2"]))
        );
        assert_eq!(
            of("redis://:p,w@a/1"),
            (false, strings(&["redis://:p,w@a/1"]))
        );
    }

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
