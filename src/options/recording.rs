//! Which responses are recorded.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, StatusCode};

use crate::display::{header_name, join_with};
use crate::message::media_type::{is_grpc, media_type};

pub use super::record_headers::RecordHeaders;

/// Says in a response's extensions whether that response is recorded. A handler inserts this
/// value, and the value overrides `record`, `skip_types` and `skip_headers`.
///
/// ```
/// use http::Response;
/// use tower_idempotency::recording::Recording;
///
/// let mut response = Response::new("try again tomorrow");
/// response.extensions_mut().insert(Recording::Skip);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Recording {
    /// Record the response: a retry gets the recorded response.
    Keep,
    /// Do not record the response: a retry executes again.
    Skip,
    /// The operation has happened, but this response is not kept: a retry is rejected with
    /// `response-unavailable`. This is for responses that must not be stored, and for those that
    /// could not be read from an upstream.
    Seal,
    /// The handler does not know whether the operation has happened. For example, an upstream
    /// stopped responding, and may still execute the request. The record stays in flight until its
    /// lease lapses; [`OnLapsedLease`](crate::options::OnLapsedLease) says what happens then.
    InDoubt,
    /// Apply the route's `record` rule if the body arrives complete. If the body breaks off, and
    /// the rule would not record the response, leave the record in flight (see
    /// [`InDoubt`](Self::InDoubt)). This is for responses that are forwarded from an upstream: the
    /// upstream may still execute the request when the body breaks off.
    IfComplete,
}

/// The status, headers and trailers of a finished response, which a [`RecordRule`] decides about.
#[derive(Debug)]
pub struct ResponseHead<'a> {
    pub(crate) status: StatusCode,
    pub(crate) headers: &'a HeaderMap,
    pub(crate) trailers: Option<&'a HeaderMap>,
    /// Whether the response is of gRPC.
    grpc: bool,
}

impl<'a> ResponseHead<'a> {
    /// Makes the head of a response, so that a rule can be tested.
    #[must_use]
    pub fn new(
        status: StatusCode,
        headers: &'a HeaderMap,
        trailers: Option<&'a HeaderMap>,
    ) -> Self {
        Self {
            status,
            headers,
            trailers,
            grpc: is_grpc(headers),
        }
    }

    /// The HTTP status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The headers.
    #[must_use]
    pub fn headers(&self) -> &HeaderMap {
        self.headers
    }

    /// The trailers, if there were any.
    #[must_use]
    pub fn trailers(&self) -> Option<&HeaderMap> {
        self.trailers
    }

    /// The status code of a gRPC response, from its headers or its trailers; 2 (`UNKNOWN`) if both
    /// lack one. `None` for a response that is not gRPC.
    #[must_use]
    pub fn grpc_status(&self) -> Option<u32> {
        self.grpc.then(|| self.sent_grpc_status().unwrap_or(2))
    }

    /// Whether this is a gRPC response whose status must be in trailers that were not read.
    pub(crate) fn awaits_grpc_status(&self) -> bool {
        self.grpc && self.sent_grpc_status().is_none()
    }

    /// Whether this is a gRPC response whose headers or trailers say that the call failed.
    #[cfg(feature = "_sql")]
    pub(crate) fn is_failed_grpc(&self) -> bool {
        self.grpc && self.sent_grpc_status().is_some_and(|code| code != 0)
    }

    fn sent_grpc_status(&self) -> Option<u32> {
        let of = |map: &HeaderMap| map.get("grpc-status")?.to_str().ok()?.parse().ok();
        of(self.headers).or_else(|| self.trailers.and_then(of))
    }
}

