//! Creating the tables, and checking the database's settings.

use std::error::Error;

use sqlx::sqlite::SqliteRow;
use sqlx::{Decode, Row, SqlStr, Sqlite, SqliteConnection, Type};
use tracing::warn;

use super::super::failed;
use super::connection::Patience;
use super::meaning::meaning;
use super::records::SqliteRecords;
use super::statements::{ADDED, in_table, tables};
use crate::store::{StoreError, StoreErrorKind};

/// The version of the tables that this version of the crate creates and uses.
const VERSION: i64 = 1;

pub(super) async fn migrate(records: &SqliteRecords) -> Result<(), StoreError> {
    let made = make_tables(records).await;
    made.map_err(|error| at_table(records, &error))
}

/// Creates all tables in one transaction, so that no other process sees a part
/// of them. Creates none if a table of another version or program has the name.
async fn make_tables(records: &SqliteRecords) -> Result<(), StoreError> {
    is_in_memory(records).await?;
    let patience = Patience::new();
    loop {
        let made = async {
            let mut transaction = records.pool.begin_with("BEGIN IMMEDIATE").await?;
            let version = version_there(records, &mut transaction).await?;
            if version == VERSION {
                sqlx::raw_sql(tables(&records.table))
                    .execute(&mut *transaction)
                    .await?;
                transaction.commit().await?;
            }
            Ok(version)
        };
        let error = match made.await {
            Ok(version) => return is_known(version),
            Err(error) => error,
        };
        if !patience.has_waited_for(&error).await {
            return Err(failed(error, meaning));
        }
    }
}

/// The version of the tables that are there, or this version if there are none.
///
/// # Errors
/// Also if a table has not all columns.
async fn version_there(
    records: &SqliteRecords,
    connection: &mut SqliteConnection,
) -> Result<i64, sqlx::Error> {
    let statements = &records.statements;
    let (has_records, has_version): (bool, bool) = sqlx::query_as(statements.there.clone())
        .fetch_one(&mut *connection)
        .await?;
    let version = if has_version {
        sqlx::query_scalar(statements.version.clone())
            .fetch_optional(&mut *connection)
            .await?
            .unwrap_or(VERSION)
    } else {
        VERSION
    };
    // A newer version may have other columns.
    if has_records && version == VERSION {
        sqlx::query(statements.first_columns.clone())
            .execute(&mut *connection)
            .await?;
        add_columns(records, connection).await?;
    }
    Ok(version)
}

/// Adds the columns that a table of an earlier version lacks. No row is written for that.
async fn add_columns(
    records: &SqliteRecords,
    connection: &mut SqliteConnection,
) -> Result<(), sqlx::Error> {
    let columns = in_table(&records.table, "PRAGMA {schema}table_info({name})");
    let rows = sqlx::query(columns).fetch_all(&mut *connection).await?;
    let names: Result<Vec<String>, _> = rows.iter().map(|row| row.try_get("name")).collect();
    let names = names?;
    for (name, kind) in ADDED {
        if !names.iter().any(|there| there == name) {
            let add = format!("ALTER TABLE {{table}} ADD COLUMN {name} {kind}");
            sqlx::raw_sql(in_table(&records.table, &add))
                .execute(&mut *connection)
                .await?;
        }
    }
    Ok(())
}

pub(super) async fn check(records: &SqliteRecords) -> Result<(), StoreError> {
    let checked = async {
        let is_in_memory = is_in_memory(records).await?;
        check_version(records).await?;
        // Checks that every column is there, and that a record can be written.
        let columns = &records.statements.columns;
        records.run(columns, |statement| statement).await?;
        match records
            .run_in_turn(&records.statements.touch, |statement| statement)
            .await
        {
            // Another process writes: so the database can be written.
            Err(error) if error.kind() == StoreErrorKind::Contention => {}
            written => drop(written?),
        }
        if is_in_memory {
            return Ok(());
        }
        warn_of_settings(records).await
    };
    checked.await.map_err(|error| at_table(records, &error))
}

