//! Completions and the results of steps, encrypted before a store gets them (G10).

mod envelope;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::HeaderValue;
use http::header::CONTENT_TYPE;
use tracing::warn;

use self::envelope::{Binding, Key, is_sealed, open, unseal};
use crate::error::{ConfigError, cause};
use crate::record::{Completion, ENCRYPTED, FencingToken, Nonce, RecordId};
use crate::store::encoding::{micros_since_epoch, system_time, unreadable};
use crate::store::{
    Claim, Claimed, DynStore, ForgetMode, Forgotten, Lease, ListQuery, Outcome, Ownership, Record,
    RecordPage, RecordState, RecordedStep, Release, StoreError, StoreFuture, Subscription,
    Transactional,
};

/// Encrypts recorded responses (headers, body and trailers) and the results of
/// [steps](crate::steps) with XChaCha20-Poly1305 before any store gets
/// them.
///
/// The keys are derived from the layer's
/// [`secrets`](crate::IdempotencyLayerBuilder::secrets): the first secret
/// encrypts, and each secret in the list decrypts what was encrypted under it.
/// So keys rotate as secrets do.
///
/// An encrypted completion belongs to its record. A completion that was moved
/// from another record or attempt, that has other times or another status, or
/// of which any bit was changed or is missing, is not decrypted: its retries
/// are rejected with `store-unavailable`, a line in the log says why, and
/// nothing is executed. The same happens to a completion that is not encrypted,
/// since anybody who can write to the store could have put it there.
///
/// The result of a step belongs to its record and its name. A result that can't be
/// decrypted is not given to the handler, nor does the step run again: it is an
/// error of that step.
///
/// Encryption does not hide the status, the length and the times of a response,
/// nor that there is one, nor the names of steps. It does not prevent anybody who can write to the
/// store from removing records.
///
/// ```
/// use tower_idempotency::{IdempotencyLayer, MemoryStore, scope};
/// use tower_idempotency::store::Encryption;
///
/// let layer = IdempotencyLayer::builder(MemoryStore::new(), scope::header("x-api-key"))
///     .secrets(["32 random bytes from a safe place"])
///     .encryption(Encryption::xchacha20_poly1305())
///     .build()?;
///
/// let error = IdempotencyLayer::builder(MemoryStore::new(), scope::header("x-api-key"))
///     .encryption(Encryption::xchacha20_poly1305())
///     .build()
///     .unwrap_err();
/// assert_eq!(error.option(), "encryption");
/// # Ok::<(), tower_idempotency::ConfigError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Encryption {
    also_plain: bool,
}

impl Encryption {
    /// With XChaCha20-Poly1305, whose nonces are long enough to be random.
    #[must_use]
    pub fn xchacha20_poly1305() -> Self {
        Self { also_plain: false }
    }

    /// Also replays completions that are not encrypted. For one retention after
    /// encryption was turned on, while there are records from before. During
    /// that time anybody who can write to the store can put their own responses
    /// there.
    #[must_use]
    pub fn also_plain(mut self) -> Self {
        self.also_plain = true;
        self
    }

    /// Puts the encryption in front of `store`.
    pub(crate) fn before(
        &self,
        store: Arc<dyn DynStore>,
        secrets: &[Vec<u8>],
    ) -> Result<Arc<dyn DynStore>, ConfigError> {
        if secrets.is_empty() {
            return Err(ConfigError::new(
                "encryption",
                "has nothing to make a key of: list `secrets`",
            ));
        }
        Ok(Arc::new(Encrypted {
            store,
            keys: secrets.iter().map(|secret| Key::of(secret)).collect(),
            also_plain: self.also_plain,
        }))
    }
}

/// The bytes by which an encrypted completion is longer, at most: its content type, key id, nonce
/// and tag.
const ENVELOPE: usize = 128;

/// A store that passes on encrypted completions only.
struct Encrypted {
    store: Arc<dyn DynStore>,
    /// The current key first. There is at least one key.
    keys: Vec<Key>,
    also_plain: bool,
}

