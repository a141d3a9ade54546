use std::error::Error;

use super::*;
use crate::store::StoreErrorKind;

async fn refusal(url: &str) -> String {
    let error = AnyStore::connect(url).await.expect_err(url);
    assert_eq!(error.kind(), StoreErrorKind::Refused, "{url}");
    let message = error.source().expect("a cause").to_string();
    assert!(
        !format!("{error:?} {message}").contains("hunter2"),
        "{message}"
    );
    assert_eq!(
        AnyStore::migrate(url)
            .await
            .expect_err(url)
            .source()
            .unwrap()
            .to_string(),
        message
    );
    message
}

#[tokio::test]
async fn a_url_that_names_no_store_says_which_there_are() {
    for url in ["", "records", "/tmp/a.db", "://x", "9p:x", ":hunter2@x"] {
        assert_eq!(
            refusal(url).await,
            "the URL of a store begins with memory:, sqlite:, postgres:, mysql: or redis:"
        );
    }
    assert_eq!(
        refusal("mongodb://app:hunter2@db/x").await,
        "there is no store of the kind `mongodb:`; use memory:, sqlite:, postgres:, mysql: or redis:"
    );
}

#[cfg(feature = "memory")]
#[tokio::test]
async fn a_memory_store_takes_its_caps_from_the_url() {
    for url in [
        "memory:",
        "memory:?max_records=5",
        "memory:?max_bytes=64KiB&when_full=refuse&max_records=1",
        "memory:?max_bytes_per_caller=64KiB&max_records_per_caller=9",
    ] {
        AnyStore::migrate(url).await.unwrap();
        let store = AnyStore::connect(url).await.unwrap();
        assert_eq!(format!("{store:?}"), "AnyStore { kind: \"memory\", .. }");
    }
    for (url, why) in [
        (
            "memory:?max_records=many",
            "`max_records` in the URL of the store is no number",
        ),
        (
            "memory:?max_bytes=1.5GB",
            "`max_bytes` in the URL of the store is no number of bytes, such as 1000 or 256MiB",
        ),
        (
            "memory:?max_bytes=99999999999999999GiB",
            "`max_bytes` in the URL of the store is no number of bytes, such as 1000 or 256MiB",
        ),
        (
            "memory:?max_records=0",
            "`max_records` must be at least 1, which one empty record takes",
        ),
        (
            "memory:?max_records=5&max_records_per_caller=6",
            "`max_records_per_caller` is 6, more than the 5 of `max_records` for all callers",
        ),
        (
            "memory:?when_full=panic",
            "`when_full` in the URL of the store is neither `evict` nor `refuse`",
        ),
        ("memory:/tmp", "nothing but parameters follows `memory:`"),
    ] {
        assert_eq!(refusal(url).await, why, "{url}");
    }
    assert!(
        refusal("memory:?hunter2")
            .await
            .contains("max_records, max_bytes, max_records_per_caller")
    );
}

#[cfg(feature = "memory")]
#[tokio::test]
async fn what_a_url_caps_is_capped() {
    use crate::record::{Fingerprint, RecordId, ScopeDigest};
    use crate::store::{Claim, Claimed};

    let store = AnyStore::connect("memory:?max_records=1&when_full=refuse")
        .await
        .unwrap();
    let claim = |number| {
        let scope = ScopeDigest::from_bytes([0; 32]);
        Claim::new(
            RecordId::from_bytes([number; 32]),
            scope,
            Fingerprint::from_bytes([0; 32]),
        )
    };
    let first = store.claim(&claim(1)).await.unwrap();
    assert!(matches!(first, Claimed::Acquired(_)));
    assert!(matches!(
        store.claim(&claim(2)).await.unwrap(),
        Claimed::OverCapacity
    ));
}

/// No feature, no store, but a word on what to turn on.
#[cfg(not(any(feature = "redis", feature = "_sql")))]
#[tokio::test]
async fn an_engine_whose_feature_is_off_says_which_to_turn_on() {
    for (url, feature) in [
        ("sqlite:records.db", "sqlite"),
        ("postgres://app:hunter2@db/app", "postgres"),
        ("mysql://app:hunter2@db/app", "mysql"),
        ("redis://:hunter2@cache", "redis"),
    ] {
        let scheme = url.split_once(':').unwrap().0;
        assert_eq!(
            refusal(url).await,
            format!(
                "a `{scheme}:` store needs the feature `{feature}` of tower-idempotency: \
                 `cargo add tower-idempotency --features {feature}`"
            )
        );
    }
}

/// A connection in plain text would be one that nobody has asked for.
#[cfg(all(
    not(feature = "tls"),
    any(feature = "redis", feature = "postgres", feature = "mysql")
))]
#[tokio::test]
async fn a_url_that_asks_for_tls_names_the_feature_that_is_off() {
    for (is_on, urls) in [
        (
            cfg!(feature = "redis"),
            &[
                "rediss://:hunter2@cache",
                "valkeys+cluster://:hunter2@cache",
                "rediss+sentinel://:hunter2@cache/main",
                "redis://:hunter2@cache?ssl-ca=/ca.pem",
            ][..],
        ),
        (
            cfg!(feature = "postgres"),
            &[
                "postgres://app:hunter2@db/app?sslmode=require",
                "postgres://app:hunter2@db/app?sslmode=verify-full",
                "postgres://app:hunter2@db/app?sslrootcert=/ca.pem",
            ][..],
        ),
        (
            cfg!(feature = "mysql"),
            &[
                "mysql://app:hunter2@db/app?ssl-mode=REQUIRED",
                "mysql://app:hunter2@db/app?ssl-ca=/ca.pem",
            ][..],
        ),
    ] {
        for url in urls.iter().filter(|_| is_on) {
            assert_eq!(
                refusal(url).await,
                "the URL of the store asks for TLS, which needs the feature `tls` of \
                 tower-idempotency: `cargo add tower-idempotency --features tls`",
                "{url}"
            );
        }
    }
}
