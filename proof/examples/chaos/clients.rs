//! Each client asks for its operation until the client has a response, from
//! whichever server. Some clients then ask again.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::arguments::Options;
use super::history::{Attempt, Micros, Quest, Saw, now};
use super::killer::Faults;
use super::plan::{Body, clients, draws};
use super::wire::Connection;

/// One key of this many is requested once more at the end of the run.
const SPOT_CHECK: u32 = 50;

#[derive(Debug)]
pub(crate) struct Clients {
    run: String,
    seed: u64,
    addresses: Vec<SocketAddr>,
    faults: Arc<Faults>,
    /// A client waits this long for one response.
    timeout: Duration,
    /// A client gives up when it has had no response for this long and nothing was
    /// broken.
    gives_up_after: Duration,
    /// This many operations run at once, each with all of its clients.
    at_once: usize,
    seen: Mutex<Seen>,
    idle: Vec<Mutex<Vec<Connection>>>,
}

#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) attempts: Vec<Attempt>,
    pub(crate) quests: Vec<Quest>,
}

/// `Who` names one client of one key.
#[derive(Clone, Copy, Debug)]
struct Who {
    operation: u32,
    client: usize,
    body: Body,
}

impl Clients {
    pub(crate) fn new(
        run: &str,
        options: &Options,
        addresses: Vec<SocketAddr>,
        faults: Arc<Faults>,
    ) -> Self {
        let idle = addresses.iter().map(|_| Mutex::default()).collect();
        Self {
            run: run.to_owned(),
            seed: options.seed,
            addresses,
            faults,
            timeout: options.lease * 3 / 4,
            gives_up_after: options.patience() * 2,
            at_once: options.at_once,
            seen: Mutex::default(),
            idle,
        }
    }

    pub(crate) fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs all operations, and calls `done` after each. No operation begins before
    /// the blows that are due before that operation have fallen.
    pub(crate) async fn run(
        self: &Arc<Self>,
        operations: u32,
        begun: watch::Sender<u32>,
        due: watch::Receiver<u32>,
        done: impl Fn() + Clone + Send + 'static,
    ) {
        let next = Arc::new(AtomicU32::new(0));
        let begun = Arc::new(begun);
        let mut lanes = JoinSet::new();
        for _ in 0..self.at_once {
            let (own, next, done) = (Arc::clone(self), Arc::clone(&next), done.clone());
            let (begun, mut due) = (Arc::clone(&begun), due.clone());
            lanes.spawn(async move {
                loop {
                    let operation = next.fetch_add(1, Ordering::Relaxed);
                    begun.send_if_modified(|begun| {
                        let later = operation.min(operations) > *begun;
                        *begun = operation.min(operations).max(*begun);
                        later
                    });
                    if operation >= operations {
                        return;
                    }
                    // If the killer has stopped, `run` ends the whole run, so this
                    // error needs no handling.
                    let _ = due.wait_for(|due| operation < *due).await;
                    own.operation(operation).await;
                    done();
                }
            });
        }
        join(lanes).await;
    }

    /// Requests some keys again, long after their first response.
    pub(crate) async fn ask_again(self: &Arc<Self>, operations: u32) {
        for operation in (0..operations).step_by(SPOT_CHECK as usize) {
            let bodies = clients(self.seed, operation);
            let who = Who {
                operation,
                client: bodies.len(),
                body: bodies[0],
            };
            let mut draws = draws(self.seed, b'a', operation.into(), 0);
            self.quest(who, &mut draws, &AtomicBool::new(true)).await;
        }
    }

    async fn operation(self: &Arc<Self>, operation: u32) {
        let answered = Arc::new(AtomicBool::new(false));
        let mut all = JoinSet::new();
        for (client, body) in clients(self.seed, operation).into_iter().enumerate() {
            let (own, answered) = (Arc::clone(self), Arc::clone(&answered));
            let who = Who {
                operation,
                client,
                body,
            };
            all.spawn(async move {
                let mut draws = draws(own.seed, b'c', operation.into(), client as u64);
                pause(&mut draws, 10 * client as u64).await;
                let settled = own.quest(who, &mut draws, &answered).await;
                // Some clients lose the response that they received, and ask again.
                if settled && draws.random_bool(0.3) {
                    pause(&mut draws, 100).await;
                    own.ask(who, &mut draws).await;
                }
            });
        }
        join(all).await;
    }

    /// Sends requests until the client has a response or gives up. Returns whether
    /// the client's operation is settled.
    async fn quest(&self, who: Who, draws: &mut StdRng, answered: &AtomicBool) -> bool {
        let begun = now();
        let mut settled = None;
        for attempt in 0_u32.. {
            match self.ask(who, draws).await {
                Saw::Answer(_) => {
                    answered.store(true, Ordering::SeqCst);
                    settled = Some(now());
                }
                Saw::Refused(code) => match code.as_str() {
                    "in-flight" | "store-unavailable" => {}
                    // Until the other operation is done, its execution may still
                    // fail and free the key.
                    "key-reused" => settled = answered.load(Ordering::SeqCst).then(now),
                    // No other rejection is expected here, and a retry would not
                    // help.
                    _ => break,
                },
                Saw::Failed(_) | Saw::Cut | Saw::Late => {}
            }
            if settled.is_some() || self.gives_up(begun) {
                break;
            }
            pause(draws, 20 << attempt.min(4)).await;
        }
        self.seen().quests.push(Quest {
            operation: who.operation,
            client: who.client,
            begun,
            settled,
            gave_up: now(),
        });
        settled.is_some()
    }

    fn gives_up(&self, begun: Micros) -> bool {
        let waited = now().saturating_sub(begun.max(self.faults.none_since()));
        Duration::from_micros(waited) > self.gives_up_after
    }

    /// Sends one request, and returns how the request ended.
    async fn ask(&self, who: Who, draws: &mut StdRng) -> Saw {
        let Who {
            operation,
            client,
            body,
        } = who;
        let asks = format!("{operation} {}", body.name());
        let path = ["rejected", "waited-for"][operation as usize % 2];
        let request = format!(
            "POST /{path} HTTP/1.1\r\nhost: chaos\r\nx-api-key: alice\r\n\
             idempotency-key: {}-{operation}\r\ncontent-length: {}\r\n\r\n{asks}",
            self.run,
            asks.len(),
        );
        let server = draws.random_range(0..self.addresses.len());
        let sent = now();
        let saw = match timeout(self.timeout, self.talk(server, request.as_bytes())).await {
            Ok(Ok(saw)) => saw,
            Ok(Err(_)) => Saw::Cut,
            Err(_) => Saw::Late,
        };
        self.seen().attempts.push(Attempt {
            operation,
            client,
            body,
            sent,
            ended: now(),
            saw: saw.clone(),
        });
        saw
    }

    async fn talk(&self, server: usize, request: &[u8]) -> std::io::Result<Saw> {
        let idle = || {
            self.idle[server]
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
        };
        let kept = idle().pop();
        let mut connection = match kept {
            Some(connection) => connection,
            None => Connection::open(self.addresses[server]).await?,
        };
        let saw = connection.ask(request).await?;
        idle().push(connection);
        Ok(saw)
    }
}

async fn pause(draws: &mut StdRng, longest: u64) {
    sleep(Duration::from_millis(draws.random_range(0..=longest))).await;
}

/// A client that panics is a bug of this program, so the panic continues here.
async fn join(mut tasks: JoinSet<()>) {
    while let Some(task) = tasks.join_next().await {
        task.expect("clients don't panic");
    }
}
