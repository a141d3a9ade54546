//! Transactions that can be run again, on any engine.

/// Whether the database rolled a transaction back in favour of another one, or because it is not
/// the primary, so that the transaction may succeed if it is run again.
pub(crate) fn is_retried(error: &sqlx::Error) -> bool {
    #[cfg(feature = "postgres")]
    if super::postgres::may_succeed_again(error) {
        return true;
    }
    #[cfg(feature = "mysql")]
    if super::mysql::may_succeed_again(error) {
        return true;
    }
    #[cfg(feature = "sqlite")]
    if super::sqlite::may_succeed_again(error) {
        return true;
    }
    let _ = error;
    false
}
