//! What the crate takes from tokio and from `std::sync`, and small futures and
//! locks made of it.
//!
//! Under `--cfg shuttle` the same names are replaced by ones whose every step is
//! a point where a scheduler may run another task: the tests in
//! `src/interleavings/` explore those schedules.
//!
//! Public items: none. May use: nothing else of this crate.

mod blocking;
pub(crate) mod catch;
pub(crate) mod deadline;
mod lock;

pub(crate) use blocking::run_blocking;
pub(crate) use lock::{Mutex, MutexGuard};
#[cfg(not(shuttle))]
pub(crate) use std::sync::{OnceLock, atomic};
#[cfg(not(shuttle))]
pub(crate) use tokio::{
    runtime::{Handle, Id},
    spawn,
    sync::Notify,
    task::JoinHandle,
    time::{Instant, Sleep, sleep, timeout},
};

#[cfg(shuttle)]
mod explored;
#[cfg(shuttle)]
mod timers;
#[cfg(shuttle)]
pub(crate) use self::{
    explored::{Handle, Id, JoinHandle, Notify, OnceLock, spawn},
    timers::{Instant, Sleep, sleep, timeout},
};
#[cfg(shuttle)]
pub(crate) use shuttle::sync::atomic;
#[cfg(all(shuttle, test))]
pub(crate) use timers::{advance, begin, next_timer};
