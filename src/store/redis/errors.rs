//! The meaning of the driver's errors.

use std::error::Error;
use std::fmt;

use redis::{ErrorKind, RedisError, ServerErrorKind};

use crate::store::{StoreError, StoreErrorKind, tls};

/// The error of a request: whether the server executed it, and what to do.
///
/// The driver of a cluster repeats requests by itself: whatever the last
/// attempt met, the server may have executed an earlier one. And if a script
/// lacks a right, that may be the right to its second command.
pub(super) fn failed(error: RedisError, in_cluster: bool) -> StoreError {
    use StoreErrorKind::{Contention, NotSent, Refused, Unknown};
    let (kind, remedy) = judged(&error);
    let may_have_written = in_cluster || is_of_a_command_in_a_script(&error);
    let kind = match kind {
        NotSent | Contention | Refused if may_have_written => Unknown,
        kind => kind,
    };
    StoreError::new(kind, Failed { error, remedy })
}

/// The error of connecting: nothing was executed. A later attempt would meet the same error of TLS.
pub(super) fn not_opened(error: RedisError) -> StoreError {
    let (kind, remedy) = match tls::remedy(&error.to_string()) {
        Some(remedy) => (StoreErrorKind::Refused, remedy),
        None => judged(&error),
    };
    StoreError::new(kind, Failed { error, remedy })
}

