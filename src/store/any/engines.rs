//! Opens the engine that a URL names.

use super::AnyStore;
use super::address::Address;
#[allow(unused_imports, reason = "some engines need it")]
use super::address::refused;
use crate::store::StoreError;

pub(super) async fn connect(address: Address<'_>) -> Result<AnyStore, StoreError> {
    match address.scheme {
        "memory" => memory(address),
        "sqlite" => sqlite::connect(address).await,
        "postgres" | "postgresql" => postgres::connect(address).await,
        "mysql" | "mariadb" => mysql::connect(address).await,
        scheme if is_redis(scheme) => redis::connect(address).await,
        _ => Err(address.unknown_scheme()),
    }
}

pub(super) async fn migrate(address: Address<'_>) -> Result<(), StoreError> {
    match address.scheme {
        "memory" => memory(address).map(drop),
        "sqlite" => sqlite::migrate(address).await,
        "postgres" | "postgresql" => postgres::migrate(address).await,
        "mysql" | "mariadb" => mysql::migrate(address).await,
        scheme if is_redis(scheme) => redis::migrate(address).await,
        _ => Err(address.unknown_scheme()),
    }
}

/// Accepts engines whose feature is off: another process may use the URL.
#[cfg(feature = "config")]
pub(super) fn check(address: Address<'_>) -> Result<(), StoreError> {
    match address.scheme {
        "memory" if cfg!(feature = "memory") => memory(address).map(drop),
        "memory" | "sqlite" | "postgres" | "postgresql" | "mysql" | "mariadb" => Ok(()),
        scheme if is_redis(scheme) => Ok(()),
        _ => Err(address.unknown_scheme()),
    }
}

/// Whether the scheme is one of Redis and Valkey: `redis` and `rediss`, also with what comes after
/// a plus.
fn is_redis(scheme: &str) -> bool {
    let kind = scheme.split_once('+').map_or(scheme, |(kind, _)| kind);
    matches!(kind, "redis" | "rediss" | "valkey" | "valkeys")
}

#[cfg(not(feature = "memory"))]
fn memory(address: Address<'_>) -> Result<AnyStore, StoreError> {
    Err(address.feature_is_off("memory"))
}

#[cfg(feature = "memory")]
fn memory(mut address: Address<'_>) -> Result<AnyStore, StoreError> {
    use crate::store::memory::{MemoryStore, WhenFull};

    let mut builder = MemoryStore::builder();
    if let Some(records) = address.take_number("max_records")? {
        builder = builder.max_records(records);
    }
    if let Some(bytes) = address.take_bytes("max_bytes")? {
        builder = builder.max_bytes(bytes);
    }
    if let Some(records) = address.take_number("max_records_per_caller")? {
        builder = builder.max_records_per_caller(records);
    }
    if let Some(bytes) = address.take_bytes("max_bytes_per_caller")? {
        builder = builder.max_bytes_per_caller(bytes);
    }
    match address.take("when_full") {
        None => {}
        Some("evict") => builder = builder.when_full(WhenFull::Evict),
        Some("refuse") => builder = builder.when_full(WhenFull::Refuse),
        Some(_) => {
            let message = "`when_full` in the URL of the store is neither `evict` nor `refuse`";
            return Err(refused(message.to_owned()));
        }
    }
    let options = [
        "max_records",
        "max_bytes",
        "max_records_per_caller",
        "max_bytes_per_caller",
        "when_full",
    ];
    if address.rest(&options, &[])? != "memory:" {
        let message = "nothing but parameters follows `memory:`";
        return Err(refused(message.to_owned()));
    }
    let store = builder
        .build()
        .map_err(|error| refused(error.to_string()))?;
    Ok(AnyStore::new("memory", store))
}

#[cfg(feature = "redis")]
mod redis {
    use super::{Address, AnyStore, StoreError};
    use crate::store::redis::{RedisConnection, RedisStore};

