//! Which answers are recorded, and what of them.

use std::borrow::Cow;
use std::fmt;
use std::ops::RangeBounds;

use http::header::{CONNECTION, DATE, SET_COOKIE, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use crate::display::join_with;
use crate::message::media_type::{HOP_BY_HOP, is_grpc};

/// The handler's own word on whether its answer is recorded. Put it into the
/// response's extensions: it beats `record`, `skip_types` and `skip_headers`.
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
    /// Record it: a retry gets this answer.
    Keep,
    /// Don't: a retry executes again.
    Skip,
    /// Nobody knows yet whether the operation has happened: what the handler
    /// started elsewhere may still be running, as with an upstream that stopped
    /// answering. The record stays in flight until its lease lapses, and then
    /// goes as [`OnLapsedLease`](crate::options::OnLapsedLease) says.
    InDoubt,
    /// As the route says, if its body arrives whole. If it breaks off and is
    /// none to keep, [in doubt](Self::InDoubt). For what is forwarded from
    /// elsewhere: an upstream that breaks off may still be running.
    IfComplete,
}

/// A finished answer, as a [`RecordRule`] sees it.
#[derive(Debug)]
pub struct ResponseHead<'a> {
    pub(crate) status: StatusCode,
    pub(crate) headers: &'a HeaderMap,
    pub(crate) trailers: Option<&'a HeaderMap>,
}

impl<'a> ResponseHead<'a> {
    /// An answer as a policy would see it, to test one with.
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

    /// For a gRPC answer its status code, from the headers or the trailers;
    /// 2 (unknown) if it has none. `None` for anything but gRPC.
    #[must_use]
    pub fn grpc_status(&self) -> Option<u32> {
        is_grpc(self.headers).then(|| self.sent_grpc_status().unwrap_or(2))
    }

    /// Whether its gRPC status is still to come.
    pub(crate) fn awaits_grpc_status(&self) -> bool {
        is_grpc(self.headers) && self.sent_grpc_status().is_none()
    }

    /// Whether it says in its head that a call over gRPC has failed.
    #[cfg(feature = "_sql")]
    pub(crate) fn is_failed_grpc(&self) -> bool {
        is_grpc(self.headers) && self.sent_grpc_status().is_some_and(|code| code != 0)
    }

    fn sent_grpc_status(&self) -> Option<u32> {
        let of = |map: &HeaderMap| map.get("grpc-status")?.to_str().ok()?.parse().ok();
        of(self.headers).or_else(|| self.trailers.and_then(of))
    }
}

/// Decides which answers are recorded. What is not recorded is released: a
/// retry executes again.
///
/// Closures are policies. [`Statuses`] is the default one.
///
/// ```
/// use std::borrow::Cow;
/// use tower_idempotency::recording::{RecordRule, ResponseHead};
///
/// /// Whatever the upstream did not call transient.
/// struct NotTransient;
///
/// impl RecordRule for NotTransient {
///     fn records(&self, answer: &ResponseHead<'_>) -> bool {
///         answer.headers().get("transient-error").is_none_or(|value| value != "true")
///     }
///
///     fn describe(&self) -> Cow<'static, str> {
///         "responses without `Transient-Error: true`".into()
///     }
/// }
/// ```
pub trait RecordRule: Send + Sync + 'static {
    /// Whether this answer is recorded.
    fn records(&self, answer: &ResponseHead<'_>) -> bool;

    /// Which answers they are, for the clients that read the
    /// contract (`IdempotencyLayer::contract`): what completes the sentence "These
    /// responses are recorded: …".
    fn describe(&self) -> Cow<'static, str> {
        Cow::Borrowed("those that the application chooses by a rule of its own")
    }
}

impl<F> RecordRule for F
where
    F: Fn(&ResponseHead<'_>) -> bool + Send + Sync + 'static,
{
    fn records(&self, answer: &ResponseHead<'_>) -> bool {
        self(answer)
    }
}

impl RecordRule for Box<dyn RecordRule> {
    fn records(&self, answer: &ResponseHead<'_>) -> bool {
        (**self).records(answer)
    }

    fn describe(&self) -> Cow<'static, str> {
        (**self).describe()
    }
}

impl RecordRule for std::sync::Arc<dyn RecordRule> {
    fn records(&self, answer: &ResponseHead<'_>) -> bool {
        (**self).records(answer)
    }

    fn describe(&self) -> Cow<'static, str> {
        (**self).describe()
    }
}

