//! The option `encryption`. The tests of G10 check what somebody can read who
//! has access to the store.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode};
use http_body_util::Full;
use tokio::time::sleep;
use tower::{Layer, ServiceExt};
use tower_idempotency::options::{OnInFlight, OnStoreError};
use tower_idempotency::store::{
    Claim, Claimed, ForgetMode, Forgotten, Lease, Outcome, Ownership, Record, RecordState, Release,
    Store, StoreError, StoreErrorKind, Subscription,
};
use tower_idempotency::store::{
    Completion, Encryption, FencingToken, Fingerprint, Nonce, RecordId,
};
use tower_idempotency::{IdempotencyLayer, IdempotencyLayerBuilder, MemoryStore, Resolved};

use crate::support::log::Log;
use crate::support::store::{Fault, Op, Steered};
use crate::support::{
    Gate, Runs, Seen, answer, builder, by, by_operator, counting, handler, held_back, post, quiet,
    send,
};

const OLD: &str = "the old secret, 16 bytes at least";
const NEW: &str = "the new secret, 16 bytes at least";

fn encrypting(store: &(impl Store + Clone), secrets: &[&str]) -> IdempotencyLayerBuilder {
    plain(store, secrets).encryption(Encryption::xchacha20_poly1305())
}

fn plain(store: &(impl Store + Clone), secrets: &[&str]) -> IdempotencyLayerBuilder {
    builder(store).secrets(secrets.iter().copied())
}

fn id_of(layer: &IdempotencyLayer, key: &str) -> RecordId {
    layer
        .records()
        .id_of(&post(key, "{}").into_parts().0)
        .unwrap()
}

/// What somebody with write access to the store does to each record that a
/// claim finds.
type Change = Box<dyn Fn(&mut Record) + Send + Sync>;

#[derive(Clone, Default)]
struct Meddled {
    memory: MemoryStore,
    change: Arc<Mutex<Option<Change>>>,
}

impl Meddled {
    fn by(&self, change: impl Fn(&mut Record) + Send + Sync + 'static) {
        *self.change.lock().unwrap() = Some(Box::new(change));
    }

    fn honest(&self) {
        *self.change.lock().unwrap() = None;
    }

    fn found(&self, mut record: Record) -> Record {
        if let Some(change) = &*self.change.lock().unwrap() {
            change(&mut record);
        }
        record
    }
}

impl Store for Meddled {
    async fn claim(&self, claim: &Claim) -> Result<Claimed, StoreError> {
        Ok(match self.memory.claim(claim).await? {
            Claimed::Found(record) => Claimed::Found(self.found(record)),
            other => other,
        })
    }
    async fn renew(&self, lease: &Lease) -> Result<Ownership, StoreError> {
        self.memory.renew(lease).await
    }
    async fn complete(&self, lease: &Lease, outcome: &Outcome) -> Result<Ownership, StoreError> {
        self.memory.complete(lease, outcome).await
    }
    async fn release(
        &self,
        id: &RecordId,
        by: &Nonce,
        how: Release,
    ) -> Result<Ownership, StoreError> {
        self.memory.release(id, by, how).await
    }
    async fn look_up(&self, id: &RecordId) -> Result<Option<Record>, StoreError> {
        let found = self.memory.look_up(id).await?;
        Ok(found.map(|record| self.found(record)))
    }
    async fn forget(&self, id: &RecordId, mode: ForgetMode) -> Result<Forgotten, StoreError> {
        self.memory.forget(id, mode).await
    }
    async fn subscribe(&self, id: &RecordId) -> Result<Subscription, StoreError> {
        self.memory.subscribe(id).await
    }
}

fn kept(record: &mut Record) -> &mut Completion {
    match &mut record.state {
        RecordState::Completed { completion, .. } => Arc::make_mut(completion),
        other => panic!("{other:?}"),
    }
}

