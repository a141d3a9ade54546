//! The content of a record: its completion, and the digests and numbers that identify it.
//!
//! Public items, in `store`: [`RecordId`], [`Fingerprint`], [`ScopeDigest`], [`Nonce`],
//! [`FencingToken`], [`Completion`], [`Origin`], [`TraceContext`], [`ParseError`]. May use:
//! `runtime`.

pub(crate) mod digest;
#[cfg(any(feature = "axum", feature = "memory"))]
pub(crate) mod names;
mod origin;
pub(crate) mod response;
mod sha256;

pub use self::origin::{Origin, ParseError, TraceContext};

use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;
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
            /// Makes the digest from the 32 bytes that a store kept.
            #[must_use]
            pub const fn from_bytes(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }

            /// Returns the 32 bytes that a store keeps.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }
        }

        /// Writes the first four bytes in hex, which are enough to find a record in a log.
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({}..)"), Hex(&self.0[..4]))
            }
        }
    };
}

digest! {
    /// The primary key of a record: a digest of the namespace, the scope and the client's key.
    ///
    /// With [`KeysPer::Route`](crate::options::KeysPer::Route) the method and the path enter the
    /// digest too. The digest is SHA-256, or HMAC-SHA-256 if the layer has a secret (G10).
    RecordId
}

impl RecordId {
    /// Reads an id from its 64 hexadecimal digits, which [`Display`](fmt::Display) writes into
    /// logs. `None` if the text is anything else.
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

/// As [`RecordId::from_hex`].
impl FromStr for RecordId {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let wrong = ParseError("the id of a record, 64 hexadecimal digits");
        Self::from_hex(text).ok_or(wrong)
    }
}

/// Reads `N` bytes from twice as many hexadecimal digits. `None` if the text is anything else.
pub(crate) fn unhex<const N: usize>(hex: &str) -> Option<[u8; N]> {
    unhex_bytes(hex)?.try_into().ok()
}

/// Reads bytes from hexadecimal digits, two for each. `None` if the text is anything else.
pub(crate) fn unhex_bytes(hex: &str) -> Option<Vec<u8>> {
    let (pairs, []) = hex.as_bytes().as_chunks::<2>() else {
        return None;
    };
    let digit = |byte: u8| {
        char::from(byte)
            .to_digit(16)
            .and_then(|digit| u8::try_from(digit).ok())
    };
    let byte = |pair: &[u8; 2]| Some(digit(pair[0])? << 4 | digit(pair[1])?);
    pairs.iter().map(byte).collect()
}

/// Writes all 64 hexadecimal digits.
impl fmt::Display for RecordId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Hex(&self.0).fmt(f)
    }
}

/// Hashes only the first eight bytes: an id is a digest, so these bytes are as random as a hash of
/// all bytes. A map of ids still needs a hasher with a seed, because clients choose their keys.
impl Hash for RecordId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        hash_head(&self.0, state);
    }
}

/// As for [`RecordId`].
impl Hash for ScopeDigest {
    fn hash<H: Hasher>(&self, state: &mut H) {
        hash_head(&self.0, state);
    }
}

fn hash_head<H: Hasher>(digest: &[u8; 32], state: &mut H) {
    let (head, _) = digest.split_at(8);
    state.write_u64(u64::from_le_bytes(head.try_into().expect("split at eight")));
}

digest! {
    #[derive(Hash)]
    /// A digest of the content of a request: its method, its target, chosen headers and its body.
    Fingerprint
}

digest! {
    /// A digest of the caller: the namespace, and the kind and the value of the scope (G6).
    ScopeDigest
}

/// A random 128-bit number that identifies one claim. The owner of a lease proves by the nonce of
/// its claim that it is the owner (G5).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Nonce([u8; 16]);

impl Nonce {
    /// Makes a new random nonce.
    #[must_use]
    pub fn random() -> Self {
        // One number of 128 bits is drawn at once, but an array would be drawn byte by byte.
        Self(rand::random::<u128>().to_ne_bytes())
    }

    /// Makes the nonce from the 16 bytes that a store kept.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Returns the 16 bytes that a store keeps.
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

/// A number that is larger for each later owner of a record (G5).
///
/// A system that the handler writes to can keep the highest token that it has seen, and reject a
/// write with a lower token: that write comes from an owner that was overtaken.
///
/// The token increases strictly with each acquisition of a record id, also after the record was
/// forgotten. A store makes it as `max(last + 1, its clock in µs)`. The token is below 2⁵³, so
/// that a JSON number and a Lua double can represent it exactly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FencingToken(u64);

impl FencingToken {
    /// The limit of tokens, 2⁵³: every token is below it.
    pub const LIMIT: u64 = 1 << 53;

