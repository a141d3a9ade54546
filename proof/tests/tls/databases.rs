//! PostgreSQL and MariaDB over TLS.

use sqlx::{AssertSqlSafe, Connection, MySqlConnection, PgConnection};

use crate::certificates::{Authority, Issued};
use crate::servers::Server;
use crate::{PASSWORD, refuses, warnings_of, works};

/// The same parameters in the words of each engine.
struct Words {
    ca: &'static str,
    certificate: &'static str,
    key: &'static str,
    off: &'static str,
    required: &'static str,
    of_ca: &'static str,
    of_host: &'static str,
}

const POSTGRES: Words = Words {
    ca: "sslrootcert",
    certificate: "sslcert",
    key: "sslkey",
    off: "sslmode=disable",
    required: "sslmode=require",
    of_ca: "sslmode=verify-ca",
    of_host: "sslmode=verify-full",
};

const MARIADB: Words = Words {
    ca: "ssl-ca",
    certificate: "ssl-cert",
    key: "ssl-key",
    off: "ssl-mode=DISABLED",
    required: "ssl-mode=REQUIRED",
    of_ca: "ssl-mode=VERIFY_CA",
    of_host: "ssl-mode=VERIFY_IDENTITY",
};

/// A server that takes no connection without TLS from the users `app` and `certified`, and from
/// `certified` none without a certificate of the CA.
struct Database {
    server: Server,
    words: Words,
    ca: Authority,
    /// Another CA.
    other: Authority,
    issued: Issued,
}

impl Database {
    /// The URL of `user` at this host, with these parameters.
    fn url(&self, user: &str, host: &str, parameters: &[&str]) -> String {
        let (scheme, rest) = self.server.url().split_once("://").unwrap();
        let (_, address) = rest.split_once('@').unwrap();
        let address = address.replace("127.0.0.1", host);
        let parameters = parameters.join("&");
        format!("{scheme}://{user}:{PASSWORD}@{address}?{parameters}")
    }

    fn names_ca(&self, ca: &Authority) -> String {
        format!("{}={}", self.words.ca, ca.file())
    }

    fn names_client(&self, client: &Issued) -> String {
        let Words {
            certificate, key, ..
        } = self.words;
        format!("{certificate}={}&{key}={}", client.certificate, client.key)
    }

    async fn verifies(&self) {
        let (ca, other) = (&self.names_ca(&self.ca), &self.names_ca(&self.other));
        let words = &self.words;
        let here = "127.0.0.1";
        works(&self.url("app", here, &[words.of_host, ca])).await;
        // The name of a CA is enough.
        works(&self.url("app", here, &[ca])).await;
        let unknown = &["UnknownIssuer", "`ssl-ca`"];
        refuses(&self.url("app", here, &[words.of_host, other]), unknown).await;
        refuses(&self.url("app", here, &[words.required, other]), unknown).await;
        refuses(&self.url("app", here, &[other]), unknown).await;
        // None of the system's.
        refuses(&self.url("app", here, &[words.of_host]), unknown).await;

        let name = &["localhost", "connect by a name"];
        refuses(&self.url("app", "localhost", &[words.of_host, ca]), name).await;
        refuses(&self.url("app", "localhost", &[ca]), name).await;
        works(&self.url("app", "localhost", &[words.of_ca, ca])).await;
        works(&self.url("app", "localhost", &[words.required, ca])).await;
    }

    /// `why` is what the error says where there is no certificate.
    async fn wants_a_certificate(&self, why: &[&str]) {
        let ca = &self.names_ca(&self.ca);
        let certified = |client: &[&str]| {
            let parameters = [&[&**ca], client].concat();
            self.url("certified", "127.0.0.1", &parameters)
        };
        refuses(&certified(&[]), why).await;
        let own = self.ca.issue("certified");
        works(&certified(&[&self.names_client(&own)])).await;
        let foreign = self.other.issue("certified");
        let rejects = ["rejects the TLS of this client"];
        refuses(&certified(&[&self.names_client(&foreign)]), &rejects).await;
    }

    /// The driver encrypts what nobody has asked to be encrypted, where the server can.
    async fn refuses_plain_text(&self, why: &[&str]) {
        refuses(&self.url("app", "127.0.0.1", &[self.words.off]), why).await;
        // Linux takes this address for the machine itself, and the store for another one.
        let url = self.url("app", "0.0.0.0", &[]);
        assert_eq!(warnings_of(&url).await, [""; 0]);
    }

