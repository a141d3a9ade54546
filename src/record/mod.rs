//! What a store holds, and the digests and numbers it is held under.

pub(crate) mod digest;

use std::fmt;
use std::hash::{Hash, Hasher};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, StatusCode};

macro_rules! digest {
    ($(#[$meta:meta])* $name:ident) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub struct $name([u8; 32]);

        impl $name {
            /// From the 32 bytes that a store kept.
            #[must_use]
            pub const fn from_bytes(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }

            /// The 32 bytes, for a store to keep.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }
        }

        /// The first four bytes in hex: enough to find a line in a log.
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({}..)"), Hex(&self.0[..4]))
            }
        }
    };
}

digest! {
    /// The primary key of a record: a digest of namespace, scope, key, and
    /// the route where keys are per route.
    ///
    /// SHA-256, or HMAC-SHA-256 when the layer has a secret (G10).
    RecordId
}

impl RecordId {
    /// From 64 hexadecimal digits, as [`Display`](fmt::Display) writes them
    /// into logs. `None` if it is anything else.
    ///
    /// ```
    /// use tower_idempotency::store::RecordId;
    ///
    /// let id = RecordId::from_bytes([0xab; 32]);
    /// assert_eq!(RecordId::from_hex(&id.to_string()), Some(id));
    /// ```
    #[must_use]
    pub fn from_hex(hex: &str) -> Option<Self> {
        unhex(hex).map(Self)
    }
}

/// 32 bytes from 64 hexadecimal digits. `None` if it is anything else.
pub(crate) fn unhex(hex: &str) -> Option<[u8; 32]> {
    let digits: Option<Vec<u8>> = hex
        .chars()
        .map(|digit| {
            digit
                .to_digit(16)
                .and_then(|digit| u8::try_from(digit).ok())
        })
        .collect();
    let digits: [u8; 64] = digits?.try_into().ok()?;
    Some(std::array::from_fn(|at| {
        digits[2 * at] << 4 | digits[2 * at + 1]
    }))
}

/// All 64 hexadecimal digits.
impl fmt::Display for RecordId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Hex(&self.0).fmt(f)
    }
}

/// Feeds only the first eight bytes: an id is a digest, its own bits are as
/// good as any hash of them. A map on ids still wants a seed, since clients
/// choose keys.
impl Hash for RecordId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let (head, _) = self.0.split_at(8);
        state.write_u64(u64::from_le_bytes(head.try_into().expect("split at eight")));
    }
}

digest! {
    #[derive(Hash)]
    /// A digest of what was asked: method, target, chosen headers, body.
    Fingerprint
}

digest! {
    #[derive(Hash)]
    /// A digest of who asked: namespace and scope, of both its kind and its value.
    ScopeDigest
}

/// A random 128-bit number that one claim carries: whoever knows it owns
/// what the claim acquired.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Nonce([u8; 16]);

impl Nonce {
    /// A fresh one.
    #[must_use]
    pub fn random() -> Self {
        // One number: an array would be drawn byte by byte.
        Self(rand::random::<u128>().to_ne_bytes())
    }

    /// From the 16 bytes that a store kept.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The 16 bytes, for a store to keep.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Debug for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Nonce(..)")
    }
}

/// A number that grows with every claim of a record, whatever became of the
/// claims before: a downstream write that remembers the highest token it saw
/// can refuse an owner that was overtaken (G5).
///
/// Strictly increasing per record id over all claims ever, and below 2⁵³, so
/// that every JSON number and every Lua double carries it exactly. A store
/// makes it as `max(last + 1, its clock in µs)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FencingToken(u64);

impl FencingToken {
    /// The number of tokens there are: 2⁵³.
    pub const LIMIT: u64 = 1 << 53;

