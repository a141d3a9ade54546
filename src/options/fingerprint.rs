//! Makes the digest of a request's content (its fingerprint), and the id of the record that
//! belongs to the request's key.

use std::borrow::Cow;
use std::collections::HashSet;

use http::header::CONTENT_TYPE;
use http::request::Parts;
use http::{HeaderMap, HeaderName, Method, Uri};

use crate::error::ConfigError;
use crate::message::media_type::is_json;
use crate::options::choices::Mode;
use crate::options::json::JsonFingerprint;
use crate::options::json::member::MemberPointer;
use crate::options::json::splice::{Change, edits, spliced};
use crate::options::key::Key;
use crate::options::target::SentTarget;
use crate::record::digest::{Digests, Hasher, Label};
use crate::record::{Fingerprint, RecordId, ScopeDigest};

/// How the request's body enters the fingerprint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum FingerprintBody {
    /// The body is compared byte for byte.
    #[default]
    Bytes,
    /// The body is compared as JSON: white space, the order of members and the spelling of numbers
    /// and strings don't count. A body whose `Content-Type` is not JSON (`application/json`,
    /// `…/json` or `…+json`), or that is not strict JSON, is compared byte for byte.
    Json(JsonFingerprint),
    /// The body is not compared: a retry with another body still gets the first response.
    None,
}

/// Which parts of a request enter the fingerprint, besides its method and path.
#[derive(Clone, Debug)]
pub(crate) struct FingerprintRules {
    pub(crate) body: FingerprintBody,
    pub(crate) query: bool,
    pub(crate) headers: Vec<HeaderName>,
    /// The members that may carry the key. The one that does is no part of a JSON body's fingerprint.
    /// Where bytes are compared it needs no exception: equal keys are equal members.
    pub(crate) keys: Vec<MemberPointer>,
    /// The members that are new in every attempt, and left out. In a JSON body that has no canonical
    /// form they are taken for `null`.
    pub(crate) of_attempt: Vec<MemberPointer>,
}

impl Default for FingerprintRules {
    fn default() -> Self {
        Self {
            body: FingerprintBody::default(),
            query: true,
            headers: vec![CONTENT_TYPE],
            keys: Vec::new(),
            of_attempt: Vec::new(),
        }
    }
}

