//! The URL of a server, of a cluster, or of sentinels, taken apart.

use redis::io::tcp::TcpSettings;
use redis::{Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo};
use redis::{ProtocolVersion, RedisError, RedisResult};

use super::errors::{refused, unsuitable};
use crate::store::StoreError;
use crate::store::tls::{self, is_local};

/// The port of a sentinel whose URL names none.
const SENTINEL_PORT: &str = "26379";

/// What a URL leads to.
pub(super) struct Target {
    pub(super) kind: Kind,
    /// The server, nodes of the cluster, or the sentinels.
    pub(super) servers: Vec<ConnectionInfo>,
    pub(super) certificates: Certificates,
}

pub(super) enum Kind {
    Server,
    Cluster,
    Sentinels {
        /// The name that the sentinels have for the primary.
        name: String,
        /// How to connect to the primary, but for its address.
        primary: Box<ConnectionInfo>,
    },
}

/// The certificates of a URL whose scheme asks for TLS.
#[derive(Clone, Default)]
pub(super) struct Certificates(#[cfg(feature = "tls")] pub(super) Option<redis::TlsCertificates>);

impl Certificates {
    #[cfg(feature = "tls")]
    fn read(query: &str, is_tls: bool) -> Result<Self, StoreError> {
        let files = tls::Files::read(|name| parameter(query, name).map(tls::decoded))?;
        let names_files = files.ca.is_some() || files.client.is_some();
        if !is_tls && names_files {
            return Err(unsuitable(
                "the URL of the store names certificates, but asks for no TLS: write `rediss` \
                 instead of `redis`",
            ));
        }
        if is_tls {
            tls::install_provider();
        }
        Ok(Self(names_files.then(|| {
            redis::TlsCertificates {
                root_cert: files.ca.map(|ca| ca.bytes),
                client_tls: files
                    .client
                    .map(|(certificate, key)| redis::ClientTlsConfig {
                        client_cert: certificate.bytes,
                        client_key: key.bytes,
                    }),
            }
        })))
    }

    #[cfg(not(feature = "tls"))]
    fn read(query: &str, is_tls: bool) -> Result<Self, StoreError> {
        let mut names = [tls::CA, tls::CERTIFICATE, tls::KEY].into_iter().flatten();
        if is_tls || names.any(|name| parameter(query, name).is_some()) {
            return Err(unsuitable(tls::FEATURE_IS_OFF));
        }
        Ok(Self::default())
    }

    /// Returns a client of one server.
    #[cfg_attr(not(feature = "tls"), expect(clippy::unused_self))]
    pub(super) fn client(&self, server: ConnectionInfo) -> RedisResult<Client> {
        #[cfg(feature = "tls")]
        if let Self(Some(certificates)) = self {
            return Client::build_with_tls(server, certificates.clone());
        }
        Client::open(server)
    }
}

impl Target {
    pub(super) fn parse(url: &str, tcp: &TcpSettings) -> Result<Self, StoreError> {
        let (before, query) = url.rsplit_once('?').unwrap_or((url, ""));
        let scheme = before.split_once("://").map_or("", |(scheme, _)| scheme);
        let (kind, tail) = scheme.split_once('+').unwrap_or((scheme, ""));
        let is_tls = matches!(kind, "rediss" | "valkeys");
        let certificates = Certificates::read(query, is_tls)?;
        let with_query = |url: String| match query {
            "" => url,
            _ if url.contains('?') => url,
            _ => format!("{url}?{query}"),
        };
        let info = |url: String| info(&with_query(url), tcp);
        let rest = &before[before.len().min(scheme.len() + 3)..];
        let node = if is_tls { "rediss://" } else { "redis://" };
        let (kind, servers) = match tail {
            "sentinel" => {
                let (hosts, name, primary) = sentinels(rest, node)?;
                let credentials = sentinel_credentials(query);
                let sentinels = hosts
                    .iter()
                    .map(|host| info(format!("{node}{credentials}{host}")));
                let primary = Box::new(info(primary)?);
                let kind = Kind::Sentinels { name, primary };
                (kind, sentinels.collect::<Result<_, _>>()?)
            }
            "cluster" => {
                let (credentials, hosts) = match rest.rsplit_once('@') {
                    Some((credentials, hosts)) => (format!("{node}{credentials}@"), hosts),
                    None => (node.to_owned(), rest),
                };
                let nodes = listed(hosts, &credentials).into_iter().map(info);
                (Kind::Cluster, nodes.collect::<Result<_, _>>()?)
            }
            _ => {
                let nodes = listed(before, "").into_iter().map(info);
                let nodes: Vec<_> = nodes.collect::<Result<_, _>>()?;
                let is_one = nodes.len() == 1;
                (if is_one { Kind::Server } else { Kind::Cluster }, nodes)
            }
        };
        Ok(Self {
            kind,
            servers,
            certificates,
        })
    }
}

/// The hosts of sentinels, the name of the primary, and a URL with the credentials and the database
/// of the primary.
fn sentinels(rest: &str, node: &str) -> Result<(Vec<String>, String, String), StoreError> {
    let (credentials, rest) = match rest.rsplit_once('@') {
        Some((credentials, rest)) => (format!("{credentials}@"), rest),
        None => (String::new(), rest),
    };
    let (hosts, path) = rest.split_once('/').unwrap_or((rest, ""));
    let (name, database) = path.split_once('/').unwrap_or((path, ""));
    if name.is_empty() {
        return Err(unsuitable(
            "the URL of sentinels names no primary: write \
             redis+sentinel://host1,host2/NAME, with the name that `sentinel monitor` gives",
        ));
    }
    let hosts = hosts.split(',').map(|host| {
        let has_port = host
            .rsplit_once(':')
            .is_some_and(|(_, port)| !port.ends_with(']'));
        let port = if has_port { "" } else { SENTINEL_PORT };
        if has_port {
            host.to_owned()
        } else {
            format!("{host}:{port}")
        }
    });
    let primary = format!("{node}{credentials}primary/{database}");
    Ok((hosts.collect(), name.to_owned(), primary))
}

fn sentinel_credentials(query: &str) -> String {
    let of = |name| parameter(query, name).unwrap_or_default();
    match (of("sentinel_user"), of("sentinel_pass")) {
        ("", "") => String::new(),
        (user, password) => format!("{user}:{password}@"),
    }
}

/// A list of nodes is a list of URLs, or of hosts that share a scheme and
/// credentials. A comma in a password makes neither.
fn listed(urls: &str, scheme: &str) -> Vec<String> {
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
}

fn parameter<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    let mut parameters = query.split('&').filter_map(|part| part.split_once('='));
    Some(parameters.find(|(given, _)| *given == name)?.1)
}