    /// Makes a token; `None` if the number is not below [`LIMIT`](Self::LIMIT).
    #[must_use]
    pub const fn new(token: u64) -> Option<Self> {
        if token < Self::LIMIT {
            Some(Self(token))
        } else {
            None
        }
    }

    /// Returns the number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// When a store that makes its tokens by the rule above gave this one, by its clock. The
    /// answer is too late where that clock was set back, or where there were more claims than
    /// microseconds. `None` if a `SystemTime` can't represent that time.
    #[cfg(any(feature = "memory", feature = "redis", feature = "_sql"))]
    pub(crate) fn claimed_at(self) -> Option<SystemTime> {
        SystemTime::UNIX_EPOCH.checked_add(Duration::from_micros(self.0))
    }
}

impl fmt::Display for FencingToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The content type of the completion that a store keeps in place of an encrypted one.
pub(crate) const ENCRYPTED: &str = "application/vnd.tower-idempotency.encrypted";

/// A recorded response, which every retry gets.
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
    /// The status of the handler's response.
    pub status: StatusCode,
    /// The headers that the option `record_headers` selects.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
    /// The trailers, if the response had any.
    pub trailers: Option<HeaderMap>,
    /// When the execution began, by the wall clock of the process that ran it.
    pub began_at: SystemTime,
    /// When the response was complete, by the same clock.
    pub completed_at: SystemTime,
    /// How long the record is kept. The store measures this time by its own clock, from the moment
    /// in which it stores the completion.
    pub retention: Duration,
}

impl Completion {
    /// Makes a completion without headers, whose execution began and ended at `when`, and which is
    /// kept for 24 hours.
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

    /// Returns when the retention ends: `retention` after `completed_at`. `None` if a `SystemTime`
    /// can't represent that time.
    #[must_use]
    pub fn kept_until(&self) -> Option<SystemTime> {
        self.completed_at.checked_add(self.retention)
    }

    /// Returns the size of the completion in bytes: of its body, and of the names and values of
    /// its headers and trailers.
    #[must_use]
    pub fn weight(&self) -> usize {
        let fields = |map: &HeaderMap| -> usize {
            map.iter()
                .map(|(name, value)| name.as_str().len() + value.len())
                .sum()
        };
        self.body.len() + fields(&self.headers) + self.trailers.as_ref().map_or(0, fields)
    }

    /// The size that a store keeps of this completion, at most: with the framing of each field and
    /// of the record.
    pub(crate) fn stored_size(&self) -> usize {
        let trailers = self.trailers.as_ref().map_or(0, HeaderMap::len);
        self.weight() + 16 * (self.headers.len() + trailers) + 1024
    }

    /// Whether this completion stands for an encrypted one.
    pub(crate) fn is_encrypted(&self) -> bool {
        let content_type = self.headers.get(CONTENT_TYPE);
        content_type.is_some_and(|content_type| content_type == ENCRYPTED)
    }
}

/// Writes bytes as lower-case hexadecimal digits.
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
        for wrong in ["", &hex[1..], &format!("{hex}0"), &hex.replace('7', "g")] {
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
        assert_eq!(completion.weight(), 4 + 5);
        completion.trailers = Some(completion.headers.clone());
        assert_eq!(completion.weight(), 4 + 5 + 5);
        completion.retention = Duration::MAX;
        assert_eq!(completion.kept_until(), None);
    }

    #[test]
    fn a_stored_completion_is_taken_to_need_a_kilobyte_and_16_bytes_a_field_beside_its_weight() {
        let mut completion = Completion::new(StatusCode::OK, "four", SystemTime::UNIX_EPOCH);
        assert_eq!(completion.stored_size(), 4 + 1024);
        completion.headers.insert("ab", "cde".parse().unwrap());
        assert_eq!(completion.stored_size(), 4 + (5 + 16) + 1024);
        let mut trailers = completion.headers.clone();
        trailers.append("ab", "fgh".parse().unwrap());
        completion.trailers = Some(trailers);
        assert_eq!(completion.stored_size(), 4 + 3 * (5 + 16) + 1024);
    }
}
