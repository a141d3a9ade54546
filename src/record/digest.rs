//! Digests: SHA-256, or HMAC-SHA-256 with a secret, of a label and then of parts that each follow
//! their length.
//!
//! The digest of a scope, a record id and a fingerprint are all made here. The lengths keep the
//! parts `("a", "b:c")` and `("a:b", "c")` from having the same digest (G6, G10).

use hmac::{Hmac, KeyInit, Mac};
use sha2::Digest;

use super::sha256::Sha256;

/// One block of SHA-256, in bytes.
const BLOCK: usize = 64;

/// The kind of a digest. The label enters the digest, so that the same parts have different
/// digests under two labels.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Label {
    Scope,
    RecordId,
    Fingerprint,
    DerivedKey,
}

impl Label {
    fn text(self) -> &'static [u8] {
        match self {
            Label::Scope => b"tower-idempotency/1 scope",
            Label::RecordId => b"tower-idempotency/1 record id",
            Label::Fingerprint => b"tower-idempotency/1 fingerprint",
            Label::DerivedKey => b"tower-idempotency/1 derived key",
        }
    }

    /// Returns the label as one block of SHA-256. The state after a whole block is computed once
    /// for a layer, and not for each request.
    fn block(self) -> [u8; BLOCK] {
        block(self.text())
    }
}

/// Pads a label with zeros to one block.
fn block(label: &[u8]) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    block[..label.len()].copy_from_slice(label);
    block
}

/// The states with which the digests under one secret, or under none, begin.
#[derive(Clone)]
pub(crate) struct Digests {
    scope: State,
    record_id: State,
    fingerprint: State,
    derived_key: State,
}

impl Digests {
    pub(crate) fn plain() -> Self {
        Self::with(|label| {
            let mut hasher = Sha256::new();
            hasher.update(&label.block());
            State::Plain(hasher)
        })
    }

    /// Makes the states of a secret. Each label has a key of its own, which is derived from the
    /// secret.
    pub(crate) fn keyed(secret: &[u8]) -> Self {
        Self::with(|label| {
            let mut hasher = hmac(&derived(secret, label.text()));
            hasher.update(&label.block());
            State::Keyed(Box::new(hasher))
        })
    }

    fn with(start: impl Fn(Label) -> State) -> Self {
        Digests {
            scope: start(Label::Scope),
            record_id: start(Label::RecordId),
            fingerprint: start(Label::Fingerprint),
            derived_key: start(Label::DerivedKey),
        }
    }

    pub(crate) fn start(&self, label: Label) -> Hasher {
        let state = match label {
            Label::Scope => &self.scope,
            Label::RecordId => &self.record_id,
            Label::Fingerprint => &self.fingerprint,
            Label::DerivedKey => &self.derived_key,
        };
        Hasher {
            state: state.clone(),
        }
    }
}

impl std::fmt::Debug for Digests {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Digests(..)")
    }
}

/// Derives the key for one purpose from a secret. The derived key reveals neither the secret nor
/// the key for another purpose.
pub(crate) fn derived(secret: &[u8], label: &[u8]) -> [u8; 32] {
    hmac(secret)
        .chain_update(label)
        .finalize()
        .into_bytes()
        .into()
}

fn hmac(key: &[u8]) -> HmacSha256 {
    HmacSha256::new_from_slice(key).expect("HMAC takes a key of any length")
}

/// A digest to which parts are added.
#[derive(Clone)]
pub(crate) struct Hasher {
    state: State,
}

#[derive(Clone)]
enum State {
    Plain(Sha256),
    Keyed(Box<HmacSha256>),
}

type HmacSha256 = Hmac<sha2::Sha256>;

impl Hasher {
    /// Begins the digest that makes the key of a client's operation. A client has no secret.
    #[cfg(feature = "client")]
    pub(crate) fn of_operation() -> Self {
        let mut hasher = Sha256::new();
        hasher.update(&block(b"tower-idempotency/1 operation"));
        Self {
            state: State::Plain(hasher),
        }
    }

    /// Adds the length of a part, and then the part.
    #[inline]
    pub(crate) fn part(&mut self, bytes: &[u8]) -> &mut Self {
        if let State::Plain(state) = &mut self.state
            && state.add_short(bytes)
        {
            return self;
        }
        self.number(bytes.len()).raw(bytes)
    }

