//! This benchmark measures what each engine's operations cost, relative to the
//! engine's own no-op round trip (`PING`, `SELECT 1`) over the same connections in
//! the same run.
//!
//! Each round runs these batches per engine, with one call and with 64 calls at a
//! time: the no-op, the engine's own write of one row (`INSERT`, `SET`), claims of new records, the completions of these records, claims
//! that find a completion (replays), and releases. A recorded response has 256 B, and so has the
//! row. A table shows the median over the rounds of a batch's time divided by the time of
//! the same round's no-op, and of claims and completions divided by that of the write.
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
//! cargo bench --bench stores --all-features -- [ROUNDS] [handlers] [--svg FILE]
//! scripts/servers stop
//! ```

use std::time::{Duration, Instant};

#[path = "stores/engines.rs"]
mod engines;
#[path = "stores/handlers.rs"]
mod handlers;

use engines::Engine;
use proof::picture;

const AT_ONCE: [usize; 2] = [1, 64];
/// A batch makes this many calls of one operation.
const BATCH: usize = 192;
const OPERATIONS: [&str; 5] = ["write", "claim", "complete", "replay", "release"];

/// A round holds the time of one batch of each operation, over all calls of the
/// batch.
pub(crate) struct Round {
    no_op: Duration,
    operations: [Duration; OPERATIONS.len()],
}

/// These figures are what one engine took, with this many calls at a time.
pub(crate) struct Figures {
    engine: &'static str,
    at_once: usize,
    /// The no-op takes this many microseconds of wall-clock time per call.
    no_op: f64,
    /// These are the ratios to the no-op, in the order of [`OPERATIONS`].
    ratios: [f64; OPERATIONS.len()],
    /// A claim, and a completion, to the write of one row.
    to_write: [f64; 2],
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let rounds = arguments
        .iter()
        .find_map(|own| own.parse().ok())
        .unwrap_or(30);
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
    let figures = runtime.block_on(async {
        let mut figures = Vec::new();
        for engine in engines::all().await {
            for at_once in AT_ONCE {
                figures.push(measure(&engine, at_once, rounds).await);
            }
        }
        figures
    });
    print(&figures, rounds);
    runtime.block_on(handlers::measure(rounds));
    if let Some(file) = svg {
        let title =
            "Store operations as multiples of the engine's no-op round trip (1 = PING, SELECT 1)";
        let groups: Vec<_> = figures
            .iter()
            .map(|one| {
                (
                    format!("{}, {} at a time", one.engine, one.at_once),
                    one.ratios.to_vec(),
                )
            })
            .collect();
        std::fs::write(file, picture::bars(title, &OPERATIONS, &groups)).unwrap();
    }
}

async fn measure(engine: &Engine, at_once: usize, rounds: usize) -> Figures {
    // This round is not counted: it fills connections, caches and query plans.
    engine.round(at_once, BATCH).await;
    let mut taken = Vec::new();
    for _ in 0..rounds {
        taken.push(engine.round(at_once, BATCH).await);
    }
    let batch = f64::from(u32::try_from(BATCH).unwrap());
    let no_op = median(
        taken
            .iter()
            .map(|round| round.no_op.as_secs_f64() * 1e6 / batch),
    );
    let ratios = std::array::from_fn(|at| {
        median(
            taken
                .iter()
                .map(|round| round.operations[at].as_secs_f64() / round.no_op.as_secs_f64()),
        )
    });
    let to_write = [1, 2].map(|at| {
        median(taken.iter().map(|round| {
            let [write, own] = [0, at].map(|at| round.operations[at].as_secs_f64());
            own / write
        }))
    });
    Figures {
        engine: engine.name,
        at_once,
        no_op,
        ratios,
        to_write,
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn print(figures: &[Figures], rounds: usize) {
    println!("{rounds} rounds of {BATCH} calls each, medians; operations to the no-op:");
    print!("{:<22} {:>8} {:>9}", "", "at once", "no-op us");
    for operation in OPERATIONS {
        print!(" {operation:>9}");
    }
    println!(" {:>10} {:>10}", "claim/w.", "complete/w.");
    for one in figures {
        print!("{:<22} {:>8} {:>9.1}", one.engine, one.at_once, one.no_op);
        for ratio in one.ratios {
            print!(" {ratio:>9.2}");
        }
        println!(" {:>10.2} {:>10.2}", one.to_write[0], one.to_write[1]);
    }
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