async fn check_version(records: &SqliteRecords) -> Result<(), StoreError> {
    let rows = records.run(&records.statements.version, |statement| statement);
    is_known(first(&rows.await?)?.unwrap_or(0))
}

fn is_known(version: i64) -> Result<(), StoreError> {
    if version == VERSION {
        return Ok(());
    }
    let why = format!(
        "it is of version {version}, and this version of tower-idempotency needs \
         {VERSION}: see docs/stores.md, or name another table"
    );
    Err(StoreError::new(StoreErrorKind::Refused, why))
}

/// Whether the database is in memory. Such a database belongs to one
/// connection, and ends with it.
async fn is_in_memory(records: &SqliteRecords) -> Result<bool, StoreError> {
    let schema = records.table.in_statement("{schema}");
    let schema = match schema.trim_end_matches('.') {
        "" => "main",
        schema => schema,
    };
    let statement = SqlStr::from_static("SELECT file FROM pragma_database_list WHERE name = ?2");
    let rows = records.run(&statement, |statement| statement.bind(schema.to_owned()));
    let file: Option<String> = first(&rows.await?)?.flatten();
    if file.is_none_or(|file| !file.is_empty()) {
        return Ok(false);
    }
    let options = records.pool.options();
    if options.get_max_connections() > 1 {
        let why = "a database in memory is one for each connection, and this pool has more than \
                   one: name a file, use MemoryStore, or set max_connections(1)";
        return Err(StoreError::new(StoreErrorKind::Refused, why));
    }
    if options.get_idle_timeout().is_some() || options.get_max_lifetime().is_some() {
        warn!(
            table = %records.table,
            "a database in memory ends with its connection, and every record with it: name a \
             file, use MemoryStore, or set idle_timeout(None) and max_lifetime(None)"
        );
    }
    Ok(true)
}

async fn warn_of_settings(records: &SqliteRecords) -> Result<(), StoreError> {
    let table = &records.table;
    let journal_mode: Option<String> = setting(records, "PRAGMA {schema}journal_mode").await?;
    match journal_mode.as_deref() {
        Some("wal") | None => {}
        Some(journal_mode @ ("off" | "memory")) => warn!(
            %table,
            journal_mode,
            "a crash can damage this database and lose every record: set journal_mode to WAL"
        ),
        Some(journal_mode) => warn!(
            %table,
            journal_mode,
            "readers and writers of this database wait for each other: set journal_mode to WAL"
        ),
    }
    match setting(records, "PRAGMA {schema}synchronous").await? {
        Some(0) => warn!(
            %table,
            synchronous = "OFF",
            "a loss of power can damage this database and lose every record: set synchronous to \
             FULL"
        ),
        Some(1) => warn!(
            %table,
            synchronous = "NORMAL",
            "a loss of power takes back the last records, and operations that were answered run \
             again: set synchronous to FULL"
        ),
        _ => {}
    }
    Ok(())
}

async fn setting<T>(records: &SqliteRecords, pragma: &str) -> Result<Option<T>, StoreError>
where
    T: for<'r> Decode<'r, Sqlite> + Type<Sqlite>,
{
    let statement = in_table(&records.table, pragma);
    first(&records.run(&statement, |statement| statement).await?)
}

fn first<T>(rows: &[SqliteRow]) -> Result<Option<T>, StoreError>
where
    T: for<'r> Decode<'r, Sqlite> + Type<Sqlite>,
{
    let value = rows.first().map(|row| row.try_get(0)).transpose();
    value.map_err(|error| failed(error, meaning))
}

/// The error, with the table and the file.
fn at_table(records: &SqliteRecords, error: &StoreError) -> StoreError {
    let file = records.pool.connect_options();
    let file = file.get_filename().display();
    let why = match error.source() {
        Some(why) => why.to_string(),
        None => error.to_string(),
    };
    let why = format!("table `{}` in `{file}`: {why}", records.table);
    StoreError::new(error.kind(), why)
}
