//! What each engine's operations cost, next to its own no-op round trip
//! (`PING`, `SELECT 1`) over the same connections in the same run.
//!
//! Per round and engine, one and 64 at a time, batches of: the no-op, claims
//! of new records, their completions, claims that find a completion (a replay)
//! and releases. The answer has 256 B. What a table shows is the median over the
//! rounds of a batch's time to that of the round's no-op.
//!
//! After these, for the databases: [a handler with one INSERT](handlers), bare,
//! behind the layer, and with its claim committed in its own transaction; with
//! `handlers` as an argument these alone.
//!
//! Engines are those whose address is in the environment (`TEST_REDIS_URL`,
//! `TEST_POSTGRES_URL`, `TEST_MYSQL_URL`), and SQLite in a temporary file:
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
#[path = "stores/picture.rs"]
mod picture;

use engines::Engine;

const AT_ONCE: [usize; 2] = [1, 64];
/// How many of each operation a batch has.
const BATCH: usize = 192;
const OPERATIONS: [&str; 4] = ["claim", "complete", "replay", "release"];

/// The times of one batch each, of all calls together.
pub(crate) struct Round {
    no_op: Duration,
    operations: [Duration; 4],
}

/// What one engine took, with so many calls at a time.
pub(crate) struct Figures {
    engine: &'static str,
    at_once: usize,
    /// Microseconds per call, by the clock on the wall.
    no_op: f64,
    /// To the no-op, in the order of [`OPERATIONS`].
    ratios: [f64; 4],
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
        std::fs::write(file, picture::draw(&figures)).unwrap();
    }
}

async fn measure(engine: &Engine, at_once: usize, rounds: usize) -> Figures {
    // Connections, caches and plans get warm.
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
    Figures {
        engine: engine.name,
        at_once,
        no_op,
        ratios,
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
    println!();
    for one in figures {
        print!("{:<22} {:>8} {:>9.1}", one.engine, one.at_once, one.no_op);
        for ratio in one.ratios {
            print!(" {ratio:>9.2}");
        }
        println!();
    }
}

/// One batch: its calls, so many of them at a time.
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
