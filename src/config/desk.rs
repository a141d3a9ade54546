//! The desk that the sidecar serves, and who may use it.

use std::fmt;
use std::net::IpAddr;

use schemars::JsonSchema;
use serde::Deserialize;

use super::credential::Credential;
use super::process::Listen;
use super::tls::ServerFiles;

/// The fewest and the most bytes of a token.
const TOKEN: std::ops::RangeInclusive<usize> = 16..=1024;

/// The desk of the sidecar.
#[derive(Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline)]
pub(super) struct DeskTable {
    /// What a person types to log in, and a program sends as `Authorization: Bearer`: 16 to 1024
    /// visible ASCII characters. `env:NAME` reads a variable.
    token: Option<Credential>,
    /// Whether headers and bodies of recorded responses are shown.
    #[schemars(extend("default" = false))]
    show_bodies: Option<bool>,
}

/// The entry `desk`. Its `token` is a credential.
#[derive(Clone)]
pub struct DeskEntry {
    /// Whoever knows the token may use the desk; `None` where the listener lets in whoever may.
    pub token: Option<String>,
    /// Whether headers and bodies of recorded responses are shown.
    pub show_bodies: bool,
}

impl fmt::Debug for DeskEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeskEntry")
            .field("show_bodies", &self.show_bodies)
            .finish_non_exhaustive()
    }
}

impl DeskTable {
    pub(super) fn entry(&self) -> DeskEntry {
        DeskEntry {
            token: self.token.as_ref().map(|own| own.0.clone()),
            show_bodies: self.show_bodies == Some(true),
        }
    }

    /// Returns what is wrong with the desk on this listener, and the entry that is wrong.
    pub(super) fn wrong(
        &self,
        metrics: Option<&Listen>,
        tls: Option<ServerFiles>,
    ) -> Option<(&'static str, &'static str)> {
        if let Some(Credential(token)) = &self.token {
            let is_visible = token.bytes().all(|byte| byte.is_ascii_graphic());
            if !TOKEN.contains(&token.len()) || !is_visible {
                return Some(("desk.token", "must be 16 to 1024 visible ASCII characters"));
            }
        }
        let Some(metrics) = metrics else {
            return Some(("desk", "needs `metrics`, the address on which it is served"));
        };
        let has_client_ca = tls.is_some_and(|files| files.client_ca.is_some());
        let is_open = self.token.is_none() && !has_client_ca && !is_loopback(metrics);
        is_open.then_some((
            "desk",
            "needs a `token`, or `metrics_tls` with `client_ca`: others than this machine can reach \
             `metrics`",
        ))
    }
}

/// Whether only this machine reaches the listener. A socket that is passed by a service manager may be
/// any, and one of Unix may stand behind a proxy.
fn is_loopback(on: &Listen) -> bool {
    match on {
        Listen::Tcp(host, _) => {
            host.eq_ignore_ascii_case("localhost")
                || host.parse().is_ok_and(|host: IpAddr| host.is_loopback())
        }
        Listen::Unix(_) | Listen::Descriptor(_) => false,
    }
}
