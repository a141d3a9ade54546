//! The orders of the shop. The ledger refuses no second order of one purchase: that is
//! what the layer is for.

use std::path::Path;
use std::time::Duration;

use sqlx::SqliteConnection;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions};

use super::BoxError;

const CREATE: [&str; 2] = [
    "CREATE TABLE IF NOT EXISTS checkouts (number INTEGER PRIMARY KEY, purchase TEXT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS orders (number INTEGER PRIMARY KEY, purchase TEXT NOT NULL, \
     checkout INTEGER NOT NULL)",
];

/// Each process has this many connections.
const CONNECTIONS: u32 = 4;

/// An order, and the purchase that it belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Order {
    pub(crate) number: i64,
    pub(crate) purchase: String,
}

#[derive(Clone, Debug)]
pub(crate) struct Ledger(pub(crate) SqlitePool);

impl Ledger {
    pub(crate) async fn open(database: &Path) -> Result<Self, BoxError> {
        let options = SqliteConnectOptions::new()
            .filename(database)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .busy_timeout(Duration::from_secs(10));
        let pool = SqlitePoolOptions::new()
            .max_connections(CONNECTIONS)
            .acquire_timeout(Duration::from_secs(30))
            .connect_with(options)
            .await?;
        for create in CREATE {
            sqlx::query(create).execute(&pool).await?;
        }
        Ok(Self(pool))
    }

    pub(crate) async fn add_checkout(&self, purchase: &str) -> sqlx::Result<i64> {
        let insert = sqlx::query("INSERT INTO checkouts (purchase) VALUES (?)");
        let inserted = insert.bind(purchase).execute(&self.0).await?;
        Ok(inserted.last_insert_rowid())
    }

    pub(crate) async fn order_of(&self, purchase: &str) -> sqlx::Result<Option<i64>> {
        let select = sqlx::query_as("SELECT number FROM orders WHERE purchase = ? ORDER BY number");
        let found: Option<(i64,)> = select.bind(purchase).fetch_optional(&self.0).await?;
        Ok(found.map(|(number,)| number))
    }

    pub(crate) async fn orders(&self) -> sqlx::Result<Vec<Order>> {
        let rows: Vec<(i64, String)> =
            sqlx::query_as("SELECT number, purchase FROM orders ORDER BY number")
                .fetch_all(&self.0)
                .await?;
        let order = |(number, purchase)| Order { number, purchase };
        Ok(rows.into_iter().map(order).collect())
    }

    pub(crate) async fn count_checkouts(&self) -> sqlx::Result<u32> {
        let count: (u32,) = sqlx::query_as("SELECT count(*) FROM checkouts")
            .fetch_one(&self.0)
            .await?;
        Ok(count.0)
    }
}

/// Adds an order, in the transaction of this connection or in one of its own.
pub(crate) async fn add_order(
    connection: &mut SqliteConnection,
    purchase: &str,
    checkout: i64,
) -> sqlx::Result<i64> {
    let insert = sqlx::query("INSERT INTO orders (purchase, checkout) VALUES (?, ?)");
    let insert = insert.bind(purchase).bind(checkout);
    Ok(insert.execute(connection).await?.last_insert_rowid())
}
