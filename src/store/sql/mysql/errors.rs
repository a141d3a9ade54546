//! What the errors of MySQL and MariaDB mean.

use sqlx::error::DatabaseError;
use sqlx::mysql::MySqlDatabaseError;

use crate::store::StoreErrorKind::{Contention, Refused, Unknown};
use crate::store::sql::Meaning;

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
        // for a moment while a migration replaces the procedure.
        sqlx::Error::Database(error) => matches!(number(&**error), 1213 | 1020 | 1305),
        _ => false,
    }
}

/// Whether a handler's transaction failed because of a concurrent one. Besides the errors of
/// `is_retried`, these are 1205 and 3572: the transaction waited too long for a lock.
pub(in crate::store::sql) fn gave_way(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(error) => {
            matches!(number(&**error), 1213 | 1020 | 1205 | 3572 | 1305)
        }
        _ => false,
    }
}

pub(super) fn meaning(error: &dyn DatabaseError) -> Meaning {
    match number(error) {
        1213 | 1020 | 1205 | 3572 => Meaning(Contention, ""),
        1040 | 1203 | 1226 => Meaning(
            Contention,
            "the server takes no more connections: raise `max_connections` or make pools smaller",
        ),
        1045 | 1698 | 3118 | 4151 => {
            Meaning(Refused, "mend user and password in the database's address")
        }
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
        1021 | 1030 | 1114 | 3675 => Meaning(
            Refused,
            "the database has no room: make some on its disk, and see its own log",
        ),
        1153 | 1301 => Meaning(
            Refused,
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
