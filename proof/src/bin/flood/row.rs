//! One attack after the other, each on a sidecar of its own.

use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::arguments::Options;
use crate::attacks::{Attack, Attacker};
use crate::good::Good;
use crate::judge::{Period, Row};
use crate::sidecar::Sidecar;
use crate::{BoxError, limits, sidecar, table, upstream};

/// How long the good caller sends before it is measured.
const WARM_UP: Duration = Duration::from_millis(500);
const STEP: Duration = Duration::from_millis(250);
/// How many open files this process may need.
const FILES: u64 = 8192;

/// Runs the attacks. `err` is told of what is measured once more.
pub(crate) fn all(
    options: &Options,
    shows_progress: bool,
    err: &mut impl Write,
) -> Result<Vec<Row>, BoxError> {
    let files = rlimit::increase_nofile_limit(FILES)?;
    if files < FILES {
        return Err(format!("{FILES} open files are needed; the system allows {files}").into());
    }
    let program = sidecar::program(options.sidecar.as_deref())?;
    let upstream = upstream::start()?;
    let attacks = options.attacks();
    let progress = progress(options, attacks.len(), shows_progress);
    let mut rows = Vec::new();
    for attack in attacks {
        progress.set_message(attack.name);
        let mut row = measure(options, attack, &program, upstream, &progress)?;
        if row.may_be_the_machine() && !options.without_shares {
            progress.suspend(|| writeln!(err, "{}, and once more", table::line(&row)))?;
            row = measure(options, attack, &program, upstream, &progress)?;
        }
        rows.push(row);
    }
    progress.finish_and_clear();
    Ok(rows)
}

fn progress(options: &Options, attacks: usize, shown: bool) -> ProgressBar {
    if !shown {
        return ProgressBar::hidden();
    }
    let each = WARM_UP + 2 * options.calm() + options.attack();
    let steps = each.as_millis() / STEP.as_millis() * attacks as u128;
    let style = "{bar:40} {msg}, {eta} to go";
    let style = ProgressStyle::with_template(style).expect("a template");
    ProgressBar::new(u64::try_from(steps).unwrap_or(u64::MAX)).with_style(style)
}

fn measure(
    options: &Options,
    attack: &'static Attack,
    program: &Path,
    upstream: SocketAddr,
    progress: &ProgressBar,
) -> Result<Row, BoxError> {
    let file = limits::file(attack, upstream, options.without_shares);
    let mut sidecar = Sidecar::start(program, &file)?;
    let good = Good::start(sidecar.address)?;
    wait(WARM_UP, progress);

    let begins = Instant::now();
    wait(options.calm(), progress);
    let rss = sidecar.rss().unwrap_or_default();

    let attacked = Instant::now();
    let sent = Arc::new(AtomicU64::new(0));
    let attacker = Attacker::new(sidecar.address, sidecar.metrics, Arc::clone(&sent));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    runtime.spawn((attack.run)(attacker));
    wait(options.attack(), progress);
    // All the attack's tasks and connections end with its runtime.
    runtime.shutdown_background();

    let ended = Instant::now();
    wait(options.calm(), progress);
    let end = Instant::now();
    let samples = good.stop()?;
    Ok(Row {
        attack: attack.name,
        cpu: attack.cpu,
        sent: sent.load(Ordering::Relaxed),
        rss,
        peak: sidecar.peak().unwrap_or_default(),
        sum: limits::sum(),
        is_alive: sidecar.is_alive(),
        before: Period::of(&samples, begins, attacked),
        during: Period::of(&samples, attacked, ended),
        after: Period::of(&samples, ended, end),
    })
}

fn wait(time: Duration, progress: &ProgressBar) {
    let until = Instant::now() + time;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        std::thread::sleep(left.min(STEP));
        progress.inc(1);
    }
}
