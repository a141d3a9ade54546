//! A round has a fresh store, layer, server and clients. At its end the checker
//! judges everything that happened.

use std::io;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::checker::{Rule, Run, Violation, check, excused};
use super::clients::Clients;
use super::faults::Counted;
use super::handler::BoxError;
use super::history::{Clock, Execution, LeftRecord, LeftState, Pause, Seen};
use super::ledger::Ledger;
use super::plan::{LEASE, MAX_RECORDED, Operation, draws};
use super::server::{Server, layer};
use super::store::{Account, Faulty};

/// Slow handlers, late calls and all retries are over within this time.
const SETTLES_WITHIN: Duration = Duration::from_secs(30);

/// `Round` is what happened in one round, and what is wrong with it.
#[derive(Debug)]
pub(crate) struct Round {
    pub(crate) executions: Vec<Execution>,
    pub(crate) seen: Vec<Seen>,
    pub(crate) store: Account,
    pub(crate) faults: Counted,
    pub(crate) excused: usize,
    pub(crate) longest_pause: Duration,
    pub(crate) violations: Vec<Violation>,
}

impl Round {
    pub(crate) async fn run(
        seed: u64,
        operations: std::ops::Range<u32>,
        protected: bool,
        done: impl Fn() + Clone + Send + 'static,
    ) -> Result<Self, BoxError> {
        let clock = Clock::new();
        let ledger = Arc::new(Ledger::new(clock.clone()));
        let faults = draws(seed, b's', operations.start.into(), 0);
        let store = Faulty::new(clock.clone(), faults);
        let layer = protected.then(|| layer(store.clone())).transpose()?;
        let server = Server::start(layer.clone(), Arc::clone(&ledger), seed).await?;
        let pauses = Arc::new(Mutex::new(Vec::new()));
        let watch = tokio::spawn(watch(clock.clone(), Arc::clone(&pauses)));

        let clients = Arc::new(Clients::new(seed, server.address, clock));
        clients.run(operations, done).await;
        store.heal();
        let clients =
            Arc::into_inner(clients).ok_or_else(|| io::Error::other("a client is left"))?;
        let seen = clients.into_history();
        server.stop().await;
        let undrained = match layer {
            Some(layer) => layer.drain(SETTLES_WITHIN).await,
            None => 0,
        };
        store.wait_for_late_calls().await;
        watch.abort();

        let executions = ledger.executions();
        let account = store.account();
        let records = records(&store).await;
        let pauses = std::mem::take(&mut *pauses.lock().expect("the watch does not panic"));
        let run = Run {
            protected,
            lease: LEASE,
            max_recorded: MAX_RECORDED,
            refuses: |operation| Operation(operation).refuses(),
            executions: &executions,
            seen: &seen,
            overtakes: &account.overtakes,
            troubled: &account.troubled,
            pauses: &pauses,
            records: &records,
        };
        let mut violations = check(&run);
        let excused = excused(&run).len();
        let left = [
            (undrained, "operations still run without a client"),
            (store.open(), "leases have not ended"),
            (ledger.running(), "executions are alive"),
            (
                miscounted(&store, &records),
                "records are more or less than was ever claimed",
            ),
            (
                still_held(&store).await,
                "handles on the store are still held",
            ),
        ];
        violations.extend(
            left.into_iter()
                .filter(|(count, _)| *count > 0)
                .map(|(count, what)| Violation {
                    rule: Rule::NothingIsLeft,
                    operation: None,
                    why: format!("{count} {what}"),
                }),
        );
        let lengths = pauses.iter().map(Pause::length);
        Ok(Self {
            longest_pause: lengths.max().unwrap_or_default(),
            excused,
            executions,
            seen,
            store: account,
            faults: store.faults(),
            violations,
        })
    }
}

/// Returns what the store holds, once no lease lives. A renewal that arrives late
/// can keep a lease alive for one lease length after its owner gave the record up
/// as unknown.
async fn records(store: &Faulty) -> Vec<LeftRecord> {
    let records = store.records();
    let in_flight = |record: &LeftRecord| record.state == LeftState::InFlight;
    if !records.iter().any(in_flight) {
        return records;
    }
    sleep(LEASE).await;
    store.records()
}

/// Returns by how much the store's own counts differ from the records that the
/// store returns.
fn miscounted(store: &Faulty, records: &[LeftRecord]) -> usize {
    let stats = store.stats();
    let held = |wanted: fn(&LeftState) -> bool| {
        records
            .iter()
            .filter(|record| wanted(&record.state))
            .count()
    };
    [
        (stats.records, records.len()),
        (
            stats.in_flight,
            held(|state| matches!(state, LeftState::InFlight | LeftState::Lapsed)),
        ),
        (
            stats.completed,
            held(|state| matches!(state, LeftState::Completed(_))),
        ),
        (stats.sealed, held(|state| *state == LeftState::Sealed)),
        (stats.released, held(|state| *state == LeftState::Released)),
    ]
    .into_iter()
    .map(|(counted, held)| counted.abs_diff(held))
    .sum()
}

/// Waits until nothing holds a handle on the store, and returns how many handles
/// are left after some seconds. The layer is dropped, and its background tasks end
/// soon.
async fn still_held(store: &Faulty) -> usize {
    let end = Instant::now() + Duration::from_secs(5);
    while store.others() > 0 && Instant::now() < end {
        sleep(Duration::from_millis(20)).await;
    }
    store.others()
}

/// Measures when the process does not run: this task wants to run every few
/// milliseconds, and notes each time that it ran late.
async fn watch(clock: Clock, pauses: Arc<Mutex<Vec<Pause>>>) {
    const EVERY: Duration = Duration::from_millis(10);
    loop {
        let from = clock.now().at;
        sleep(EVERY).await;
        let to = clock.now().at;
        let late = to.saturating_sub(from + EVERY);
        // A delay of up to 3 ms comes from the timer's resolution and is no pause.
        if late > Duration::from_millis(3) {
            let from = to.saturating_sub(late);
            let mut pauses = pauses.lock().expect("nobody panics with it");
            pauses.push(Pause { from, to });
        }
    }
}