    pub(super) async fn connect(mut address: Address<'_>) -> Result<AnyStore, StoreError> {
        let prefix = address.take("prefix");
        let url = address.rest(
            &["prefix"],
            &[
                "protocol",
                "db",
                "user",
                "pass",
                "ssl-ca",
                "ssl-cert",
                "ssl-key",
                "sentinel_user",
                "sentinel_pass",
            ],
        )?;
        let mut builder = RedisStore::builder(RedisConnection::from_url(&url)?);
        if let Some(prefix) = prefix {
            builder = builder.prefix(prefix);
        }
        Ok(AnyStore::new("redis", builder.open().await?))
    }

    pub(super) async fn migrate(address: Address<'_>) -> Result<(), StoreError> {
        connect(address).await.map(drop)
    }
}

/// One SQL engine: its pool, and the URL parameters that its driver reads.
#[cfg(feature = "_sql")]
macro_rules! sql {
    ($engine:ident, $feature:literal, $DB:ident, $PoolOptions:ident,
     $Options:ident, $environment:expr, $drivers:expr) => {
        #[cfg(feature = $feature)]
        mod $engine {
            use std::time::Duration;

            use sqlx::$engine::{$Options, $PoolOptions};
            use sqlx::{$DB, Connection};

            use super::{Address, AnyStore, StoreError, check_tls, most_connections, refused};
            use crate::store::sql::transport::{needs_tls, with_ca};
            use crate::store::sql::{SqlStore, SqlStoreBuilder};

            pub(super) async fn connect(address: Address<'_>) -> Result<AnyStore, StoreError> {
                let store = builder(address)?.open().await?;
                Ok(AnyStore::new($feature, store))
            }

            pub(super) async fn migrate(address: Address<'_>) -> Result<(), StoreError> {
                builder(address)?.migrate().await
            }

            fn builder(mut address: Address<'_>) -> Result<SqlStoreBuilder<$DB>, StoreError> {
                let table = address.take("table");
                let most = most_connections(&mut address)?;
                let names_ca = check_tls(&address, &$environment)?;
                let url = address.rest(&["table", "max_connections"], &$drivers)?;
                let options: $Options = url.parse().map_err(|_| {
                    let message = concat!("the URL of the store is no `", $feature, ":` URL: see \
                        the documentation of AnyStore; reserved characters of a password are \
                        percent-encoded");
                    refused(message.to_owned())
                })?;
                let options = with_ca::<$DB>(options, names_ca);
                if needs_tls::<$DB>(&options) && cfg!(not(feature = "tls")) {
                    return Err(refused(crate::store::tls::FEATURE_IS_OFF.to_owned()));
                }
                let pool = $PoolOptions::new()
                    .max_connections(most.unwrap_or(10))
                    .acquire_timeout(Duration::from_secs(5))
                    // Pinging a connection before each use would cost a round
                    // trip per operation, so only idle connections are pinged.
                    .test_before_acquire(false)
                    .before_acquire(|connection, meta| {
                        Box::pin(async move {
                            if meta.idle_for > Duration::from_secs(1) {
                                connection.ping().await?;
                            }
                            Ok(true)
                        })
                    })
                    .connect_lazy_with(options);
                let builder = SqlStore::builder(pool);
                Ok(match table {
                    Some(table) => builder.table(table),
                    None => builder,
                })
            }
        }
    };
}

#[cfg(feature = "_sql")]
sql!(
    postgres,
    "postgres",
    Postgres,
    PgPoolOptions,
    PgConnectOptions,
    [
        ("sslrootcert", "PGSSLROOTCERT"),
        ("sslcert", "PGSSLCERT"),
        ("sslkey", "PGSSLKEY"),
    ],
    [
        "sslmode",
        "ssl-mode",
        "sslrootcert",
        "ssl-root-cert",
        "ssl-ca",
        "sslcert",
        "ssl-cert",
        "sslkey",
        "ssl-key",
        "statement-cache-capacity",
        "host",
        "hostaddr",
        "port",
        "dbname",
        "user",
        "password",
        "application_name",
        "options",
    ]
);
#[cfg(feature = "_sql")]
sql!(
    mysql,
    "mysql",
    MySql,
    MySqlPoolOptions,
    MySqlConnectOptions,
    [],
    [
        "sslmode",
        "ssl-mode",
        "sslca",
        "ssl-ca",
        "sslcert",
        "ssl-cert",
        "sslkey",
        "ssl-key",
        "charset",
        "collation",
        "statement-cache-capacity",
        "socket",
        "timezone",
        "time-zone",
    ]
);
/// SQLite: the store opens the file itself, and creates the file and its table.
#[cfg(feature = "sqlite")]
mod sqlite {
    use sqlx::Sqlite;
    use sqlx::sqlite::SqliteConnectOptions;

