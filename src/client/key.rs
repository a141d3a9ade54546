//! The key of one operation: how the client makes and sends it.

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use http::HeaderValue;

use crate::display::uuid;
use crate::options::key::KeySyntax;
use crate::record::digest::Hasher;

/// The longest key that a server accepts by default, in characters.
const LONGEST: usize = 255;

/// The key of one operation. It is made before the first attempt and is the same
/// on every attempt. A clone is the same key.
///
/// | made by | the same after a restart | for |
/// | --- | --- | --- |
/// | [`new`](Self::new), [`v4`](Self::v4) | if you stored it | operations without an id of their own |
/// | [`given`](Self::given) | if you stored it | keys that somebody else chose |
/// | [`for_operation`](Self::for_operation) | yes, with nothing stored | operations that you have an id for |
///
/// A key is not secret: [`Debug`] and [`Display`](fmt::Display) show it.
///
/// ```
/// use tower_idempotency::client::IdempotencyKey;
///
/// # fn main() -> Result<(), tower_idempotency::client::InvalidKey> {
/// let key = IdempotencyKey::for_operation("order", 4711).with_prefix("ord_")?;
/// assert_eq!(key.as_str(), "ord_144a3676def4a265e86bdda61913dfb8");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IdempotencyKey(Arc<str>);

impl IdempotencyKey {
    /// A version 7 UUID: random, and ordered by the time at which it was made.
    #[expect(clippy::new_without_default, reason = "no two new keys are the same")]
    #[must_use]
    pub fn new() -> Self {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH);
        let millis = since_1970.map_or(0, |time| time.as_millis());
        Self(uuid(millis << 80 | rand::random::<u128>() >> 48, 7).into())
    }

    /// A version 4 UUID: random.
    #[must_use]
    pub fn v4() -> Self {
        Self(uuid(rand::random(), 4).into())
    }

    /// A key that was chosen elsewhere: 1 to 255 printable ASCII characters,
    /// without a space at either end.
    ///
    /// # Errors
    ///
    /// If `key` is anything else. The error says what to change.
    pub fn given(key: impl Into<String>) -> Result<Self, InvalidKey> {
        let key = key.into();
        let wrong = if key.is_empty() {
            "is empty"
        } else if key.len() > LONGEST {
            "is longer than 255 characters"
        } else if !key.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
            "has characters that are not printable ASCII"
        } else if key.starts_with(' ') || key.ends_with(' ') {
            "begins or ends with a space, which does not count in a header"
        } else {
            return Ok(Self(key.into()));
        };
        Err(InvalidKey(wrong))
    }

    /// The key that a request carries, whatever its length.
    pub(super) fn as_sent(key: &str) -> Self {
        Self(key.into())
    }

    /// The key of the operation with this `id`, among the operations of this
    /// `kind`. The same `kind` and `id` make the same key in every process and in
    /// every version of this crate, so nothing has to be stored: a program that
    /// crashed and starts again sends its orders again, and the server replays
    /// the orders that it had executed.
    ///
    /// **The key is safe for as long as the server keeps its responses**: 24 hours
    /// by default, from the end of the operation. After that the same key is a new
    /// operation, and the server executes it again. A server that keeps its
    /// records in memory forgets them when it restarts.
    ///
    /// Another operation on the same thing is another kind: `"create order"` and
    /// `"cancel order"`. A corrected request needs another `id`, such as `4711/2`.
    ///
    /// The key is 128 bits in lower-case hexadecimal. They are the first half of a
    /// SHA-256 over the text `tower-idempotency/1 operation`, padded with zero
    /// bytes to 64, then `kind` and `id`, each after its length in bytes as one
    /// byte (a length from 255 on is 255 and eight bytes, little-endian).
    ///
    /// ```
    /// # use tower_idempotency::client::IdempotencyKey;
    /// let key = IdempotencyKey::for_operation("order", 4711);
    /// assert_eq!(key, IdempotencyKey::for_operation("order", "4711"));
    /// assert_ne!(key, IdempotencyKey::for_operation("refund", 4711));
    /// ```
    #[must_use]
    pub fn for_operation(kind: &str, id: impl ToString) -> Self {
        let mut hasher = Hasher::of_operation();
        hasher.part(kind.as_bytes()).part(id.to_string().as_bytes());
        let digest = hasher.finish();
        let half = digest.first_chunk().expect("a digest has 32 bytes");
        Self(format!("{:032x}", u128::from_be_bytes(*half)).into())
    }

    /// This key after a readable prefix, such as `ord_`. Another prefix makes
    /// another key.
    ///
    /// # Errors
    ///
    /// If prefix and key together are not a key that [`given`](Self::given)
    /// accepts.
    pub fn with_prefix(&self, prefix: &str) -> Result<Self, InvalidKey> {
        Self::given(format!("{prefix}{}", self.0))
    }

    /// The characters of the key.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The key as the value of a header: for [`KeySyntax::Raw`] its characters,
    /// else an RFC 8941 string, like in the IETF draft: `"k"`.
    ///
    /// ```
    /// use http::Request;
    /// use tower_idempotency::options::KeySyntax;
    /// use tower_idempotency::client::IdempotencyKey;
    ///
    /// let key = IdempotencyKey::new();
    /// let request = Request::post("https://api.example.com/orders")
    ///     .header("x-request-key", key.header_value(KeySyntax::Raw))
    ///     .body("{}");
    /// ```
    #[must_use]
    pub fn header_value(&self, syntax: KeySyntax) -> HeaderValue {
        let value = match syntax {
            KeySyntax::Raw => HeaderValue::try_from(&*self.0),
            KeySyntax::Lenient | KeySyntax::Strict => {
                let escaped = self.0.replace('\\', r"\\").replace('"', "\\\"");
                HeaderValue::try_from(format!("\"{escaped}\""))
            }
        };
        value.expect("a key is printable ASCII")
    }
}

impl fmt::Display for IdempotencyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for IdempotencyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("IdempotencyKey").field(&&*self.0).finish()
    }
}

/// Why a text is not a valid key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidKey(&'static str);

impl fmt::Display for InvalidKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the idempotency key {}", self.0)
    }
}

impl Error for InvalidKey {}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderName};
    use proptest::prelude::*;

    use super::*;
    use crate::options::key::{KeyFormat, KeyRules};

    proptest! {
        #[test]
        fn servers_read_the_key_that_was_meant(
            key in "[!-~]([ -~]{0,253}[!-~])?",
            wire in prop_oneof![
                Just((KeySyntax::Strict, KeySyntax::Strict)),
                Just((KeySyntax::Lenient, KeySyntax::Strict)),
                Just((KeySyntax::Strict, KeySyntax::Lenient)),
                Just((KeySyntax::Raw, KeySyntax::Raw)),
            ],
        ) {
            let (sent, read) = wire;
            let name = HeaderName::from_static("idempotency-key");
            let own = IdempotencyKey::given(&*key).unwrap();
            let headers = HeaderMap::from_iter([(name.clone(), own.header_value(sent))]);
            let rules = KeyRules {
                headers: vec![name],
                syntax: read,
                length: 1..=LONGEST,
                format: KeyFormat::any(),
                ..KeyRules::default()
            };
            let (read, _) = rules.read(&headers).unwrap().unwrap();
            prop_assert_eq!(read.as_str(), key);
        }
    }
}
