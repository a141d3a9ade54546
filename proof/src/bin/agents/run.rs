//! One run: servers, the network, the agents, and who kills the servers.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::BoxError;
use super::agent::{Agent, Bought, Effort};
use super::arguments::Options;
use super::check::Verdict;
use super::cutter::Cutter;
use super::ledger::Ledger;
use super::process::{Process, Program};
use super::server::{SIDECAR, Setup};

/// A killed server is down for so long.
const DOWN: Duration = Duration::from_millis(200);

/// What a run came to.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) verdict: Verdict,
    pub(crate) effort: Effort,
    pub(crate) orders: usize,
    pub(crate) checkouts: u32,
    /// How many answers there were, and how many of them were cut.
    pub(crate) answers: (u64, u64),
    pub(crate) kills: u32,
    pub(crate) took: Duration,
}

pub(crate) fn run(options: &Options, shows_progress: bool) -> Result<Outcome, BoxError> {
    let folder = std::env::temp_dir().join(format!("agents-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let outcome = runtime.block_on(buy_all(options, &folder, shows_progress));
    drop(runtime);
    std::fs::remove_dir_all(&folder)?;
    outcome
}

async fn buy_all(
    options: &Options,
    folder: &Path,
    shows_progress: bool,
) -> Result<Outcome, BoxError> {
    let begun = Instant::now();
    let database = folder.join("shop.db");
    let ledger = Ledger::open(&database).await?;
    // The one process behind all sidecars.
    let mut behind = None;
    let program = if options.with_sidecar {
        let shop = Process::start(&Program::PythonShop(database)).await?;
        let port = behind.insert(shop).port;
        Program::sidecar(folder, port, SIDECAR)?
    } else {
        let with_layer = options.with_layer;
        Program::Shop(Setup {
            database,
            with_layer,
        })
    };
    let (mut servers, mut shops) = (Vec::new(), Vec::new());
    for number in 0..options.servers {
        let server = Process::start(&program).await?;
        let seed = options.seed ^ (u64::from(number) << 48);
        shops.push(Cutter::start(options.cuts, seed, server.port).await?);
        servers.push(server);
    }
    let shops = Arc::new(shops);

    let bar = progress(options.purchases, shows_progress);
    let next = Arc::new(AtomicU32::new(0));
    let (done, seen) = watch::channel(0);
    let killer = tokio::spawn(kill(
        options.clone(),
        program.clone(),
        servers,
        Arc::clone(&shops),
        seen,
    ));
    let mut agents = JoinSet::new();
    for number in 0..options.agents {
        let mut agent = Agent::new(number, options.seed, Arc::clone(&shops));
        let (next, most) = (Arc::clone(&next), options.purchases);
        let (done, bar) = (done.clone(), bar.clone());
        agents.spawn(async move {
            let mut bought = Vec::new();
            loop {
                let task = next.fetch_add(1, Ordering::Relaxed);
                if task >= most {
                    return (bought, agent.effort);
                }
                bought.push(agent.buy(task).await);
                bar.inc(1);
                done.send_modify(|done| *done += 1);
            }
        });
    }
    let (mut bought, mut effort) = (Vec::<Bought>::new(), Effort::default());
    while let Some(agent) = agents.join_next().await {
        let (own, spent) = agent?;
        bought.extend(own);
        effort.calls += spent.calls;
        effort.connections += spent.connections;
        effort.refusals += spent.refusals;
        effort.started_over += spent.started_over;
        effort.looked_up += spent.looked_up;
    }
    drop(done);
    let kills = killer.await??;
    bar.finish_and_clear();
    drop(behind);

    let orders = ledger.orders().await?;
    let counts = shops.iter().map(Cutter::answers);
    let answers = counts.fold((0, 0), |sum, own| (sum.0 + own.0, sum.1 + own.1));
    Ok(Outcome {
        verdict: Verdict::of(&bought, &orders),
        effort,
        orders: orders.len(),
        checkouts: ledger.count_checkouts().await?,
        answers,
        kills,
        took: begun.elapsed(),
    })
}

/// Kills servers, evenly over the purchases, and starts them again. Ends with the agents, and then
/// with all servers.
async fn kill(
    options: Options,
    program: Program,
    mut servers: Vec<Process>,
    shops: Arc<Vec<Cutter>>,
    mut done: watch::Receiver<u32>,
) -> Result<u32, BoxError> {
    let mut draws = StdRng::seed_from_u64(options.seed);
    let mut kills = 0;
    while kills < options.kills {
        let at = (kills + 1) * (options.purchases / (options.kills + 1));
        if done.wait_for(|done| *done >= at).await.is_err() {
            break;
        }
        let victim = draws.random_range(0..servers.len());
        // Another program may soon have the port of the killed server.
        shops[victim].lead_nowhere();
        servers[victim].kill().await?;
        kills += 1;
        tokio::time::sleep(DOWN).await;
        servers[victim] = Process::start(&program).await?;
        shops[victim].lead_to(servers[victim].port);
    }
    while done.changed().await.is_ok() {}
    Ok(kills)
}

fn progress(purchases: u32, shown: bool) -> ProgressBar {
    let target = if shown {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    let bar = ProgressBar::with_draw_target(Some(u64::from(purchases)), target);
    let style = ProgressStyle::with_template("{bar:40} {pos} of {len} purchases, {eta} left");
    bar.with_style(
        style
            .map_err(io::Error::other)
            .expect("the template is right"),
    )
}
