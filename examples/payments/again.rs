//! The story of a store that outlives its process: run the example twice, and
//! the second process replays the payments of the first.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::net::TcpListener;
use tower_idempotency::store::AnyStore;

use super::story::{Answer, Call, Client};
use super::{BoxError, Shop, app, idempotency};

const REPLAYED: &str = "Idempotency-Replayed: true";

/// Sends each payment twice. Returns whether each payment was made once, by
/// this process or by an earlier one.
pub(crate) async fn tell(store: AnyStore) -> Result<bool, BoxError> {
    let shop = Arc::new(Shop::of_this_process());
    let router = app(Arc::clone(&shop), idempotency(store)?);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let client = Client::new(listener.local_addr()?);
    let server = tokio::spawn(async { axum::serve(listener, router).await });

    println!("Three payments through a store that outlives this process, each sent twice.\n");
    let (mut made, mut replayed, mut failed) = (0, 0, 0);
    for (key, amount) in [("shoes-1", 4200), ("hat-1", 1990), ("bag-1", 6500)] {
        let call = Call::new("alice", "/payments", key, amount);
        let first = settled(&client, call).await?;
        let again = settled(&client, call).await?;
        let came_back = first.markers == REPLAYED;
        let kept = first.status == 201
            && (came_back || first.markers.is_empty())
            && (again.status, &*again.markers) == (201, REPLAYED)
            && again.payment == first.payment;
        made += u64::from(kept && !came_back);
        replayed += u64::from(kept && came_back);
        failed += u64::from(!kept);
        let how = if came_back { "replayed" } else { "paid now" };
        let mark = if kept { "ok" } else { "FAILED" };
        println!(
            "{key:<8}  {}  {:<16}  {how:<8}  {mark}",
            first.status, first.payment
        );
    }
    let charges = client.charges().await?;
    println!(
        "\nPaid by this process: {made}, by an earlier one: {replayed}. Charges here: {charges}."
    );
    if made > 0 {
        println!("Run it again within a day, and nobody is charged.");
    }
    server.abort();
    Ok(failed == 0 && charges == made)
}

/// Sends the call until no other process has its operation in flight, and
/// returns the response.
async fn settled(client: &Client, call: Call) -> Result<Answer, BoxError> {
    loop {
        let answer = client.post(call).await?;
        if !answer.markers.starts_with("code: in-flight") {
            return Ok(answer);
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

impl Shop {
    /// A shop whose payments have other ids than the payments of other
    /// processes.
    pub(crate) fn of_this_process() -> Self {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Self {
            series: format!("{:x}_", since.as_millis()),
            ..Self::default()
        }
    }
}
