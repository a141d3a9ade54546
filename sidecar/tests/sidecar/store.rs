//! In these tests the store is missing or not in order.

use crate::support::{File, Upstream, get, nobody, ok, post};
#[cfg(feature = "sqlite")]
use tower_idempotency::config::Config;
use tower_idempotency_sidecar::Sidecar;

#[cfg(feature = "redis")]
#[tokio::test]
async fn a_store_that_can_t_be_reached_is_no_reason_not_to_start() {
    let upstream = Upstream::start(|_| ok("done")).await;
    let store = format!("store = 'redis://{}'", nobody());
    let file = || File::new(upstream.address).top(&store);
    let sidecar = file().start().await;
    let answer = sidecar.exchange(&post("/a", "k", "{}")).await;
    assert_eq!(
        (answer.status(), answer.code().as_str()),
        (503, "store-unavailable")
    );
    assert_eq!(sidecar.exchange(&get("/")).await.text(), "done");
    let open = file().idempotency("on_store_error = 'open'").start().await;
    let answer = open.exchange(&post("/a", "k", "{}")).await;
    assert_eq!((answer.status(), answer.text()), (200, "done"));
    assert_eq!(answer.field("idempotency-status"), Some("unprotected"));
    let seen = upstream.last();
    assert_eq!(seen.field("idempotency-attempt"), None);
}

#[cfg(feature = "sqlite")]
#[tokio::test]
async fn a_store_that_refuses_is_one() {
    let file = File::new(nobody());
    for store in ["sqlite:/no/such/directory/records.db", "sqlite:Cargo.toml"] {
        let text = file.clone().top(&format!("store = '{store}'")).text();
        let config = Config::from_toml(&text).unwrap();
        let error = Sidecar::new(&config).await.unwrap_err();
        assert_eq!(error.to_string(), "the store can't be used", "{store}");
    }
}
