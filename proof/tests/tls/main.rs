//! The stores speak TLS with real servers, and say what is wrong where they can't. The certificates
//! are made by these tests.

mod certificates;
mod databases;
mod files;
#[path = "../../../tests/support/log.rs"]
mod log;
mod old_password;
mod plain;
mod redis;
mod sentinel;
#[path = "../support/servers.rs"]
mod servers;

use std::error::Error;

use tower_idempotency::store::{
    AnyStore, Claim, Claimed, Fingerprint, RecordId, ScopeDigest, Store, StoreError, StoreErrorKind,
};

/// No error may show this password.
const PASSWORD: &str = "hunter2";

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

/// Opens the store of the URL, and makes a record.
async fn works(url: &str) -> AnyStore {
    let migrated = AnyStore::migrate(url).await;
    migrated.unwrap_or_else(|error| panic!("{url}: {}", said(&error)));
    let store = AnyStore::connect(url).await.expect(url);
    assert!(matches!(
        store.claim(&claim()).await.expect(url),
        Claimed::Acquired(_)
    ));
    store
}

fn claim() -> Claim {
    let id = RecordId::from_bytes(rand::random());
    let scope = ScopeDigest::from_bytes([1; 32]);
    Claim::new(id, scope, Fingerprint::from_bytes([2; 32]))
}

/// Checks that a store of this URL can't be opened, that trying again is known to be of no use, and
/// that the error says all of `why`.
async fn refuses(url: &str, why: &[&str]) {
    let error = AnyStore::connect(url).await.expect_err(url);
    let said = said(&error);
    assert_eq!(error.kind(), StoreErrorKind::Refused, "{url}: {said}");
    for why in why {
        assert!(said.contains(why), "{url} should say {why:?}: {said}");
    }
    assert!(
        !said.contains(PASSWORD) && !said.contains("PRIVATE KEY"),
        "{said}"
    );
}

/// Returns what opening the store warns of plain text.
async fn warnings_of(url: &str) -> Vec<String> {
    AnyStore::migrate(url).await.unwrap();
    let log = log::Log::default();
    let listening = log.listen();
    AnyStore::connect(url).await.unwrap();
    drop(listening);
    let text = log.text();
    let of_tls = text
        .lines()
        .filter(|line| line.contains("WARN") && line.contains("not encrypted"));
    of_tls.map(str::to_owned).collect()
}
