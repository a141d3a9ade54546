//! Sends a batch of orders, many at a time, and prints what came of them.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use tokio::task::JoinSet;

use super::shop::Shop;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// How many orders are sent at the same time.
const AT_A_TIME: usize = 256;

const USAGE: &str = "it takes --orders NUMBER (1000) and --shop URL (a shop of its own)";

/// How many orders to create, and the shop that creates them.
pub(crate) struct Batch {
    pub(crate) orders: u64,
    pub(crate) url: String,
    /// The shop, if it runs in this process.
    shop: Option<Shop>,
}

impl Batch {
    pub(crate) fn new(orders: u64, url: String) -> Self {
        Self {
            orders,
            url,
            shop: None,
        }
    }

    #[allow(dead_code, reason = "tests have none")]
    pub(crate) async fn of_arguments() -> Result<Self, BoxError> {
        let mut batch = Self::new(1000, String::new());
        let mut arguments = std::env::args().skip(1);
        while let Some(option) = arguments.next() {
            let value = arguments.next().ok_or(USAGE)?;
            match option.as_str() {
                "--orders" => batch.orders = value.parse()?,
                "--shop" => batch.url = value,
                _ => return Err(USAGE.into()),
            }
        }
        if batch.url.is_empty() {
            let shop = Shop::new()?;
            batch.url = format!("http://{}", shop.open().await?);
            batch.shop = Some(shop);
        }
        Ok(batch)
    }

    /// Creates the orders 1, 2, 3 and so on. The first error ends the batch.
    pub(crate) async fn send<F>(
        &self,
        create: impl Fn(u64) -> F + Clone + Send + 'static,
    ) -> Result<(), BoxError>
    where
        F: Future<Output = Result<(), BoxError>> + Send,
    {
        let (next, last) = (Arc::new(AtomicU64::new(1)), self.orders);
        let mut workers = JoinSet::<Result<(), BoxError>>::new();
        for _ in 0..AT_A_TIME {
            let (next, create) = (Arc::clone(&next), create.clone());
            workers.spawn(async move {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number > last {
                        return Ok(());
                    }
                    create(number).await?;
                }
            });
        }
        while let Some(ended) = workers.join_next().await {
            ended??;
        }
        Ok(())
    }

    /// Sends the orders like `send`, and prints what came of them.
    #[allow(dead_code, reason = "tests look for themselves")]
    pub(crate) async fn send_and_tell<F>(
        &self,
        create: impl Fn(u64) -> F + Clone + Send + 'static,
    ) -> Result<(), BoxError>
    where
        F: Future<Output = Result<(), BoxError>> + Send,
    {
        let began = Instant::now();
        self.send(create).await?;
        println!("{} orders in {:.1?}.", self.orders, began.elapsed());
        if let Some(shop) = &self.shop {
            let (orders, twice) = shop.count();
            println!("The shop has {orders}, of which it created {twice} more than once.");
            println!("What went wrong on the way:");
            for (what, times) in shop.mishaps() {
                println!("{times:>7}  {what}");
            }
        }
        Ok(())
    }
}
