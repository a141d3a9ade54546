//! The meaning of PostgreSQL's errors.

use sqlx::error::DatabaseError;

use super::super::Meaning;
use crate::store::StoreErrorKind::{Contention, Refused, Unknown, Unreadable};

/// Returns the meaning of an error by its SQLSTATE. The server rolls back a statement whose error
/// it reports, so the result is `Unknown` only for errors of the server itself.
pub(super) fn meaning(error: &dyn DatabaseError) -> Meaning {
    let code = error.code().unwrap_or_default();
    match &*code {
        "40001" | "40P01" | "55P03" => Meaning(Contention, ""),
        "57014" => Meaning(
            Contention,
            "see statement_timeout, and what the database is busy with",
        ),
        "53100" => Meaning(Refused, "make room on the database's disk"),
        "25006" => Meaning(
            Refused,
            "connect to the primary, and see default_transaction_read_only",
        ),
        "42P01" | "42883" | "42703" | "3F000" => Meaning(
            Refused,
            "call `migrate()` or run docs/sql/postgres.sql, and see the role's search_path",
        ),
        "42501" => Meaning(
            Refused,
            "grant the role the rights that docs/stores.md names",
        ),
        "28P01" | "28000" => Meaning(Refused, "mend the role or its password"),
        "3D000" => Meaning(Refused, "create the database, or name another"),
        "26000" | "42P05" => Meaning(
            Refused,
            "a pooler between does not know prepared statements: connect with \
             statement_cache_capacity(0)",
        ),
        "25001" => Meaning(Refused, ""),
        // The record has an infinite time, which is no number of microseconds.
        "0A000" => Meaning(Unreadable, "another program wrote the record"),
        _ => match code.get(..2) {
            Some("53") => Meaning(Contention, "see what the server has too little of"),
            Some("22" | "23") => Meaning(
                Unreadable,
                "another program wrote the record, or this one would be beyond its bounds",
            ),
            _ => Meaning(Unknown, ""),
        },
    }
}

/// Whether a statement failed because of a concurrent one: by a serialization failure (above READ
/// COMMITTED) or a deadlock. The server rolled the statement back. If the statement is sent again,
/// it sees the changes of the other one.
pub(super) fn lost_a_race(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(DatabaseError::code);
    matches!(code.as_deref(), Some("40001" | "40P01"))
}
