//! Something else than the store wrote these records.

use std::sync::Arc;
use std::time::SystemTime;

use http::StatusCode;
use tower_idempotency::RedisStore;
use tower_idempotency::store::Completion;
use tower_idempotency::store::{
    Claimed, ForgetMode, Forgotten, Lease, Outcome, Release, Store, StoreError, StoreErrorKind,
};

use super::own_server::OwnServer;
use super::{acquire, claim, paid};

struct Planted {
    server: OwnServer,
    store: RedisStore,
    lease: Lease,
    key: String,
}

impl Planted {
    async fn in_flight() -> Self {
        let server = OwnServer::start(&[]);
        let store = server.open().await;
        let claim = claim();
        let key = format!("idempotency:{}", claim.id);
        let lease = acquire(&store, &claim).await;
        Self {
            server,
            store,
            lease,
            key,
        }
    }

    async fn completed() -> Self {
        let planted = Self::in_flight().await;
        planted
            .store
            .complete(&planted.lease, &paid())
            .await
            .unwrap();
        planted
    }

    fn get(&self, field: &str) -> Vec<u8> {
        let words = [b"HGET", self.key.as_bytes(), field.as_bytes()];
        self.server.run_raw(&words)
    }

    fn set(&self, field: &str, value: &[u8]) {
        let words = [b"HSET", self.key.as_bytes(), field.as_bytes(), value];
        self.server.run_raw(&words);
    }

    fn remove(&self, field: &str) {
        self.server.run(&format!("HDEL {} {field}", self.key));
    }

    fn dump(&self) -> Vec<u8> {
        self.server.run_raw(&[b"DUMP", self.key.as_bytes()])
    }

    /// Checks that a request, the owner and an operator all get an error, and that
    /// the record stays unchanged.
    async fn is_unreadable(&self, what: &str) {
        let before = self.dump();
        let mut another = claim();
        another.id = self.lease.claim.id;
        expect(self.store.claim(&another).await, what);
        expect(self.store.claim(&self.lease.claim).await, what);
        expect(self.store.look_up(&another.id).await, what);
        assert_eq!(self.dump(), before, "{what}");
    }

    async fn is_unreadable_to_its_owner(&self, what: &str) {
        let before = self.dump();
        let (id, nonce) = (self.lease.claim.id, self.lease.claim.nonce);
        expect(self.store.renew(&self.lease).await, what);
        expect(self.store.complete(&self.lease, &paid()).await, what);
        expect(
            self.store.release(&id, &nonce, Release::MayRunAgain).await,
            what,
        );
        expect(self.store.forget(&id, ForgetMode::UnlessAlive).await, what);
        assert_eq!(self.dump(), before, "{what}");
    }
}

#[track_caller]
fn expect<T: std::fmt::Debug>(answer: Result<T, StoreError>, what: &str) {
    let error = answer.expect_err(what);
    assert_eq!(
        error.kind(),
        StoreErrorKind::Unreadable,
        "{what}: {error:?}"
    );
}

const NO_NUMBERS: [&[u8]; 8] = [
    b"",
    b"x",
    b"-1",
    b"0x10",
    b"1e3",
    b" 7",
    b"9007199254740992",
    b"99999999999999999999",
];

#[tokio::test]
async fn a_field_of_garbage_is_neither_a_claim_nor_an_answer() {
    let planted = Planted::in_flight().await;
    let mut garbage: Vec<(&str, Vec<&[u8]>)> = vec![
        ("format", vec![b"", b"0", b"2", b"1 ", b"\xff\x00"]),
        ("state", vec![b"", b"0", b"6", b"1 ", b"in flight", b"\xff"]),
        ("nonce", vec![b"", b"fifteen bytes..", b"seventeen bytes.."]),
        ("fingerprint", vec![b"", b"short", &[7; 31], &[7; 33]]),
        ("refuse", vec![b"", b"2", b"yes"]),
    ];
    for field in ["token", "attempt", "lapses_at", "retention"] {
        garbage.push((field, NO_NUMBERS.to_vec()));
    }
    for (field, values) in garbage {
        let right = planted.get(field);
        for value in values {
            planted.set(field, value);
            let what = format!("{field} {}", value.escape_ascii());
            planted.is_unreadable(&what).await;
            planted.is_unreadable_to_its_owner(&what).await;
        }
        planted.remove(field);
        planted.is_unreadable(field).await;
        planted.is_unreadable_to_its_owner(field).await;
        planted.set(field, &right);
    }
    acquire(&planted.store, &planted.lease.claim).await;
}