    /// `None` at or above [`LIMIT`](Self::LIMIT).
    #[must_use]
    pub const fn new(token: u64) -> Option<Self> {
        if token < Self::LIMIT {
            Some(Self(token))
        } else {
            None
        }
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for FencingToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The content type of what a store keeps in the place of an encrypted answer.
pub(crate) const ENCRYPTED: &str = "application/vnd.tower-idempotency.encrypted";

/// A recorded answer: what every retry is given.
///
/// ```
/// use http::{HeaderMap, StatusCode};
/// use std::time::{Duration, SystemTime};
/// use tower_idempotency::store::Completion;
///
/// let mut completion = Completion::new(StatusCode::CREATED, "paid", SystemTime::now());
/// completion.retention = Duration::from_secs(3600);
/// assert_eq!(completion.kept_until(), Some(completion.completed_at + completion.retention));
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Completion {
    /// The status as the handler answered it.
    pub status: StatusCode,
    /// The headers that `record_headers` lets through.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
    /// The trailers, if the answer had any.
    pub trailers: Option<HeaderMap>,
    /// When the execution began, by the wall clock of the process that ran it.
    pub began_at: SystemTime,
    /// When the answer was whole, by the same clock.
    pub completed_at: SystemTime,
    /// For how long, from `completed_at`, the record is kept. The store
    /// counts it on its own clock.
    pub retention: Duration,
}

impl Completion {
    /// An answer without headers that began and ended at `when`, to be kept
    /// for 24 hours.
    pub fn new(status: StatusCode, body: impl Into<Bytes>, when: SystemTime) -> Self {
        Self {
            status,
            headers: HeaderMap::new(),
            body: body.into(),
            trailers: None,
            began_at: when,
            completed_at: when,
            retention: Duration::from_secs(24 * 60 * 60),
        }
    }

    /// When the record ends; `None` if that is beyond what a clock can say.
    #[must_use]
    pub fn kept_until(&self) -> Option<SystemTime> {
        self.completed_at.checked_add(self.retention)
    }

    /// What the answer weighs, in bytes: body, header names and values.
    #[must_use]
    pub fn weight(&self) -> usize {
        let fields = |map: &HeaderMap| -> usize {
            map.iter()
                .map(|(name, value)| name.as_str().len() + value.len())
                .sum()
        };
        self.body.len() + fields(&self.headers) + self.trailers.as_ref().map_or(0, fields)
    }

    /// Whether this is what a store was given in the place of an answer.
    pub(crate) fn is_encrypted(&self) -> bool {
        let content_type = self.headers.get(CONTENT_TYPE);
        content_type.is_some_and(|content_type| content_type == ENCRYPTED)
    }
}

/// Lower-case hex of some bytes.
pub(crate) struct Hex<'a>(pub(crate) &'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_a_short_digest_and_no_nonce() {
        assert_eq!(
            format!("{:?}", RecordId::from_bytes([0xab; 32])),
            "RecordId(abababab..)"
        );
        assert_eq!(format!("{:?}", Nonce::random()), "Nonce(..)");
    }

    #[test]
    fn an_id_is_read_from_all_its_digits_or_not_at_all() {
        let id = RecordId::from_bytes(std::array::from_fn(|at| u8::try_from(at * 7).unwrap()));
        let hex = id.to_string();
        assert!(hex.starts_with("00070e15"), "{hex}");
        assert_eq!(RecordId::from_hex(&hex.to_uppercase()), Some(id));
        for wrong in ["", &hex[1..], &format!("{hex}0"), &hex.replace('7', "x")] {
            assert_eq!(RecordId::from_hex(wrong), None);
        }
    }

    #[test]
    fn nonces_differ() {
        assert_ne!(Nonce::random(), Nonce::random());
    }

    #[test]
    fn tokens_stay_below_the_limit_of_doubles() {
        assert_eq!(FencingToken::new(FencingToken::LIMIT), None);
        let last = FencingToken::new(FencingToken::LIMIT - 1).unwrap();
        assert_eq!(last.to_string(), "9007199254740991");
    }

    #[test]
    fn a_completion_weighs_its_body_and_fields() {
        let mut completion = Completion::new(StatusCode::OK, "four", SystemTime::UNIX_EPOCH);
        completion.headers.insert("ab", "cde".parse().unwrap());
        completion.trailers = Some(completion.headers.clone());
        assert_eq!(completion.weight(), 4 + 5 + 5);
        completion.retention = Duration::MAX;
        assert_eq!(completion.kept_until(), None);
    }
}
