//! This module carries out a plan: the hosts, the faults, and the end.

use std::sync::{Arc, Mutex};
use std::time::{Duration, UNIX_EPOCH};

use turmoil::Sim;

use crate::app::App;
use crate::client::Client;
use crate::log::{Event, Log, What};
use crate::plan::{APPS, Break, Plan, STORE, app, client};
use crate::store::{self, Records};

/// A message takes at least one tick, so that no host sees what another host does
/// later in the same tick.
const TICK: Duration = Duration::from_millis(20);
const SLOWEST: Duration = Duration::from_millis(80);

/// Every client must have its final responses within this time after everything
/// works again.
const PATIENCE: Duration = Duration::from_secs(60);
/// A record may be in flight for this long after its lease: the longest pause
/// between two tries of the layer, and the duration of these tries.
const SETTLES_WITHIN: Duration = Duration::from_secs(8);

/// Returns what happened, and when the simulation ended.
pub(crate) fn simulate(plan: &Plan) -> (Vec<Event>, Duration) {
    let log = Log::default();
    let records = Arc::new(Mutex::new(Records::new(plan, log.clone())));
    let mut sim = turmoil::Builder::new()
        .rng_seed(plan.seed)
        .epoch(UNIX_EPOCH + Duration::from_secs(1_000_000_000))
        .tick_duration(TICK)
        .min_message_latency(TICK)
        .max_message_latency(SLOWEST)
        .simulation_duration(Duration::from_secs(3600))
        // Messages that waited arrive at once, and the network panics if its buffer
        // is too small.
        .tcp_capacity(4096)
        .enable_random_order()
        .build();
    sim.host(STORE, {
        let records = Arc::clone(&records);
        move || store::serve(Arc::clone(&records))
    });
    for number in 0..APPS {
        let app = App {
            name: app(number),
            plan: plan.clone(),
            clock_ahead: Duration::from_secs(number * 3_000_000),
            log: log.clone(),
        };
        sim.host(app.name.clone(), move || app.clone().serve());
    }
    for number in 0..plan.clients {
        let client = Client::new(plan, number, log.clone());
        sim.client(client.name.clone(), client.run());
    }

    let mut faults = plan.faults.iter().peekable();
    let mut healed = false;
    let mut content_since = None;
    loop {
        let now = sim.elapsed();
        while let Some(fault) = faults.next_if(|fault| fault.at <= now && !healed) {
            carry_out(&mut sim, plan, &fault.what, &log);
        }
        if content_since.is_none() && everyone_is_content(plan, &log) {
            content_since = Some(now);
        }
        if !healed && (content_since.is_some() || now >= plan.healed_at) {
            healed = true;
            heal(&mut sim, plan, &log);
        }
        let settled = content_since.is_some_and(|since| {
            !records.lock().unwrap().any_lives(now)
                || now >= since + 2 * plan.lease + SETTLES_WITHIN
        });
        if settled || now >= plan.healed_at + PATIENCE {
            return (log.events(), now);
        }
        sim.step().expect("hosts and clients end well");
    }
}

fn everyone_is_content(plan: &Plan, log: &Log) -> bool {
    log.content() == plan.clients
}

fn carry_out(sim: &mut Sim<'_>, plan: &Plan, what: &Break, log: &Log) {
    let now = sim.elapsed();
    let note = |what: String| log.add_at(now, "", What::Fault(what));
    match what {
        Break::Cut(a, b) => {
            note(format!("{a} and {b} are cut off from each other"));
            sim.partition(a.as_str(), b.as_str());
        }
        Break::CutOneWay(from, to) => {
            note(format!("nothing gets from {from} to {to}"));
            sim.partition_oneway(from.as_str(), to.as_str());
        }
        Break::Hold(a, b) => {
            note(format!("messages between {a} and {b} wait"));
            sim.hold(a.as_str(), b.as_str());
        }
        Break::Lossy(a, b, one_in) => {
            note(format!(
                "one message in {one_in} between {a} and {b} gets lost"
            ));
            sim.set_link_fail_rate(a.as_str(), b.as_str(), 1.0 / f64::from(*one_in));
        }
        Break::Slow(a, b, most) => {
            note(format!("messages between {a} and {b} take up to {most:?}"));
            sim.set_link_max_message_latency(a.as_str(), b.as_str(), *most);
        }
        Break::Mend(a, b) => {
            note(format!("{a} and {b} are well connected"));
            mend(sim, a, b);
        }
        Break::Crash(host) => {
            log.add_at(now, host, What::Crashed);
            crash(sim, plan, host);
        }
        Break::Restart(host) => {
            log.add_at(now, host, What::Restarted);
            sim.bounce(host.as_str());
        }
    }
}

/// Crashes a host. The layer's own tasks end in an order that tokio takes from a
/// counter of the whole process, and each connection that the tasks close draws a
/// delay. All delays are therefore set to the same value, so that a seed always
/// gives the same run. Tasks of a `LocalSet` end in a fixed order. A fault that
/// slowed the host's links ends with the crash.
fn crash(sim: &mut Sim<'_>, plan: &Plan, host: &str) {
    let apps = (0..APPS).map(app);
    let all = apps
        .chain((0..plan.clients).map(client))
        .chain([STORE.to_owned()]);
    let others: Vec<_> = all.filter(|other| other != host).collect();
    for other in &others {
        sim.set_link_fail_rate(host, other.as_str(), 0.0);
        sim.set_link_latency(host, other.as_str(), TICK);
    }
    sim.crash(host);
    for other in &others {
        sim.set_link_max_message_latency(host, other.as_str(), SLOWEST);
    }
}

fn mend(sim: &mut Sim<'_>, a: &str, b: &str) {
    sim.release(a, b);
    sim.set_link_fail_rate(a, b, 0.0);
    sim.set_link_max_message_latency(a, b, SLOWEST);
}

fn heal(sim: &mut Sim<'_>, plan: &Plan, log: &Log) {
    log.add_at(
        sim.elapsed(),
        "",
        What::Fault("everything is whole from here on".to_owned()),
    );
    for number in 0..APPS {
        let app = app(number);
        mend(sim, &app, STORE);
        for other in 0..plan.clients {
            mend(sim, &app, &client(other));
        }
        restart(sim, &app, log);
    }
    restart(sim, STORE, log);
}

fn restart(sim: &mut Sim<'_>, host: &str, log: &Log) {
    if !sim.is_host_running(host) {
        log.add_at(sim.elapsed(), host, What::Restarted);
        sim.bounce(host);
    }
}
