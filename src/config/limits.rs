//! The table `[limits]`: what the sidecar takes from its clients and asks of its upstream.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use super::amount::{Size, Time};

/// Makes the table of a file and the limits that it stands for out of the same rows: the name of a
/// limit, its type in Rust and in a file, and its default in Rust and in a file.
macro_rules! limits {
    ($($(#[$doc:meta])* $name:ident: $type:ty, $entry:ty = $default:expr, [$($shown:literal)?], $read:expr;)+) => {
        /// The limits of a sidecar. Each field is an entry of the table `[limits]`.
        #[derive(Clone, Debug)]
        pub struct Limits {
            $($(#[$doc])* pub $name: $type,)+
        }

        impl Default for Limits {
            fn default() -> Self {
                Self { $($name: $default,)+ }
            }
        }

        /// The limits of the sidecar.
        #[derive(Clone, Default, Deserialize, JsonSchema)]
        #[serde(deny_unknown_fields)]
        #[schemars(inline)]
        pub(super) struct LimitsTable {
            $($(#[$doc])* $(#[schemars(extend("default" = $shown))])? $name: Option<$entry>,)+
        }

        impl LimitsTable {
            /// The limits of this table, with the defaults of what it leaves out.
            pub(super) fn limits(&self) -> Limits {
                let mut limits = Limits::default();
                $(if let Some(own) = self.$name.map($read) {
                    limits.$name = own;
                })+
                limits
            }

            /// The entries of this table that are zero.
            fn zeros(&self) -> impl Iterator<Item = &'static str> {
                let zeros = [$((stringify!($name), self.$name.is_some_and(|own| own.is_zero())),)+];
                zeros.into_iter().filter(|(_, is_zero)| *is_zero).map(|(name, _)| name)
            }
        }
    };
}

limits! {
    /// How many connections of clients there may be on `listen`; what is beyond waits until the system
    /// can hand it over.
    max_connections: usize, usize = 1024, [1024], |own| own;
    /// How many of them one peer may have, by its IPv4 address or the first 64 bits of its IPv6
    /// address; what is beyond is closed. Left out: seven times as many as are free.
    max_connections_per_peer: Option<usize>, usize = None, [], Some;
    /// How many connections there may be on `metrics`, shared in the same way.
    max_metrics_connections: usize, usize = 64, [64], |own| own;
    /// How many bytes the head of a request may have.
    max_head_bytes: usize, Size = 32 << 10, ["32KiB"], |own| own.0;
    /// How long the head of a request may take, and a new connection until the head of its first
    /// request.
    head_timeout: Duration, Time = Duration::from_secs(30), ["30s"], |own| own.0;
    /// How long a connection may rest between two requests.
    keep_alive: Duration, Time = Duration::from_secs(75), ["75s"], |own| own.0;
    /// How long a client may send nothing of a body that the service waits for, or take nothing of a
    /// response.
    client_timeout: Duration, Time = Duration::from_secs(60), ["60s"], |own| own.0;
    /// For how long nothing may move in a request without protection once its response has begun.
    unprotected_idle_timeout: Duration, Time = Duration::from_secs(5 * 60), ["5m"], |own| own.0;
    /// How many requests may run on one connection over HTTP/2.
    max_streams: usize, usize = 200, [200], |own| own;
    /// How many of them a client may reset in a second; with more the connection is ended.
    max_resets_per_second: usize, usize = 200, [200], |own| own;
    /// How many requests may be at the service at once; over HTTP/1.1 each has a connection of its own. At
    /// least 2: an eighth is kept for requests that are not protected, and as much for those that are.
    max_upstream_requests: usize, usize = 512, [512], |own| own;
    /// How many of them one caller may have; without protection: one peer. Left out: seven times as
    /// many as are free.
    max_upstream_requests_per_caller: Option<usize>, usize = None, [], Some;
    /// How many protected requests may wait for their turn at the service, and how many others, for
    /// `connect_timeout`; what is beyond gets `over-capacity`.
    max_upstream_queue: usize, usize = 512, [512], |own| own;
}

/// Whether a limit is zero, which would let nothing through.
trait IsZero {
    fn is_zero(&self) -> bool;
}

impl IsZero for usize {
    fn is_zero(&self) -> bool {
        *self == 0
    }
}

impl IsZero for Size {
    fn is_zero(&self) -> bool {
        self.0 == 0
    }
}

impl IsZero for Time {
    fn is_zero(&self) -> bool {
        self.0.is_zero()
    }
}

/// The least that `max_head_bytes` can be: hyper reads into no smaller buffer.
const LEAST_HEAD: usize = 8 << 10;

impl LimitsTable {
    /// The entry that lets nothing through or contradicts another one, and what is wrong with it.
    pub(super) fn wrong(&self) -> Option<(&'static str, String)> {
        if let Some(name) = self.zeros().next() {
            return Some((name, "must be more than zero".to_owned()));
        }
        let limits = self.limits();
        if limits.max_head_bytes < LEAST_HEAD {
            return Some(("max_head_bytes", "must be at least 8KiB".to_owned()));
        }
        if limits.max_upstream_requests < 2 {
            let message = "must be at least 2: one protected request and one other".to_owned();
            return Some(("max_upstream_requests", message));
        }
        let shares = [
            (
                "max_connections_per_peer",
                limits.max_connections_per_peer,
                "max_connections",
                limits.max_connections,
            ),
            (
                "max_upstream_requests_per_caller",
                limits.max_upstream_requests_per_caller,
                "max_upstream_requests",
                limits.max_upstream_requests,
            ),
        ];
        shares.into_iter().find_map(|(share, of_one, sum, of_all)| {
            let of_one = of_one.filter(|of_one| *of_one > of_all)?;
            let message =
                format!("is {of_one}, which is more than `{sum}`, {of_all}, for all together");
            Some((share, message))
        })
    }
}