/// Decides which responses are recorded. An operation whose response is not recorded is released:
/// a retry executes again.
///
/// A closure from `&ResponseHead<'_>` to `bool` is a rule, and [`Statuses`] is the default rule. A
/// full implementation looks like this:
///
/// ```
/// use std::borrow::Cow;
/// use tower_idempotency::recording::{RecordRule, ResponseHead};
///
/// /// Records every response that the upstream did not call transient.
/// struct NotTransient;
///
/// impl RecordRule for NotTransient {
///     fn records(&self, response: &ResponseHead<'_>) -> bool {
///         response.headers().get("transient-error").is_none_or(|value| value != "true")
///     }
///
///     fn describe(&self) -> Cow<'static, str> {
///         "responses without `Transient-Error: true`".into()
///     }
/// }
/// ```
pub trait RecordRule: Send + Sync + 'static {
    /// Whether this response is recorded.
    fn records(&self, response: &ResponseHead<'_>) -> bool;

    /// Completes the sentence "These responses are recorded: …" in the contract
    /// (`IdempotencyLayer::contract`), which an API's clients read.
    fn describe(&self) -> Cow<'static, str> {
        Cow::Borrowed("those that the application chooses by a rule of its own")
    }
}

impl<F> RecordRule for F
where
    F: Fn(&ResponseHead<'_>) -> bool + Send + Sync + 'static,
{
    fn records(&self, response: &ResponseHead<'_>) -> bool {
        self(response)
    }
}

macro_rules! pointer {
    ($pointer:ty) => {
        impl RecordRule for $pointer {
            fn records(&self, response: &ResponseHead<'_>) -> bool {
                (**self).records(response)
            }

            fn describe(&self) -> Cow<'static, str> {
                (**self).describe()
            }
        }
    };
}

pointer!(Box<dyn RecordRule>);
pointer!(Arc<dyn RecordRule>);

/// The statuses that ask the client for the same request again: at another address (RFC 9110,
/// 15.4.8 and 15.4.9), without `Expect` (15.5.18), on another connection (15.5.20). Nothing was
/// executed.
pub(crate) const ASKS_AGAIN: [u16; 4] = [307, 308, 417, 421];

/// Records by status: a set of HTTP statuses and a set of gRPC codes.
///
/// The default records final results, and leaves out what asks for the same request again and what
/// may be different at the next attempt. It has every HTTP status below 500 except 307, 308, 401,
/// 403, 407, 408, 417, 421, 425 and 429, and every gRPC code except 1, 2, 4, 7, 8, 10 and 13 to 16.
///
/// ```
/// use tower_idempotency::recording::Statuses;
///
/// let every_final_response = Statuses::default();
/// let only_successes = Statuses::none().with(200..=299);
/// let two_of_them = Statuses::none().with([201, 409]);
/// let all_but_one = Statuses::all().without(429);
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Statuses {
    /// Index 0 is status 100: the crate `http` allows the statuses 100 to 999.
    http: Box<[bool; 900]>,
    grpc: [bool; 17],
}

impl Statuses {
    /// Every HTTP status and every gRPC code.
    #[must_use]
    pub fn all() -> Self {
        Self {
            http: Box::new([true; 900]),
            grpc: [true; 17],
        }
    }

    /// No HTTP status and no gRPC code.
    #[must_use]
    pub fn none() -> Self {
        Self {
            http: Box::new([false; 900]),
            grpc: [false; 17],
        }
    }

    /// Adds an HTTP status, a range of them or an array.
    #[must_use]
    pub fn with(mut self, statuses: impl IntoStatuses) -> Self {
        set(&mut *self.http, 100, &statuses, true);
        self
    }

    /// Removes an HTTP status, a range of them or an array.
    #[must_use]
    pub fn without(mut self, statuses: impl IntoStatuses) -> Self {
        set(&mut *self.http, 100, &statuses, false);
        self
    }

    /// Adds a gRPC code, a range of them or an array.
    #[must_use]
    pub fn with_grpc(mut self, codes: impl IntoStatuses) -> Self {
        set(&mut self.grpc, 0, &codes, true);
        self
    }

    /// Removes a gRPC code, a range of them or an array.
    #[must_use]
    pub fn without_grpc(mut self, codes: impl IntoStatuses) -> Self {
        set(&mut self.grpc, 0, &codes, false);
        self
    }

    pub(crate) fn has(&self, status: StatusCode) -> bool {
        self.http[usize::from(status.as_u16() - 100)]
    }
}