impl DynStore for Encrypted {
    fn claim<'a>(&'a self, claim: &'a Claim) -> StoreFuture<'a, Claimed> {
        StoreFuture::Later(Box::pin(async move {
            match self.store.claim(claim).await? {
                Claimed::Found(record) => Ok(Claimed::Found(self.opened(&claim.id, record)?)),
                Claimed::Acquired(mut lease) => {
                    for step in &mut lease.steps {
                        self.open_step(&claim.id, step);
                    }
                    Ok(Claimed::Acquired(lease))
                }
                claimed => Ok(claimed),
            }
        }))
    }

    fn renew<'a>(&'a self, lease: &'a Lease) -> StoreFuture<'a, Ownership> {
        self.store.renew(lease)
    }

    fn complete<'a>(
        &'a self,
        lease: &'a Lease,
        outcome: &'a Outcome,
    ) -> StoreFuture<'a, Ownership> {
        let Outcome::Completed(completion) = outcome else {
            return self.store.complete(lease, outcome);
        };
        StoreFuture::Later(Box::pin(async move {
            let outcome = self.encrypt(lease, completion);
            self.store.complete(lease, &outcome).await
        }))
    }

    fn release<'a>(
        &'a self,
        id: &'a RecordId,
        nonce: &'a Nonce,
        how: Release,
    ) -> StoreFuture<'a, Ownership> {
        self.store.release(id, nonce, how)
    }

    fn record_step<'a>(
        &'a self,
        lease: &'a Lease,
        step: &'a RecordedStep,
    ) -> StoreFuture<'a, Ownership> {
        StoreFuture::Later(Box::pin(async move {
            let sealed = self.sealed_step(lease, step);
            self.store.record_step(lease, &sealed).await
        }))
    }

    fn keeps_steps(&self) -> bool {
        self.store.keeps_steps()
    }

    fn look_up<'a>(&'a self, id: &'a RecordId) -> StoreFuture<'a, Option<Record>> {
        StoreFuture::Later(Box::pin(async move {
            let found = self.store.look_up(id).await?;
            found.map(|record| self.opened(id, record)).transpose()
        }))
    }

    fn forget<'a>(&'a self, id: &'a RecordId, mode: ForgetMode) -> StoreFuture<'a, Forgotten> {
        self.store.forget(id, mode)
    }

    /// Needs no key: nothing in a list is encrypted.
    fn list<'a>(&'a self, query: &'a ListQuery) -> StoreFuture<'a, RecordPage> {
        self.store.list(query)
    }

    fn subscribe<'a>(&'a self, id: &'a RecordId) -> StoreFuture<'a, Subscription> {
        self.store.subscribe(id)
    }

    fn largest_completion(&self) -> Option<usize> {
        let most = self.store.largest_completion()?;
        Some(most.saturating_sub(ENVELOPE))
    }

    fn size(&self) -> Option<(usize, usize)> {
        self.store.size()
    }

    fn transactional(&self) -> Option<Transactional<'_>> {
        self.store.transactional()
    }

    #[cfg(feature = "_sql")]
    fn kept(&self, lease: &Lease, outcome: Outcome) -> Outcome {
        match outcome {
            Outcome::Completed(answer) => self.encrypt(lease, &answer),
            sealed => sealed,
        }
    }

    #[cfg(feature = "_sql")]
    fn kept_step(&self, lease: &Lease, step: RecordedStep) -> RecordedStep {
        self.sealed_step(lease, &step)
    }
}

impl Encrypted {
    fn sealed_step(&self, lease: &Lease, step: &RecordedStep) -> RecordedStep {
        let binding = Binding::of_step(&lease.claim.id, &step.name);
        let envelope = self.keys[0].seal(&rand::random(), &binding, &step.result);
        RecordedStep::new(step.name.as_str(), envelope)
    }

