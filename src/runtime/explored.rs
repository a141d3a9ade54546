//! The parts of tokio and `std::sync` that shuttle lacks, made of its own parts.

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::sync::PoisonError;
use std::task::{Context, Poll, Waker};

use shuttle::current::get_current_task;
use shuttle::sync::Mutex;
use shuttle::sync::atomic::{AtomicBool, Ordering};

pub(crate) use shuttle::future::{JoinHandle, spawn};

/// The runtime: an exploration has one.
#[derive(Clone)]
pub(crate) struct Handle;

#[derive(PartialEq)]
pub(crate) struct Id;

impl Handle {
    pub(crate) fn try_current() -> Result<Self, NoRuntime> {
        get_current_task().map(|_| Self).ok_or(NoRuntime)
    }

    pub(crate) fn id(&self) -> Id {
        Id
    }

    pub(crate) fn spawn<T: Send + 'static>(
        &self,
        task: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        spawn(task)
    }
}

#[derive(Debug)]
pub(crate) struct NoRuntime;

impl fmt::Display for NoRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("outside of what is explored")
    }
}

impl Error for NoRuntime {}

/// A `OnceLock` in which one initialiser waits for another without blocking the thread
/// that all tasks share.
#[derive(Debug, Default)]
pub(crate) struct OnceLock<T> {
    value: std::sync::OnceLock<T>,
    /// Whether `value` is set. A load of this flag is a point where the scheduler may
    /// run another task; a look at `value` is not.
    set: AtomicBool,
    setting: Mutex<()>,
}

impl<T> OnceLock<T> {
    pub(crate) fn new() -> Self {
        Self {
            value: std::sync::OnceLock::new(),
            set: AtomicBool::new(false),
            setting: Mutex::new(()),
        }
    }

    pub(crate) fn get(&self) -> Option<&T> {
        self.set.load(Ordering::Acquire).then(|| self.value.get())?
    }

    pub(crate) fn set(&self, value: T) -> Result<(), T> {
        let _setting = self.setting.lock().unwrap_or_else(PoisonError::into_inner);
        let set = self.value.set(value);
        self.set.store(true, Ordering::Release);
        set
    }

    pub(crate) fn get_or_init(&self, value: impl FnOnce() -> T) -> &T {
        let _setting = self.setting.lock().unwrap_or_else(PoisonError::into_inner);
        if self.value.get().is_none() {
            let _ = self.value.set(value());
            self.set.store(true, Ordering::Release);
        }
        self.value.get().expect("it was set above")
    }
}

/// A `Notify` that wakes every task that asked before the notification.
#[derive(Debug)]
pub(crate) struct Notify(Mutex<Notices>);

#[derive(Debug, Default)]
struct Notices {
    given: usize,
    wakers: Vec<Waker>,
}

impl Notify {
    pub(crate) fn new() -> Self {
        Self(Mutex::default())
    }

    pub(crate) fn notified(&self) -> Notified<'_> {
        Notified {
            notify: self,
            before: self.0.lock().unwrap().given,
        }
    }

    pub(crate) fn notify_waiters(&self) {
        let woken = {
            let mut notices = self.0.lock().unwrap();
            notices.given += 1;
            mem::take(&mut notices.wakers)
        };
        woken.into_iter().for_each(Waker::wake);
    }
}

pub(crate) struct Notified<'a> {
    notify: &'a Notify,
    before: usize,
}

impl Future for Notified<'_> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut notices = self.notify.0.lock().unwrap();
        if notices.given > self.before {
            return Poll::Ready(());
        }
        notices.wakers.push(cx.waker().clone());
        Poll::Pending
    }
}
