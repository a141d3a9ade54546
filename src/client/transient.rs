//! Which errors of an HTTP client another attempt can avoid.

use std::error::Error;
use std::io;

/// Whether an error, or one of its causes, is about a connection or a time limit,
/// so that another attempt may succeed.
///
/// The function knows the errors of [`std::io`], of hyper (and so of hyper-util's
/// and reqwest's clients), and the timeouts of tokio and tower. Any other error
/// is not transient. Neither is an error that would come back with every attempt:
/// a certificate that is not trusted, an invalid URL, a request body that fails.
///
/// To add an error, give the builder a function of your own:
///
/// ```
/// use std::error::Error;
/// use tower_idempotency::client::{ClientLayer, is_transient};
///
/// # #[derive(Debug)]
/// # struct PoolTimedOut;
/// # impl std::fmt::Display for PoolTimedOut {
/// #     fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { f.write_str("pool") }
/// # }
/// # impl Error for PoolTimedOut {}
/// # fn main() -> Result<(), tower_idempotency::ConfigError> {
/// let layer = ClientLayer::builder()
///     .retry_errors(|error: &(dyn Error + 'static)| {
///         is_transient(error) || error.is::<PoolTimedOut>()
///     })
///     .build()?;
/// # Ok(())
/// # }
/// ```
#[must_use]
pub fn is_transient(error: &(dyn Error + 'static)) -> bool {
    // One cause that is certain to come back outweighs the others: for example, a
    // connection that failed because a certificate is not trusted.
    let mut known = causes(error).filter_map(by_type).peekable();
    known.peek().is_some() && known.all(|transient| transient)
}

/// Judges one error by its type, without its causes. `None` if the type says
/// nothing.
fn by_type(error: &(dyn Error + 'static)) -> Option<bool> {
    use io::ErrorKind::{
        InvalidData, InvalidInput, Other, OutOfMemory, PermissionDenied, Unsupported,
    };
    if let Some(error) = error.downcast_ref::<io::Error>() {
        return match error.kind() {
            // Errors of certificates are `InvalidData`.
            InvalidData | InvalidInput | OutOfMemory | PermissionDenied | Unsupported => {
                Some(false)
            }
            // `Other` wraps another error, which is judged as the next cause.
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

/// The error and its causes, outermost first.
pub(super) fn causes<'a>(
    error: &'a (dyn Error + 'static),
) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error: &&'a (dyn Error + 'static)| {
        // The `source` of an `io::Error` skips the error that it wraps.
        let inner = error.downcast_ref::<io::Error>();
        match inner.and_then(io::Error::get_ref) {
            Some(inner) => Some(inner as _),
            None => error.source(),
        }
    })
}