fn set(flags: &mut [bool], first: u16, numbers: &impl IntoStatuses, to: bool) {
    for (number, flag) in (first..).zip(flags) {
        if numbers.has(number) {
            *flag = to;
        }
    }
}

/// What [`Statuses`] takes: a number, a range of numbers, or an array of them.
pub trait IntoStatuses: sealed::Numbers {}

impl<T: sealed::Numbers> IntoStatuses for T {}

mod sealed {
    use std::ops::{Range, RangeFrom, RangeFull, RangeInclusive, RangeTo, RangeToInclusive};

    #[expect(unnameable_types, reason = "no other crate implements it")]
    pub trait Numbers {
        fn has(&self, number: u16) -> bool;
    }

    impl Numbers for u16 {
        fn has(&self, number: u16) -> bool {
            *self == number
        }
    }

    impl<const N: usize> Numbers for [u16; N] {
        fn has(&self, number: u16) -> bool {
            self.contains(&number)
        }
    }

    macro_rules! ranges {
        ($($range:ty),*) => {$(
            impl Numbers for $range {
                fn has(&self, number: u16) -> bool {
                    std::ops::RangeBounds::contains(self, &number)
                }
            }
        )*};
    }

    ranges![
        Range<u16>,
        RangeFrom<u16>,
        RangeFull,
        RangeInclusive<u16>,
        RangeTo<u16>,
        RangeToInclusive<u16>
    ];
}

/// Returns the numbers that are set and the numbers that are not, each as ranges.
fn ranges(flags: &[bool], first: usize) -> [Vec<String>; 2] {
    let mut of = [Vec::new(), Vec::new()];
    let mut start = first;
    for run in flags.chunk_by(|one, next| one == next) {
        let end = start + run.len() - 1;
        let ranges = &mut of[usize::from(!run[0])];
        match end - start {
            0 => ranges.push(start.to_string()),
            _ => ranges.push(format!("{start}-{end}")),
        }
        start = end + 1;
    }
    of
}

/// Describes the set by its members or by its complement, whichever is shorter.
fn listed(flags: &[bool], first: usize, noun: &str) -> String {
    let [set, unset] = ranges(flags, first).map(|ranges| join_with(&ranges, "and"));
    if set.is_empty() {
        return format!("no {noun}");
    }
    if unset.is_empty() {
        return format!("every {noun}");
    }
    let (these, others) = (format!("{noun} {set}"), format!("every {noun} but {unset}"));
    if these.len() < others.len() {
        these
    } else {
        others
    }
}

impl Default for Statuses {
    fn default() -> Self {
        Self::none()
            .with(..500)
            .without(ASKS_AGAIN)
            .without([401, 403, 407, 408, 425, 429])
            .with_grpc(..)
            .without_grpc([1, 2, 4, 7, 8, 10, 13, 14, 15, 16])
    }
}

impl fmt::Debug for Statuses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let listed = |flags: &[bool], first: usize| -> Vec<usize> {
            (first..)
                .zip(flags)
                .filter(|(_, set)| **set)
                .map(|(number, _)| number)
                .collect()
        };
        f.debug_struct("Statuses")
            .field("http", &listed(&*self.http, 100))
            .field("grpc", &listed(&self.grpc, 0))
            .finish()
    }
}

impl RecordRule for Statuses {
    fn records(&self, response: &ResponseHead<'_>) -> bool {
        match response.grpc_status() {
            // gRPC has clients treat a code that it does not define as 2 (`UNKNOWN`).
            Some(code) => self.grpc[if code < 17 { code as usize } else { 2 }],
            None => self.has(response.status()),
        }
    }

    fn describe(&self) -> Cow<'static, str> {
        let http = format!("responses with {}", listed(&*self.http, 100, "status"));
        // An API without gRPC has changed none of the codes: the contract does not name them.
        let chosen = [Self::all(), Self::none(), Self::default()];
        if chosen.iter().any(|own| own.grpc == self.grpc) {
            return Cow::Owned(http);
        }
        let grpc = listed(&self.grpc, 0, "code");
        Cow::Owned(format!("{http}; in gRPC, responses with {grpc}"))
    }
}

