//! The ledger is the server's own account of its executions.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tower_idempotency::IdempotencyContext;

use super::history::{Answered, Asked, Clock, End, Execution};
use super::plan::Operation;

#[derive(Debug)]
pub(crate) struct Ledger {
    pub(crate) clock: Clock,
    book: Mutex<Book>,
    running: AtomicUsize,
}

#[derive(Debug, Default)]
struct Book {
    executions: Vec<Execution>,
    of_operation: HashMap<u32, u64>,
}

impl Ledger {
    pub(crate) fn new(clock: Clock) -> Self {
        Self {
            clock,
            book: Mutex::default(),
            running: AtomicUsize::new(0),
        }
    }

    pub(crate) fn begin(
        self: &Arc<Self>,
        operation: Operation,
        asked: Asked,
        context: Option<IdempotencyContext>,
    ) -> Running {
        self.running.fetch_add(1, Ordering::SeqCst);
        let mut book = self.book();
        let nth = book.of_operation.entry(operation.0).or_default();
        let earlier = *nth;
        *nth += 1;
        let number = book.executions.len();
        book.executions.push(Execution {
            operation: operation.0,
            asked,
            token: context.as_ref().map_or(0, |own| own.fencing_token().get()),
            attempt: context
                .as_ref()
                .map_or(earlier + 1, IdempotencyContext::attempt),
            begun: self.clock.now(),
            ended: None,
            answer: None,
            lost: false,
        });
        Running {
            ledger: Arc::clone(self),
            number,
            earlier,
            context,
        }
    }

    /// Returns how many executions still run.
    pub(crate) fn running(&self) -> usize {
        self.running.load(Ordering::SeqCst)
    }

    pub(crate) fn executions(&self) -> Vec<Execution> {
        self.book().executions.clone()
    }

    fn book(&self) -> std::sync::MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `Running` is an execution under way. If `Running` is dropped before it was told
/// its end, then the execution was cancelled.
#[derive(Debug)]
pub(crate) struct Running {
    ledger: Arc<Ledger>,
    number: usize,
    /// This many executions of the same operation had begun before this one.
    pub(crate) earlier: u64,
    context: Option<IdempotencyContext>,
}

impl Running {
    pub(crate) fn number(&self) -> usize {
        self.number
    }

    pub(crate) fn answers(&self, answer: Answered) {
        self.ledger.book().executions[self.number].answer = Some(answer);
    }

    pub(crate) fn end(self, end: End) {
        self.note(end);
    }

    fn note(&self, end: End) {
        let lost = self
            .context
            .as_ref()
            .is_some_and(IdempotencyContext::is_lost);
        let mut book = self.ledger.book();
        let execution = &mut book.executions[self.number];
        if execution.ended.is_none() {
            execution.lost = lost;
            execution.ended = Some((self.ledger.clock.now(), end));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.note(End::Dropped);
        self.ledger.running.fetch_sub(1, Ordering::SeqCst);
    }
}
