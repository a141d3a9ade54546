//! Which engine a URL means.

use super::AnyStore;
use super::address::{Address, refused};
use crate::store::StoreError;

pub(super) async fn connect(address: Address<'_>) -> Result<AnyStore, StoreError> {
    match address.scheme {
        "memory" => memory(address),
        "sqlite" => sqlite::connect(address).await,
        "postgres" | "postgresql" => postgres::connect(address).await,
        "mysql" | "mariadb" => mysql::connect(address).await,
        "redis" | "rediss" | "valkey" | "valkeys" => redis::connect(address).await,
        _ => Err(address.unknown_scheme()),
    }
}

pub(super) async fn migrate(address: Address<'_>) -> Result<(), StoreError> {
    match address.scheme {
        "memory" => memory(address).map(drop),
        "sqlite" => sqlite::migrate(address).await,
        "postgres" | "postgresql" => postgres::migrate(address).await,
        "mysql" | "mariadb" => mysql::migrate(address).await,
        "redis" | "rediss" | "valkey" | "valkeys" => redis::migrate(address).await,
        _ => Err(address.unknown_scheme()),
    }
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
    match address.take("when_full") {
        None => {}
        Some("evict") => builder = builder.when_full(WhenFull::Evict),
        Some("refuse") => builder = builder.when_full(WhenFull::Refuse),
        Some(_) => {
            let message = "`when_full` in the URL of the store is neither `evict` nor `refuse`";
            return Err(refused(message.to_owned()));
        }
    }
    if address.rest(&["max_records", "max_bytes", "when_full"], &[])? != "memory:" {
        let message = "nothing but parameters follows `memory:`";
        return Err(refused(message.to_owned()));
    }
    let store = builder
        .build()
        .map_err(|error| refused(error.to_string()))?;
    Ok(AnyStore::new("memory", store))
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