/// A header by which a response says that it is not to be recorded.
#[derive(Clone, Debug)]
pub(crate) struct SkipHeader {
    pub(crate) name: HeaderName,
    /// `None` stands for any value.
    pub(crate) value: Option<String>,
}

impl SkipHeader {
    /// Reads `name` or `name: value`. An error is the rest of a sentence.
    pub(super) fn read(text: &str) -> Result<Self, String> {
        let (name, value) = match text.split_once(':') {
            Some((name, value)) => (name.trim_end(), Some(value.trim().to_owned())),
            None => (text, None),
        };
        match name.parse() {
            Err(_) => Err(format!("names `{name}`, which is not a header's name")),
            Ok(_) if value.as_deref() == Some("") => {
                Err(format!("names `{name}:` without a value"))
            }
            Ok(name) => Ok(Self { name, value }),
        }
    }

    pub(super) fn is_in(&self, headers: &HeaderMap) -> bool {
        let mut values = headers.get_all(&self.name).iter();
        match &self.value {
            None => values.next().is_some(),
            Some(value) => values.any(|own| own.as_bytes().eq_ignore_ascii_case(value.as_bytes())),
        }
    }
}

impl fmt::Display for SkipHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&header_name(&self.name))?;
        match &self.value {
            Some(value) => write!(f, ": {value}"),
            None => Ok(()),
        }
    }
}

