//! Records by the status of a response.

use std::borrow::Cow;
use std::fmt;

use http::StatusCode;

use crate::display::join_with;
use crate::options::recording::{RecordRule, ResponseHead};

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

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderName, HeaderValue};

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
}
