//! Transactions that gave way to another one, on any engine.

/// Whether the database rolled a transaction back in favour of another one, so
/// that it may succeed if it is run again.
pub(crate) fn is_retried(error: &sqlx::Error) -> bool {
    #[cfg(feature = "postgres")]
    if super::postgres::gave_way(error) {
        return true;
    }
    #[cfg(feature = "mysql")]
    if super::mysql::gave_way(error) {
        return true;
    }
    #[cfg(feature = "sqlite")]
    if super::sqlite::gave_way(error) {
        return true;
    }
    let _ = error;
    false
}
