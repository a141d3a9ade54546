//! The bytes that are stored in place of a response, or of the result of a step. docs/stores.md
//! describes them for other languages.

use chacha20poly1305::aead::{AeadInOut, KeyInit};
use chacha20poly1305::{Tag, XChaCha20Poly1305, XNonce};

use crate::record::digest::derived;
use crate::record::{Completion, FencingToken, Fingerprint, RecordId};
use crate::store::StoreError;
use crate::store::encoding::{decode, encode, micros, micros_since_epoch, unreadable};

const VERSION: u8 = 1;
const KEY_ID_BYTES: usize = 8;
const NONCE_BYTES: usize = 24;
const HEAD_BYTES: usize = 1 + KEY_ID_BYTES + NONCE_BYTES;
const TAG_BYTES: usize = 16;

const KEY: &[u8] = b"tower-idempotency/1 encryption key";
const KEY_ID: &[u8] = b"tower-idempotency/1 encryption key id";
const ANSWER: &[u8] = b"tower-idempotency/1 encrypted answer";
const STEP: &[u8] = b"tower-idempotency/1 encrypted step";

/// The record that a completion or a step belongs to, as associated data of the
/// encryption. Every field but the last has a fixed length, so that fields can't
/// be shifted into each other.
pub(crate) struct Binding {
    data: Vec<u8>,
    /// The noun by which errors call what is encrypted.
    what: &'static str,
}

impl Binding {
    /// `kept` is the completion, or the one that is stored in its place: both
    /// have the same times and status.
    pub(crate) fn new(
        id: &RecordId,
        token: FencingToken,
        asked: &Fingerprint,
        kept: &Completion,
    ) -> Self {
        let fields: [&[u8]; 8] = [
            ANSWER,
            id.as_bytes(),
            &token.get().to_be_bytes(),
            asked.as_bytes(),
            &kept.status.as_u16().to_be_bytes(),
            &micros_since_epoch(kept.began_at).to_be_bytes(),
            &micros_since_epoch(kept.completed_at).to_be_bytes(),
            &micros(kept.retention).to_be_bytes(),
        ];
        Self {
            data: fields.concat(),
            what: "answer",
        }
    }

    /// Binds the result of a step to its name and its record. The token is left out: a step outlives
    /// the attempt that recorded it.
    pub(crate) fn of_step(id: &RecordId, name: &str) -> Self {
        Self {
            data: [STEP, id.as_bytes(), name.as_bytes()].concat(),
            what: "step",
        }
    }
}

/// The key of one secret.
pub(crate) struct Key {
    id: [u8; KEY_ID_BYTES],
    cipher: XChaCha20Poly1305,
}

impl Key {
    pub(crate) fn of(secret: &[u8]) -> Self {
        let key = derived(secret, KEY);
        let id = derived(&key, KEY_ID);
        Self {
            id: *id.first_chunk().expect("a digest is longer"),
            cipher: XChaCha20Poly1305::new(&key.into()),
        }
    }

    /// The envelope of a completion. `None` for a status that Binary HTTP can't
    /// encode.
    pub(crate) fn encrypt(
        &self,
        nonce: &[u8; NONCE_BYTES],
        binding: &Binding,
        answer: &Completion,
    ) -> Option<Vec<u8>> {
        Some(self.seal(nonce, binding, &encode(answer)?))
    }

    /// The envelope of any bytes.
    pub(crate) fn seal(
        &self,
        nonce: &[u8; NONCE_BYTES],
        binding: &Binding,
        message: &[u8],
    ) -> Vec<u8> {
        let mut envelope = Vec::with_capacity(HEAD_BYTES + message.len() + TAG_BYTES);
        envelope.push(VERSION);
        envelope.extend_from_slice(&self.id);
        envelope.extend_from_slice(nonce);
        envelope.extend_from_slice(message);
        let message = &mut envelope[HEAD_BYTES..];
        let nonce = XNonce::from(*nonce);
        let tag = self
            .cipher
            .encrypt_inout_detached(&nonce, &binding.data, message.into())
            .expect("a message in memory is shorter than 256 GiB");
        envelope.extend_from_slice(&tag);
        envelope
    }
}