impl FingerprintRules {
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        let mut seen = HashSet::new();
        if let Some(name) = self.headers.iter().find(|name| !seen.insert(*name)) {
            let message = format!("names `{name}` twice");
            return Err(ConfigError::new("fingerprint_headers", message));
        }
        match &self.body {
            FingerprintBody::Json(json) => json.check(),
            FingerprintBody::Bytes | FingerprintBody::None => Ok(()),
        }
    }

    /// Digests the request, without its body.
    pub(crate) fn begin(
        &self,
        digests: &Digests,
        request: &Parts,
        SentTarget(target): SentTarget<'_>,
    ) -> BegunFingerprint {
        BegunFingerprint {
            hasher: self.of_head(digests, request, target),
            body: self.part(&request.headers),
        }
    }

    fn part(&self, headers: &HeaderMap) -> Part {
        match &self.body {
            FingerprintBody::None => Part::Nothing,
            FingerprintBody::Json(_) if says_json(headers) => Part::Json,
            FingerprintBody::Json(_) | FingerprintBody::Bytes => Part::Bytes,
        }
    }

    /// Whether a body of this length takes more than about a tenth of a millisecond, and so must
    /// not be digested on a thread that serves requests (G11). For a shorter one, another thread
    /// would cost about as much as it saves.
    pub(crate) fn takes_long(&self, request: &Parts, length: usize) -> bool {
        length > 16 * 1024 && self.part(&request.headers).takes_long(length)
    }

    /// Digests the body.
    pub(crate) fn end(&self, begun: BegunFingerprint, body: &[u8]) -> Fingerprint {
        let BegunFingerprint { mut hasher, .. } = begun;
        let canonical = match (&self.body, begun.body) {
            (FingerprintBody::Json(json), Part::Json) => json.canonical(body, &self.keys),
            _ => None,
        };
        match (canonical, begun.body) {
            (_, Part::Nothing) => {}
            (Some(canonical), _) => {
                hasher.number(1).part(&canonical);
            }
            (None, Part::Json) => {
                hasher.number(0).part(&self.of_every_attempt(body));
            }
            (None, Part::Bytes) => {
                hasher.number(0).part(body);
            }
        }
        Fingerprint::from_bytes(hasher.finish())
    }

    /// The bytes of a JSON body, as they are in every attempt.
    fn of_every_attempt<'a>(&self, body: &'a [u8]) -> Cow<'a, [u8]> {
        let is_left_out = |own: &&MemberPointer| match &self.body {
            FingerprintBody::Json(json) => json.leaves_out(own),
            FingerprintBody::Bytes | FingerprintBody::None => false,
        };
        let left_out = self.of_attempt.iter().filter(is_left_out);
        let changes = left_out.map(|pointer| Change {
            pointer,
            value: "null",
            adds: false,
        });
        let changes: Vec<_> = changes.collect();
        let text = std::str::from_utf8(body).ok();
        match text.and_then(|text| edits(text, &changes)) {
            Some(edits) if !edits.is_empty() => spliced(body, &edits).into(),
            _ => body.into(),
        }
    }

    /// Begins the fingerprint of a request whose body has this length and comes in pieces. `None`
    /// for a body that is compared as JSON, which must be whole.
    pub(crate) fn of_body_in_pieces(
        &self,
        digests: &Digests,
        request: &Parts,
        target: SentTarget<'_>,
        length: usize,
    ) -> Option<BodyDigest> {
        let BegunFingerprint { mut hasher, body } = self.begin(digests, request, target);
        match body {
            Part::Json => return None,
            Part::Bytes => {
                hasher.number(0).number(length);
            }
            Part::Nothing => {}
        }
        let takes_body = body == Part::Bytes;
        Some(BodyDigest { hasher, takes_body })
    }

    fn of_head(&self, digests: &Digests, request: &Parts, target: &Uri) -> Hasher {
        let mut hasher = digests.start(Label::Fingerprint);
        hasher.part(request.method.as_str().as_bytes());
        hasher.part(target.path().as_bytes());
        match target.query() {
            Some(query) if self.query => hasher.number(1).part(query.as_bytes()),
            _ => hasher.number(0),
        };
        for name in &self.headers {
            let all = request.headers.get_all(name);
            let mut values = all.iter();
            if let (Some(only), None) = (values.next(), values.next()) {
                hasher.number(1).part(only.as_bytes());
                continue;
            }
            hasher.number(all.iter().count());
            for value in all {
                hasher.part(value.as_bytes());
            }
        }
        hasher
    }
}

/// A fingerprint that lacks the request's body.
#[derive(Clone)]
pub(crate) struct BegunFingerprint {
    hasher: Hasher,
    body: Part,
}

impl BegunFingerprint {
    /// As [`FingerprintRules::takes_long`].
    pub(crate) fn takes_long(&self, length: usize) -> bool {
        self.body.takes_long(length)
    }
}

/// What of a body enters the fingerprint.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Nothing,
    Bytes,
    /// The canonical form, or else the bytes.
    Json,
}

impl Part {
    fn takes_long(self, length: usize) -> bool {
        match self {
            Part::Nothing => false,
            Part::Bytes => length > 64 * 1024,
            Part::Json => length > 16 * 1024,
        }
    }
}

/// A fingerprint that takes the pieces of a body.
pub(crate) struct BodyDigest {
    hasher: Hasher,
    takes_body: bool,
}

impl BodyDigest {
    /// Adds the next bytes of the body.
    pub(crate) fn add(&mut self, bytes: &[u8]) {
        if self.takes_body {
            self.hasher.raw(bytes);
        }
    }

    pub(crate) fn finish(self) -> Fingerprint {
        Fingerprint::from_bytes(self.hasher.finish())
    }
}

/// Whether the one content type of a request is JSON. Another body, such as `1.0` as text, may
/// mean something else than the JSON with the same characters. A proxy may have joined two content
/// types with a comma (RFC 9110, 5.3).
pub(crate) fn says_json(headers: &HeaderMap) -> bool {
    let mut types = headers.get_all(CONTENT_TYPE).iter();
    let (own, other) = (types.next(), types.next());
    let own = own.and_then(|own| own.to_str().ok());
    own.is_some_and(|own| is_json(own) && !own.contains(',')) && other.is_none()
}