fn judged(error: &RedisError) -> (StoreErrorKind, &'static str) {
    if let Some(remedy) = tls::remedy(&error.to_string()) {
        return (StoreErrorKind::Unknown, remedy);
    }
    match error.kind() {
        ErrorKind::Server(_) | ErrorKind::Extension => {
            meaning(code(error), error.detail().unwrap_or_default())
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
        ErrorKind::Io if error.is_connection_refusal() => (
            StoreErrorKind::NotSent,
            "see whether the server runs and can be reached",
        ),
        ErrorKind::Io if error.is_connection_dropped() => (
            StoreErrorKind::Unknown,
            "see whether the server runs and can be reached, and whether its port wants TLS \
             (`rediss:` instead of `redis:`)",
        ),
        ErrorKind::Io if error.is_timeout() => (
            StoreErrorKind::Unknown,
            "see whether the server runs and can be reached, and whether its port speaks TLS if the \
             URL begins with `rediss:`",
        ),
        ErrorKind::Io | ErrorKind::ClusterConnectionNotFound => (
            StoreErrorKind::Unknown,
            "see whether the server runs and can be reached",
        ),
        _ => (StoreErrorKind::Unknown, ""),
    }
}

/// Whether the state of the server forbids writes (OOM, MISCONF, READONLY,
/// NOREPLICAS). The server then rejects the first write of a script, and would
/// accept the later ones; so a script that failed like this changed nothing.
fn is_of_a_command_in_a_script(error: &RedisError) -> bool {
    let detail = error.detail().unwrap_or_default();
    detail.contains("@user_script") && code(error) == "NOPERM"
}

/// Whether a command failed because of the server's setup, not because of its
/// present state.
pub(super) fn is_never_allowed(why: &str) -> bool {
    ["NOPERM", NO_RIGHT, "nknown command", "nknown Redis command"]
        .iter()
        .any(|sign| why.contains(sign))
}

pub(super) fn refused(error: RedisError, remedy: &'static str) -> StoreError {
    StoreError::new(StoreErrorKind::Refused, Failed { error, remedy })
}

/// The error for a server that replies but can't be used.
pub(super) fn unsuitable(why: impl Into<String>) -> StoreError {
    StoreError::new(StoreErrorKind::Refused, why.into())
}

/// The text of Redis 7.0 for a missing right to a command in a script.
const NO_RIGHT: &str = "The user executing the script can't";

pub(super) const RIGHTS: &str = "give the server's user ~PREFIX* &PREFIX* +evalsha +eval +time \
    +exists +hmget +hset +hdel +del +pexpireat +persist +publish +subscribe +unsubscribe \
    +info +config|get";

const CREDENTIALS: &str = "give the user and password of the server's ACL";

/// The code of a server's error. The error of a command in a script can be
/// without a code (a missing right), or in the text of another error (before
/// Redis 7).
fn code(error: &RedisError) -> &str {
    let code = error.code().unwrap_or_default();
    let detail = error.detail().unwrap_or_default();
    if code != "ERR" {
        return code;
    }
    let inner = detail
        .rsplit_once("@user_script")
        .and_then(|(_, rest)| rest.splitn(3, ':').nth(2));
    let inner = inner.unwrap_or(detail).trim_start();
    let word = inner.split_whitespace().next().unwrap_or_default();
    let word = word.trim_start_matches('-');
    if inner.starts_with(NO_RIGHT) {
        return "NOPERM";
    }
    let is_code = word.len() > 1 && word.chars().all(|char| char.is_ascii_uppercase());
    if is_code { word } else { code }
}

fn meaning(code: &str, detail: &str) -> (StoreErrorKind, &'static str) {
    use StoreErrorKind::{Contention, Refused, Unknown, Unreadable};
    match code {
        "LOADING" => (Contention, "the server reads its data, and will be ready"),
        "BUSY" => (Contention, "a script keeps the server: see SCRIPT KILL"),
        "TRYAGAIN" | "CLUSTERDOWN" | "MASTERDOWN" | "UNBLOCKED" => {
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
        "NOPERM" => (Refused, RIGHTS),
        "NOAUTH" | "WRONGPASS" => (Refused, CREDENTIALS),
        "WRONGTYPE" => (
            Unreadable,
            "another program keeps something else under this key: choose another prefix",
        ),
        "ERR" if detail.starts_with("max number of clients") => {
            (Contention, "raise maxclients, or find who keeps them")
        }
        "ERR" if detail.starts_with("No such master") => (
            Refused,
            "the sentinels have no primary of this name: give the name of `sentinel monitor`",
        ),
        "ERR" if detail.starts_with("unknown command") => (
            Refused,
            "the server has to know Lua scripts: Redis 5 or later, or Valkey",
        ),
        _ => (Unknown, ""),
    }
}

/// Whether the server was reached and rejected the connection.
pub(super) fn is_of_connecting(error: &RedisError) -> bool {
    let detail = error.detail().unwrap_or_default();
    match error.kind() {
        ErrorKind::AuthenticationFailed | ErrorKind::RESP3NotSupported | ErrorKind::Parse => true,
        ErrorKind::Server(_) | ErrorKind::Extension => {
            matches!(code(error), "NOAUTH" | "WRONGPASS" | "NOPROTO")
                || detail.starts_with("max number of clients")
        }
        _ => false,
    }
}

/// Whether the server refuses, by its state, to do what it is asked, and did nothing. Another
/// server may be the primary by now, and the connection has to follow the address.
pub(super) fn is_of_wrong_server(error: &RedisError) -> bool {
    if !matches!(error.kind(), ErrorKind::Server(_) | ErrorKind::Extension) {
        return false;
    }
    match code(error) {
        // A replica: the primary of before, after a failover.
        "READONLY"
        // A replica that has lost its primary and was told not to serve old data.
        | "MASTERDOWN"
        // The server reads its data: it has crashed, or copies those of another primary.
        | "LOADING"
        // A node of a cluster that is cut off from the others.
        | "CLUSTERDOWN"
        // A primary that is cut off from its replicas, of which one may have been promoted.
        | "NOREPLICAS"
        // A primary that can't write to its disk, and that is to be replaced.
        | "MISCONF"
        // A primary that became a replica while a command waited.
        | "UNBLOCKED" => true,
        _ => false,
    }
}

/// Whether the server forbids to read its settings.
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

#[cfg(test)]
mod tests {
    use redis::make_extension_error;

    use super::*;

    /// Returns the kind of the error that the driver makes of this line of a server's reply.
    fn kind(line: &str) -> StoreErrorKind {
        let error = redis::parse_redis_value(line.as_bytes())
            .unwrap()
            .extract_error()
            .unwrap_err();
        failed(error, false).kind()
    }

    #[test]
    fn every_refusal_of_a_server_is_known() {
        use StoreErrorKind::{Contention, Refused, Unknown, Unreadable};
        for (line, expected) in [
            (
                "-LOADING Redis is loading the dataset in memory",
                Contention,
            ),
            ("-BUSY Redis is busy running a script.", Contention),
            (
                "-TRYAGAIN Multiple keys request during rehashing of slot",
                Contention,
            ),
            ("-CLUSTERDOWN The cluster is down", Contention),
            ("-MASTERDOWN Link with MASTER is down", Contention),
            (
                "-UNBLOCKED force unblock from blocking operation",
                Contention,
            ),
            ("-ERR max number of clients reached", Contention),
            ("-MOVED 3999 127.0.0.1:6381", Refused),
            (
                "-OOM command not allowed when used memory > 'maxmemory'.",
                Refused,
            ),
            (
                "-READONLY You can't write against a read only replica.",
                Refused,
            ),
            (
                "-MISCONF Redis is configured to save RDB snapshots, but",
                Refused,
            ),
            ("-NOREPLICAS Not enough good replicas to write.", Refused),
            (
                "-NOPERM User x has no permissions to run the 'evalsha' command",
                Refused,
            ),
            ("-NOAUTH Authentication required.", Refused),
            ("-WRONGPASS invalid username-password pair", Refused),
            (
                "-ERR unknown command 'EVALSHA', with args beginning with: ",
                Refused,
            ),
            (
                "-WRONGTYPE Operation against a key holding the wrong kind of value",
                Unreadable,
            ),
            // The next errors are those of commands in scripts, in Redis 7 and earlier versions.
            (
                "-ERR The user executing the script can't run this command or subcommand script: \
                 f30f, on @user_script:181.",
                Unknown,
            ),
            (
                "-NOPERM ACL failure in script: User x has no permissions to run the 'hset' \
                 command script: f30f, on @user_script:181.",
                Unknown,
            ),
            (
                "-OOM command not allowed when used memory > 'maxmemory'. script: f30f, on \
                 @user_script:181.",
                Refused,
            ),
            (
                "-ERR Error running script (call to f_1b2c): @user_script:31: WRONGTYPE \
                 Operation against a key holding the wrong kind of value",
                Unreadable,
            ),
            (
                "-ERR Error running script (call to f_1b2c): @user_script:31: @user_script: 31: \
                 -OOM command not allowed when used memory > 'maxmemory'.",
                Refused,
            ),
            ("-ERR something new", Unknown),
            ("-NEWCODE something new", Unknown),
        ] {
            assert_eq!(kind(&format!("{line}\r\n")), expected, "{line}");
        }
    }

    #[test]
    fn a_refusal_by_the_state_of_a_server_is_of_the_wrong_server() {
        let is_wrong = |line: &str| {
            let value = redis::parse_redis_value(format!("-{line}\r\n").as_bytes()).unwrap();
            is_of_wrong_server(&value.extract_error().unwrap_err())
        };
        for line in [
            "READONLY You can't write against a read only replica.",
            "READONLY You can't write against a read only replica. script: f30f, on \
             @user_script:181.",
            "ERR Error running script (call to f_1b2c): @user_script:31: @user_script: 31: \
             -READONLY You can't write against a read only replica.",
            "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
            "LOADING Redis is loading the dataset in memory",
            "CLUSTERDOWN The cluster is down",
            "NOREPLICAS Not enough good replicas to write.",
            "MISCONF Redis is configured to save RDB snapshots, but",
            "UNBLOCKED force unblock from blocking operation, instance state changed",
        ] {
            assert!(is_wrong(line), "{line}");
        }
        for line in [
            "OOM command not allowed when used memory > 'maxmemory'.",
            "BUSY Redis is busy running a script.",
            "NOPERM User x has no permissions to run the 'evalsha' command",
            "WRONGTYPE Operation against a key holding the wrong kind of value",
            "ERR something new",
        ] {
            assert!(!is_wrong(line), "{line}");
        }
        let cut = RedisError::from(std::io::Error::from(std::io::ErrorKind::BrokenPipe));
        assert!(!is_of_wrong_server(&cut));
    }

    #[test]
    fn a_request_did_not_reach_a_server_only_if_nobody_took_the_connection() {
        use std::io::{Error, ErrorKind};

        let kind = |io, in_cluster| failed(RedisError::from(Error::from(io)), in_cluster).kind();
        assert_eq!(
            kind(ErrorKind::ConnectionRefused, false),
            StoreErrorKind::NotSent
        );
        for io in [
            ErrorKind::TimedOut,
            ErrorKind::ConnectionReset,
            ErrorKind::BrokenPipe,
            ErrorKind::UnexpectedEof,
        ] {
            assert_eq!(kind(io, false), StoreErrorKind::Unknown);
        }
        // In a cluster, an earlier attempt may have reached the server.
        assert_eq!(
            kind(ErrorKind::ConnectionRefused, true),
            StoreErrorKind::Unknown
        );
    }

    #[test]
    fn no_error_of_a_cluster_says_that_nothing_was_carried_out() {
        for code in [
            "OOM", "MISCONF", "NOPERM", "NOAUTH", "LOADING", "MOVED", "TRYAGAIN", "READONLY",
        ] {
            let error = || make_extension_error(code.to_owned(), None);
            let failed = failed(error(), true);
            assert_eq!(failed.kind(), StoreErrorKind::Unknown, "{code}");
            assert_ne!(not_opened(error()).kind(), StoreErrorKind::Unknown);
            let source = Error::source(&failed).unwrap().to_string();
            assert!(source.contains(judged(&error()).1), "{source}");
        }
        for kind in [ErrorKind::InvalidClientConfig, ErrorKind::Client] {
            let error = || RedisError::from((kind, "a driver's reason"));
            assert_eq!(failed(error(), true).kind(), StoreErrorKind::Unknown);
            assert_eq!(failed(error(), false).kind(), StoreErrorKind::NotSent);
        }
        let error = make_extension_error("WRONGTYPE".to_owned(), None);
        assert_eq!(failed(error, true).kind(), StoreErrorKind::Unreadable);
    }
}
