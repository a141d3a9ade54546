//! Completions as bytes.

use std::fmt;
use std::io::Cursor;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bhttp::{FieldSection, Message, Mode};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use sha2::{Digest, Sha256};

use super::{StoreError, StoreErrorKind};
use crate::record::Completion;

/// A [`Completion`] as a store keeps it: the response as one Binary HTTP
/// message ([RFC 9292](https://www.rfc-editor.org/rfc/rfc9292), a response of
/// known length), which any language can read, with its length and checksum,
/// which show whether the message is complete.
///
/// Times are rounded down to whole microseconds, and no retention is longer
/// than a hundred years. `Cookie`, a header of requests, comes back as one line
/// if a response has several.
///
/// ```
/// use http::StatusCode;
/// use std::time::SystemTime;
/// use tower_idempotency::store::{Completion, EncodedCompletion};
///
/// let paid = Completion::new(StatusCode::CREATED, "paid", SystemTime::now());
/// let mut kept = EncodedCompletion::of(&paid).expect("a status that can be encoded");
/// assert_eq!(kept.completion().unwrap().body, "paid");
///
/// kept.answer.truncate(4);
/// assert!(kept.completion().is_err());
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct EncodedCompletion {
    /// The status of the response. The message has it too.
    pub status: u16,
    /// [`Completion::began_at`], in microseconds since 1970.
    pub began_at: i64,
    /// [`Completion::completed_at`], in microseconds since 1970.
    pub completed_at: i64,
    /// [`Completion::retention`].
    pub retention: Duration,
    /// The Binary HTTP message.
    pub answer: Vec<u8>,
    /// The number of bytes of the message.
    pub length: u64,
    /// SHA-256 of the message.
    pub checksum: [u8; 32],
}

impl EncodedCompletion {
    /// Encodes a completion.
    ///
    /// `None` if the status is not that of a final response, 200 to 599, since a
    /// Binary HTTP message can't have another one, and for a response of more
    /// than 16 384 headers or trailers. The operation is done all
    /// the same, so store [`Outcome::Sealed`](super::Outcome::Sealed) instead.
    #[must_use]
    pub fn of(completion: &Completion) -> Option<Self> {
        let answer = encode(completion)?;
        Some(Self {
            status: completion.status.as_u16(),
            began_at: micros_since_epoch(completion.began_at),
            completed_at: micros_since_epoch(completion.completed_at),
            retention: Duration::from_micros(micros(completion.retention).unsigned_abs()),
            length: answer.len() as u64,
            checksum: Sha256::digest(&answer).into(),
            answer,
        })
    }

    /// Encodes the completion of an outcome, if it has one that can be encoded,
    /// and returns for how long the record is kept.
    #[cfg(feature = "_sql")]
    pub(crate) fn of_outcome(outcome: &super::Outcome) -> (Option<Self>, Duration) {
        match outcome {
            super::Outcome::Completed(completion) => (Self::of(completion), completion.retention),
            super::Outcome::Sealed { retention } => (None, *retention),
        }
    }

    /// Decodes the completion.
    ///
    /// # Errors
    /// [`StoreErrorKind::Unreadable`] if a single byte of the message is
    /// missing, changed or added, or if the message is no response.
    pub fn completion(&self) -> Result<Completion, StoreError> {
        if self.answer.len() as u64 != self.length {
            return Err(unreadable(format!(
                "its answer has {} bytes of {}",
                self.answer.len(),
                self.length
            )));
        }
        if <[u8; 32]>::from(Sha256::digest(&self.answer)) != self.checksum {
            return Err(unreadable("its answer is not the one of its checksum"));
        }
        let mut completion = decode(&self.answer)?;
        if completion.status.as_u16() != self.status {
            return Err(unreadable("its answer has another status than it says"));
        }
        completion.began_at = system_time(self.began_at)?;
        completion.completed_at = system_time(self.completed_at)?;
        completion.retention = self.retention;
        Ok(completion)
    }
}

/// Without the message (G10).
impl fmt::Debug for EncodedCompletion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EncodedCompletion")
            .field("status", &self.status)
            .field("length", &self.length)
            .finish_non_exhaustive()
    }
}

