//! A completion as the store keeps it: in one allocation, most of the time.
//!
//! A header map and its values are many small allocations, which lie between those of requests for
//! as long as the record is kept, and take more memory than the bytes in them. So the store packs
//! a completion, and a replay unpacks it without a lock of the store. The values and the body of
//! the unpacked completion are slices of the packed one.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue, StatusCode};

use crate::record::response::{RecordedFields, RecordedResponse};
use crate::record::{Completion, TraceContext};

use super::limits::{COMPLETION_BYTES, FIELD_BYTES};
use super::origins::{KeptOrigin, RouteNumber, TRACE_BYTES};

/// The largest body that is copied into the packed completion. A larger one stays the allocation
/// that it is: there the copy would cost more than the allocation.
const COPIED_BODY: usize = 4096;

/// How many headers a replay gets by default, for which the header map has room: a mark of the
/// layer, and the length and the date that servers add.
const ADDED_HEADERS: usize = 3;

/// Names of which one byte is kept.
static KNOWN: [HeaderName; 16] = [
    header::CONTENT_TYPE,
    header::LOCATION,
    header::CACHE_CONTROL,
    header::ETAG,
    header::LAST_MODIFIED,
    header::CONTENT_LENGTH,
    header::CONTENT_ENCODING,
    header::CONTENT_LANGUAGE,
    header::CONTENT_LOCATION,
    header::CONTENT_DISPOSITION,
    header::VARY,
    header::LINK,
    header::EXPIRES,
    header::RETRY_AFTER,
    header::ACCESS_CONTROL_ALLOW_ORIGIN,
    header::X_CONTENT_TYPE_OPTIONS,
];

/// A packed completion. A clone shares its memory.
#[derive(Clone)]
pub(super) enum Kept {
    Whole(Bytes),
    /// All but the body, and the body.
    WithBody(Box<(Bytes, Bytes)>),
}

/// What is in a packed completion.
mod flags {
    pub(super) const BEGAN_BEFORE_EPOCH: u8 = 1;
    pub(super) const ENDED_BEFORE_IT_BEGAN: u8 = 2;
    pub(super) const TRAILERS: u8 = 4;
    pub(super) const ROUTE: u8 = 8;
    pub(super) const TRACE: u8 = 16;
    pub(super) const SHORT_TIMES: u8 = 32;
}

/// How many bytes a response takes once it is packed.
pub(super) struct Size {
    /// The packed headers and trailers.
    fields: usize,
    /// About all that the completion takes, with its origin.
    weight: usize,
}

impl Size {
    pub(super) fn of(response: &RecordedResponse<'_>, origin: &KeptOrigin) -> Self {
        let mut size = Self {
            fields: 0,
            weight: COMPLETION_BYTES + response.body.len() + origin.weight(),
        };
        for fields in [Some(&response.headers), response.trailers.as_ref()] {
            let Some(fields) = fields else { continue };
            size.fields.fields(fields);
            for (name, value) in fields.iter() {
                size.weight += FIELD_BYTES + name.as_str().len() + value.len();
            }
        }
        size
    }

    pub(super) fn weight(&self) -> usize {
        self.weight
    }
}

