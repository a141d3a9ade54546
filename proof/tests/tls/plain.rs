//! Servers without TLS.

use tower_idempotency::store::AnyStore;

use crate::servers::url;
use crate::{refuses, said, warnings_of};

/// The URL by an address that is not known to be of this machine: Linux takes 0.0.0.0 for the machine
/// itself, and the C library takes `127.1` for 127.0.0.1.
fn elsewhere(url: &str) -> String {
    let address = if url.starts_with("redis") {
        "127.1"
    } else {
        "0.0.0.0"
    };
    url.replace("127.0.0.1", address)
}

fn with(url: &str, parameter: &str) -> String {
    format!("{url}?{parameter}")
}

#[tokio::test]
async fn a_plain_connection_to_another_machine_is_warned_of_once() {
    for (name, option) in [
        ("TEST_POSTGRES_URL", "`sslmode=verify-full`"),
        ("TEST_MYSQL_URL", "`ssl-mode=VERIFY_IDENTITY`"),
        ("TEST_REDIS_URL", "`rediss:`"),
    ] {
        let warnings = warnings_of(&elsewhere(&url(name))).await;
        let [warning] = &warnings[..] else {
            panic!("{name}: {warnings:?}");
        };
        assert!(warning.contains(option), "{warning}");
        assert_eq!(warnings_of(&url(name)).await, [""; 0], "{name}");
    }
}

#[tokio::test]
async fn a_server_without_tls_is_not_reached_in_plain_text_by_a_url_that_asks_for_tls() {
    let without = "turn on TLS at the server";
    for (name, mode) in [
        ("TEST_POSTGRES_URL", "sslmode=require"),
        ("TEST_POSTGRES_URL", "sslmode=verify-full"),
        ("TEST_MYSQL_URL", "ssl-mode=REQUIRED"),
        ("TEST_MYSQL_URL", "ssl-mode=VERIFY_IDENTITY"),
    ] {
        refuses(&with(&url(name), mode), &[without]).await;
    }
    let redis = url("TEST_REDIS_URL").replace("redis://", "rediss://");
    // The server takes the client's first message for the beginning of a command.
    let error = AnyStore::connect(&redis).await.unwrap_err();
    assert!(
        said(&error).contains("whether its port speaks TLS"),
        "{}",
        said(&error)
    );
}
