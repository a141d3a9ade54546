//! What the layer has from tokio and from `std::sync`. Under `--cfg shuttle`
//! it is from here, and every step is a point at which a scheduler may run
//! another task: see `src/interleavings.rs`.

pub(crate) mod background;
pub(crate) mod deadline;

#[cfg(not(shuttle))]
pub(crate) use std::sync::{Mutex, MutexGuard, OnceLock, atomic};
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
pub(crate) use shuttle::sync::{Mutex, MutexGuard, atomic};
#[cfg(all(shuttle, test))]
pub(crate) use timers::{advance, begin, next_timer};
