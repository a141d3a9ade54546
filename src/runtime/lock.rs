//! A mutex that a panic does not poison.

use std::sync::PoisonError;

#[cfg(shuttle)]
use shuttle::sync;
#[cfg(not(shuttle))]
use std::sync;

pub(crate) type MutexGuard<'a, T> = sync::MutexGuard<'a, T>;

/// A mutex whose `lock` can't fail. Every critical section of this crate leaves
/// its data whole at each point where it could panic, so a poisoned lock says
/// nothing; and one request that panics must not take the layer from the others.
#[derive(Debug, Default)]
pub(crate) struct Mutex<T>(sync::Mutex<T>);

impl<T> Mutex<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self(sync::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