#[tokio::test]
async fn an_answer_with_one_wrong_field_is_no_answer() {
    let planted = Planted::completed().await;
    for field in [
        "status",
        "began_at",
        "completed_at",
        "kept_for",
        "answer_length",
        "answer",
        "answer_sha256",
        "nonce",
        "fingerprint",
    ] {
        let right = planted.get(field);
        for value in [&b""[..], b"x", b"99999999999999999999", b"-", b"+1", b"1 "] {
            planted.set(field, value);
            planted
                .is_unreadable(&format!("{field} {}", value.escape_ascii()))
                .await;
        }
        planted.remove(field);
        planted.is_unreadable(field).await;
        planted.set(field, &right);
    }
    planted.set("status", b"200");
    planted.is_unreadable("another status").await;
}

#[tokio::test]
async fn an_answer_that_is_cut_or_longer_is_no_answer() {
    let planted = Planted::completed().await;
    let whole = planted.get("answer");
    for length in 0..whole.len() {
        planted.set("answer", &whole[..length]);
        planted
            .is_unreadable(&format!("{length} of {}", whole.len()))
            .await;
        planted.set("answer_length", length.to_string().as_bytes());
        planted.is_unreadable(&format!("{length} of itself")).await;
        planted.set("answer_length", whole.len().to_string().as_bytes());
    }
    planted.set("answer", &[&whole[..], b"\0"].concat());
    planted.is_unreadable("a byte more").await;
    planted.set("answer", &whole);
    assert!(planted.store.look_up(&planted.lease.claim.id).await.is_ok());
}

#[tokio::test]
async fn another_programs_key_is_left_alone() {
    let planted = Planted::in_flight().await;
    for words in ["SET {} 7", "RPUSH {} 7", "SADD {} 7", "HSET {} user 7"] {
        planted.server.run(&format!("DEL {}", planted.key));
        planted.server.run(&words.replace("{}", &planted.key));
        planted.is_unreadable(words).await;
        planted.is_unreadable_to_its_owner(words).await;
    }
}

#[tokio::test]
async fn what_cannot_be_read_is_forgotten_by_force_alone() {
    let planted = Planted::in_flight().await;
    planted.set("format", b"2");
    let id = planted.lease.claim.id;
    expect(
        planted.store.forget(&id, ForgetMode::UnlessAlive).await,
        "not forced",
    );
    assert_eq!(
        planted.store.forget(&id, ForgetMode::Forced).await.unwrap(),
        Forgotten::Gone
    );
    assert_eq!(
        planted.store.forget(&id, ForgetMode::Forced).await.unwrap(),
        Forgotten::Absent
    );
}

#[tokio::test]
async fn an_answer_that_binary_http_cannot_say_is_sealed() {
    let planted = Planted::in_flight().await;
    let odd = Completion::new(StatusCode::from_u16(999).unwrap(), "odd", SystemTime::now());
    let outcome = Outcome::Completed(Arc::new(odd));
    planted
        .store
        .complete(&planted.lease, &outcome)
        .await
        .unwrap();
    let Claimed::Found(found) = planted.store.claim(&planted.lease.claim).await.unwrap() else {
        panic!("it ran again");
    };
    assert!(matches!(
        found.state,
        tower_idempotency::store::RecordState::Sealed { .. }
    ));
}
