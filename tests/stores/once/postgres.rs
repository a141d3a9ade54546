//! PostgreSQL.

use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{Pool, Postgres};
use tower_idempotency::PostgresStore;

use crate::servers;

#[path = "shop.rs"]
mod shop;

#[path = "committing.rs"]
mod committing;

type Db = Postgres;
type Store = PostgresStore;

const LEDGER: &str = "CREATE TABLE {ledger} (entry text NOT NULL)";
const LAPSE: &str = "UPDATE {t} SET lapses_at = 'epoch'; DELETE FROM {t}_renewals";

fn options() -> PgConnectOptions {
    let url = servers::url("TEST_POSTGRES_URL");
    url.parse().expect("TEST_POSTGRES_URL is a URL")
}

async fn pool() -> Pool<Db> {
    PgPoolOptions::new()
        .max_connections(8)
        .connect_lazy_with(options())
}

async fn store(pool: &Pool<Db>, table: &str) -> Store {
    let builder = PostgresStore::builder(pool.clone()).table(table);
    builder.migrate().await.unwrap();
    builder.open().await.unwrap()
}
