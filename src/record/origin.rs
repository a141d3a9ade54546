//! Where an execution came from: its route, and the span in which it ran.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::{Hex, unhex};

/// Where an execution came from. A store keeps it beside the record of the execution, and gives it
/// to every replay and to [`Store::list`](crate::store::Store::list).
///
/// Nothing in it is of one request alone, besides random numbers: no path, no key and no caller
/// (G10).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Origin {
    /// The pattern of the route, as the application configured it or as its framework matched it:
    /// `POST /payments/{id}`. Never the path of a request. A store may keep no pattern that is
    /// longer than [`MAX_ROUTE`](Self::MAX_ROUTE) bytes.
    pub route: Option<Arc<str>>,
    /// The span of the execution, if it was traced.
    pub trace: Option<TraceContext>,
}

impl Origin {
    /// The length of the longest route that every store of this crate keeps, in bytes.
    pub const MAX_ROUTE: usize = 255;

    /// An origin of which nothing is known.
    #[must_use]
    pub const fn none() -> Self {
        Self {
            route: None,
            trace: None,
        }
    }

    /// The origin with this route.
    #[must_use]
    pub fn route(mut self, route: impl Into<Arc<str>>) -> Self {
        self.route = Some(route.into());
        self
    }

    /// The origin with this span.
    #[must_use]
    pub fn trace(mut self, trace: TraceContext) -> Self {
        self.trace = Some(trace);
        self
    }

    /// The route, if it is short enough for a store.
    #[cfg(any(feature = "memory", feature = "redis", feature = "_sql"))]
    pub(crate) fn kept_route(&self) -> Option<&Arc<str>> {
        let is_short = |route: &&Arc<str>| route.len() <= Self::MAX_ROUTE;
        self.route.as_ref().filter(is_short)
    }
}

/// The span of an execution, as [W3C Trace Context](https://www.w3.org/TR/trace-context/) identifies
/// spans.
///
/// ```
/// use tower_idempotency::store::TraceContext;
///
/// let header = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
/// let trace: TraceContext = header.parse()?;
/// assert_eq!(trace.flags, 1);
/// assert_eq!(trace.to_string(), header);
/// # Ok::<(), tower_idempotency::store::ParseError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceContext {
    /// The id of the trace. Not all bytes are zero.
    pub trace_id: [u8; 16],
    /// The id of the span. Not all bytes are zero.
    pub span_id: [u8; 8],
    /// 1: the span may have been recorded.
    pub flags: u8,
}

/// Writes the value of a header `traceparent`, of version 00.
impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            trace_id,
            span_id,
            flags,
        } = self;
        write!(f, "00-{}-{}-{flags:02x}", Hex(trace_id), Hex(span_id))
    }
}

impl fmt::Debug for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TraceContext({self})")
    }
}

/// Reads the value of a header `traceparent`. What a later version adds at the end is ignored, as
/// W3C Trace Context (3.2.4) asks.
impl FromStr for TraceContext {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let wrong = ParseError("a header `traceparent` of W3C Trace Context");
        let is_lower = |text: &str| !text.bytes().any(|byte| byte.is_ascii_uppercase());
        let mut parts = text.splitn(5, '-');
        let mut part = || parts.next().filter(|part| is_lower(part)).ok_or(wrong);
        let [version]: [u8; 1] = unhex(part()?).ok_or(wrong)?;
        let trace_id: [u8; 16] = unhex(part()?).ok_or(wrong)?;
        let span_id: [u8; 8] = unhex(part()?).ok_or(wrong)?;
        let [flags] = unhex(part()?).ok_or(wrong)?;
        let is_longer = parts.next().is_some();
        if version == 0xff || version == 0 && is_longer || trace_id == [0; 16] || span_id == [0; 8]
        {
            return Err(wrong);
        }
        Ok(Self {
            trace_id,
            span_id,
            flags,
        })
    }
}

/// A text is not what it was read as.
///
/// ```
/// use tower_idempotency::store::RecordId;
///
/// let error = "K".parse::<RecordId>().unwrap_err();
/// assert_eq!(error.to_string(), "not the id of a record, 64 hexadecimal digits");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParseError(pub(crate) &'static str);

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not {}", self.0)
    }
}

impl std::error::Error for ParseError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_traceparent_of_another_shape_is_refused() {
        let valid = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        assert!(valid.parse::<TraceContext>().is_ok());
        for wrong in [
            "",
            &valid[..54],
            &format!("{valid}-"),
            &format!("ff{}", &valid[2..]),
            &valid.to_uppercase(),
            &valid.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32)),
            &valid.replace("b7ad6b7169203331", &"0".repeat(16)),
            &valid.replace('a', "é"),
        ] {
            assert!(wrong.parse::<TraceContext>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_a_later_version_of_traceparent_adds_is_ignored() {
        let valid = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";
        let later = format!("01{}-anything-at-all", &valid[2..]);
        let trace: TraceContext = later.parse().unwrap();
        assert_eq!(trace.to_string(), valid);
    }

    #[cfg(any(feature = "memory", feature = "redis", feature = "_sql"))]
    #[test]
    fn a_store_keeps_no_route_that_is_too_long() {
        let of = |length| Origin::none().route("r".repeat(length));
        assert!(of(Origin::MAX_ROUTE).kept_route().is_some());
        assert!(of(Origin::MAX_ROUTE + 1).kept_route().is_none());
    }
}
