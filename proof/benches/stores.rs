//! This benchmark measures what each engine's operations cost, relative to the
//! engine's own no-op round trip (`PING`, `SELECT 1`) over the same connections in
//! the same run.
//!
//! Each round runs these batches per engine, with one call and with 64 calls at a
//! time: the no-op, the engine's own write of one row (`INSERT`, `SET`), claims of new records, the completions of these records, claims
//! that find a completion (replays), releases, and the first steps of operations. A recorded response has 256 B, and so have the row and the result of a step. One table shows the median over the rounds of a batch's time divided by the time of
//! the same round's no-op. The other has what has a target, with its quartiles: replays to the no-op, claims,
//! completions and steps to the engine's own write, their throughput at 64 to that of the write, and the time that
//! Redis spends in a script, by its own count (`INFO commandstats`, of which scripts' commands are a part).
//!
//! After that, the databases run [a handler with one INSERT](handlers): bare,
//! behind the layer, and with its claim committed in its own transaction. The
//! argument `handlers` runs these measurements alone.
//!
//! The benchmark measures each engine whose address is in the environment
//! (`TEST_REDIS_URL`, `TEST_POSTGRES_URL`, `TEST_MYSQL_URL`), and SQLite in a
//! temporary file:
//!
//! ```text
//! eval "$(scripts/servers start redis postgres mysql)"
//! cargo bench -p proof --bench stores -- [ROUNDS] [--quick] [handlers] [--svg FILE]
//! # --quick: 3 rounds, and no handlers
//! scripts/servers stop
//! ```

use std::time::{Duration, Instant};

#[path = "stores/engines.rs"]
mod engines;
#[path = "stores/handlers.rs"]
mod handlers;

use proof::picture;

const AT_ONCE: [usize; 2] = [1, 64];
/// A batch makes this many calls of one operation.
const BATCH: usize = 192;
const OPERATIONS: [&str; 6] = ["write", "claim", "complete", "replay", "release", "step"];
const CLAIM: usize = 1;
const COMPLETE: usize = 2;
const REPLAY: usize = 3;
const STEP: usize = 5;

/// A round holds the time of one batch of each operation, over all calls of the
/// batch.
pub(crate) struct Round {
    no_op: Duration,
    /// The time of no-ops that took turns with the replays, since a replay is little more.
    no_op_of_replays: Duration,
    operations: [Duration; OPERATIONS.len()],
    /// The microseconds that the server has counted for one script, where it counts them.
    scripts: [Option<f64>; OPERATIONS.len()],
}

impl Round {
    fn to_no_op(&self, operation: usize) -> f64 {
        let no_op = match operation {
            REPLAY => self.no_op_of_replays,
            _ => self.no_op,
        };
        self.operations[operation].as_secs_f64() / no_op.as_secs_f64()
    }

    fn to_write(&self, operation: usize) -> f64 {
        self.operations[operation].as_secs_f64() / self.operations[0].as_secs_f64()
    }
}

/// These are all rounds of one engine, with this many calls at a time.
struct Taken {
    engine: &'static str,
    at_once: usize,
    rounds: Vec<Round>,
}

impl Taken {
    /// Returns the lower quartile, the median and the upper quartile.
    fn quartiles(&self, of: impl Fn(&Round) -> f64) -> [f64; 3] {
        quartiles(self.rounds.iter().map(of))
    }

