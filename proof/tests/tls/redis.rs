//! Redis over TLS: one server, and a cluster.

use std::time::Duration;

use redis::{AsyncConnectionConfig, Cmd};
use tokio::time::sleep;
use tower_idempotency::store::AnyStore;

use crate::certificates::{Authority, Issued};
use crate::servers::Server;
use crate::{PASSWORD, refuses, said, warnings_of, works};

/// Starts a server that takes TLS on a port of its own, with these settings besides. Returns the
/// server, and its host and port for TLS.
pub(crate) fn start(ca: &Authority, issued: &Issued, settings: &[&str]) -> (Server, String) {
    let tls = tls_settings(ca, issued);
    let settings: Vec<&str> = tls
        .iter()
        .map(String::as_str)
        .chain(settings.iter().copied())
        .collect();
    let server = Server::start("redis", &settings);
    let address = tls_address(&server);
    (server, address)
}

pub(crate) fn tls_settings(ca: &Authority, issued: &Issued) -> [String; 4] {
    [
        "tls-port TLS_PORT".to_owned(),
        format!("tls-cert-file {}", issued.certificate),
        format!("tls-key-file {}", issued.key),
        format!("tls-ca-cert-file {}", ca.file()),
    ]
}

pub(crate) fn tls_address(server: &Server) -> String {
    format!("127.0.0.1:{}", port(server) + 10_000)
}

pub(crate) fn port(server: &Server) -> u16 {
    let port = server.url().rsplit_once(':').unwrap().1;
    port.trim_end_matches('/').parse().unwrap()
}

pub(crate) async fn ask(server: &Server, words: &[&str]) -> String {
    let client = redis::Client::open(server.url()).unwrap();
    let patient = AsyncConnectionConfig::new().set_response_timeout(None);
    let connection = client.get_multiplexed_async_connection_with_config(&patient);
    let mut connection = connection.await.unwrap();
    let mut command = Cmd::new();
    for word in words {
        command.arg(*word);
    }
    let answer: redis::Value = command.query_async(&mut connection).await.unwrap();
    redis::from_redis_value(answer).unwrap_or_default()
}

#[tokio::test]
async fn redis_is_reached_over_tls_and_verified() {
    let (ca, other) = (Authority::new(), Authority::new());
    let issued = ca.issue("server");
    let (server, address) = start(
        &ca,
        &issued,
        &["tls-auth-clients no", "user admin on nopass ~* &* +@all"],
    );
    ask(&server, &["CONFIG", "SET", "requirepass", PASSWORD]).await;
    let url = |scheme: &str, address: &str, parameters: &str| {
        format!("{scheme}://:{PASSWORD}@{address}/1?{parameters}")
    };
    let of_ca = |ca: &Authority| format!("ssl-ca={}", ca.file());
    works(&url("rediss", &address, &of_ca(&ca))).await;
    works(&url("valkeys", &address, &of_ca(&ca))).await;

    let unknown = &["UnknownIssuer", "`ssl-ca`"];
    refuses(&url("rediss", &address, &of_ca(&other)), unknown).await;
    refuses(&url("rediss", &address, ""), unknown).await;
    let by_name = address.replace("127.0.0.1", "localhost");
    let name = &["localhost", "connect by a name"];
    refuses(&url("rediss", &by_name, &of_ca(&ca)), name).await;
    let plain = AnyStore::connect(&url("redis", &address, "")).await;
    let said = said(&plain.unwrap_err());
    assert!(
        said.contains("whether its port wants TLS (`rediss:`"),
        "{said}"
    );

    let admin = server.url().replace("redis://", "redis://admin:x@");
    let set = async |words: &[&str]| {
        let client = redis::Client::open(&*admin).unwrap();
        let mut connection = client.get_multiplexed_async_connection().await.unwrap();
        let mut command = Cmd::new();
        command.arg("CONFIG").arg("SET").arg(words);
        command.query_async::<()>(&mut connection).await.unwrap();
    };
    set(&["tls-auth-clients", "yes"]).await;
    let wants = &["CertificateRequired", "`ssl-cert`"];
    refuses(&url("rediss", &address, &of_ca(&ca)), wants).await;
    let names = |client: &Issued| {
        let Issued { certificate, key } = client;
        format!("{}&ssl-cert={certificate}&ssl-key={key}", of_ca(&ca))
    };
    works(&url("rediss", &address, &names(&ca.issue("client")))).await;
    let foreign = names(&other.issue("client"));
    refuses(
        &url("rediss", &address, &foreign),
        &["rejects the TLS of this client"],
    )
    .await;

    set(&["tls-auth-clients", "no"]).await;
    let expired = ca.issue_expired("expired");
    let files = [
        "tls-cert-file",
        &expired.certificate,
        "tls-key-file",
        &expired.key,
    ];
    set(&files).await;
    let why = &["expired", "renew the certificate of the server"];
    refuses(&url("rediss", &address, &of_ca(&ca)), why).await;
}

#[tokio::test]
async fn a_cluster_is_reached_over_tls_with_a_certificate_of_the_client() {
    let ca = Authority::called("orders");
    let issued = ca.issue("server");
    let settings = [
        "cluster-enabled yes",
        "tls-cluster yes",
        "tls-replication yes",
    ];
    let (server, address) = start(&ca, &issued, &settings);
    ask(&server, &["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]).await;
    for _ in 0..200 {
        if ask(&server, &["CLUSTER", "INFO"])
            .await
            .contains("cluster_state:ok")
        {
            break;
        }
        sleep(Duration::from_millis(25)).await;
    }
    let client = ca.issue("client");
    let ca_alone = format!("rediss+cluster://{address}?ssl-ca={}", ca.file());
    let url = format!(
        "{ca_alone}&ssl-cert={}&ssl-key={}",
        client.certificate, client.key
    );
    let store = works(&url).await;
    crate::sentinel::wakes(&store, &store).await;
    refuses(&ca_alone, &["CertificateRequired", "`ssl-cert`"]).await;
    // A CA that was made again under the same name has signed nothing.
    let other = Authority::called("orders");
    let wrong = url.replace(&ca.file(), &other.file());
    refuses(&wrong, &["BadSignature", "`ssl-ca`"]).await;
    assert_eq!(warnings_of(&url).await, [""; 0]);
}