    /// The outcome that the store is given in place of a completion.
    fn encrypt(&self, lease: &Lease, answer: &Completion) -> Outcome {
        let binding = Binding::new(
            &lease.claim.id,
            lease.token,
            &lease.claim.fingerprint,
            answer,
        );
        let current = &self.keys[0];
        match current.encrypt(&rand::random(), &binding, answer) {
            Some(envelope) => Outcome::Completed(Arc::new(kept(envelope, answer))),
            None => Outcome::Sealed {
                retention: answer.retention,
            },
        }
    }

    /// Decrypts the result of a step. One that can't be decrypted becomes empty, which no step takes
    /// for a result: the claim has acquired its record, and the handler has to learn of it.
    fn open_step(&self, id: &RecordId, step: &mut RecordedStep) {
        let opened = if is_sealed(&step.result) {
            let binding = Binding::of_step(id, &step.name);
            unseal(&self.keys, &step.result, &binding).map(Bytes::from)
        } else if self.also_plain {
            return;
        } else {
            Err(unreadable(
                "its step is not encrypted: if it was recorded before `encryption` was turned on, \
                 allow for that by `also_plain`",
            ))
        };
        step.result = opened.unwrap_or_else(|error| {
            warn!(record = %id, error = cause(&error), "the result of a step can't be read");
            Bytes::new()
        });
    }

    /// The record with its completion decrypted.
    fn opened(&self, id: &RecordId, mut record: Record) -> Result<Record, StoreError> {
        let RecordState::Completed {
            fingerprint,
            completion: kept,
        } = &mut record.state
        else {
            return Ok(record);
        };
        if !kept.is_encrypted() {
            return if self.also_plain {
                Ok(record)
            } else {
                Err(unreadable(
                    "its answer is not encrypted: if it was recorded before `encryption` was \
                     turned on, allow for that by `also_plain`",
                ))
            };
        }
        if kept.headers.len() > 1 || kept.trailers.is_some() {
            return Err(unreadable("there is more beside its encrypted answer"));
        }
        let binding = Binding::new(id, record.token, fingerprint, kept);
        let mut answer = open(&self.keys, &kept.body, &binding)?;
        answer.began_at = kept.began_at;
        answer.completed_at = kept.completed_at;
        answer.retention = kept.retention;
        if is_over(&answer, record.token) {
            return Err(unreadable(
                "its retention is over by the times that were encrypted with its answer, and the \
                 store still has it: its times were changed there, or a clock is wrong",
            ));
        }
        *kept = Arc::new(answer);
        Ok(record)
    }
}

/// Whether the retention is over. The store counts the retention too, but anybody who can write to
/// the store can change what it counts from. The store's clock and this one may differ by a
/// hundredth of the retention.
///
/// The retention begins when the operation ends, or, for an outcome that a person has given later,
/// with that person's claim: a token is at least the time of its claim, by the store's clock in
/// microseconds.
fn is_over(answer: &Completion, token: FencingToken) -> bool {
    let claimed_at = UNIX_EPOCH + Duration::from_micros(token.get());
    let kept_for = answer.retention.saturating_add(answer.retention / 100);
    let since = SystemTime::now().duration_since(answer.completed_at.max(claimed_at));
    since.is_ok_and(|since| since > kept_for)
}

/// A completion whose body is the envelope, with the status, times and
/// retention that the store needs.
fn kept(envelope: Vec<u8>, answer: &Completion) -> Completion {
    let mut kept = Completion::new(answer.status, envelope, whole_micros(answer.completed_at));
    let content_type = HeaderValue::from_static(ENCRYPTED);
    kept.headers.insert(CONTENT_TYPE, content_type);
    kept.began_at = whole_micros(answer.began_at);
    kept.retention = answer.retention;
    kept
}

/// In whole microseconds, as every store returns times: they are part of what
/// is authenticated.
fn whole_micros(time: SystemTime) -> SystemTime {
    system_time(micros_since_epoch(time)).unwrap_or(time)
}