impl Kept {
    pub(super) fn pack(response: &RecordedResponse<'_>, origin: &KeptOrigin, size: &Size) -> Self {
        let is_copied = response.body.len() <= COPIED_BODY;
        let copied = if is_copied { &response.body[..] } else { &[] };
        let times = Times::of(response);
        let mut start = Start::default();
        start.number(size.weight as u64);
        let is = |is, flag| if is { flag } else { 0 };
        let flags = times.flags()
            | is(response.trailers.is_some(), flags::TRAILERS)
            | is(origin.route.is_some(), flags::ROUTE)
            | is(origin.trace.is_some(), flags::TRACE);
        start.put(&[flags]);
        start.put(&response.status.as_u16().to_be_bytes());
        times.write(&mut start);
        if let Some(route) = origin.route {
            start.put(&route.get().to_be_bytes());
        }
        if let Some(trace) = &origin.trace {
            start.put(&trace.trace_id);
            start.put(&trace.span_id);
            start.put(&[trace.flags]);
        }
        let start = &start.bytes[..start.length];
        // `Bytes` takes over a vector without a copy only if it is full.
        let mut packed = Vec::with_capacity(start.len() + size.fields + copied.len());
        packed.extend_from_slice(start);
        packed.fields(&response.headers);
        if let Some(trailers) = &response.trailers {
            packed.fields(trailers);
        }
        packed.extend_from_slice(copied);
        let packed = Bytes::from(packed);
        if is_copied {
            Kept::Whole(packed)
        } else {
            Kept::WithBody(Box::new((packed, response.own_body())))
        }
    }

    pub(super) fn unpack(&self) -> (Completion, KeptOrigin) {
        let mut from = self.reader();
        let head = from.head();
        let headers = from.fields(ADDED_HEADERS);
        let trailers = head.has_trailers.then(|| from.fields(0));
        let body = match self {
            Kept::Whole(packed) => packed.slice(from.at..),
            Kept::WithBody(both) => both.1.clone(),
        };
        let mut completion = Completion::new(head.status, body, head.times.completed_at());
        completion.began_at = head.times.began_at();
        completion.retention = head.times.retention;
        completion.headers = headers;
        completion.trailers = trailers;
        (completion, head.origin)
    }

    /// All but headers, trailers and body.
    pub(super) fn head(&self) -> Head {
        self.reader().head()
    }

    /// What the completion counts for, with its origin: see [`Size::weight`].
    pub(super) fn weight(&self) -> usize {
        let weight = self.reader().number();
        usize::try_from(weight).expect("it was a number of bytes")
    }

    fn reader(&self) -> Reader<'_> {
        let packed = match self {
            Kept::Whole(packed) => packed,
            Kept::WithBody(both) => &both.0,
        };
        Reader { packed, at: 0 }
    }
}

/// What a packed completion begins with.
pub(super) struct Head {
    pub(super) status: StatusCode,
    times: Times,
    pub(super) origin: KeptOrigin,
    has_trailers: bool,
}

impl Head {
    pub(super) fn completed_at(&self) -> SystemTime {
        self.times.completed_at()
    }
}

/// When an operation began and ended, and for how long its completion is kept.
struct Times {
    /// The time between the epoch and the begin, and whether the begin was first.
    began: (Duration, bool),
    /// The time between the begin and the end, and whether the end was first.
    took: (Duration, bool),
    retention: Duration,
}

impl Times {
    fn of(response: &RecordedResponse<'_>) -> Self {
        let since = |later: SystemTime, earlier| match later.duration_since(earlier) {
            Ok(length) => (length, false),
            Err(before) => (before.duration(), true),
        };
        Self {
            began: since(response.began_at, UNIX_EPOCH),
            took: since(response.completed_at, response.began_at),
            retention: response.retention,
        }
    }

    fn began_at(&self) -> SystemTime {
        match self.began {
            (since, false) => UNIX_EPOCH + since,
            (before, true) => UNIX_EPOCH - before,
        }
    }

    fn completed_at(&self) -> SystemTime {
        match self.took {
            (took, false) => self.began_at() + took,
            (before, true) => self.began_at() - before,
        }
    }

    /// The times in sixteen bytes, which hold those of most operations: seconds until the year
    /// 2514 and nanoseconds, up to four seconds in nanoseconds, and whole seconds.
    fn short(&self) -> Option<(u64, u32, u32)> {
        let ((began, false), (took, false)) = (self.began, self.took) else {
            return None;
        };
        let retention = u32::try_from(self.retention.as_secs()).ok()?;
        let took = took.as_secs().checked_mul(1_000_000_000)? + u64::from(took.subsec_nanos());
        let is_short = began.as_secs() >> 34 == 0 && self.retention.subsec_nanos() == 0;
        let began = began.as_secs() << 30 | u64::from(began.subsec_nanos());
        is_short.then_some((began, u32::try_from(took).ok()?, retention))
    }

