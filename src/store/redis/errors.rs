//! What an error of the driver says about the request.

use std::error::Error;
use std::fmt;

use redis::{ErrorKind, RedisError, ServerErrorKind};

use crate::store::{StoreError, StoreErrorKind};

/// What became of a request that failed, and what to do.
///
/// A cluster's driver sends a request again by itself. So whatever its last
/// attempt met, an earlier one may have been carried out, unless the server
/// itself said no.
pub(super) fn failed(error: RedisError, in_cluster: bool) -> StoreError {
    let (kind, remedy) = match error.kind() {
        ErrorKind::Server(_) | ErrorKind::Extension => {
            meaning(code(&error), error.detail().unwrap_or_default())
        }
        ErrorKind::AuthenticationFailed => (StoreErrorKind::Refused, CREDENTIALS),
        ErrorKind::InvalidClientConfig | ErrorKind::Client => {
            (StoreErrorKind::NotSent, "see how the connection is set up")
        }
        ErrorKind::RESP3NotSupported => (
            StoreErrorKind::Refused,
            "the server is older than Redis 6: add ?protocol=resp2 to the URL",
        ),
        ErrorKind::Parse => (
            StoreErrorKind::Unknown,
            "see whether what answers at this address is Redis",
        ),
        ErrorKind::Io if error.is_connection_refusal() && !in_cluster => (
            StoreErrorKind::NotSent,
            "see whether the server runs and can be reached",
        ),
        ErrorKind::Io | ErrorKind::ClusterConnectionNotFound => (
            StoreErrorKind::Unknown,
            "see whether the server runs and can be reached",
        ),
        _ => (StoreErrorKind::Unknown, ""),
    };
    StoreError::new(kind, Failed { error, remedy })
}

pub(super) fn refused(error: RedisError, remedy: &'static str) -> StoreError {
    StoreError::new(StoreErrorKind::Refused, Failed { error, remedy })
}

/// What is wrong with a server that answered well.
pub(super) fn unsuitable(why: impl Into<String>) -> StoreError {
    StoreError::new(StoreErrorKind::Refused, why.into())
}

const CREDENTIALS: &str = "give the user and password of the server's ACL";

/// The code of a server's error. Before Redis 7 an error of a command that a
/// script called stands in the text of another one.
fn code(error: &RedisError) -> &str {
    let code = error.code().unwrap_or_default();
    let detail = error.detail().unwrap_or_default();
    if code != "ERR" {
        return code;
    }
    let inner = detail
        .split_once("@user_script")
        .and_then(|(_, rest)| rest.splitn(3, ':').nth(2));
    let inner = inner.unwrap_or(detail).trim_start();
    let word = inner.split_whitespace().next().unwrap_or_default();
    let word = word.trim_start_matches('-');
    let is_code = word.len() > 1 && word.chars().all(|char| char.is_ascii_uppercase());
    if is_code { word } else { code }
}

fn meaning(code: &str, detail: &str) -> (StoreErrorKind, &'static str) {
    use StoreErrorKind::{Contention, Refused, Unknown, Unreadable};
    match code {
        "LOADING" => (Contention, "the server reads its data, and will be ready"),
        "BUSY" => (Contention, "a script keeps the server: see SCRIPT KILL"),
        "TRYAGAIN" | "CLUSTERDOWN" | "MASTERDOWN" => {
            (Contention, "see CLUSTER INFO, should it last")
        }
        "MOVED" | "ASK" | "CROSSSLOT" => (
            Refused,
            "the server is a node of a cluster: list nodes with commas, or write redis+cluster://",
        ),
        "OOM" => (
            Refused,
            "the server is at its memory limit: raise maxmemory, or shorten retentions",
        ),
        "READONLY" => (
            Refused,
            "the server is a replica: connect to the primary, by an address that follows it",
        ),
        "MISCONF" => (
            Refused,
            "the server cannot write its data to disk: see its log, and the room on its disk",
        ),
        "NOREPLICAS" => (
            Refused,
            "the server wants more replicas than it has: see min-replicas-to-write",
        ),
        "NOPERM" => (
            Refused,
            "give the server's user ~PREFIX* &PREFIX* +evalsha +eval +time +hmget +hset +del \
             +exists +pexpireat +persist +publish +subscribe +unsubscribe +info",
        ),
        "NOAUTH" | "WRONGPASS" => (Refused, CREDENTIALS),
        "WRONGTYPE" => (
            Unreadable,
            "another program keeps something else under this key: choose another prefix",
        ),
        "ERR" if detail.starts_with("max number of clients") => {
            (Contention, "raise maxclients, or find who keeps them")
        }
        "ERR" if detail.starts_with("unknown command") => (
            Refused,
            "the server has to know Lua scripts: Redis 5 or later, or Valkey",
        ),
        _ => (Unknown, ""),
    }
}

/// Whether the server does not let its settings be read.
pub(super) fn is_forbidden(error: &RedisError) -> bool {
    let unknown = error.kind() == ErrorKind::Server(ServerErrorKind::ResponseError);
    unknown || code(error) == "NOPERM"
}

#[derive(Debug)]
struct Failed {
    error: RedisError,
    remedy: &'static str,
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)?;
        if self.remedy.is_empty() {
            return Ok(());
        }
        write!(f, ": {}", self.remedy)
    }
}

impl Error for Failed {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.error.source()
    }
}