fn body(record: &mut Record, change: impl Fn(&mut Vec<u8>)) {
    let kept = kept(record);
    let mut body = kept.body.to_vec();
    change(&mut body);
    kept.body = body.into();
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_opened_is_store_unavailable_with_a_log_line_and_not_executed() {
    const CHANGED: &str = "was changed, or is another record's";
    let micro = Duration::from_micros(1);
    let changes: Vec<(&str, Change)> = vec![
        ("cut short", Box::new(|r| kept(r).body = Bytes::new())),
        ("cut short", Box::new(|r| body(r, |b| b.truncate(48)))),
        (CHANGED, Box::new(|r| body(r, |b| b.truncate(b.len() - 1)))),
        (CHANGED, Box::new(|r| body(r, |b| b.push(0)))),
        (CHANGED, Box::new(|r| body(r, |b| b[40] ^= 1))),
        ("in version 2", Box::new(|r| body(r, |b| b[0] = 2))),
        ("does not list", Box::new(|r| body(r, |b| b[1] ^= 1))),
        (CHANGED, Box::new(|r| kept(r).status = StatusCode::OK)),
        (CHANGED, Box::new(move |r| kept(r).began_at += micro)),
        (CHANGED, Box::new(move |r| kept(r).completed_at += micro)),
        (CHANGED, Box::new(move |r| kept(r).retention += micro)),
        (
            CHANGED,
            Box::new(|r| r.token = FencingToken::new(r.token.get() + 1).unwrap()),
        ),
        (
            CHANGED,
            Box::new(|r| {
                if let RecordState::Completed { fingerprint, .. } = &mut r.state {
                    *fingerprint = Fingerprint::from_bytes([7; 32]);
                }
            }),
        ),
        (
            "more beside",
            Box::new(|r| {
                kept(r).headers.insert("x-more", "1".parse().unwrap());
            }),
        ),
        (
            "more beside",
            Box::new(|r| kept(r).trailers = Some(HeaderMap::new())),
        ),
        ("not encrypted", Box::new(|r| kept(r).headers.clear())),
        (
            "not encrypted",
            Box::new(|r| {
                *kept(r) = Completion::new(StatusCode::CREATED, "forged", std::time::UNIX_EPOCH);
            }),
        ),
    ];
    for (at, (why, change)) in changes.into_iter().enumerate() {
        let (store, runs, log) = (Meddled::default(), Runs::default(), Log::default());
        let layer = encrypting(&store, &[OLD])
            .defaults(|options| {
                options
                    // Neither of these options makes the operation run.
                    .on_store_error(OnStoreError::RunUnprotected)
                    .on_in_flight(OnInFlight::Wait(Duration::from_secs(1)))
            })
            .build()
            .unwrap();
        let app = layer.layer(counting(&runs));
        let first = send(&app, post("k", "{}")).await;

        store.by(change);
        let listening = log.listen();
        let retry = send(&app, post("k", "{}")).await;
        assert_eq!(retry.refusal(), "503 store-unavailable", "{at}: {why}");
        let logged = log.text();
        assert!(logged.contains("claim failed"), "{logged}");
        assert!(logged.contains(why), "{why}: {logged}");
        drop(listening);
        let id = id_of(&layer, "k");
        let looked_up = layer.records().look_up(&id).await.unwrap_err();
        assert_eq!(looked_up.kind(), StoreErrorKind::Unreadable);
        // The result is the same while that secret is listed as the old one.
        let rotated = encrypting(&store, &[NEW, OLD]).build().unwrap();
        let retry = send(&rotated.layer(counting(&runs)), post("k", "{}")).await;
        assert_eq!(retry.refusal(), "503 store-unavailable", "{at}: {why}");
        quiet().await;
        assert_eq!(runs.count(), 1);
        assert_eq!(store.memory.stats().in_flight, 0, "{at}: {why}");

        store.honest();
        send(&app, post("k", "{}")).await.assert_replays(&first);
    }
}

#[tokio::test]
async fn an_answer_in_the_place_of_another_records_is_not_replayed() {
    let (store, runs) = (Meddled::default(), Runs::default());
    let layer = encrypting(&store, &[OLD]).build().unwrap();
    let app = layer.layer(counting(&runs));
    send(&app, by("mallory", post("k", "{}"))).await;
    send(&app, post("k", "{}")).await;
    let mallorys = by("mallory", post("k", "{}")).into_parts().0;
    let mallorys = layer.records().id_of(&mallorys).unwrap();
    // The change replaces the whole record, with its token and its times.
    let other = store.memory.look_up(&mallorys).await.unwrap().unwrap();
    store.by(move |record| *record = other.clone());
    let retry = send(&app, post("k", "{}")).await;
    assert_eq!(retry.refusal(), "503 store-unavailable");
    let own = send(&app, by("mallory", post("k", "{}"))).await;
    assert!(own.is_replay());
    assert_eq!(runs.count(), 2);
}

#[tokio::test]
async fn what_cannot_be_opened_can_be_forgotten() {
    let (store, runs) = (Meddled::default(), Runs::default());
    let layer = encrypting(&store, &[OLD]).build().unwrap();
    let app = layer.layer(counting(&runs));
    send(&app, post("k", "{}")).await;
    store.by(|record| body(record, |bytes| bytes.truncate(50)));
    let id = id_of(&layer, "k");
    assert_eq!(
        layer.records().forget(&id, &by_operator()).await.unwrap(),
        Forgotten::Gone
    );
    send(&app, post("k", "{}")).await.assert_fresh("run 2");
}

#[tokio::test]
async fn plain_answers_are_replayed_only_if_the_layer_says_so() {
    let (store, runs, log) = (Steered::new(), Runs::default(), Log::default());
    let before = plain(&store, &[OLD]).build().unwrap();
    let first = send(&before.layer(counting(&runs)), post("k", "{}")).await;

    let strict = encrypting(&store, &[OLD]).build().unwrap();
    let listening = log.listen();
    let retry = send(&strict.layer(counting(&runs)), post("k", "{}")).await;
    assert_eq!(retry.refusal(), "503 store-unavailable");
    assert!(log.text().contains("also_plain"), "{}", log.text());
    drop(listening);

    let lenient = Encryption::xchacha20_poly1305().also_plain();
    let lenient = plain(&store, &[OLD]).encryption(lenient).build().unwrap();
    let app = lenient.layer(counting(&runs));
    send(&app, post("k", "{}")).await.assert_replays(&first);
    // What this process records itself is encrypted.
    let own = send(&app, post("own", "{}")).await;
    send(&app, post("own", "{}")).await.assert_replays(&own);
    let strict = strict.layer(counting(&runs));
    send(&strict, post("own", "{}")).await.assert_replays(&own);
    assert_eq!(runs.count(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_layer_without_encryption_does_not_replay_what_is_encrypted() {
    let (store, runs, log) = (Steered::new(), Runs::default(), Log::default());
    let encrypting = encrypting(&store, &[OLD]).build().unwrap();
    let first = send(&encrypting.layer(counting(&runs)), post("k", "{}")).await;
    let _listening = log.listen();
    for secrets in [&[OLD][..], &[NEW, OLD]] {
        let layer = plain(&store, secrets)
            .defaults(|options| options.on_store_error(OnStoreError::RunUnprotected))
            .build()
            .unwrap();
        let retry = send(&layer.layer(counting(&runs)), post("k", "{}")).await;
        assert_eq!(retry.refusal(), "503 store-unavailable");
        let looked_up = layer
            .records()
            .look_up(&id_of(&encrypting, "k"))
            .await
            .unwrap_err();
        assert_eq!(looked_up.kind(), StoreErrorKind::Unreadable);
    }
    for line in ["claim failed", "look-up under an old secret failed"] {
        let logged = log.text();
        let line = logged.lines().find(|logged| logged.contains(line));
        assert!(line.unwrap().contains("turn on `encryption`"), "{logged}");
    }
    quiet().await;
    assert_eq!(store.stats().in_flight, 0);
    send(&encrypting.layer(counting(&runs)), post("k", "{}"))
        .await
        .assert_replays(&first);
    assert_eq!(runs.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn while_an_old_secret_is_listed_what_it_encrypted_is_replayed() {
    let (store, runs) = (Steered::new(), Runs::default());
    let app = |secrets: &[&str]| {
        let layer = encrypting(&store, secrets).build().unwrap();
        layer.layer(counting(&runs))
    };
    let first = send(&app(&[OLD]), post("k", "{}")).await;
    for _ in 0..3 {
        let retry = send(&app(&[NEW, OLD]), post("k", "{}")).await;
        retry.assert_replays(&first);
        quiet().await;
        assert_eq!(store.stats().in_flight, 0, "nothing is left claimed");
    }
    // In the middle of a rotation each process can decrypt what the other one
    // encrypted.
    let of_early = send(&app(&[NEW, OLD]), post("early", "{}")).await;
    let retry = send(&app(&[OLD, NEW]), post("early", "{}")).await;
    retry.assert_replays(&of_early);
    let of_late = send(&app(&[OLD, NEW]), post("late", "{}")).await;
    let retry = send(&app(&[NEW, OLD]), post("late", "{}")).await;
    retry.assert_replays(&of_late);
    // Once a secret is removed, the records that it encrypted can't be read.
    send(&app(&[NEW]), post("early", "{}"))
        .await
        .assert_replays(&of_early);
    send(&app(&[NEW]), post("k", "{}"))
        .await
        .assert_fresh("run 4");
}

#[tokio::test(start_paused = true)]
async fn who_waits_gets_the_answer_and_so_does_who_comes_after_a_completion_was_tried_again() {
    let store = Steered::unguarded();
    let (runs, gate) = (Runs::default(), Gate::closed());
    let layer = encrypting(&store, &[OLD])
        .defaults(|options| options.on_in_flight(OnInFlight::Wait(Duration::from_secs(60))))
        .build()
        .unwrap();
    let app = layer.layer(held_back(&runs, &gate));
    let first = tokio::spawn(app.clone().oneshot(post("k", "{}")));
    gate.begun().await;
    let waiting = {
        let app = app.clone();
        tokio::spawn(async move { send(&app, post("k", "{}")).await })
    };
    quiet().await;
    // The store records the completion, but the result is lost, so the layer
    // tries again and encrypts the response with another nonce.
    store.make(Op::Complete, Fault::AnswerLost(StoreErrorKind::Unknown));
    gate.open();
    sleep(Duration::from_millis(20)).await;
    store.heal(Op::Complete);
    let first = Seen::whole(first.await.unwrap().unwrap()).await;
    assert_eq!(first.lacks(), None);
    waiting.await.unwrap().assert_replays(&first);
    send(&app, post("k", "{}")).await.assert_replays(&first);
    assert!(store.calls(Op::Complete) > 1);
    assert_eq!(runs.count(), 1);
}

#[tokio::test]
async fn other_requests_and_refusals_are_told_as_without_encryption() {
    let (store, runs) = (MemoryStore::new(), Runs::default());
    let layer = encrypting(&store, &[OLD]).build().unwrap();
    let app = layer.layer(handler(
        &runs,
        |_, request| match request.headers()["idempotency-key"].to_str().unwrap() {
            "transient" => answer(StatusCode::SERVICE_UNAVAILABLE, "later"),
            "large" => answer(StatusCode::CREATED, vec![b'x'; 2 << 20]),
            _ => answer(StatusCode::CREATED, "done"),
        },
    ));
    send(&app, post("k", "{}")).await;
    let other = send(&app, post("k", "[]")).await;
    assert_eq!(other.refusal(), "422 key-reused");
    for _ in 0..2 {
        assert_eq!(send(&app, post("transient", "{}")).await.text(), "later");
    }
    send(&app, post("large", "{}")).await;
    let retry = send(&app, post("large", "{}")).await;
    assert_eq!(retry.refusal(), "409 response-unavailable");
    assert_eq!(runs.count(), 4);
    let id = id_of(&layer, "k");
    let sealed = Outcome::Sealed {
        retention: Duration::from_secs(1),
    };
    let resolved = layer
        .records()
        .resolve(&id, &sealed, &by_operator())
        .await
        .unwrap();
    assert_eq!(resolved, Resolved::Done);
}

#[tokio::test]
async fn an_answer_whose_status_cannot_be_encoded_is_sealed() {
    let (store, runs) = (MemoryStore::new(), Runs::default());
    let layer = encrypting(&store, &[OLD])
        .defaults(|options| options.record(tower_idempotency::recording::Statuses::all()))
        .build()
        .unwrap();
    let app = layer.layer(handler(&runs, |_, _| -> Response<Full<Bytes>> {
        answer(StatusCode::from_u16(999).unwrap(), "odd")
    }));
    assert_eq!(send(&app, post("k", "{}")).await.text(), "odd");
    let retry = send(&app, post("k", "{}")).await;
    assert_eq!(retry.refusal(), "409 response-unavailable");
    assert_eq!(store.stats().sealed, 1);
}

#[test]
fn without_a_secret_there_is_nothing_to_encrypt_with() {
    let layer = encrypting(&MemoryStore::new(), &[]);
    let error = layer.build().unwrap_err();
    assert_eq!(error.option(), "encryption");
    assert_eq!(
        error.to_string(),
        "`encryption` has nothing to make a key of: list `secrets`"
    );
}

#[test]
fn debug_shows_no_key() {
    let builder = encrypting(&MemoryStore::new(), &[OLD]);
    assert!(!format!("{builder:?}").contains(OLD));
    assert_eq!(
        format!("{:?}", Encryption::xchacha20_poly1305()),
        "Encryption { also_plain: false }"
    );
}