    fn flags(&self) -> u8 {
        let is = |is, flag| if is { flag } else { 0 };
        is(self.began.1, flags::BEGAN_BEFORE_EPOCH)
            | is(self.took.1, flags::ENDED_BEFORE_IT_BEGAN)
            | is(self.short().is_some(), flags::SHORT_TIMES)
    }

    fn write(&self, to: &mut impl Sink) {
        let Some((began, took, retention)) = self.short() else {
            for length in [self.began.0, self.took.0, self.retention] {
                to.number(length.as_secs());
                to.number(u64::from(length.subsec_nanos()));
            }
            return;
        };
        to.put(&began.to_le_bytes());
        to.put(&took.to_le_bytes());
        to.put(&retention.to_le_bytes());
    }
}

/// Where a completion is written to.
trait Sink {
    fn put(&mut self, bytes: &[u8]);

    /// Seven bits in a byte, the lowest first. The last byte is below 128.
    fn number(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.put(&[number.to_le_bytes()[0] | 0x80]);
            number >>= 7;
        }
        self.put(&[number.to_le_bytes()[0]]);
    }

    fn fields(&mut self, fields: &RecordedFields<'_>) {
        self.number(fields.len() as u64);
        for (name, value) in fields.iter() {
            if let Some(known) = KNOWN.iter().position(|known| known == name) {
                self.number(known as u64);
            } else {
                let name = name.as_str();
                self.number((KNOWN.len() + name.len()) as u64);
                self.put(name.as_bytes());
            }
            self.number(2 * value.len() as u64 + u64::from(value.is_sensitive()));
            self.put(value.as_bytes());
        }
    }
}

/// What a packed completion begins with. Only once its length is known is there memory for the whole.
struct Start {
    bytes: [u8; Start::LONGEST],
    length: usize,
}

impl Start {
    /// Seven numbers of at most ten bytes each, the flags, the status, the route and the trace.
    const LONGEST: usize = 7 * 10 + 1 + 2 + 2 + TRACE_BYTES;
}

impl Default for Start {
    fn default() -> Self {
        Self {
            bytes: [0; Self::LONGEST],
            length: 0,
        }
    }
}

impl Sink for Start {
    fn put(&mut self, bytes: &[u8]) {
        self.bytes[self.length..][..bytes.len()].copy_from_slice(bytes);
        self.length += bytes.len();
    }
}

/// Counts the bytes.
impl Sink for usize {
    fn put(&mut self, bytes: &[u8]) {
        *self += bytes.len();
    }
}

impl Sink for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

/// Reads what was packed, in the same order.
struct Reader<'a> {
    packed: &'a Bytes,
    at: usize,
}

