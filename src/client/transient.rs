//! Which errors another attempt can help against.

use std::error::Error;
use std::io;

/// Whether an error, or what it was caused by, is one of a connection or of
/// time: another attempt may do better.
///
/// Known are those of [`std::io`], hyper (so also hyper-util's and reqwest's
/// clients), and the timeouts of tokio and tower. Anything else is not
/// transient, and where a request can't work at all it says so at once: a
/// certificate that is not trusted, an address that is none, a request's body
/// that fails.
///
/// To add to it, say so to the policy:
///
/// ```
/// use std::error::Error;
/// use tower_idempotency::client::{RetryPolicy, is_transient};
///
/// # fn main() -> Result<(), tower_idempotency::ConfigError> {
/// let policy = RetryPolicy::builder()
///     .retry_errors(|error: &(dyn Error + 'static)| {
///         is_transient(error)
///             || error.downcast_ref::<reqwest::Error>().is_some_and(reqwest::Error::is_timeout)
///     })
///     .build()?;
/// # Ok(())
/// # }
/// ```
#[must_use]
pub fn is_transient(error: &(dyn Error + 'static)) -> bool {
    let words = causes(error).map(word);
    // One cause that can't be helped outweighs what is around it, such as a
    // connection that failed since a certificate is not trusted.
    let mut helps = false;
    for word in words {
        match word {
            Some(true) => helps = true,
            Some(false) => return false,
            None => {}
        }
    }
    helps
}

/// What one error says by its type, without its causes.
fn word(error: &(dyn Error + 'static)) -> Option<bool> {
    use io::ErrorKind::{
        InvalidData, InvalidInput, Other, OutOfMemory, PermissionDenied, Unsupported,
    };
    if let Some(error) = error.downcast_ref::<io::Error>() {
        return match error.kind() {
            // Of InvalidData are errors of certificates, for one.
            InvalidData | InvalidInput | OutOfMemory | PermissionDenied | Unsupported => {
                Some(false)
            }
            // Says nothing; what it was made from may.
            Other => None,
            _ => Some(true),
        };
    }
    if let Some(error) = error.downcast_ref::<hyper::Error>() {
        return Some(!error.is_user() && !error.is_parse());
    }
    let timed_out =
        error.is::<tokio::time::error::Elapsed>() || error.is::<tower::timeout::error::Elapsed>();
    timed_out.then_some(true)
}

/// The error and what it was caused by, outermost first.
pub(super) fn causes<'a>(
    error: &'a (dyn Error + 'static),
) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error: &&'a (dyn Error + 'static)| {
        // An `io::Error` made from another leaves that out of its sources.
        let inner = error.downcast_ref::<io::Error>();
        match inner.and_then(io::Error::get_ref) {
            Some(inner) => Some(inner as _),
            None => error.source(),
        }
    })
}