/// Whether the content type of these headers is one of `types`, which are in lower case and may be
/// families such as `image/*`.
pub(super) fn has_type(headers: &HeaderMap, types: &[String]) -> bool {
    let is = |own: &[u8], skipped: &str| match skipped.strip_suffix('*') {
        Some("*/") => true,
        Some(family) => own
            .get(..family.len())
            .is_some_and(|own| own.eq_ignore_ascii_case(family.as_bytes())),
        None => own.eq_ignore_ascii_case(skipped.as_bytes()),
    };
    !types.is_empty()
        && media_type(headers.get(CONTENT_TYPE))
            .is_some_and(|own| types.iter().any(|skipped| is(own, skipped)))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn records(statuses: &Statuses, status: u16) -> bool {
        statuses.records(&ResponseHead::new(
            StatusCode::from_u16(status).unwrap(),
            &HeaderMap::new(),
            None,
        ))
    }

    fn fields_of(name: &'static str, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(HeaderName::from_static(name), value.parse().unwrap())])
    }

    fn fields(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(*name, HeaderValue::from_static(value));
        }
        map
    }

    #[test]
    fn a_grpc_code_that_is_not_defined_is_recorded_as_code_2() {
        for (code, recorded) in [(1, 1), (2, 2), (16, 16), (17, 2), (4_294_967_295_u32, 2)] {
            let headers = fields_of("content-type", "application/grpc");
            let trailers = fields_of("grpc-status", &code.to_string());
            let response = ResponseHead::new(StatusCode::OK, &headers, Some(&trailers));
            for set in 0..17 {
                let statuses = Statuses::none().with_grpc([set]);
                assert_eq!(statuses.records(&response), set == recorded, "{code} {set}");
            }
        }
    }

    #[test]
    fn a_set_is_described_by_its_complement_unless_it_is_shorter_itself() {
        let of = |unset: std::ops::RangeInclusive<usize>| {
            let flags: Vec<_> = (0..17).map(|code| !unset.contains(&code)).collect();
            listed(&flags, 0, "code")
        };
        assert_eq!(of(0..=9), "code 10-16");
        // Both are as long.
        assert_eq!(of(5..=9), "every code but 5-9");
        assert_eq!(of(5..=5), "every code but 5");
    }

    #[test]
    fn the_default_records_what_is_settled() {
        let transient: Vec<_> = (100..1000)
            .filter(|status| *status < 500 && !records(&Statuses::default(), *status))
            .collect();
        assert_eq!(
            transient,
            [307, 308, 401, 403, 407, 408, 417, 421, 425, 429]
        );
        assert!((500..1000).all(|status| !records(&Statuses::default(), status)));
        assert!((100..1000).all(|status| records(&Statuses::all(), status)));
        assert!(records(&Statuses::none().with(200..300), 299));
        assert!(!records(&Statuses::none().with(200..300), 300));
        assert_eq!(
            format!("{:?}", Statuses::none().with(201..203).with_grpc(0)),
            "Statuses { http: [201, 202], grpc: [0] }"
        );
    }

    #[test]
    fn grpc_is_judged_by_its_status_in_headers_or_trailers() {
        let grpc = fields(&[("content-type", "application/grpc+proto")]);
        let code = |trailers: Option<&HeaderMap>| {
            let response = ResponseHead::new(StatusCode::OK, &grpc, trailers);
            (
                response.grpc_status(),
                Statuses::default().records(&response),
            )
        };
        assert_eq!(code(None), (Some(2), false));
        assert_eq!(
            code(Some(&fields(&[("grpc-status", "0")]))),
            (Some(0), true)
        );
        assert_eq!(
            code(Some(&fields(&[("grpc-status", "5")]))),
            (Some(5), true)
        );
        assert_eq!(
            code(Some(&fields(&[("grpc-status", "14")]))),
            (Some(14), false)
        );
        // A number that gRPC does not define counts as 2.
        for undefined in ["17", "99", "65536", "4294967295"] {
            let undefined = fields(&[("grpc-status", undefined)]);
            let (code, recorded) = code(Some(&undefined));
            assert!(code.is_some_and(|code| code > 16) && !recorded, "{code:?}");
        }
        let no_number = fields(&[("grpc-status", "4294967296")]);
        assert_eq!(code(Some(&no_number)), (Some(2), false));
        // gRPC-Web sends its status in the body, so the HTTP status decides.
        let web = fields(&[("content-type", "application/grpc-web+proto")]);
        assert_eq!(
            ResponseHead::new(StatusCode::OK, &web, None).grpc_status(),
            None
        );
        let only_headers = fields(&[("content-type", "application/grpc"), ("grpc-status", "3")]);
        let response = ResponseHead::new(StatusCode::OK, &only_headers, None);
        assert!(Statuses::default().records(&response));
    }

    #[test]
    fn a_status_a_range_and_an_array_are_added_and_removed_alike() {
        let two = Statuses::none().with([201, 202]);
        assert_eq!(two, Statuses::none().with(201..203));
        assert_eq!(two, Statuses::none().with(201..=202));
        assert_eq!(two, Statuses::none().with(201).with(202));
        assert_eq!(two, Statuses::none().with(..=202).without(..201));
        assert_eq!(two, Statuses::none().with(201..).without(203..));
        let grpc = Statuses::none().with_grpc(..).without_grpc([0, 1]);
        assert_eq!(grpc, Statuses::none().with_grpc(2..=16));
        assert_eq!(
            Statuses::all().without(..).without_grpc(..),
            Statuses::none()
        );
    }

    #[test]
    fn a_skipped_header_is_written_as_it_is_read() {
        for text in ["Transient-Error: true", "X-Volatile"] {
            assert_eq!(SkipHeader::read(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn a_rule_of_the_applications_own_is_called_that() {
        let own = |_: &ResponseHead<'_>| true;
        assert!(own.describe().contains("a rule of its own"));
    }

    #[cfg(feature = "_sql")]
    #[test]
    fn a_grpc_response_awaits_its_status_and_has_failed_by_it() {
        let grpc = fields(&[("content-type", "application/grpc")]);
        let json = fields(&[("content-type", "application/json")]);
        for (headers, status, awaits, failed) in [
            (&grpc, None, true, false),
            (&grpc, Some("0"), false, false),
            (&grpc, Some("1"), false, true),
            (&json, None, false, false),
            (&json, Some("1"), false, false),
        ] {
            let trailers = status.map(|status| fields(&[("grpc-status", status)]));
            let response = ResponseHead::new(StatusCode::OK, headers, trailers.as_ref());
            assert_eq!(response.awaits_grpc_status(), awaits, "{response:?}");
            assert_eq!(response.is_failed_grpc(), failed, "{response:?}");
        }
    }
}
