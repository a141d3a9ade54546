//! The meaning of SQLite's result codes: <https://sqlite.org/rescode.html>.

use sqlx::error::DatabaseError;
use sqlx::sqlite::SqliteError;

use super::super::Meaning;
use crate::store::StoreErrorKind;

const ERROR: i32 = 1;
const PERM: i32 = 3;
const ABORT: i32 = 4;
const BUSY: i32 = 5;
const LOCKED: i32 = 6;
const NOMEM: i32 = 7;
const READONLY: i32 = 8;
const INTERRUPT: i32 = 9;
const IOERR: i32 = 10;
const CORRUPT: i32 = 11;
const FULL: i32 = 13;
const CANTOPEN: i32 = 14;
const PROTOCOL: i32 = 15;
const SCHEMA: i32 = 17;
const TOOBIG: i32 = 18;
const AUTH: i32 = 23;
const NOTADB: i32 = 26;

/// A statement that fails is rolled back and changes nothing, unless the disk
/// failed.
pub(super) fn meaning(error: &dyn DatabaseError) -> Meaning {
    use StoreErrorKind::{Contention, Refused, TooLarge, Unknown, Unreadable};
    match primary(error) {
        BUSY | LOCKED | PROTOCOL => Meaning(
            Contention,
            "something else writes for long: keep write transactions short",
        ),
        ABORT | INTERRUPT | NOMEM | SCHEMA => Meaning(Contention, ""),
        READONLY => Meaning(
            Refused,
            "let this process write the file and its directory, and open it for writing",
        ),
        CANTOPEN | PERM | AUTH => Meaning(
            Refused,
            "see that the path is that of a file in a directory which is there, and that this \
             process may read and write both",
        ),
        FULL => Meaning(Refused, "make room on the disk, or raise max_page_count"),
        NOTADB => Meaning(
            Refused,
            "name another file, or give the key if it is encrypted",
        ),
        TOOBIG => Meaning(TooLarge, "lower max_recorded_body"),
        CORRUPT => Meaning(
            Unreadable,
            "stop what writes to it, look with PRAGMA integrity_check, and restore a backup",
        ),
        // The disk failed, so it is unknown whether the disk has the change.
        IOERR => Meaning(Unknown, "see what the system says of the disk"),
        ERROR if error.message().contains("no such table") => {
            Meaning(Refused, "call `migrate()`, or run docs/sql/sqlite.sql")
        }
        _ => Meaning(
            Refused,
            "the table, or SQLite, is of another version: see docs/stores.md",
        ),
    }
}

/// Whether another connection had the lock, so that the statement may succeed a
/// moment later.
pub(in crate::store::sql) fn is_busy(error: &sqlx::Error) -> bool {
    error
        .as_database_error()
        .filter(|error| error.try_downcast_ref::<SqliteError>().is_some())
        .is_some_and(|error| matches!(primary(error), BUSY | LOCKED | PROTOCOL))
}

/// The primary result code, which is the low byte of an extended code.
fn primary(error: &dyn DatabaseError) -> i32 {
    let code = error.code().and_then(|code| code.parse::<i32>().ok());
    code.map_or(ERROR, |code| code & 0xff)
}
