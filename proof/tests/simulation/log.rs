//! The log holds what happened, as everyone saw it. It is kept outside of the
//! simulation, with the simulation's time.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// All hosts share one log; a clone is another handle on it.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Written>>);

#[derive(Default)]
struct Written {
    events: Vec<Event>,
    numbers: u64,
    /// This many clients have a final response for each of their keys.
    content: u64,
}

#[derive(Clone, Debug)]
pub(crate) struct Event {
    pub(crate) at: Duration,
    pub(crate) host: String,
    pub(crate) what: What,
}

#[derive(Clone, Debug)]
pub(crate) enum What {
    /// Something breaks, or works again.
    Fault(String),
    /// The host's software ended without a word, and will start anew from its
    /// store.
    Crashed,
    Restarted,
    /// A handler began.
    Began {
        key: String,
        execution: u64,
        /// The token is `None` if the handler ran without a claim.
        token: Option<u64>,
        attempt: u64,
        lasts: Duration,
    },
    /// A handler ended; the status is `None` if the handler panicked.
    Ended {
        execution: u64,
        status: Option<u16>,
    },
    /// The store gave a record to an owner until this time.
    Acquired {
        record: String,
        token: u64,
        attempt: u64,
        until: Duration,
        /// The previous owner had let its lease lapse.
        takes_over: bool,
    },
    /// The store moved the end of a lease into the future.
    Renewed {
        record: String,
        token: u64,
        until: Duration,
    },
    /// The store keeps this outcome.
    Completed {
        record: String,
        token: u64,
        outcome: String,
    },
    Released {
        record: String,
        token: u64,
        /// If this is false, the outcome of the operation is unknown.
        may_run_again: bool,
    },
    /// The store told an app that the app is not the owner.
    Lost {
        record: String,
        asked: &'static str,
    },
    /// A client sent a request.
    Asked {
        key: String,
        request: u64,
        app: String,
    },
    /// The client got a whole response.
    Answered {
        request: u64,
        answer: Answer,
    },
    /// The client got no whole response.
    Failed {
        request: u64,
        why: String,
    },
    /// The client has a final response for each of its keys.
    Satisfied,
}

/// `Answer` is a whole response, as a client saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// This is the execution that the response comes from. It is `None` for a
    /// response of the layer.
    pub(crate) execution: Option<u64>,
    /// This is the code of a rejection.
    pub(crate) code: Option<String>,
    pub(crate) unrecorded: bool,
    pub(crate) replayed: bool,
    pub(crate) body: String,
}

impl Log {
    /// Writes down what happens now, on a host of the simulation.
    pub(crate) fn add(&self, host: &str, what: What) {
        let at = turmoil::sim_elapsed().expect("called on a host");
        self.add_at(at, host, what);
    }

    pub(crate) fn add_at(&self, at: Duration, host: &str, what: What) {
        let mut written = self.0.lock().unwrap();
        written.content += u64::from(matches!(what, What::Satisfied));
        written.events.push(Event {
            at,
            host: host.to_owned(),
            what,
        });
    }

    /// Returns the numbers 1, 2, 3 and so on.
    pub(crate) fn number(&self) -> u64 {
        let mut written = self.0.lock().unwrap();
        written.numbers += 1;
        written.numbers
    }

    pub(crate) fn content(&self) -> u64 {
        self.0.lock().unwrap().content
    }

    /// Returns all events in the order of time. The sort is needed because within
    /// one tick each host runs for the whole tick before the next host runs.
    pub(crate) fn events(&self) -> Vec<Event> {
        let mut events = self.0.lock().unwrap().events.clone();
        events.sort_by_key(|event| event.at);
        events
    }
}

/// Returns the log as text, with a line for each event.
pub(crate) fn text(events: &[Event]) -> String {
    let lines: Vec<_> = events.iter().map(ToString::to_string).collect();
    lines.join("\n")
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = self.at.as_secs_f64();
        write!(f, "{at:>9.4}  {:<8}  {}", self.host, self.what)
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fault(what) => write!(f, "-- {what}"),
            Self::Crashed => write!(f, "-- crashed"),
            Self::Restarted => write!(f, "-- restarted"),
            Self::Began {
                key,
                execution,
                token,
                attempt,
                lasts,
            } => match token {
                Some(token) => write!(
                    f,
                    "{key}: execution {execution} begins, token {token}, attempt {attempt}, lasts {lasts:?}"
                ),
                None => write!(
                    f,
                    "{key}: execution {execution} begins without a claim, lasts {lasts:?}"
                ),
            },
            Self::Ended { execution, status } => match status {
                Some(status) => write!(f, "execution {execution} ends with {status}"),
                None => write!(f, "execution {execution} panics"),
            },
            Self::Acquired {
                record,
                token,
                attempt,
                until,
                takes_over,
            } => {
                let how = if *takes_over {
                    "taken over"
                } else {
                    "acquired"
                };
                let until = until.as_secs_f64();
                write!(
                    f,
                    "[{record}] {how}: token {token}, attempt {attempt}, until {until:.4}"
                )
            }
            Self::Renewed {
                record,
                token,
                until,
            } => write!(
                f,
                "[{record}] renewed: token {token}, until {:.4}",
                until.as_secs_f64()
            ),
            Self::Completed {
                record,
                token,
                outcome,
            } => write!(f, "[{record}] completed: token {token}, {outcome}"),
            Self::Released {
                record,
                token,
                may_run_again,
            } => {
                let how = if *may_run_again {
                    "to run again"
                } else {
                    "as unknown"
                };
                write!(f, "[{record}] released {how}: token {token}")
            }
            Self::Lost { record, asked } => write!(f, "[{record}] {asked}: not the owner"),
            Self::Asked { key, request, app } => write!(f, "{key}: request {request} to {app}"),
            Self::Answered { request, answer } => write!(f, "request {request} answered: {answer}"),
            Self::Failed { request, why } => write!(f, "request {request} failed: {why}"),
            Self::Satisfied => write!(f, "has a final answer to everything"),
        }
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.status)?;
        if let Some(execution) = self.execution {
            write!(f, " of execution {execution}")?;
        }
        if let Some(code) = &self.code {
            write!(f, " {code}")?;
        }
        if self.replayed {
            write!(f, ", replayed")?;
        }
        if self.unrecorded {
            write!(f, ", unrecorded")?;
        }
        Ok(())
    }
}