/// The completion in an envelope, if it belongs to this record.
pub(crate) fn open(
    keys: &[Key],
    envelope: &[u8],
    binding: &Binding,
) -> Result<Completion, StoreError> {
    decode(&unseal(keys, envelope, binding)?)
}

/// Whether these bytes are an envelope. JSON begins with no such byte.
pub(crate) fn is_sealed(bytes: &[u8]) -> bool {
    bytes.first() == Some(&VERSION)
}

/// The bytes in an envelope, if they belong to this record.
pub(crate) fn unseal(
    keys: &[Key],
    envelope: &[u8],
    binding: &Binding,
) -> Result<Vec<u8>, StoreError> {
    let what = binding.what;
    let parts = match envelope.split_first() {
        Some((&VERSION, rest)) => Parts::of(rest),
        Some((other, _)) => {
            return Err(unreadable(format!(
                "its {what} is encrypted in version {other}, which is not known here"
            )));
        }
        None => None,
    };
    let parts = parts.ok_or_else(|| unreadable(format!("its encrypted {what} is cut short")))?;
    let key = keys.iter().find(|key| key.id == *parts.key_id);
    let key = key.ok_or_else(|| {
        unreadable(format!(
            "its {what} is encrypted under a secret that `secrets` does not list"
        ))
    })?;
    let mut message = parts.message.to_vec();
    key.cipher
        .decrypt_inout_detached(
            &XNonce::from(*parts.nonce),
            &binding.data,
            message.as_mut_slice().into(),
            &Tag::from(*parts.tag),
        )
        .map_err(|_| {
            unreadable(format!(
                "its encrypted {what} was changed, or is another record's"
            ))
        })?;
    Ok(message)
}

/// The fields after the version.
struct Parts<'a> {
    key_id: &'a [u8; KEY_ID_BYTES],
    nonce: &'a [u8; NONCE_BYTES],
    message: &'a [u8],
    tag: &'a [u8; TAG_BYTES],
}

