//! These tests run the examples unchanged, over sockets, against a shop that drops
//! connections and responds late.

use std::time::Duration;

use crate::{client_hyper, client_reqwest};

/// With this many orders, every kind of fault meets every other kind.
const ORDERS: u64 = 10_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_orders_are_each_created_once_with_hyper() {
    use client_hyper::{OrderClient, batch::Batch, shop::Shop};

    let shop = Shop::new().unwrap();
    let batch = Batch::new(ORDERS, format!("http://{}", shop.open().await.unwrap()));
    let client = OrderClient::new(&batch.url).unwrap();
    let sent = batch.send(move |number| {
        let client = client.clone();
        async move { client.create_order(number).await.map(drop) }
    });
    let sent = tokio::time::timeout(Duration::from_secs(240), sent).await;
    sent.expect("too slow").unwrap();
    assert_eq!(shop.count(), (10_000, 0));
    for (what, times) in shop.mishaps() {
        assert!(times > 200, "{what} only {times} times");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_orders_are_each_created_once_with_reqwest() {
    use client_reqwest::{OrderClient, batch::Batch, shop::Shop};

    let shop = Shop::new().unwrap();
    let batch = Batch::new(ORDERS, format!("http://{}", shop.open().await.unwrap()));
    let client = OrderClient::new(&batch.url).unwrap();
    let sent = batch.send(move |number| {
        let client = client.clone();
        async move { client.create_order(number).await.map(drop) }
    });
    let sent = tokio::time::timeout(Duration::from_secs(240), sent).await;
    sent.expect("too slow").unwrap();
    assert_eq!(shop.count(), (10_000, 0));
    for (what, times) in shop.mishaps() {
        assert!(times > 200, "{what} only {times} times");
    }
}
