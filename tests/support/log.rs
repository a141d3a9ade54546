//! A log that tests can read.

use std::io;
use std::sync::{Arc, Mutex};

use tracing::level_filters::LevelFilter;
use tracing::subscriber::DefaultGuard;
use tracing::{Dispatch, callsite, dispatcher};

/// Everything that this thread logs while a [`Listening`] of the log exists.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<u8>>>);

/// Lines are collected until this value is dropped.
pub(crate) struct Listening {
    _default: DefaultGuard,
    /// While only one subscriber exists, `tracing` asks the first thread that
    /// reaches a line whether the line is wanted, and keeps that result. The
    /// thread of another test has no subscriber and would say no for all
    /// threads. With a second dispatcher, `tracing` asks each thread.
    _other: Dispatch,
}

impl Log {
    pub(crate) fn listen(&self) -> Listening {
        let other = Self::default().dispatch();
        let listening = Listening {
            _default: dispatcher::set_default(&self.dispatch()),
            _other: other,
        };
        callsite::rebuild_interest_cache();
        listening
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }

    fn dispatch(&self) -> Dispatch {
        let log = self.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(LevelFilter::TRACE)
            .with_ansi(false)
            .with_writer(move || log.clone())
            .finish();
        Dispatch::new(subscriber)
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