    fn median(&self, of: impl Fn(&Round) -> f64) -> f64 {
        self.quartiles(of)[1]
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let is_quick = arguments.iter().any(|own| own == "--quick");
    let rounds = arguments
        .iter()
        .find_map(|own| own.parse().ok())
        .unwrap_or(if is_quick { 3 } else { 30 });
    let svg = arguments.iter().position(|own| own == "--svg");
    let svg = svg.and_then(|at| arguments.get(at + 1));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    if arguments.iter().any(|own| own == "handlers") {
        return runtime.block_on(handlers::measure(rounds));
    }
    let taken = runtime.block_on(measure(rounds));
    print(&taken, rounds);
    print_targets(&taken);
    if !is_quick {
        runtime.block_on(handlers::measure(rounds));
    }
    if let Some(file) = svg {
        let title =
            "Store operations as multiples of the engine's no-op round trip (1 = PING, SELECT 1)";
        let groups: Vec<_> = taken
            .iter()
            .map(|one| {
                let ratios = (0..OPERATIONS.len()).map(|at| one.median(|own| own.to_no_op(at)));
                (
                    format!("{}, {} at a time", one.engine, one.at_once),
                    ratios.collect(),
                )
            })
            .collect();
        std::fs::write(file, picture::bars(title, &OPERATIONS, &groups)).unwrap();
    }
}

/// Takes turns with the engines, so that what slows the machine down slows all of them.
async fn measure(rounds: usize) -> Vec<Taken> {
    let engines = engines::all().await;
    let mut all = Vec::new();
    for engine in &engines {
        for at_once in AT_ONCE {
            // This round is not counted: it fills connections, caches and query plans.
            engine.round(at_once, BATCH).await;
            all.push((
                engine,
                Taken {
                    engine: engine.name,
                    at_once,
                    rounds: Vec::new(),
                },
            ));
        }
    }
    for _ in 0..rounds {
        for (engine, taken) in &mut all {
            taken.rounds.push(engine.round(taken.at_once, BATCH).await);
        }
    }
    all.into_iter().map(|(_, taken)| taken).collect()
}

fn print(taken: &[Taken], rounds: usize) {
    let batch = f64::from(u32::try_from(BATCH).unwrap());
    println!("{rounds} rounds of {BATCH} calls each, medians; operations to the no-op:");
    print!("{:<22} {:>8} {:>9}", "", "at once", "no-op us");
    for operation in OPERATIONS {
        print!(" {operation:>9}");
    }
    println!();
    for one in taken {
        let no_op = one.median(|round| round.no_op.as_secs_f64() * 1e6 / batch);
        print!("{:<22} {:>8} {no_op:>9.1}", one.engine, one.at_once);
        for at in 0..OPERATIONS.len() {
            print!(" {:>9.2}", one.median(|round| round.to_no_op(at)));
        }
        println!();
    }
}

/// Prints the figures that have a target. The write of Redis is no durable one, so claims,
/// completions and steps there are not compared with it.
fn print_targets(taken: &[Taken]) {
    println!(
        "\n{:<50} {:>8} {:>8} {:>8} {:>8}",
        "against the targets", "25 %", "median", "75 %", "target"
    );
    let row = |name: String, [low, middle, high]: [f64; 3], target: &str| {
        println!("{name:<50} {low:>8.2} {middle:>8.2} {high:>8.2} {target:>8}");
    };
    for one in taken {
        let engine = one.engine;
        if one.at_once == 1 {
            let most = match engine {
                "PostgreSQL" => "1.4",
                "MariaDB" => "2",
                _ => "1.3",
            };
            let replay = one.quartiles(|round| round.to_no_op(REPLAY));
            row(format!("{engine}: replay to the round trip"), replay, most);
        }
        for operation in [CLAIM, COMPLETE, REPLAY, STEP] {
            let name = OPERATIONS[operation];
            let script = one.rounds[0].scripts[operation];
            if script.is_some() && one.at_once == 1 {
                let micros = one.quartiles(|round| round.scripts[operation].unwrap_or(f64::NAN));
                row(format!("{engine}: us of the script, {name}"), micros, "8");
            } else if script.is_none() && operation != REPLAY && one.at_once == 1 {
                let ratio = one.quartiles(|round| round.to_write(operation));
                row(format!("{engine}: {name} to the write"), ratio, "1.3");
            } else if script.is_none() && operation != REPLAY {
                let ratio = one.quartiles(|round| 1.0 / round.to_write(operation));
                let name = format!("{engine}, 64 at once: rate of {name} to write");
                row(name, ratio, ">= 0.8");
            }
        }
    }
}

/// Returns the lower quartile, the median and the upper quartile.
fn quartiles(values: impl Iterator<Item = f64>) -> [f64; 3] {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let last = values.len() - 1;
    [values[last / 4], values[last / 2], values[last * 3 / 4]]
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    quartiles(values)[1]
}

/// Runs one batch: `calls` calls, of which `at_once` run at a time.
pub(crate) async fn timed<F>(at_once: usize, calls: usize, call: impl Fn(usize) -> F) -> Duration
where
    F: Future<Output = ()> + Send + 'static,
{
    let lanes: Vec<Vec<F>> = (0..at_once)
        .map(|lane| (lane..calls).step_by(at_once).map(&call).collect())
        .collect();
    let start = Instant::now();
    let lanes: Vec<_> = lanes
        .into_iter()
        .map(|lane| {
            tokio::spawn(async move {
                for call in lane {
                    call.await;
                }
            })
        })
        .collect();
    for lane in lanes {
        lane.await.unwrap();
    }
    start.elapsed()
}
