//! A server is made read-only and its replica becomes the primary. The address of the
//! store follows the primary, and connections to the old server stay open.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use sqlx::{AssertSqlSafe, Connection, MySqlConnection, PgConnection};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tower_idempotency::store::{AnyStore, RecordId, Store};

use crate::admin;
use crate::servers::Server;
use crate::traffic::{Book, SLOW, STORE_TIMEOUT, Seen, connect, service};

/// A store must serve again within this time after its address has moved. The store
/// itself takes 250 ms at most, and the time to connect; the rest is for a busy machine.
pub(crate) const BOUND: Duration = Duration::from_secs(5);

/// Without the second setting a replica gets its first data after 5 s.
const REDIS: &[&str] = &["appendfsync always", "repl-diskless-sync-delay 0"];
const MARIADB: &[&str] = &["--log-bin=log", "--server-id=1"];

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_whose_address_moves_to_a_new_primary_is_followed() {
    let primary = Server::start("redis", REDIS);
    let replica = primary.replica();
    let moved = follows(&primary, &replica, primary.url(), Redis).await;
    let channels = async || admin::redis(&replica, &["PUBSUB", "CHANNELS", "*"]).await;
    moved
        .listens(async || channels().await.contains("idempotency:"))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postgres_whose_address_moves_to_a_new_primary_is_followed() {
    let primary = Server::start("postgres", &[]);
    let replica = primary.replica();
    let moved = follows(&primary, &replica, primary.url(), Postgres).await;
    let waiters = "SELECT count(*) FROM idempotency_records_waiters";
    moved
        .listens(async || select::<i64>(&replica, waiters).await > 0)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mariadb_whose_address_moves_to_a_new_primary_is_followed() {
    let primary = Server::start("mysql", MARIADB);
    let replica = primary.replica();
    // The user of the tests may write to a read-only server, as no application should.
    let grant = "CREATE USER app IDENTIFIED BY 'pw'; GRANT ALL ON test.* TO app";
    mysql(&primary, grant).await;
    let (scheme, rest) = primary.url().split_once("://").unwrap();
    let url = format!("{scheme}://app:pw@{}", rest.split_once('@').unwrap().1);
    follows(&primary, &replica, &url, MariaDb).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_hangs_is_left_for_the_server_to_which_its_address_leads() {
    leaves("redis", REDIS, Redis).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postgres_that_hangs_is_left_for_the_server_to_which_its_address_leads() {
    leaves("postgres", &[], Postgres).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mariadb_that_hangs_is_left_for_the_server_to_which_its_address_leads() {
    leaves("mysql", MARIADB, MariaDb).await;
}

/// The server hangs, with all of its connections, and its replica is promoted.
async fn leaves(kind: &'static str, settings: &[&str], engine: impl Engine) {
    let primary = Server::start(kind, settings);
    let replica = primary.replica();
    let address = Address::of(primary.url()).await;
    // More requests than connections: those that hang must not keep their places in the pool.
    let url = match kind {
        "redis" => address.url.clone(),
        _ => format!("{}?max_connections=4", address.url),
    };
    let book = Arc::new(Book::default());
    let service = service(connect(&url).await, &book);
    all(&book, &service, &keys("old")).await;
    engine.demote(&primary).await;
    engine.promote(&primary, &replica).await;
    primary.freeze();
    address.lead_to(replica.url());
    let moved = Instant::now();
    all(&book, &service, &keys("new")).await;
    println!("{kind}: followed after {:.2?}", moved.elapsed());
    assert!(moved.elapsed() < 2 * (STORE_TIMEOUT + BOUND), "{kind}");
    all(&book, &service, &keys("old")).await;
    for key in [keys("old"), keys("new")].concat() {
        assert_eq!(book.executions_of(&key), 1, "{kind}: {key}");
    }
    assert_eq!(book.violations(), Vec::<String>::new(), "{kind}");
    primary.thaw();
}

/// What an operator, or a program that watches the servers, does at a failover.
trait Engine {
    /// Makes the server read-only. Its connections stay open.
    async fn demote(&self, primary: &Server);
    /// Makes the replica a primary, once it has all that the old primary has.
    async fn promote(&self, primary: &Server, replica: &Server);
}

struct Redis;

impl Engine for Redis {
    async fn demote(&self, primary: &Server) {
        // Nothing listens on this port, so the server stays a replica without a primary.
        let stale = ["CONFIG", "SET", "replica-serve-stale-data", "yes"];
        admin::redis(primary, &stale).await;
        until(async || {
            let info = admin::redis(primary, &["INFO", "replication"]).await;
            let number = |name| -> Option<u64> {
                let (_, rest) = info.split_once(name)?;
                rest.split(['\r', ',']).next()?.parse().ok()
            };
            number("master_repl_offset:").is_some()
                && number("master_repl_offset:") == number(",offset=")
        })
        .await;
        admin::redis(primary, &["REPLICAOF", "127.0.0.1", "1"]).await;
    }

    async fn promote(&self, _: &Server, replica: &Server) {
        admin::redis(replica, &["REPLICAOF", "NO", "ONE"]).await;
    }
}

struct Postgres;

impl Engine for Postgres {
    async fn demote(&self, primary: &Server) {
        let read_only = "ALTER SYSTEM SET default_transaction_read_only = on";
        admin::postgres(primary, &[read_only, "SELECT pg_reload_conf()"]).await;
        let setting = "SELECT current_setting('default_transaction_read_only') = 'on'";
        until(async || select(primary, setting).await).await;
    }

    async fn promote(&self, primary: &Server, replica: &Server) {
        let end: String = select(primary, "SELECT pg_current_wal_lsn()::text").await;
        let replayed = format!("SELECT pg_last_wal_replay_lsn() >= '{end}'");
        until(async || select(replica, &replayed).await).await;
        assert!(select::<bool>(replica, "SELECT pg_promote()").await);
        // The replica has the settings of its primary.
        let writable = "ALTER SYSTEM RESET default_transaction_read_only";
        admin::postgres(replica, &[writable, "SELECT pg_reload_conf()"]).await;
    }
}

struct MariaDb;

impl Engine for MariaDb {
    async fn demote(&self, primary: &Server) {
        mysql(primary, "SET GLOBAL read_only = 1").await;
    }

    async fn promote(&self, primary: &Server, replica: &Server) {
        let mut connection = MySqlConnection::connect(primary.url()).await.unwrap();
        let end: String = sqlx::query_scalar("SELECT @@GLOBAL.gtid_current_pos")
            .fetch_one(&mut connection)
            .await
            .unwrap();
        connection.close().await.unwrap();
        mysql(replica, &format!("DO MASTER_GTID_WAIT('{end}', 10)")).await;
        mysql(replica, "STOP SLAVE; RESET SLAVE ALL").await;
    }
}

/// A failover that is over, and the store that has followed it.
struct Moved {
    store: AnyStore,
    _address: Address,
}

impl Moved {
    /// Checks that waiters of this process are woken by the new primary.
    async fn listens(&self, is_asked: impl AsyncFn() -> bool) {
        let asks = Instant::now();
        let id = RecordId::from_bytes(rand::random());
        loop {
            let subscription = self.store.subscribe(&id).await.unwrap();
            if is_asked().await {
                return;
            }
            assert!(asks.elapsed() < BOUND, "the new primary wakes nobody");
            drop(subscription);
            sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Lets a store follow its address from one server to the other. Nothing that was
/// answered may be lost, nothing may be executed twice, and no request may hang.
async fn follows(primary: &Server, replica: &Server, url: &str, engine: impl Engine) -> Moved {
    let address = Address::of(url).await;
    let book = Arc::new(Book::default());
    let store = connect(&address.url).await;
    let service = service(store.clone(), &book);
    let old = keys("old");
    all(&book, &service, &old).await;
    // The connection on which notifications arrive is made for the first waiter.
    let waited = RecordId::from_bytes(rand::random());
    let waiter = store.subscribe(&waited).await.unwrap();
    let slow = {
        let (book, service) = (Arc::clone(&book), service.clone());
        tokio::spawn(async move { book.ask(&service, SLOW).await })
    };
    until(async || book.executions_of(SLOW) == 1).await;

    engine.demote(primary).await;
    for key in keys("refused") {
        let Seen::NotNow(code) = book.ask(&service, &key).await else {
            panic!("{key} was executed on a read-only server");
        };
        assert_eq!((&*code, book.executions_of(&key)), ("store-unavailable", 0));
    }
    // A replay writes nothing.
    all(&book, &service, &old).await;
    engine.promote(primary, replica).await;

    address.lead_to(replica.url());
    let moved = Instant::now();
    let new = keys("new");
    all(&book, &service, &new).await;
    println!("followed after {:.2?}", moved.elapsed());
    assert!(moved.elapsed() < BOUND, "{:?}", moved.elapsed());
    drop(waiter);
    // From then on no connection leads to the old server.
    let unavailable = book.unavailable();
    let more = keys("more");
    all(&book, &service, &more).await;
    assert_eq!(book.unavailable(), unavailable, "an old connection is left");

    // This operation began before the failover and ended after it.
    assert!(matches!(slow.await.unwrap(), Seen::Answer));
    let all_keys = [old, keys("refused"), new, more, vec![SLOW.to_owned()]].concat();
    all(&book, &service, &all_keys).await;
    for key in &all_keys {
        assert_eq!(book.executions_of(key), 1, "{key}");
    }
    assert_eq!(book.violations(), Vec::<String>::new());
    Moved {
        store,
        _address: address,
    }
}

pub(crate) fn keys(name: &str) -> Vec<String> {
    (0..8).map(|number| format!("{name}-{number}")).collect()
}

/// Requests all keys at once, each until it is answered. So the store uses several
/// connections.
pub(crate) async fn all(book: &Arc<Book>, service: &Router, keys: &[String]) {
    let mut clients = JoinSet::new();
    for key in keys {
        let (book, service, key) = (Arc::clone(book), service.clone(), key.clone());
        clients.spawn(async move { book.insist(&service, &key).await });
    }
    clients.join_all().await;
}

pub(crate) async fn until(holds: impl AsyncFn() -> bool) {
    let begun = Instant::now();
    while !holds().await {
        assert!(begun.elapsed() < Duration::from_secs(20), "it never holds");
        sleep(Duration::from_millis(5)).await;
    }
}

async fn select<T>(server: &Server, query: &str) -> T
where
    T: for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres> + Send + Unpin,
{
    let mut connection = PgConnection::connect(server.url()).await.unwrap();
    let query = sqlx::query_scalar(AssertSqlSafe(query.to_owned()));
    let selected = query.fetch_one(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    selected
}

async fn mysql(server: &Server, statements: &str) {
    let mut connection = MySqlConnection::connect(server.url()).await.unwrap();
    let statements = sqlx::raw_sql(AssertSqlSafe(statements.to_owned()));
    statements.execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}

/// An address that leads to one server and later to another one. A connection stays
/// with the server to which it was made.
struct Address {
    url: String,
    port: Arc<AtomicU16>,
}

impl Address {
    async fn of(url: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let own = listener.local_addr().unwrap().port();
        let first = port_of(url);
        let port = Arc::new(AtomicU16::new(first));
        let leads_to = Arc::clone(&port);
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let port = leads_to.load(Ordering::SeqCst);
                tokio::spawn(async move {
                    let mut server = TcpStream::connect(("127.0.0.1", port)).await?;
                    client.set_nodelay(true)?;
                    server.set_nodelay(true)?;
                    copy_bidirectional(&mut client, &mut server).await
                });
            }
        });
        Self {
            url: url.replace(&format!(":{first}/"), &format!(":{own}/")),
            port,
        }
    }

    fn lead_to(&self, url: &str) {
        self.port.store(port_of(url), Ordering::SeqCst);
    }
}

fn port_of(url: &str) -> u16 {
    let port = url.rsplit(':').next().unwrap().split('/').next().unwrap();
    port.parse().unwrap()
}