/// The longest duration that is sent to an engine, about 100 years: adding it
/// to a time does not overflow.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// A duration for an engine, in microseconds. Rounded up, so that a duration
/// above zero stays above zero.
pub(crate) fn micros(length: Duration) -> i64 {
    let micros = length.min(LONGEST).as_nanos().div_ceil(1000);
    i64::try_from(micros).expect("a hundred years of microseconds fit")
}

/// How many fields a response may have, and how many trailers: more do not fit into a
/// [`HeaderMap`], whose methods panic instead.
const MOST_FIELDS: usize = 1 << 14;

/// Status, headers, body and trailers as a Binary HTTP message. `None` for a response that
/// [`decode`] would not read again.
pub(crate) fn encode(completion: &Completion) -> Option<Vec<u8>> {
    let status = completion.status.as_u16();
    let mut fields = completion.trailers.iter().chain([&completion.headers]);
    // The crate knows no status above 599 either.
    if status < 200 || fields.any(|fields| fields.len() > MOST_FIELDS) {
        return None;
    }
    let mut message = Message::response(bhttp::StatusCode::try_from(status).ok()?);
    for (name, value) in &completion.headers {
        message.put_header(name.as_str(), value.as_bytes());
    }
    message.write_content(&completion.body);
    for (name, value) in completion.trailers.iter().flatten() {
        message.put_trailer(name.as_str(), value.as_bytes());
    }
    let mut bytes = Vec::with_capacity(completion.weight() + 64);
    message
        .write_bhttp(Mode::KnownLength, &mut bytes)
        .expect("a vector takes all bytes");
    Some(bytes)
}

/// The completion of a message. Its times are now, until the caller sets them.
pub(crate) fn decode(bytes: &[u8]) -> Result<Completion, StoreError> {
    let mut cursor = Cursor::new(bytes);
    let message = Message::read_bhttp(&mut cursor).map_err(unreadable)?;
    if cursor.position() != bytes.len() as u64 {
        return Err(unreadable("bytes follow its answer"));
    }
    let status = message
        .control()
        .status()
        .ok_or_else(|| unreadable("its answer is a request"))?;
    let status = StatusCode::from_u16(status.code()).map_err(unreadable)?;
    let body = message.content().to_vec();
    let mut completion = Completion::new(status, body, SystemTime::now());
    completion.headers = fields(message.header())?;
    completion.trailers = match fields(message.trailer())? {
        trailers if trailers.is_empty() => None,
        trailers => Some(trailers),
    };
    Ok(completion)
}

fn fields(section: &FieldSection) -> Result<HeaderMap, StoreError> {
    if section.len() > MOST_FIELDS {
        return Err(unreadable(format!(
            "its answer has {} fields, more than {MOST_FIELDS}",
            section.len()
        )));
    }
    let mut map = HeaderMap::try_with_capacity(section.len()).map_err(unreadable)?;
    for field in section.iter() {
        let name = HeaderName::from_bytes(field.name()).map_err(unreadable)?;
        let value = HeaderValue::from_bytes(field.value()).map_err(unreadable)?;
        map.try_append(name, value).map_err(unreadable)?;
    }
    Ok(map)
}

/// Microseconds since 1970, rounded down. A time beyond 64 bits becomes the
/// nearest one.
pub(crate) fn micros_since_epoch(time: SystemTime) -> i64 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_micros()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_nanos().div_ceil(1000))
            .map_or(i64::MIN, |micros| -micros),
    }
}

pub(crate) fn system_time(micros: i64) -> Result<SystemTime, StoreError> {
    let length = Duration::from_micros(micros.unsigned_abs());
    if micros.is_negative() {
        UNIX_EPOCH.checked_sub(length)
    } else {
        UNIX_EPOCH.checked_add(length)
    }
    .ok_or_else(|| unreadable("its times are beyond what a clock can say"))
}

