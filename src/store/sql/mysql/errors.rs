//! What the errors of MySQL and MariaDB mean.

use sqlx::error::DatabaseError;
use sqlx::mysql::MySqlDatabaseError;

use crate::store::StoreErrorKind::{Contention, Refused, TooLarge, Unknown};
use crate::store::sql::{Condition, Meaning};

fn number(error: &dyn DatabaseError) -> u16 {
    error
        .try_downcast_ref::<MySqlDatabaseError>()
        .map_or(0, MySqlDatabaseError::number)
}

/// Whether the server rolled the transaction back in favour of another one, so
/// that it may succeed if it is tried again at once.
pub(super) fn is_retried(error: &sqlx::Error) -> bool {
    match error {
        // 1213 is a deadlock, or a failed certification of Galera. 1020 says on MariaDB that a row
        // has changed since the snapshot. 1305 says that there is no such procedure, which is so
        // for a moment while a migration replaces the procedure. 1412 says that a migration has
        // changed the table since the snapshot.
        sqlx::Error::Database(error) => matches!(number(&**error), 1213 | 1020 | 1305 | 1412),
        _ => false,
    }
}

/// Whether another transaction has locked what a statement asked for, and the statement did not wait.
pub(super) fn is_locked(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Database(error) if matches!(number(&**error), 1205 | 3572))
}

/// Whether there is a row of that key already.
pub(super) fn is_duplicate(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Database(error) if number(&**error) == 1062)
}

/// Whether a handler's transaction that was rolled back may succeed if it is run again. Besides
/// the errors of `is_retried`, these are 1205 and 3572, since the transaction waited too long for
/// a lock, and those of a wrong server.
pub(in crate::store::sql) fn may_succeed_again(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(error) => {
            let number = number(&**error);
            matches!(number, 1213 | 1020 | 1205 | 3572 | 1305) || is_of_wrong_server(number)
        }
        _ => false,
    }
}

/// What an error says of its connection. After most errors the state of the connection is unknown,
/// because a call is a transaction that the server may not have ended.
pub(super) fn condition(error: &sqlx::Error) -> Condition {
    match error {
        _ if is_retried(error) => Condition::Usable,
        sqlx::Error::Database(error) if is_of_wrong_server(number(&**error)) => {
            Condition::OfWrongServer
        }
        sqlx::Error::Database(error) if is_the_last(number(&**error)) => Condition::Broken,
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::WorkerCrashed => Condition::Broken,
        _ => Condition::Unknown,
    }
}

/// Whether the server rejects, by its state, every call that writes, and rolled the call back.
/// Another server is then the primary, or will soon be, and the connection has to follow the
/// address.
fn is_of_wrong_server(number: u16) -> bool {
    match number {
        // `read_only`, as a replica has it, and a primary that gives its role away.
        1290
        // `transaction_read_only` of the server, or of the session by an init command.
        | 1792
        // `innodb_read_only` and `innodb_force_recovery`, as replicas of a cloud have them.
        | 1836
        // Galera: the node has left the primary component, and answers `Unknown command`.
        | 1047
        // Group Replication: the member has lost the majority, and a hook stops the transaction.
        | 3100 => true,
        _ => false,
    }
}

/// Whether the server closes the connection after this error.
fn is_the_last(number: u16) -> bool {
    // The server shuts down (1053, 1077 to 1079), or ended the connection: by KILL (1927, and MySQL's
    // 3169), or because the connection was idle (MySQL's 4031).
    matches!(number, 1053 | 1077..=1079 | 1927 | 3169 | 4031)
}

pub(super) fn meaning(error: &dyn DatabaseError) -> Meaning {
    match number(error) {
        1213 | 1020 | 1205 | 3572 => Meaning(Contention, ""),
        1040 | 1203 | 1226 => Meaning(
            Contention,
            "the server takes no more connections: raise `max_connections` or make pools smaller",
        ),
        1045 | 1698 | 1862 | 3118 | 4151 => Meaning(
            Refused,
            "mend user and password in the database's address, and see whether the server's \
             require_secure_transport or the user's `REQUIRE` asks for TLS (ssl-mode=VERIFY_IDENTITY, \
             ssl-ca) or a certificate (ssl-cert, ssl-key)",
        ),
        3159 => Meaning(
            Refused,
            "the server takes connections over TLS alone: set ssl-mode=VERIFY_IDENTITY (and ssl-ca) \
             in the URL",
        ),
        1130 => Meaning(
            Refused,
            "let the user connect from this machine in this way: see its host, and its `REQUIRE`",
        ),
        1044 | 1142 | 1143 | 1227 | 1370 | 1410 => Meaning(
            Refused,
            "grant the rights that docs/stores.md lists for MySQL",
        ),
        1046 | 1049 => Meaning(
            Refused,
            "create the database, or mend its name in the database's address",
        ),
        1146 | 1305 | 1318 | 1054 => {
            Meaning(Refused, "call `migrate()`, or run docs/sql/mysql.sql")
        }
        1290 | 1792 | 1836 | 3100 | 4024 => Meaning(
            Refused,
            "the database is read-only: connect to the primary, or make it writable",
        ),
        1047 => Meaning(
            Refused,
            "the node has left its cluster: see wsrep_cluster_status, or connect to another node",
        ),
        1021 | 1030 | 1114 | 3675 => Meaning(
            Refused,
            "the database has no room: make some on its disk, and see its own log",
        ),
        1118 | 1153 | 1301 => Meaning(
            TooLarge,
            "the answer is larger than `max_allowed_packet`: raise that, or lower `max_recorded_body`",
        ),
        1665 => Meaning(Refused, "set `binlog_format` to ROW or MIXED"),
        1235 | 1064 => Meaning(
            Refused,
            "the server is too old: MySQL 8.0.29 or MariaDB 10.6 is needed",
        ),
        _ => Meaning(Unknown, ""),
    }
}
