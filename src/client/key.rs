//! The key of one operation, as its client makes and sends it.

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use http::HeaderValue;

use crate::display::uuid;
use crate::options::key::KeySyntax;
use crate::record::digest::Hasher;

/// The longest key, in characters, that a server takes by default.
const LONGEST: usize = 255;

/// The key of one operation: made before the first attempt, the same on every
/// attempt. A clone is the same key.
///
/// | made by | the same after a restart | for |
/// | --- | --- | --- |
/// | [`new`](Self::new), [`v4`](Self::v4) | if you stored it | operations without an id of their own |
/// | [`given`](Self::given) | if you stored it | keys that somebody else chose |
/// | [`for_operation`](Self::for_operation) | yes, with nothing stored | operations that you have an id for |
///
/// A key is nothing secret: [`Debug`] and [`Display`](fmt::Display) show it.
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
    /// A version 7 UUID: random, and sorted by the time it was made.
    #[expect(clippy::new_without_default, reason = "no two are the same")]
    #[must_use]
    pub fn new() -> Self {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH);
        let millis = since_1970.map_or(0, |time| time.as_millis());
        Self(uuid(millis << 80 | rand::random::<u128>() >> 48, 7).into())
    }

    /// A version 4 UUID: nothing but random.
    #[must_use]
    pub fn v4() -> Self {
        Self(uuid(rand::random(), 4).into())
    }

    /// A key that was chosen elsewhere: 1 to 255 printable ASCII characters,
    /// without space at either end.
    ///
    /// # Errors
    ///
    /// If it is anything else: what to change.
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

    /// A key that is on a request.
    pub(super) fn as_sent(key: &str) -> Self {
        Self(key.into())
    }

    /// The key of the operation that you call `id`, among those of a `kind`.
    /// Always the same for the same two, in every process and every version of
    /// this crate, so nothing has to be stored: who crashes and starts again
    /// sends what is left of its orders, and those that were made are replayed.
    ///
    /// **It is safe for as long as the server keeps its answers**, 24 hours by
    /// default and counted from the end of the operation. Later the same key
    /// is a new operation, and executed again. The same goes for a server that
    /// forgets, such as one that keeps its records in memory and restarts.
    ///
    /// Another operation on the same thing is another kind: `"create order"`
    /// and `"cancel order"`. A request that you had to correct needs another
    /// `id`, such as `4711/2`.
    ///
    /// The key is 128 bits in lower-case hexadecimal: the first half of the
    /// SHA-256 of the text `tower-idempotency/1 operation`, filled up with zero
    /// bytes to 64, then `kind` and `id`, each after its length in bytes as one
    /// byte (from 255 on as 255 and eight bytes, little-endian).
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

    /// The same key with something readable in front, such as `ord_`. With
    /// another prefix it is another key.
    ///
    /// # Errors
    ///
    /// As with [`given`](Self::given), for the whole.
    pub fn with_prefix(&self, prefix: &str) -> Result<Self, InvalidKey> {
        Self::given(format!("{prefix}{}", self.0))
    }

    /// The characters of the key.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The key as a header's value: for [`KeySyntax::Raw`] its characters as
    /// they are, else an RFC 8941 string, as the IETF draft has it: `"k"`.
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

/// Why something is no key.
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
            };
            let (read, _) = rules.read(&headers).unwrap().unwrap();
            prop_assert_eq!(read.as_str(), key);
        }
    }
}
