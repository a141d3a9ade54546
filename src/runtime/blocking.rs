//! Work that would block a thread which serves requests.

use crate::runtime::Handle;

/// Runs the work on another thread. `None` if the runtime has shut down before the work began.
#[cfg(not(shuttle))]
pub(crate) async fn run_blocking<T: Send + 'static>(
    runtime: &Handle,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    match runtime.spawn_blocking(work).await {
        Ok(done) => Some(done),
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => None,
        },
    }
}

/// An exploration has one thread.
#[cfg(shuttle)]
pub(crate) async fn run_blocking<T>(_: &Handle, work: impl FnOnce() -> T) -> Option<T> {
    Some(work())
}
