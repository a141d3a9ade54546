//! Who may use the desk, and from where.

use std::error::Error;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use http::HeaderValue;
use http::header::{AUTHORIZATION, HOST, ORIGIN};
use http::request::Parts;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use tokio::sync::Semaphore;
use tokio::time::sleep;
use tracing::warn;

use crate::sessions::{Session, Sessions};

/// The fewest and the most bytes of a token.
const LENGTH: std::ops::RangeInclusive<usize> = 16..=1024;
/// For how long a wrong token keeps its place.
const SLOW: Duration = Duration::from_secs(1);
/// How many tokens may be compared at once, the wrong ones of the last second among them.
const PLACES: usize = 8;

/// Who may use a desk. There is no desk without this decision.
#[derive(Clone)]
pub struct Access(Kind);

#[derive(Clone)]
enum Kind {
    /// The SHA-256 of the token.
    Token([u8; 32]),
    Loopback,
    Verified,
}

impl Access {
    /// Whoever knows this token: a person types it into a form, a program sends it as
    /// `Authorization: Bearer`.
    ///
    /// # Errors
    /// If the token has fewer than 16 bytes or more than 1024, or has something else than visible
    /// ASCII characters.
    pub fn token(token: impl AsRef<str>) -> Result<Self, WeakToken> {
        let token = token.as_ref();
        let is_visible = token.bytes().all(|byte| byte.is_ascii_graphic());
        if LENGTH.contains(&token.len()) && is_visible {
            Ok(Self(Kind::Token(digest(token))))
        } else {
            Err(WeakToken(()))
        }
    }

    /// Whoever reaches a listener that is bound to a loopback address: every user of this machine.
    /// The application promises that nobody else reaches the desk, and that no proxy stands in front.
    ///
    /// A request has to name `localhost` or a loopback address as its host. Otherwise a page of
    /// another site could give its own name the address of this machine, and read the desk through
    /// the browser of a person who works here (DNS rebinding).
    #[must_use]
    pub fn loopback() -> Self {
        Self(Kind::Loopback)
    }

    /// Whoever reaches the desk, because something in front of it has verified each request: the
    /// client certificate of its connection, or the application's own login for operators.
    #[must_use]
    pub fn verified() -> Self {
        Self(Kind::Verified)
    }
}

/// Never shows the token.
impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Kind::Token(_) => "Access::token(..)",
            Kind::Loopback => "Access::loopback()",
            Kind::Verified => "Access::verified()",
        })
    }
}

/// A token that could be guessed, or that no header can carry.
#[derive(Debug)]
pub struct WeakToken(());

impl fmt::Display for WeakToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (least, most) = (LENGTH.start(), LENGTH.end());
        write!(
            f,
            "the desk's token needs {least} to {most} visible ASCII characters"
        )
    }
}

impl Error for WeakToken {}

/// Lets people in.
pub(crate) struct Door {
    kind: Kind,
    sessions: Sessions,
    places: Semaphore,
}

/// What the door knows of a request.
pub(crate) enum Visit {
    /// A browser. The session of a desk without a token may be new.
    Session(Session),
    /// A program, which has sent the token itself. No browser does that for a foreign page.
    Program,
    /// The request has no credential.
    Nobody,
}

/// Why nobody is let in now.
pub(crate) enum Shut {
    /// The token is wrong.
    Wrong,
    /// Too many wrong tokens were tried within the last second.
    Busy,
}

impl Door {
    pub(crate) fn new(Access(kind): Access) -> Self {
        Self {
            kind,
            sessions: Sessions::new(),
            places: Semaphore::new(PLACES),
        }
    }

    /// Whether people log in.
    pub(crate) fn has_token(&self) -> bool {
        matches!(self.kind, Kind::Token(_))
    }

    /// Whether the request may have come to this host.
    pub(crate) fn serves_host(&self, head: &Parts) -> bool {
        !matches!(self.kind, Kind::Loopback) || host(head).is_some_and(is_loopback)
    }

    pub(crate) async fn visit(&self, head: &Parts) -> Result<Visit, Shut> {
        if !self.has_token() {
            let session = self.sessions.of(&head.headers);
            return Ok(Visit::Session(
                session.unwrap_or_else(|| self.sessions.fresh()),
            ));
        }
        if let Some(token) = head.headers.get(AUTHORIZATION).and_then(bearer) {
            return self.compare(token).await.map(|()| Visit::Program);
        }
        let session = self.sessions.open(&head.headers);
        Ok(session.map_or(Visit::Nobody, Visit::Session))
    }

    /// Opens a session for whoever has the token.
    pub(crate) async fn log_in(&self, token: &str) -> Result<Session, Shut> {
        self.compare(token).await?;
        Ok(self.sessions.begin())
    }

    pub(crate) fn log_out(&self, session: &Session) {
        self.sessions.end(session);
    }

    async fn compare(&self, token: &str) -> Result<(), Shut> {
        let Kind::Token(expected) = &self.kind else {
            return Ok(());
        };
        // A wrong token keeps its place for a while, so that tokens are tried slowly.
        let Ok(_place) = self.places.try_acquire() else {
            warn!("tokens of the desk are tried faster than they are compared");
            return Err(Shut::Busy);
        };
        // Digests of equal length are compared, which tells nothing of the token's own length.
        if digest(token).ct_eq(expected).into() {
            return Ok(());
        }
        warn!("a wrong token was tried at the desk");
        sleep(SLOW).await;
        Err(Shut::Wrong)
    }
}

/// The token of `Authorization: Bearer`. Other schemes are for whoever stands in front of the desk.
fn bearer(value: &HeaderValue) -> Option<&str> {
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn digest(token: &str) -> [u8; 32] {
    Sha256::digest(token).into()
}

/// The authority that the request names: of its target in HTTP/2, of `Host` otherwise.
fn authority(head: &Parts) -> Option<&str> {
    if let Some(authority) = head.uri.authority() {
        return Some(authority.as_str());
    }
    let mut lines = head.headers.get_all(HOST).iter();
    match (lines.next(), lines.next()) {
        (Some(line), None) => line.to_str().ok(),
        _ => None,
    }
}

fn host(head: &Parts) -> Option<&str> {
    let authority = authority(head)?;
    if let Some(rest) = authority.strip_prefix('[') {
        return rest.split_once(']').map(|(host, _)| host);
    }
    Some(
        authority
            .split_once(':')
            .map_or(authority, |(host, _)| host),
    )
}

fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost")
        || host
            .parse()
            .is_ok_and(|address: IpAddr| address.is_loopback())
}

/// Whether a request that changes something can come from a page of the desk itself.
///
/// The desk sends `Referrer-Policy: no-referrer`, under which a browser writes `Origin: null` for a
/// form; `Sec-Fetch-Site` then tells. A browser leaves `Sec-Fetch-Site` out where the page came over
/// `http` from another machine, and there a token must not be typed in. A program sends neither field, and
/// has no cookie that a page could misuse.
pub(crate) fn is_own_form(head: &Parts) -> bool {
    if let Some(site) = head.headers.get("sec-fetch-site") {
        return site == "same-origin";
    }
    match head.headers.get(ORIGIN) {
        None => true,
        Some(origin) => {
            let origin = origin
                .to_str()
                .ok()
                .and_then(|origin| origin.split_once("://"));
            origin.is_some_and(|(_, origin)| {
                authority(head).is_some_and(|own| own.eq_ignore_ascii_case(origin))
            })
        }
    }
}