    /// Adds a digest without its length, because every digest has 32 bytes.
    pub(crate) fn digest(&mut self, digest: &[u8; 32]) -> &mut Self {
        self.raw(digest)
    }

    /// Adds a length, or the number of parts that follow: as one byte below 255, otherwise as the
    /// byte 255 and eight bytes. One byte keeps the input short, and no encoded number is the
    /// beginning of another.
    #[inline]
    pub(crate) fn number(&mut self, number: usize) -> &mut Self {
        match u8::try_from(number) {
            Ok(short) if short < u8::MAX => self.byte(short),
            _ => self.raw(&[u8::MAX]).raw(&(number as u64).to_le_bytes()),
        }
    }

    #[inline]
    fn byte(&mut self, byte: u8) -> &mut Self {
        match &mut self.state {
            State::Plain(state) => state.byte(byte),
            State::Keyed(state) => Mac::update(&mut **state, &[byte]),
        }
        self
    }

    /// Adds bytes whose length was added before, or is known to every reader.
    pub(crate) fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        match &mut self.state {
            State::Plain(state) => state.update(bytes),
            State::Keyed(state) => Mac::update(&mut **state, bytes),
        }
        self
    }

    pub(crate) fn finish(self) -> [u8; 32] {
        match self.state {
            State::Plain(state) => state.finish(),
            State::Keyed(state) => state.finalize().into_bytes().into(),
        }
    }
}

/// Returns the plain SHA-256 of one value, which the program `sha256sum` computes too.
pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    sha2::Sha256::digest(bytes).into()
}

#[cfg(test)]
mod tests {
    use sha2::Sha256;

    use super::*;

    fn of(digests: &Digests, label: Label, parts: &[&[u8]]) -> [u8; 32] {
        let mut hasher = digests.start(label);
        for part in parts {
            hasher.part(part);
        }
        hasher.finish()
    }

    #[test]
    fn parts_cannot_be_shifted_into_each_other() {
        let digests = Digests::plain();
        assert_ne!(
            of(&digests, Label::Scope, &[b"a", b"b:c"]),
            of(&digests, Label::Scope, &[b"a:b", b"c"])
        );
        assert_ne!(
            of(&digests, Label::Scope, &[b"ab", b""]),
            of(&digests, Label::Scope, &[b"", b"ab"])
        );
    }

    #[test]
    fn labels_and_secrets_separate_equal_parts() {
        let all = [
            of(&Digests::plain(), Label::Scope, &[b"a"]),
            of(&Digests::plain(), Label::RecordId, &[b"a"]),
            of(&Digests::plain(), Label::Fingerprint, &[b"a"]),
            of(&Digests::plain(), Label::DerivedKey, &[b"a"]),
            of(&Digests::keyed(b"one"), Label::Scope, &[b"a"]),
            of(&Digests::keyed(b"one"), Label::RecordId, &[b"a"]),
            of(&Digests::keyed(b"two"), Label::Scope, &[b"a"]),
        ];
        for (i, one) in all.iter().enumerate() {
            assert!(all[i + 1..].iter().all(|other| other != one));
        }
    }

    /// The layer finds stored records by these bytes, so a change of them loses every record.
    #[test]
    fn digests_are_the_published_ones() {
        let mut expected = Sha256::new();
        expected.update(b"tower-idempotency/1 scope");
        expected.update([0; BLOCK - 25]);
        expected.update(b"\x03abc");
        expected.update(b"\xff\xff\0\0\0\0\0\0\0");
        expected.update([b'x'; 255]);
        expected.update(b"\xfe");
        expected.update([b'y'; 254]);
        let expected: [u8; 32] = expected.finalize().into();
        let parts: [&[u8]; 3] = [b"abc", &[b'x'; 255], &[b'y'; 254]];
        assert_eq!(of(&Digests::plain(), Label::Scope, &parts), expected);
    }

    #[cfg(feature = "client")]
    #[test]
    fn the_digest_of_an_operation_is_the_published_one() {
        let mut hasher = Hasher::of_operation();
        hasher.part(b"abc");
        let mut expected = Sha256::new();
        expected.update(b"tower-idempotency/1 operation");
        expected.update([0; BLOCK - 29]);
        expected.update(b"\x03abc");
        let expected: [u8; 32] = expected.finalize().into();
        assert_eq!(hasher.finish(), expected);
    }
}