    /// Gives the server an expired certificate. `reload` has it read its files.
    async fn expires(&self, reload: impl AsyncFn(&str)) {
        let expired = self.ca.issue_expired("expired");
        std::fs::copy(&expired.certificate, &self.issued.certificate).unwrap();
        std::fs::copy(&expired.key, &self.issued.key).unwrap();
        reload(&self.url("app", "127.0.0.1", &[self.words.required])).await;
        let url = self.url("app", "127.0.0.1", &[&self.names_ca(&self.ca)]);
        let why = ["expired", "renew the certificate of the server"];
        // PostgreSQL reads its files in another process.
        for _ in 0..200 {
            if tower_idempotency::store::AnyStore::connect(&url)
                .await
                .is_err()
            {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        refuses(&url, &why).await;
    }
}

#[tokio::test]
async fn postgres_is_reached_over_tls_and_verified() {
    let ca = Authority::new();
    let issued = ca.issue("server");
    let hba = "hostssl all certified 127.0.0.1/32 scram-sha-256 clientcert=verify-ca\n\
               hostssl all app 127.0.0.1/32 scram-sha-256\n\
               host all test 127.0.0.1/32 scram-sha-256\n";
    std::fs::write(ca.path("hba"), hba).unwrap();
    let of = |name: &str, file: &str| format!("{name} = '{file}'");
    let server = Server::start(
        "postgres",
        &[
            "ssl = on",
            &of("ssl_cert_file", &issued.certificate),
            &of("ssl_key_file", &issued.key),
            &of("ssl_ca_file", &ca.file()),
            &of("hba_file", &ca.path("hba")),
        ],
    );
    let mut admin = PgConnection::connect(server.url()).await.unwrap();
    for statement in [
        format!("CREATE ROLE app LOGIN SUPERUSER PASSWORD '{PASSWORD}'"),
        format!("CREATE ROLE certified LOGIN SUPERUSER PASSWORD '{PASSWORD}'"),
    ] {
        sqlx::query(AssertSqlSafe(statement))
            .execute(&mut admin)
            .await
            .unwrap();
    }
    let database = Database {
        server,
        words: POSTGRES,
        ca,
        other: Authority::new(),
        issued,
    };
    database.verifies().await;
    database
        .wants_a_certificate(&["client certificate", "sslcert"])
        .await;
    database
        .refuses_plain_text(&["no encryption", "sslmode=verify-full"])
        .await;
    let reload = async |_: &str| {
        let done = sqlx::query("SELECT pg_reload_conf()")
            .execute(&mut admin_of(&database).await)
            .await;
        done.unwrap();
    };
    database.expires(reload).await;
}

async fn admin_of(database: &Database) -> PgConnection {
    PgConnection::connect(database.server.url()).await.unwrap()
}

#[tokio::test]
async fn mariadb_is_reached_over_tls_and_verified() {
    let ca = Authority::new();
    let issued = ca.issue("server");
    let server = Server::start(
        "mysql",
        &[
            &format!("--ssl-cert={}", issued.certificate),
            &format!("--ssl-key={}", issued.key),
            &format!("--ssl-ca={}", ca.file()),
        ],
    );
    let mut admin = MySqlConnection::connect(server.url()).await.unwrap();
    for statement in [
        format!("CREATE USER app IDENTIFIED BY '{PASSWORD}'"),
        format!("CREATE USER certified IDENTIFIED BY '{PASSWORD}' REQUIRE X509"),
        "GRANT ALL ON test.* TO app".to_owned(),
        "GRANT ALL ON test.* TO certified".to_owned(),
        "SET GLOBAL require_secure_transport = ON".to_owned(),
    ] {
        sqlx::query(AssertSqlSafe(statement))
            .execute(&mut admin)
            .await
            .unwrap();
    }
    let database = Database {
        server,
        words: MARIADB,
        ca,
        other: Authority::new(),
        issued,
    };
    database.verifies().await;
    database
        .wants_a_certificate(&["Access denied", "REQUIRE", "ssl-cert"])
        .await;
    database
        .refuses_plain_text(&["require_secure_transport", "ssl-mode=VERIFY_IDENTITY"])
        .await;
    let reload = async |_: &str| {
        let mut admin = MySqlConnection::connect(database.server.url())
            .await
            .unwrap();
        sqlx::query("FLUSH SSL").execute(&mut admin).await.unwrap();
    };
    database.expires(reload).await;
}