/// Records by status: a set of HTTP statuses and one of gRPC codes.
///
/// The default records what is settled and leaves what may pass: every HTTP
/// status below 500 but 401, 403, 407, 408, 425 and 429, and every gRPC code
/// but 1, 2, 4, 8, 10 and 13 to 15.
///
/// ```
/// use tower_idempotency::recording::Statuses;
///
/// let every_final_answer = Statuses::default();
/// let only_successes = Statuses::none().and(200..=299);
/// let two_of_them = Statuses::none().and_each([201, 409]);
/// let once_begun = Statuses::all().but_each([429]);
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Statuses {
    /// By status minus 100, since `http` knows 100 to 999.
    http: Box<[bool; 900]>,
    grpc: [bool; 17],
}

impl Statuses {
    /// All of them.
    #[must_use]
    pub fn all() -> Self {
        Self {
            http: Box::new([true; 900]),
            grpc: [true; 17],
        }
    }

    /// No HTTP status; of gRPC only what [`and_grpc`](Self::and_grpc) adds.
    #[must_use]
    pub fn none() -> Self {
        Self {
            http: Box::new([false; 900]),
            grpc: [false; 17],
        }
    }

    /// These HTTP statuses too.
    #[must_use]
    pub fn and(mut self, range: impl RangeBounds<u16>) -> Self {
        set(&mut *self.http, 100, &range, true);
        self
    }

    /// Each of these HTTP statuses too.
    #[must_use]
    pub fn and_each(self, statuses: impl IntoIterator<Item = u16>) -> Self {
        statuses
            .into_iter()
            .fold(self, |all, status| all.and(status..=status))
    }

    /// None of these HTTP statuses.
    #[must_use]
    pub fn but_each(self, statuses: impl IntoIterator<Item = u16>) -> Self {
        statuses
            .into_iter()
            .fold(self, |all, status| all.but(status..=status))
    }

    /// Not these HTTP statuses.
    #[must_use]
    pub fn but(mut self, range: impl RangeBounds<u16>) -> Self {
        set(&mut *self.http, 100, &range, false);
        self
    }

    /// These gRPC codes too.
    #[must_use]
    pub fn and_grpc(mut self, range: impl RangeBounds<u16>) -> Self {
        set(&mut self.grpc, 0, &range, true);
        self
    }

    /// Not these gRPC codes.
    #[must_use]
    pub fn but_grpc(mut self, range: impl RangeBounds<u16>) -> Self {
        set(&mut self.grpc, 0, &range, false);
        self
    }
}

fn set(flags: &mut [bool], first: u16, range: &impl RangeBounds<u16>, to: bool) {
    for (number, flag) in (first..).zip(flags) {
        if range.contains(&number) {
            *flag = to;
        }
    }
}

/// The numbers that are set, and those that are not, each as ranges.
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

/// What is said shorter: which are in, or which are not.
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

#[cfg(feature = "client")]
impl Statuses {
    pub(crate) fn has(&self, status: StatusCode) -> bool {
        self.http[usize::from(status.as_u16() - 100)]
    }
}

impl Default for Statuses {
    fn default() -> Self {
        let http = Self::none()
            .and(..500)
            .but_each([401, 403, 407, 408, 425, 429]);
        [1, 2, 4, 8, 10, 13, 14, 15]
            .into_iter()
            .fold(http.and_grpc(..), |all, code| all.but_grpc(code..=code))
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
    fn records(&self, answer: &ResponseHead<'_>) -> bool {
        match answer.grpc_status() {
            // A code that gRPC does not know is as good as unknown (2).
            Some(code) => self.grpc[if code < 17 { code as usize } else { 2 }],
            None => self.http[usize::from(answer.status().as_u16() - 100)],
        }
    }

    fn describe(&self) -> Cow<'static, str> {
        let http = format!("responses with {}", listed(&*self.http, 100, "status"));
        // Most APIs speak no gRPC, and chose nothing for it.
        let chosen = [Self::all(), Self::none(), Self::default()];
        if chosen.iter().any(|own| own.grpc == self.grpc) {
            return Cow::Owned(http);
        }
        let grpc = listed(&self.grpc, 0, "code");
        Cow::Owned(format!("{http}; in gRPC, responses with {grpc}"))
    }
}

/// Which headers of an answer are recorded. Hop-by-hop fields, and those that
/// `Connection` names, never are.
#[derive(Clone, Debug)]
pub struct RecordHeaders {
    allow: bool,
    names: Vec<String>,
}

impl RecordHeaders {
    /// All but these. The default is
    /// `deny(["set-cookie", "www-authenticate", "date"])`.
    #[must_use]
    pub fn deny<N: Into<String>>(names: impl IntoIterator<Item = N>) -> Self {
        Self {
            allow: false,
            names: names.into_iter().map(Into::into).collect(),
        }
    }

    /// Only these. `Content-Type` is not implied.
    #[must_use]
    pub fn allow<N: Into<String>>(names: impl IntoIterator<Item = N>) -> Self {
        Self {
            allow: true,
            names: names.into_iter().map(Into::into).collect(),
        }
    }

