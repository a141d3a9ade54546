//! The settings of the server that decide what a crash takes back, and what it can keep.

use sqlx::{MySql, Row, raw_sql};
use tracing::warn;

use super::errors::meaning;
use crate::store::StoreError;
use crate::store::sql::{Lent, Table, failed};

/// The settings, as they are when the store is opened.
#[derive(Debug)]
pub(super) struct Settings {
    /// `max_allowed_packet`, in bytes.
    pub(super) largest_packet: usize,
    /// Whether the server is MariaDB.
    pub(super) is_mariadb: bool,
    /// The setting by which a crash takes back commits that others have read.
    pub(super) loses_commits: Option<&'static str>,
}

/// Asks for the settings, and warns of the ones that lose records.
pub(super) async fn settings(
    lent: &mut Lent<MySql>,
    table: &Table,
) -> Result<Settings, StoreError> {
    let failed = |error| failed(error, meaning);
    let asked = "SELECT CAST(@@GLOBAL.max_allowed_packet AS SIGNED), \
                 CAST(@@GLOBAL.log_bin AS SIGNED), CAST(@@GLOBAL.sync_binlog AS SIGNED), \
                 CAST(@@GLOBAL.innodb_flush_log_at_trx_commit AS SIGNED), \
                 CAST(VERSION() LIKE '%MariaDB%' AS SIGNED)";
    let row = raw_sql(asked).fetch_one(lent.get()).await.map_err(failed)?;
    let number = |at: usize| row.try_get::<i64, _>(at).map_err(failed);
    let (log_bin, sync_binlog, flush) = (number(1)?, number(2)?, number(3)?);
    let loses_commits = loses_commits(log_bin, sync_binlog, flush);
    if let Some(why) = loses_commits {
        warn!(
            %table,
            log_bin,
            sync_binlog,
            innodb_flush_log_at_trx_commit = flush,
            "a crash of this server takes back records that others have read, and their operations \
             run again: {why} (docs/stores.md)"
        );
    }
    Ok(Settings {
        is_mariadb: number(4)? != 0,
        largest_packet: usize::try_from(number(0)?).unwrap_or(usize::MAX),
        loses_commits,
    })
}

/// What to change. Without a binary log the server shows a commit to other sessions before the
/// commit is on the disk. With one, the server first prepares the commit on the disk.
fn loses_commits(log_bin: i64, sync_binlog: i64, flush: i64) -> Option<&'static str> {
    if log_bin == 0 {
        return Some("start it with a binary log (log_bin, and sync_binlog = 1)");
    }
    if sync_binlog != 1 {
        return Some("set sync_binlog = 1");
    }
    (flush != 1).then_some("set innodb_flush_log_at_trx_commit = 1")
}

#[cfg(test)]
mod tests {
    use super::loses_commits;

    #[test]
    fn each_of_three_settings_alone_loses_commits() {
        assert_eq!(loses_commits(1, 1, 1), None);
        for (settings, name) in [
            ((0, 1, 1), "log_bin"),
            ((1, 0, 1), "sync_binlog"),
            ((1, 100, 1), "sync_binlog"),
            ((1, 1, 0), "innodb_flush_log_at_trx_commit"),
            ((1, 1, 2), "innodb_flush_log_at_trx_commit"),
        ] {
            let why = loses_commits(settings.0, settings.1, settings.2);
            assert!(why.unwrap().contains(name), "{settings:?}");
        }
    }
}