impl Reader<'_> {
    fn byte(&mut self) -> u8 {
        self.at += 1;
        self.packed[self.at - 1]
    }

    fn number(&mut self) -> u64 {
        let (mut number, mut shift) = (0, 0);
        loop {
            let byte = self.byte();
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return number;
            }
            shift += 7;
        }
    }

    fn length(&mut self) -> usize {
        usize::try_from(self.number()).expect("it was a length")
    }

    fn duration(&mut self) -> Duration {
        let seconds = self.number();
        let nanos = u32::try_from(self.number()).expect("it was below a second");
        Duration::new(seconds, nanos)
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        let bytes = self.packed[self.at..].first_chunk().expect("all is there");
        self.at += N;
        *bytes
    }

    fn times(&mut self, flags: u8) -> Times {
        if flags & flags::SHORT_TIMES == 0 {
            return Times {
                began: (self.duration(), flags & flags::BEGAN_BEFORE_EPOCH != 0),
                took: (self.duration(), flags & flags::ENDED_BEFORE_IT_BEGAN != 0),
                retention: self.duration(),
            };
        }
        let began = u64::from_le_bytes(self.array());
        let nanos = u32::try_from(began & ((1 << 30) - 1)).expect("thirty bits");
        let took = u32::from_le_bytes(self.array());
        let retention = u32::from_le_bytes(self.array());
        Times {
            began: (Duration::new(began >> 30, nanos), false),
            took: (Duration::from_nanos(took.into()), false),
            retention: Duration::from_secs(retention.into()),
        }
    }

    fn head(&mut self) -> Head {
        let _weight = self.number();
        let flags = self.byte();
        let status = u16::from_be_bytes(self.array());
        let times = self.times(flags);
        let mut origin = KeptOrigin::default();
        if flags & flags::ROUTE != 0 {
            origin.route = RouteNumber::new(u16::from_be_bytes(self.array()));
        }
        if flags & flags::TRACE != 0 {
            origin.trace = Some(Box::new(TraceContext {
                trace_id: self.array(),
                span_id: self.array(),
                flags: self.byte(),
            }));
        }
        Head {
            status: StatusCode::from_u16(status).expect("it was a status"),
            times,
            origin,
            has_trailers: flags & flags::TRAILERS != 0,
        }
    }

    /// Reads headers or trailers into a map with room for `more`.
    fn fields(&mut self, more: usize) -> HeaderMap {
        let fields = self.length();
        let mut map = HeaderMap::with_capacity(fields + more);
        for _ in 0..fields {
            let name = self.length();
            let name = match name.checked_sub(KNOWN.len()) {
                None => KNOWN[name].clone(),
                Some(length) => {
                    let name = &self.packed[self.at..self.at + length];
                    self.at += length;
                    HeaderName::from_bytes(name).expect("it was a name")
                }
            };
            let length = self.length();
            let value = self.packed.slice(self.at..self.at + length / 2);
            self.at += value.len();
            let mut value = HeaderValue::from_maybe_shared(value).expect("it was a value");
            value.set_sensitive(length % 2 == 1);
            map.append(name, value);
        }
        map
    }
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn packed(completion: &Completion, origin: &KeptOrigin) -> Kept {
        let response = completion.into();
        Kept::pack(&response, origin, &Size::of(&response, origin))
    }

    fn same(one: &Completion, other: &Completion) {
        let shown = |completion: &Completion| format!("{completion:?}");
        assert_eq!(shown(one), shown(other));
        assert_eq!(one.headers, other.headers);
    }

    #[test]
    fn a_packed_completion_takes_no_more_of_a_record_than_shared_bytes() {
        assert_eq!(size_of::<Kept>(), size_of::<Bytes>());
    }

    #[test]
    fn a_small_body_is_in_one_allocation_with_the_headers_and_a_large_one_is_not_copied() {
        for (length, copied) in [(0, true), (COPIED_BODY, true), (COPIED_BODY + 1, false)] {
            let body = Bytes::from(vec![7; length]);
            let completion = Completion::new(StatusCode::OK, body.clone(), UNIX_EPOCH);
            let kept = packed(&completion, &KeptOrigin::default());
            let (unpacked, _) = kept.unpack();
            same(&unpacked, &completion);
            assert_eq!(unpacked.body.as_ptr() != body.as_ptr(), copied);
            let Kept::Whole(packed) = &kept else {
                assert!(!copied);
                continue;
            };
            let inside = packed.as_ptr_range();
            assert!(copied && inside.contains(&unpacked.body.as_ptr()) || length == 0);
        }
    }

    /// `Debug` of a sensitive value does not show it.
    #[test]
    fn a_value_stays_sensitive() {
        let mut completion = Completion::new(StatusCode::OK, "", UNIX_EPOCH);
        let mut value = HeaderValue::from_static("secret");
        value.set_sensitive(true);
        completion.headers.append("x-token", value);
        let (unpacked, _) = packed(&completion, &KeptOrigin::default()).unpack();
        assert!(unpacked.headers["x-token"].is_sensitive());
        same(&unpacked, &completion);
    }

    #[test]
    fn times_at_the_limits_of_the_short_form_are_unpacked_as_they_were() {
        let nanos = Duration::from_nanos(1);
        let second = Duration::from_secs(1);
        let last = Duration::new((1 << 34) - 1, 999_999_999);
        let took = [Duration::ZERO, Duration::from_nanos(u32::MAX.into())];
        let retention = [Duration::ZERO, second * u32::MAX];
        for began in [Duration::ZERO, last] {
            for took in took {
                for retention in retention {
                    for (began, took, retention, is_short) in [
                        (began, took, retention, true),
                        (began + nanos, took, retention, began.is_zero()),
                        (began, took + nanos, retention, took.is_zero()),
                        (began, took, retention + nanos, false),
                    ] {
                        let mut completion = Completion::new(StatusCode::OK, "", UNIX_EPOCH);
                        completion.began_at += began;
                        completion.completed_at += began + took;
                        completion.retention = retention;
                        let response = RecordedResponse::from(&completion);
                        assert_eq!(Times::of(&response).short().is_some(), is_short);
                        same(
                            &packed(&completion, &KeptOrigin::default()).unpack().0,
                            &completion,
                        );
                    }
                }
            }
        }
    }

    proptest! {
        #[test]
        fn any_completion_is_unpacked_as_it_was(
            status in 100_u16..1000,
            names in prop::collection::vec("[a-z][a-z0-9-]{0,20}|content-type|etag|set-cookie", 0..20),
            value in prop::collection::vec(prop_oneof![0x20_u8..0x7f, 0x80_u8..], 0..300),
            body: Vec<u8>,
            trailers: bool,
            times: [(bool, u32, u32); 2],
            took: Option<u32>,
            retention in prop_oneof![any::<Duration>(), any::<u32>().prop_map(|seconds| Duration::from_secs(seconds.into()))],
            route: Option<RouteNumber>,
            trace: Option<([u8; 16], [u8; 8], u8)>,
        ) {
            let [began_at, completed_at] = times.map(|(before, seconds, nanos)| {
                let since = Duration::new(u64::from(seconds), nanos % 1_000_000_000);
                if before { UNIX_EPOCH - since } else { UNIX_EPOCH + since }
            });
            let took = took.map(|nanos| Duration::from_nanos(nanos.into()));
            let completed_at = took.map_or(completed_at, |took| began_at + took);
            let status = StatusCode::from_u16(status).unwrap();
            let mut completion = Completion::new(status, body, completed_at);
            (completion.began_at, completion.retention) = (began_at, retention);
            for (length, name) in names.iter().enumerate() {
                let value = &value[..value.len().min(20 * length)];
                let name: HeaderName = name.parse().unwrap();
                completion.headers.append(name, HeaderValue::from_bytes(value).unwrap());
            }
            completion.trailers = trailers.then(|| completion.headers.clone());
            let trace = trace.map(|(trace_id, span_id, flags)| {
                Box::new(TraceContext { trace_id, span_id, flags })
            });
            let origin = KeptOrigin { trace, route };
            let kept = packed(&completion, &origin);
            let (unpacked, own) = kept.unpack();
            same(&unpacked, &completion);
            prop_assert_eq!((own.route, &own.trace), (route, &origin.trace));
            let trailers = completion.trailers.as_ref().map_or(0, HeaderMap::len);
            let fields = completion.headers.len() + trailers;
            let weight = COMPLETION_BYTES + completion.weight() + fields * FIELD_BYTES;
            prop_assert_eq!(kept.weight(), weight + origin.weight());
        }
    }
}