    use super::{Address, AnyStore, StoreError, most_connections, refused};
    use crate::store::SqlStoreBuilder;
    use crate::store::sql::sqlite::SqliteStore;

    pub(super) async fn connect(address: Address<'_>) -> Result<AnyStore, StoreError> {
        let builder = builder(address)?;
        builder.migrate().await?;
        Ok(AnyStore::new("sqlite", builder.open().await?))
    }

    pub(super) async fn migrate(address: Address<'_>) -> Result<(), StoreError> {
        builder(address)?.migrate().await
    }

    fn builder(mut address: Address<'_>) -> Result<SqlStoreBuilder<Sqlite>, StoreError> {
        let table = address.take("table");
        let most = most_connections(&mut address)?;
        let drivers = ["mode", "cache", "immutable", "vfs"];
        let url = address.rest(&["table", "max_connections"], &drivers)?;
        let options: SqliteConnectOptions = url.parse().map_err(|_| {
            refused("the URL of the store is no `sqlite:FILE` URL: see AnyStore".to_owned())
        })?;
        let builder = SqliteStore::for_records_alone(options.create_if_missing(true), most);
        Ok(match table {
            Some(table) => builder.table(table),
            None => builder,
        })
    }
}

/// Checks the files that the URL names for TLS, or else these variables of the environment, which the
/// driver reads too. Returns whether there is the file of a CA.
#[cfg(any(feature = "postgres", feature = "mysql"))]
fn check_tls(address: &Address<'_>, environment: &[(&str, &str)]) -> Result<bool, StoreError> {
    use crate::store::tls;

    #[cfg(feature = "tls")]
    return tls::Files::read(|name| {
        let of_environment = || {
            let (_, variable) = environment.iter().find(|(given, _)| *given == name)?;
            std::env::var(variable).ok()
        };
        address.get(name).map(tls::decoded).or_else(of_environment)
    })
    .map(|files| files.ca.is_some());

    #[cfg(not(feature = "tls"))]
    {
        let _ = environment;
        let mut names = [tls::CA, tls::CERTIFICATE, tls::KEY].into_iter().flatten();
        if names.any(|name| address.get(name).is_some()) {
            return Err(refused(tls::FEATURE_IS_OFF.to_owned()));
        }
        Ok(false)
    }
}

#[cfg(feature = "_sql")]
fn most_connections(address: &mut Address<'_>) -> Result<Option<u32>, StoreError> {
    let Some(most) = address.take_number("max_connections")? else {
        return Ok(None);
    };
    let most = u32::try_from(most).ok().filter(|most| *most > 0);
    most.map(Some).ok_or_else(|| {
        refused("`max_connections` in the URL of the store must be at least 1".to_owned())
    })
}

macro_rules! off {
    ($($engine:ident: $feature:literal),*) => {$(
        #[cfg(not(feature = $feature))]
        mod $engine {
            use super::{Address, AnyStore, StoreError};

            #[allow(clippy::unused_async, reason = "as with the feature")]
            pub(super) async fn connect(address: Address<'_>) -> Result<AnyStore, StoreError> {
                Err(address.feature_is_off($feature))
            }

            #[allow(clippy::unused_async, reason = "as with the feature")]
            pub(super) async fn migrate(address: Address<'_>) -> Result<(), StoreError> {
                Err(address.feature_is_off($feature))
            }
        }
    )*};
}

off!(sqlite: "sqlite", postgres: "postgres", mysql: "mysql", redis: "redis");
