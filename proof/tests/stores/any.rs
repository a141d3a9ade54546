//! These tests open each engine by its URL.

use std::error::Error;
use std::sync::Arc;
use std::time::SystemTime;

use http::StatusCode;
use tower_idempotency::store::{AnyStore, Completion, Fingerprint, RecordId, ScopeDigest};
use tower_idempotency::store::{
    Claim, Claimed, Outcome, Ownership, RecordState, Store, StoreError, StoreErrorKind,
};

use crate::nobody::nobody;
use crate::servers::{fresh_directory, url};

/// Returns the URL with a table or a prefix of its own, where the engine's URL
/// takes `name`.
fn with(url: &str, name: &str) -> String {
    let own = format!("{name}{:x}", rand::random::<u64>());
    let separator = if url.contains('?') { '&' } else { '?' };
    format!("{url}{separator}{name}={own}")
}

fn file(name: &str) -> String {
    let directory = fresh_directory("any");
    std::fs::create_dir_all(&directory).unwrap();
    format!("sqlite:{}", directory.join(name).display())
}

pub(super) fn all() -> [String; 5] {
    [
        with(&file("records.db"), "table"),
        with(&url("TEST_POSTGRES_URL"), "table"),
        with(&url("TEST_MYSQL_URL"), "table"),
        with(&url("TEST_REDIS_URL"), "prefix"),
        with(&url("TEST_REDIS_CLUSTER_URL"), "prefix"),
    ]
}

fn claim() -> Claim {
    let id = RecordId::from_bytes(rand::random());
    let scope = ScopeDigest::from_bytes([1; 32]);
    Claim::new(id, scope, Fingerprint::from_bytes([2; 32]))
}

#[tokio::test]
async fn what_one_handle_records_another_of_the_same_url_finds() {
    for url in all() {
        AnyStore::migrate(&url).await.unwrap();
        AnyStore::migrate(&url).await.unwrap();
        let (one, other) = (
            AnyStore::connect(&url).await.unwrap(),
            AnyStore::connect(&url).await.unwrap(),
        );
        let claim = claim();
        let Claimed::Acquired(lease) = one.claim(&claim).await.unwrap() else {
            panic!("a new record is there already");
        };
        let paid = Completion::new(StatusCode::CREATED, "paid", SystemTime::now());
        let outcome = Outcome::Completed(Arc::new(paid));
        assert_eq!(
            one.complete(&lease, &outcome).await.unwrap(),
            Ownership::Held
        );
        let mut retry = claim.clone();
        retry.nonce = tower_idempotency::store::Nonce::random();
        let Claimed::Found(record) = other.claim(&retry).await.unwrap() else {
            panic!("not found");
        };
        let RecordState::Completed { completion, .. } = record.state else {
            panic!("{record:?}");
        };
        assert_eq!(
            (completion.status, &completion.body[..]),
            (StatusCode::CREATED, &b"paid"[..])
        );
    }
}

/// Returns what the error says, with all its sources.
fn said(error: &StoreError) -> String {
    let mut said = format!("{error:?} {error}");
    let mut source = error.source();
    while let Some(cause) = source {
        said = format!("{said}: {cause}");
        source = cause.source();
    }
    said
}

#[tokio::test]
async fn a_url_that_cannot_work_says_why_and_shows_no_credential() {
    let nobody = nobody();
    let wrong_password = |name: &str| {
        let url = url(name);
        let (scheme, rest) = url.split_once("://").unwrap();
        let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
        format!("{scheme}://test:hunter2@{host}")
    };
    let missing = |name: &str| with(&url(name), "table");
    for (url, kind, why) in [
        (
            format!("postgres://app:hunter2@{nobody}/app"),
            StoreErrorKind::NotSent,
            "refused",
        ),
        (
            format!("mysql://app:hunter2@{nobody}/app"),
            StoreErrorKind::NotSent,
            "refused",
        ),
        (
            format!("redis://:hunter2@{nobody}"),
            StoreErrorKind::NotSent,
            "refused",
        ),
        (
            wrong_password("TEST_POSTGRES_URL"),
            StoreErrorKind::Refused,
            "password",
        ),
        (
            wrong_password("TEST_MYSQL_URL"),
            StoreErrorKind::Refused,
            "password",
        ),
        (
            wrong_password("TEST_REDIS_URL"),
            StoreErrorKind::Refused,
            "password",
        ),
        (
            missing("TEST_POSTGRES_URL"),
            StoreErrorKind::Refused,
            "migrate",
        ),
        (
            missing("TEST_MYSQL_URL"),
            StoreErrorKind::Refused,
            "migrate",
        ),
        (
            "postgres://app:hunter2@db/app?tabel=x".into(),
            StoreErrorKind::Refused,
            "there are: table",
        ),
        (
            "mysql://app:hunter2@db/app?max_connections=0".into(),
            StoreErrorKind::Refused,
            "at least 1",
        ),
        (
            "postgres://app:hunt?er2@db/app".into(),
            StoreErrorKind::Refused,
            "%3F",
        ),
        (
            "redis://:hunter2@db?table=x".into(),
            StoreErrorKind::Refused,
            "there are: prefix",
        ),
        (
            "sqlite:/no/such/directory/hunter2.db".into(),
            StoreErrorKind::Refused,
            "directory",
        ),
        (
            format!("{}?table=a b", file("x.db")),
            StoreErrorKind::Refused,
            "no name for a table",
        ),
        (
            "postgres://app:hunter2@[::1/app".into(),
            StoreErrorKind::Refused,
            "`postgres:` URL",
        ),
    ] {
        let error = AnyStore::connect(&url).await.expect_err(&url);
        let said = said(&error);
        assert!(said.contains(why), "{url}: {said}");
        assert_eq!(error.kind(), kind, "{url}: {said}");
        assert!(
            !said.contains("hunter2@") && !said.contains("er2@"),
            "{said}"
        );
        assert!(
            !said.contains("hunter2") || url.contains("hunter2.db"),
            "{said}"
        );
    }
}