impl<'a> Parts<'a> {
    fn of(rest: &'a [u8]) -> Option<Self> {
        let (key_id, rest) = rest.split_first_chunk()?;
        let (nonce, rest) = rest.split_first_chunk()?;
        let (message, tag) = rest.split_last_chunk()?;
        Some(Self {
            key_id,
            nonce,
            message,
            tag,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error;
    use std::time::{Duration, UNIX_EPOCH};

    use http::{HeaderMap, StatusCode};

    use super::*;
    use crate::record::Hex;
    use crate::store::{EncodedCompletion, StoreErrorKind};

    const SECRET: &[u8] = b"a secret of sixteen bytes or more";

    fn nonce() -> [u8; NONCE_BYTES] {
        std::array::from_fn(|at| 0x40 + u8::try_from(at).unwrap())
    }

    fn counting_from(start: u8) -> [u8; 32] {
        std::array::from_fn(|at| start + u8::try_from(at).unwrap())
    }

    fn paid() -> Completion {
        let mut paid = Completion::new(StatusCode::CREATED, "paid", UNIX_EPOCH);
        paid.headers
            .insert("content-type", "text/plain".parse().unwrap());
        paid.began_at += Duration::from_micros(1_700_000_000_123_456);
        paid.completed_at += Duration::from_micros(1_700_000_000_234_567);
        paid
    }

    fn bound(kept: &Completion) -> Binding {
        Binding::new(
            &RecordId::from_bytes(counting_from(0)),
            FencingToken::new(1_700_000_000_000_000).unwrap(),
            &Fingerprint::from_bytes(counting_from(32)),
            kept,
        )
    }

    fn envelope_of(answer: &Completion) -> Vec<u8> {
        let key = Key::of(SECRET);
        key.encrypt(&nonce(), &bound(answer), answer).unwrap()
    }

    /// Why it is not opened.
    #[track_caller]
    fn refused(keys: &[Key], envelope: &[u8], binding: &Binding) -> String {
        let error = open(keys, envelope, binding).expect_err("it is opened");
        assert_eq!(error.kind(), StoreErrorKind::Unreadable);
        error.source().unwrap().to_string()
    }

    /// Answers at rest are opened again by these bytes, and in other languages:
    /// they must never change. They are those of docs/stores.md, where another
    /// implementation of the cipher made them.
    #[test]
    fn an_envelope_is_the_published_one() {
        let published = "011a4887264b53ace6404142434445464748494a4b4c4d4e4f505152535455565774c5f482\
                         f2a2684e1eb352dd718c70bec8ac3ff80af5399ce4d0a9abc8cdab3545aaf49bba131b71f\
                         66459e2cb47eb5ff6c1";
        let envelope = envelope_of(&paid());
        assert_eq!(Hex(&envelope).to_string(), published);
        assert!(include_str!("../../../docs/stores.md").contains(published));
    }

    #[test]
    fn an_answer_is_opened_as_it_was() {
        let mut answer = paid();
        answer.body = (0..=255).collect::<Vec<u8>>().into();
        answer.headers.append("x-id", "1".parse().unwrap());
        answer.headers.append("x-id", "2".parse().unwrap());
        let mut trailers = HeaderMap::new();
        trailers.append("x-sum", "abc".parse().unwrap());
        answer.trailers = Some(trailers);
        let envelope = envelope_of(&answer);
        let opened = open(&[Key::of(SECRET)], &envelope, &bound(&answer)).unwrap();
        assert_eq!(opened.status, answer.status);
        assert_eq!(opened.headers, answer.headers);
        assert_eq!(opened.body, answer.body);
        assert_eq!(opened.trailers, answer.trailers);
    }

    #[test]
    fn nothing_but_the_whole_is_opened() {
        let (keys, answer) = ([Key::of(SECRET)], paid());
        let (whole, binding) = (envelope_of(&answer), bound(&answer));
        for length in 0..whole.len() {
            let why = refused(&keys, &whole[..length], &binding);
            if length < HEAD_BYTES + TAG_BYTES {
                assert_eq!(why, "its encrypted answer is cut short");
            }
        }
        for more in [&[0][..], &[0; 16], &whole] {
            refused(&keys, &[&whole, more].concat(), &binding);
        }
        for at in 0..whole.len() {
            for bit in 0..8 {
                let mut changed = whole.clone();
                changed[at] ^= 1 << bit;
                refused(&keys, &changed, &binding);
            }
        }
        let mut newer = whole;
        newer[0] = 2;
        assert_eq!(
            refused(&keys, &newer, &binding),
            "its answer is encrypted in version 2, which is not known here"
        );
    }

    #[test]
    fn an_answer_is_opened_for_its_own_record_alone() {
        let (keys, answer) = ([Key::of(SECRET)], paid());
        let envelope = envelope_of(&answer);
        let (id, asked) = (counting_from(0), counting_from(32));
        let token = 1_700_000_000_000_000;
        let for_record = |id, token, asked, kept: &Completion| {
            let id = RecordId::from_bytes(id);
            let token = FencingToken::new(token).unwrap();
            let binding = Binding::new(&id, token, &Fingerprint::from_bytes(asked), kept);
            open(&keys, &envelope, &binding)
        };
        assert!(for_record(id, token, asked, &answer).is_ok());
        let elsewhere = |id, token, asked, kept: &Completion| {
            let error = for_record(id, token, asked, kept).unwrap_err();
            assert_eq!(
                error.source().unwrap().to_string(),
                "its encrypted answer was changed, or is another record's"
            );
        };
        for bit in 0..256 {
            let flipped = |mut digest: [u8; 32]| {
                digest[bit / 8] ^= 1 << (bit % 8);
                digest
            };
            elsewhere(flipped(id), token, asked, &answer);
            elsewhere(id, token, flipped(asked), &answer);
        }
        elsewhere(asked, token, id, &answer);
        for bit in 0..53 {
            elsewhere(id, token ^ (1 << bit), asked, &answer);
        }
        let micro = Duration::from_micros(1);
        let changes: [&dyn Fn(&mut Completion); 8] = [
            &|kept| kept.status = StatusCode::OK,
            &|kept| kept.began_at += micro,
            &|kept| kept.began_at -= micro,
            &|kept| kept.completed_at += micro,
            &|kept| kept.completed_at -= micro,
            &|kept| std::mem::swap(&mut kept.began_at, &mut kept.completed_at),
            &|kept| kept.retention += micro,
            &|kept| kept.retention -= micro,
        ];
        for change in changes {
            let mut kept = answer.clone();
            change(&mut kept);
            elsewhere(id, token, asked, &kept);
        }
    }

    #[test]
    fn a_secret_opens_what_it_encrypted_wherever_it_is_listed() {
        let answer = paid();
        let (envelope, binding) = (envelope_of(&answer), bound(&answer));
        let other = || Key::of(b"another secret, as long as that");
        for keys in [
            vec![Key::of(SECRET), other()],
            vec![other(), Key::of(SECRET)],
        ] {
            assert_eq!(open(&keys, &envelope, &binding).unwrap().body, "paid");
        }
        assert_eq!(
            refused(&[other()], &envelope, &binding),
            "its answer is encrypted under a secret that `secrets` does not list"
        );
        // Nor does it help to say that it was that one.
        let mut claimed = envelope;
        claimed[1..=KEY_ID_BYTES].copy_from_slice(&other().id);
        refused(&[other(), Key::of(SECRET)], &claimed, &binding);
    }

    #[test]
    fn a_store_that_keeps_microseconds_loses_nothing_of_what_binds_an_answer() {
        let mut answer = paid();
        answer.began_at += Duration::from_nanos(999);
        answer.completed_at = UNIX_EPOCH - Duration::from_nanos(1);
        for retention in [Duration::from_nanos(1), Duration::MAX] {
            answer.retention = retention;
            let kept = EncodedCompletion::of(&answer)
                .unwrap()
                .completion()
                .unwrap();
            assert_eq!(bound(&kept).data, bound(&answer).data);
        }
    }

    #[test]
    fn a_step_is_opened_under_its_own_name_for_its_own_record_alone() {
        let (keys, id) = ([Key::of(SECRET)], RecordId::from_bytes(counting_from(0)));
        let binding = Binding::of_step(&id, "charge-card");
        let envelope = keys[0].seal(&nonce(), &binding, b"\"ch_1\"");
        assert!(is_sealed(&envelope));
        assert_eq!(unseal(&keys, &envelope, &binding).unwrap(), b"\"ch_1\"");
        let other = RecordId::from_bytes(counting_from(1));
        for (id, name) in [
            (&other, "charge-card"),
            (&id, "charge-car"),
            (&id, "charge-card2"),
            (&id, ""),
        ] {
            let error = unseal(&keys, &envelope, &Binding::of_step(id, name)).unwrap_err();
            let why = error.source().unwrap().to_string();
            assert_eq!(
                why,
                "its encrypted step was changed, or is another record's"
            );
        }
        assert!(unseal(&keys, &envelope, &bound(&paid())).is_err());
        let answer = envelope_of(&paid());
        assert!(unseal(&keys, &answer, &binding).is_err());
        for json in [
            "", "0", "{}", "[]", "null", "\"\"", " 1", "\t1", "\n1", "\r1",
        ] {
            assert!(!is_sealed(json.as_bytes()));
        }
    }

    #[test]
    fn a_status_that_is_no_final_answer_has_no_envelope() {
        let mut answer = paid();
        answer.status = StatusCode::from_u16(999).unwrap();
        let key = Key::of(SECRET);
        assert!(key.encrypt(&nonce(), &bound(&answer), &answer).is_none());
    }
}