pub(crate) fn unreadable(why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> StoreError {
    StoreError::new(StoreErrorKind::Unreadable, why)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;

    fn rich() -> Completion {
        let when = UNIX_EPOCH + Duration::from_nanos(1_700_000_000_123_456_789);
        let every_byte: Vec<u8> = (0..=255).collect();
        let mut completion = Completion::new(StatusCode::CREATED, every_byte, when);
        completion.headers.append("x-id", "1".parse().unwrap());
        completion.headers.append("x-id", "2".parse().unwrap());
        let value = HeaderValue::from_bytes(b"caf\xc3\xa9 \xff").unwrap();
        completion.headers.append("x-raw", value);
        completion.headers.append("x-empty", "".parse().unwrap());
        let mut trailers = HeaderMap::new();
        trailers.append("x-sum", "abc".parse().unwrap());
        completion.trailers = Some(trailers);
        completion
    }

    fn same(one: &Completion, other: &Completion) {
        assert_eq!(one.status, other.status);
        assert_eq!(one.headers, other.headers);
        assert_eq!(one.body, other.body);
        assert_eq!(one.trailers, other.trailers);
        assert_eq!(one.retention, other.retention);
        for (one, other) in [
            (one.began_at, other.began_at),
            (one.completed_at, other.completed_at),
        ] {
            assert_eq!(micros_since_epoch(one), micros_since_epoch(other));
        }
    }

    #[test]
    fn what_is_kept_is_read_again() {
        let rich = rich();
        same(
            &EncodedCompletion::of(&rich).unwrap().completion().unwrap(),
            &rich,
        );
        let mut bare = Completion::new(StatusCode::NO_CONTENT, "", UNIX_EPOCH);
        bare.began_at = UNIX_EPOCH - Duration::from_micros(7);
        same(
            &EncodedCompletion::of(&bare).unwrap().completion().unwrap(),
            &bare,
        );
    }

    #[test]
    fn times_are_rounded_down_to_microseconds() {
        let (second, nano) = (Duration::from_secs(1), Duration::from_nanos(1));
        for (time, micros) in [
            (UNIX_EPOCH, 0),
            (UNIX_EPOCH + second + nano, 1_000_000),
            (UNIX_EPOCH + second - nano, 999_999),
            (UNIX_EPOCH - nano, -1),
            (UNIX_EPOCH - second, -1_000_000),
            (UNIX_EPOCH - second - nano, -1_000_001),
        ] {
            assert_eq!(micros_since_epoch(time), micros, "{time:?}");
        }
        for (micros, time) in [
            (0, UNIX_EPOCH),
            (1_000_000, UNIX_EPOCH + second),
            (-1_000_000, UNIX_EPOCH - second),
        ] {
            assert_eq!(system_time(micros).unwrap(), time);
        }
        // Some clocks know times that are hundreds of thousands of years away.
        let far = Duration::from_secs(1 << 60);
        for (time, micros) in [
            (UNIX_EPOCH.checked_add(far), i64::MAX),
            (UNIX_EPOCH.checked_sub(far), i64::MIN),
        ] {
            assert!(time.is_none_or(|time| micros_since_epoch(time) == micros));
        }
    }

    #[test]
    fn a_status_that_is_no_final_answer_is_not_kept() {
        for status in [100, 199, 600, 999] {
            let status = StatusCode::from_u16(status).unwrap();
            assert!(EncodedCompletion::of(&Completion::new(status, "", UNIX_EPOCH)).is_none());
        }
        for status in [200, 599] {
            let status = StatusCode::from_u16(status).unwrap();
            assert!(EncodedCompletion::of(&Completion::new(status, "", UNIX_EPOCH)).is_some());
        }
    }

    #[test]
    fn nothing_but_the_whole_is_read() {
        let whole = EncodedCompletion::of(&rich()).unwrap();
        let is_unreadable = |kept: EncodedCompletion| {
            assert_eq!(
                kept.completion().unwrap_err().kind(),
                StoreErrorKind::Unreadable
            );
        };
        for length in 0..whole.answer.len() {
            let mut cut = whole.clone();
            cut.answer.truncate(length);
            is_unreadable(cut.clone());
            // Even if the length beside it says so.
            cut.length = length as u64;
            is_unreadable(cut);
        }
        let mut longer = whole.clone();
        longer.answer.push(0);
        is_unreadable(longer.clone());
        longer.length += 1;
        is_unreadable(longer.clone());
        longer.checksum = Sha256::digest(&longer.answer).into();
        is_unreadable(longer);
        for at in 0..whole.answer.len() {
            let mut changed = whole.clone();
            changed.answer[at] ^= 1;
            is_unreadable(changed);
        }
        let mut other = whole.clone();
        other.status = 200;
        is_unreadable(other);
        let mut never = whole;
        never.began_at = i64::MIN;
        assert!(never.completion().is_ok() || cfg!(windows));
    }

    /// A row of another program can have any number of fields, of one name or of many.
    #[test]
    fn more_fields_than_a_header_map_takes_are_unreadable_and_do_not_panic() {
        for (number, one_name) in [(1 << 14, true), (1 << 14, false)] {
            let name = |at: usize| {
                if one_name {
                    "x".to_owned()
                } else {
                    format!("x{at}")
                }
            };
            let message = |headers: usize, trailers: usize| {
                let mut message = Message::response(bhttp::StatusCode::OK);
                (0..headers).for_each(|at| message.put_header(name(at), "1"));
                (0..trailers).for_each(|at| message.put_trailer(name(at), "1"));
                let mut bytes = Vec::new();
                message.write_bhttp(Mode::KnownLength, &mut bytes).unwrap();
                bytes
            };
            let whole = decode(&message(number, number)).unwrap();
            assert_eq!(whole.headers.len(), number);
            assert_eq!(
                decode(&encode(&whole).unwrap()).unwrap().headers,
                whole.headers
            );
            for (headers, trailers) in [(number + 1, 0), (0, number + 1), (40_000, 0), (1, 40_000)]
            {
                let error = decode(&message(headers, trailers)).unwrap_err();
                assert_eq!(error.kind(), StoreErrorKind::Unreadable);
            }
            let mut more = whole;
            more.headers.append("y", "1".parse().unwrap());
            assert!(encode(&more).is_none(), "it could not be read again");
            (more.headers, more.trailers) = (HeaderMap::new(), Some(more.headers));
            assert!(encode(&more).is_none(), "it could not be read again");
        }
    }

    #[test]
    fn a_request_is_no_answer() {
        let mut bytes = Vec::new();
        Message::request(
            b"GET".to_vec(),
            b"https".to_vec(),
            b"a".to_vec(),
            b"/".to_vec(),
        )
        .write_bhttp(Mode::KnownLength, &mut bytes)
        .unwrap();
        assert_eq!(
            decode(&bytes).unwrap_err().kind(),
            StoreErrorKind::Unreadable
        );
    }

    #[test]
    fn debug_shows_no_byte_of_an_answer() {
        let kept =
            EncodedCompletion::of(&Completion::new(StatusCode::OK, "secret", UNIX_EPOCH)).unwrap();
        assert_eq!(
            format!("{kept:?}"),
            "EncodedCompletion { status: 200, length: 12, .. }"
        );
    }

    proptest! {
        #[test]
        fn no_bytes_at_all_make_the_decoder_panic(bytes: Vec<u8>) {
            let _ = decode(&bytes);
        }

        #[test]
        fn any_answer_is_read_as_it_was(
            status in 200u16..600,
            names in prop::collection::vec("[a-z][a-z0-9-]{0,20}", 0..20),
            value in prop::collection::vec(0x20u8..0x7f, 0..100),
            body: Vec<u8>,
            trailing: bool,
        ) {
            let status = StatusCode::from_u16(status).unwrap();
            let mut completion = Completion::new(status, Bytes::from(body), UNIX_EPOCH);
            for name in &names {
                let name: HeaderName = name.parse().unwrap();
                let value = HeaderValue::from_bytes(&value).unwrap();
                completion.headers.append(name, value);
            }
            // The one field of which Binary HTTP makes a single line.
            completion.headers.remove("cookie");
            if trailing && !names.is_empty() {
                completion.trailers = Some(completion.headers.clone());
            }
            if completion.trailers.as_ref().is_some_and(HeaderMap::is_empty) {
                completion.trailers = None;
            }
            same(&EncodedCompletion::of(&completion).unwrap().completion().unwrap(), &completion);
        }
    }

    #[cfg(feature = "_sql")]
    #[test]
    fn an_outcome_is_kept_as_long_as_it_says() {
        use crate::store::Outcome;

        let completion = std::sync::Arc::new(rich());
        let (encoded, retention) = EncodedCompletion::of_outcome(&Outcome::Completed(completion));
        same(&encoded.unwrap().completion().unwrap(), &rich());
        assert_eq!(retention, rich().retention);
        let retention = Duration::from_secs(7);
        let (none, kept) = EncodedCompletion::of_outcome(&Outcome::Sealed { retention });
        assert!(none.is_none());
        assert_eq!(kept, retention);
    }
}
