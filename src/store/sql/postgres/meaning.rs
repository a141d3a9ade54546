//! The meaning of PostgreSQL's errors.

use sqlx::error::DatabaseError;

use sqlx::postgres::{PgDatabaseError, PgSeverity};

use super::super::{Condition, Meaning};
use crate::store::StoreErrorKind::{Contention, Refused, TooLarge, Unknown, Unreadable};

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
        "57P03" => Meaning(
            Contention,
            "the server starts or shuts down, and will be ready",
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
        "28000" if error.message().contains("client certificate") => Meaning(
            Refused,
            "name the file of the role's certificate and that of its key by sslcert and sslkey",
        ),
        "28000" if error.message().contains("no encryption") => Meaning(
            Refused,
            "see pg_hba.conf: it may let the role connect over TLS alone, with sslmode=verify-full \
             (and sslrootcert) in the URL",
        ),
        "28P01" | "28000" => Meaning(Refused, "mend the role or its password"),
        "3D000" => Meaning(Refused, "create the database, or name another"),
        "26000" | "42P05" => Meaning(
            Refused,
            "a pooler between does not know prepared statements: connect with \
             statement-cache-capacity=0",
        ),
        // pgbouncer rejects settings of a session that it does not know.
        "08P01" if error.message().contains("startup parameter") => Meaning(
            Refused,
            "write `ignore_startup_parameters = extra_float_digits` into pgbouncer.ini",
        ),
        "54000" => Meaning(TooLarge, "lower `max_recorded_body`"),
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

/// What an error says of its connection.
pub(super) fn condition(error: &sqlx::Error) -> Condition {
    let sqlx::Error::Database(error) = error else {
        return match error {
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::Protocol(_)
            | sqlx::Error::WorkerCrashed => Condition::Broken,
            _ => Condition::Usable,
        };
    };
    if is_of_wrong_server(&error.code().unwrap_or_default()) {
        return Condition::OfWrongServer;
    }
    let severity = error
        .try_downcast_ref::<PgDatabaseError>()
        .map(PgDatabaseError::severity);
    // The server closes a connection after an error of these severities, such as 57P01 and 57P02
    // (the server shuts down), 57P05 (the connection was idle too long), and the errors of class
    // 08 by which a pooler says that it has lost its server.
    match severity {
        Some(PgSeverity::Fatal | PgSeverity::Panic) => Condition::Broken,
        _ => Condition::Usable,
    }
}

/// Whether the server rejects, by its state, every call that writes. The statement was rolled back.
/// Another server is then the primary, or will soon be, and the connection has to follow the
/// address.
pub(super) fn is_of_wrong_server(code: &str) -> bool {
    match code {
        // A standby is in recovery, or a cloud's former primary got `default_transaction_read_only`.
        "25006"
        // The server starts, shuts down or is not yet consistent. A pooler that keeps its client's
        // connection passes this error on.
        | "57P03" => true,
        _ => false,
    }
}

/// Whether a statement failed because of a concurrent one: by a serialization failure (above READ
/// COMMITTED) or a deadlock. The server rolled the statement back. If the statement is sent again,
/// it sees the changes of the other one.
pub(super) fn lost_a_race(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(DatabaseError::code);
    matches!(code.as_deref(), Some("40001" | "40P01"))
}