/// Returns the id of the record that `key` has in this scope. If there is a `route`, the record
/// belongs to this method and path only. Records of [`Mode::Observe`] are others than those of
/// [`Mode::Protect`].
pub(crate) fn record_id(
    digests: &Digests,
    scope: &ScopeDigest,
    key: &Key,
    route: Option<(&Method, &str)>,
    mode: Mode,
) -> RecordId {
    let mut hasher = digests.start(Label::RecordId);
    // The namespace is not a part of its own, because the scope's digest contains it.
    hasher.digest(scope.as_bytes()).part(key.as_bytes());
    if let Some((method, path)) = route {
        hasher
            .part(method.as_str().as_bytes())
            .part(path.as_bytes());
    }
    // The method and the path are two parts or none, so that this one part can't be taken for them.
    if mode == Mode::Observe {
        hasher.part(b"observed");
    }
    RecordId::from_bytes(hasher.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(body: FingerprintBody) -> FingerprintRules {
        FingerprintRules {
            body,
            ..FingerprintRules::default()
        }
    }

    fn of(rules: &FingerprintRules, target: &str, body: &str) -> Fingerprint {
        let request = http::Request::post(target).header(CONTENT_TYPE, "application/json");
        let request = request.body(()).unwrap().into_parts().0;
        let sent = SentTarget(&request.uri);
        rules.end(
            rules.begin(&Digests::plain(), &request, sent),
            body.as_bytes(),
        )
    }

    #[test]
    fn path_query_and_body_count_byte_for_byte() {
        let rules = rules(FingerprintBody::Bytes);
        let all = [
            of(&rules, "/a", ""),
            of(&rules, "/a", "x"),
            of(&rules, "/a?", ""),
            of(&rules, "/a?x", ""),
            of(&rules, "/ax", ""),
            of(&rules, "/A", ""),
        ];
        for (i, one) in all.iter().enumerate() {
            assert!(all[i + 1..].iter().all(|other| other != one), "{i}");
        }
    }

    #[test]
    fn a_body_with_two_content_types_is_compared_byte_for_byte() {
        let json = FingerprintRules {
            headers: Vec::new(),
            ..rules(FingerprintBody::Json(JsonFingerprint::new()))
        };
        let is_json = |types: &[&str]| {
            let [one, other] = ["1", "1.0"].map(|body| {
                let mut request = http::Request::post("/a");
                for own in types {
                    request = request.header(CONTENT_TYPE, *own);
                }
                let request = request.body(()).unwrap().into_parts().0;
                let sent = SentTarget(&request.uri);
                json.end(
                    json.begin(&Digests::plain(), &request, sent),
                    body.as_bytes(),
                )
            });
            one == other
        };
        assert!(is_json(&["application/json; charset=utf-8"]));
        for two in [
            &["text/plain", "application/json"][..],
            &["text/plain, application/json"],
            &["application/json; charset=utf-8, text/plain"],
        ] {
            assert!(!is_json(two), "{two:?}");
        }
    }

    #[test]
    fn queries_and_bodies_can_be_left_out() {
        let mut rules = rules(FingerprintBody::None);
        assert_eq!(of(&rules, "/a", "x"), of(&rules, "/a", "y"));
        assert_ne!(of(&rules, "/a?1", ""), of(&rules, "/a?2", ""));
        rules.query = false;
        assert_eq!(of(&rules, "/a?1", ""), of(&rules, "/a?2", ""));
    }

    #[test]
    fn wrong_pointers_and_repeated_headers_are_config_errors() {
        let pointer = JsonFingerprint::new().include("amount");
        let error = rules(FingerprintBody::Json(pointer)).check().unwrap_err();
        assert_eq!(error.option(), "fingerprint_body");
        let mut rules = rules(FingerprintBody::Bytes);
        rules.headers.push(CONTENT_TYPE);
        assert_eq!(rules.check().unwrap_err().option(), "fingerprint_headers");
    }

    /// Records keep these digests, so that another version must make the same ones.
    #[test]
    fn fingerprints_are_the_published_ones() {
        use sha2::{Digest, Sha256};

        for (target, content) in [
            (
                "/a?q=1",
                &b"\x04POST\x02/a\x01\x03q=1\x01\x10application/json\x00\x01x"[..],
            ),
            ("/a", b"\x04POST\x02/a\x00\x01\x10application/json\x00\x01x"),
        ] {
            let mut expected = Sha256::new();
            expected.update(b"tower-idempotency/1 fingerprint");
            expected.update([0; 64 - 31]);
            expected.update(content);
            let expected = Fingerprint::from_bytes(expected.finalize().into());
            assert_eq!(of(&rules(FingerprintBody::Bytes), target, "x"), expected);
        }
    }
}
