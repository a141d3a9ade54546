//! Sessions of browsers: one cookie, and what each form of that browser has to carry.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use hmac::{Hmac, KeyInit as _, Mac as _};
use http::header::COOKIE;
use http::{HeaderMap, HeaderValue};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

/// A browser keeps a cookie of this name only if it came with `Secure`, without `Domain` and for all
/// paths, so that no other host and no page over plain text can have set it.
const NAME: &str = "__Host-idempotency-desk";
/// How many browsers may be logged in at once. The oldest session ends for one more.
const MOST: usize = 64;
/// After this time a person logs in again.
const LONGEST: Duration = Duration::from_secs(8 * 60 * 60);

/// The session of one browser.
pub(crate) struct Session {
    id: [u8; 32],
    /// What each form of this session carries.
    pub(crate) csrf: String,
    /// Whether the browser has the cookie.
    pub(crate) is_known: bool,
}

impl Session {
    /// Whether a form with this token was served to this session.
    pub(crate) fn has_sent(&self, csrf: &str) -> bool {
        self.is_known && self.csrf.as_bytes().ct_eq(csrf.as_bytes()).into()
    }

    /// The cookie that the browser keeps until it is closed.
    pub(crate) fn cookie(&self) -> HeaderValue {
        let cookie = format!(
            "{NAME}={}; Path=/; Secure; HttpOnly; SameSite=Strict",
            hex(&self.id)
        );
        HeaderValue::try_from(cookie).expect("hex digits")
    }
}

/// The field that makes a browser forget the cookie.
pub(crate) fn no_cookie() -> HeaderValue {
    let cookie = format!("{NAME}=; Path=/; Secure; HttpOnly; SameSite=Strict; Max-Age=0");
    HeaderValue::try_from(cookie).expect("a name")
}

pub(crate) struct Sessions {
    /// The key from which tokens of forms are derived.
    key: [u8; 32],
    /// Digests of ids and when they were opened, the oldest first: who reads the memory of the process
    /// has no cookie by that.
    open: Mutex<VecDeque<([u8; 32], Instant)>>,
}

impl Sessions {
    pub(crate) fn new() -> Self {
        Self {
            key: rand::random(),
            open: Mutex::default(),
        }
    }

    /// The session that the cookie names, whether or not anybody has logged in.
    pub(crate) fn of(&self, headers: &HeaderMap) -> Option<Session> {
        let lines = headers.get_all(COOKIE).iter();
        let mut pairs = lines.flat_map(|line| line.to_str().unwrap_or_default().split(';'));
        let id = pairs.find_map(|pair| {
            let value = pair.trim_start().strip_prefix(NAME)?.strip_prefix('=')?;
            unhex(value)
        })?;
        Some(self.session(id, true))
    }

    pub(crate) fn fresh(&self) -> Session {
        self.session(rand::random(), false)
    }

    /// The session that the cookie names, if somebody has logged in with it.
    pub(crate) fn open(&self, headers: &HeaderMap) -> Option<Session> {
        let session = self.of(headers)?;
        let digest = digest(&session.id);
        let mut open = self.lock();
        while open
            .front()
            .is_some_and(|(_, since)| since.elapsed() > LONGEST)
        {
            open.pop_front();
        }
        let is_open = open.iter().any(|(own, _)| own.ct_eq(&digest).into());
        is_open.then_some(session)
    }

    pub(crate) fn begin(&self) -> Session {
        let session = self.fresh();
        let mut open = self.lock();
        if open.len() >= MOST {
            open.pop_front();
        }
        open.push_back((digest(&session.id), Instant::now()));
        session
    }

    pub(crate) fn end(&self, session: &Session) {
        let digest = digest(&session.id);
        self.lock().retain(|(own, _)| *own != digest);
    }

    fn session(&self, id: [u8; 32], is_known: bool) -> Session {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.key).expect("any length will do");
        mac.update(&id);
        let csrf = hex(&mac.finalize().into_bytes());
        Session { id, csrf, is_known }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<([u8; 32], Instant)>> {
        // No code that can panic runs under this lock.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn digest(id: &[u8; 32]) -> [u8; 32] {
    Sha256::digest(id).into()
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

fn unhex(hex: &str) -> Option<[u8; 32]> {
    // An id of a record is written in the same way.
    tower_idempotency::store::RecordId::from_hex(hex).map(|id| *id.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_more_than_there_may_be_ends_the_oldest() {
        let sessions = Sessions::new();
        let first = sessions.begin();
        let is_open = |session: &Session| {
            let mut headers = HeaderMap::new();
            let cookie = session.cookie();
            let pair = cookie.to_str().unwrap().split(';').next().unwrap();
            headers.insert(COOKIE, format!("a=b; {pair}").parse().unwrap());
            sessions.open(&headers).is_some()
        };
        let others: Vec<_> = (1..MOST).map(|_| sessions.begin()).collect();
        assert!(is_open(&first) && others.iter().all(is_open));
        let last = sessions.begin();
        assert!(!is_open(&first) && is_open(&last) && others.iter().all(is_open));
        sessions.end(&last);
        assert!(!is_open(&last));
        assert!(!is_open(&sessions.fresh()));
    }

    #[test]
    fn a_form_of_one_session_is_none_of_another() {
        let sessions = Sessions::new();
        let [mut one, mut other] = [sessions.fresh(), sessions.fresh()];
        (one.is_known, other.is_known) = (true, true);
        assert!(one.has_sent(&one.csrf) && !one.has_sent(&other.csrf) && !one.has_sent(""));
    }
}