    /// Whether these are all that is recorded, and which they are.
    pub(crate) fn into_names(self) -> (bool, Vec<String>) {
        (self.allow, self.names)
    }
}

/// [`RecordHeaders`], checked.
#[derive(Clone, Debug)]
pub(crate) struct RecordedHeaders {
    pub(crate) allow: bool,
    pub(crate) names: Vec<HeaderName>,
}

impl Default for RecordedHeaders {
    fn default() -> Self {
        Self::new(false, vec![SET_COOKIE, WWW_AUTHENTICATE, DATE])
    }
}

impl RecordedHeaders {
    pub(crate) fn new(allow: bool, names: Vec<HeaderName>) -> Self {
        Self { allow, names }
    }

    /// What of `headers` is recorded: copies, since a value can be a slice of
    /// the buffer that a whole message was read into.
    pub(crate) fn of(&self, headers: &HeaderMap) -> HeaderMap {
        let mut kept = HeaderMap::with_capacity(headers.keys_len());
        for (name, value) in headers {
            if self.keeps(name) {
                let mut copy =
                    HeaderValue::from_bytes(value.as_bytes()).unwrap_or_else(|_| value.clone());
                copy.set_sensitive(value.is_sensitive());
                kept.append(name, copy);
            }
        }
        for named in headers.get_all(CONNECTION) {
            for name in named.to_str().unwrap_or_default().split(',') {
                kept.remove(name.trim());
            }
        }
        kept
    }

    fn keeps(&self, name: &HeaderName) -> bool {
        self.names.contains(name) == self.allow && !HOP_BY_HOP.contains(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::RouteOptions;

    fn records(statuses: &Statuses, status: u16) -> bool {
        statuses.records(&ResponseHead {
            status: StatusCode::from_u16(status).unwrap(),
            headers: &HeaderMap::new(),
            trailers: None,
        })
    }

    fn fields(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(*name, HeaderValue::from_static(value));
        }
        map
    }

    #[test]
    fn the_default_records_what_is_settled() {
        let transient: Vec<_> = (100..1000)
            .filter(|status| *status < 500 && !records(&Statuses::default(), *status))
            .collect();
        assert_eq!(transient, [401, 403, 407, 408, 425, 429]);
        assert!((500..1000).all(|status| !records(&Statuses::default(), status)));
        assert!((100..1000).all(|status| records(&Statuses::all(), status)));
        assert!(records(&Statuses::none().and(200..300), 299));
        assert!(!records(&Statuses::none().and(200..300), 300));
        assert_eq!(
            format!("{:?}", Statuses::none().and(201..203).and_grpc(0..1)),
            "Statuses { http: [201, 202], grpc: [0] }"
        );
    }

    #[test]
    fn grpc_is_judged_by_its_status_in_headers_or_trailers() {
        let grpc = fields(&[("content-type", "application/grpc+proto")]);
        let code = |trailers: Option<&HeaderMap>| {
            let answer = ResponseHead {
                status: StatusCode::OK,
                headers: &grpc,
                trailers,
            };
            (answer.grpc_status(), Statuses::default().records(&answer))
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
        assert_eq!(
            code(Some(&fields(&[("grpc-status", "99")]))),
            (Some(99), false)
        );
        // Its status is in its body: judged by the HTTP status.
        let web = fields(&[("content-type", "application/grpc-web+proto")]);
        assert_eq!(
            ResponseHead::new(StatusCode::OK, &web, None).grpc_status(),
            None
        );
        let only_headers = fields(&[("content-type", "application/grpc"), ("grpc-status", "3")]);
        let answer = ResponseHead {
            status: StatusCode::OK,
            headers: &only_headers,
            trailers: None,
        };
        assert!(Statuses::default().records(&answer));
    }

    #[test]
    fn hop_by_hop_and_denied_headers_are_not_recorded() {
        let headers = fields(&[
            ("connection", "close, X-Hop"),
            ("connection", "x-other"),
            ("x-hop", "1"),
            ("x-other", "1"),
            ("keep-alive", "timeout=5"),
            ("transfer-encoding", "chunked"),
            ("set-cookie", "a=1"),
            ("date", "now"),
            ("trailer", "x-sum"),
            ("content-type", "text/plain"),
            ("x-id", "1"),
            ("x-id", "2"),
        ]);
        let options = RouteOptions::default();
        let kept = options.record_headers.of(&headers);
        let mut names: Vec<_> = kept.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["content-type", "trailer", "x-id"]);
        assert_eq!(kept.get_all("x-id").iter().count(), 2);

        let options = options.record_headers(RecordHeaders::allow(["X-Id", "connection"]));
        let kept = options.record_headers.of(&headers);
        assert_eq!(
            kept.keys().map(HeaderName::as_str).collect::<Vec<_>>(),
            ["x-id"]
        );
    }
}