fn info(url: &str, tcp: &TcpSettings) -> Result<ConnectionInfo, StoreError> {
    let info = url.into_connection_info().map_err(bad_url)?;
    if matches!(info.addr(), ConnectionAddr::TcpTls { insecure: true, .. }) {
        return Err(unsuitable(
            "`#insecure` would take the certificate of any server: name the file of the server's CA \
             by `ssl-ca` in the URL instead",
        ));
    }
    let info = info.set_tcp_settings(tcp.clone());
    // Under RESP3 the driver learns at once that a connection is lost;
    // otherwise the next request would fail.
    if url.contains("protocol=") {
        return Ok(info);
    }
    Ok(with_protocol(info, ProtocolVersion::RESP3))
}

pub(super) fn with_protocol(info: ConnectionInfo, protocol: ProtocolVersion) -> ConnectionInfo {
    let settings = info.redis_settings().clone().set_protocol(protocol);
    info.set_redis_settings(settings)
}

/// Whether what is sent to this address leaves the machine in plain text.
pub(super) fn is_plain(address: &ConnectionAddr) -> bool {
    matches!(address, ConnectionAddr::Tcp(host, _) if !is_local(host))
}

pub(super) fn bad_url(error: RedisError) -> StoreError {
    refused(
        error,
        "mend the URL: it is redis://[[user]:password@]host[:port][/db] or one of the forms that \
         RedisConnection::from_url lists, with reserved characters of a password percent-encoded",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(url: &str) -> Target {
        Target::parse(url, &TcpSettings::default()).unwrap()
    }

    /// The servers of a URL: user, password, address, database.
    fn servers(url: &str) -> Vec<String> {
        of(url).servers.iter().map(shown).collect()
    }

    fn shown(info: &ConnectionInfo) -> String {
        let settings = info.redis_settings();
        let credentials = [settings.username(), settings.password()].map(Option::unwrap_or_default);
        let scheme = match info.addr() {
            ConnectionAddr::TcpTls { .. } => "tls ",
            _ => "",
        };
        let [user, password] = credentials;
        format!(
            "{scheme}{user}:{password}@{}/{}",
            info.addr(),
            settings.db()
        )
    }

    #[test]
    fn a_list_of_nodes_is_a_cluster() {
        for (url, is_cluster, expected) in [
            ("redis://a", false, &[":@a:6379/0"][..]),
            ("redis://:p,w@a/1", false, &[":p,w@a:6379/1"]),
            ("redis://a:1,redis://b:2", true, &[":@a:1/0", ":@b:2/0"]),
            ("redis+cluster://a:1", true, &[":@a:1/0"]),
            (
                "valkey+cluster://u:p,w@a,b:2",
                true,
                &["u:p,w@a:6379/0", "u:p,w@b:2/0"],
            ),
        ] {
            assert_eq!(servers(url), expected, "{url}");
            assert_eq!(matches!(of(url).kind, Kind::Cluster), is_cluster, "{url}");
        }
    }

    #[test]
    fn parameters_hold_for_every_node() {
        let nodes = of("redis+cluster://a,b?protocol=resp2").servers;
        let protocols = nodes.iter().map(|node| node.redis_settings().protocol());
        assert!(protocols.eq([ProtocolVersion::RESP2; 2]));
        assert_eq!(
            of("redis://a").servers[0].redis_settings().protocol(),
            ProtocolVersion::RESP3
        );
    }

    #[test]
    fn sentinels_have_a_port_and_credentials_of_their_own() {
        let url =
            "redis+sentinel://app:secret@a,b:7,[::1]/orders/3?sentinel_user=s&sentinel_pass=%3F";
        let sentinels = ["s:?@a:26379/0", "s:?@b:7/0", "s:?@::1:26379/0"];
        assert_eq!(servers(url), sentinels);
        let Kind::Sentinels { name, primary } = of(url).kind else {
            panic!("no sentinels");
        };
        assert_eq!(
            (&*name, &*shown(&primary)),
            ("orders", "app:secret@primary:6379/3")
        );
        for url in [
            "redis+sentinel://a",
            "redis+sentinel://a/",
            "redis+sentinel://a//1",
        ] {
            assert!(
                Target::parse(url, &TcpSettings::default()).is_err(),
                "{url}"
            );
        }
    }

    #[cfg(feature = "tls")]
    #[test]
    fn a_scheme_with_two_s_asks_for_tls() {
        assert_eq!(servers("rediss://a"), ["tls :@a:6379/0"]);
        assert_eq!(
            servers("rediss+cluster://a,b"),
            ["tls :@a:6379/0", "tls :@b:6379/0"]
        );
        assert_eq!(servers("valkeys+sentinel://a/m"), ["tls :@a:26379/0"]);
        let Kind::Sentinels { primary, .. } = of("rediss+sentinel://a/m").kind else {
            panic!("no sentinels");
        };
        assert_eq!(shown(&primary), "tls :@primary:6379/0");
    }
}
