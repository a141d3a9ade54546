//! The table at the end of a run.

use std::io::{self, Write};

use super::arguments::Options;
use super::run::Outcome;

/// So many purchases of each kind of fault are named.
const NAMED: usize = 5;

pub(crate) fn print(out: &mut impl Write, options: &Options, outcome: &Outcome) -> io::Result<()> {
    let Outcome {
        verdict,
        effort,
        orders,
        checkouts,
        answers: (answers, cut),
        kills,
        took,
    } = outcome;
    let layer = match (options.with_sidecar, options.with_layer) {
        (true, _) => "with the sidecar before a shop in Python",
        (false, true) => "with the layer",
        (false, false) => "without the layer",
    };
    writeln!(
        out,
        "{} purchases by {} agents at {} servers, {layer}, in {:.1} s",
        options.purchases,
        options.agents,
        options.servers,
        took.as_secs_f64(),
    )?;
    let share = 100 * cut / (*answers).max(1);
    let rows = [
        ("answers begun by the servers", answers.to_string()),
        ("of them cut at a random byte", format!("{cut} ({share} %)")),
        ("servers killed", kills.to_string()),
        ("calls of tools", effort.calls.to_string()),
        ("connections of agents", effort.connections.to_string()),
        ("calls refused until later", effort.refusals.to_string()),
        ("agents that started over", effort.started_over.to_string()),
        ("outcomes unknown, looked up", effort.looked_up.to_string()),
        ("checkouts created", checkouts.to_string()),
        ("orders placed", orders.to_string()),
        (
            "purchases with two orders or more",
            verdict.double.len().to_string(),
        ),
        ("orders too many", verdict.orders_too_many.to_string()),
        ("purchases lost", verdict.lost.len().to_string()),
        (
            "agents told another order",
            verdict.told_another.len().to_string(),
        ),
    ];
    for (name, value) in rows {
        writeln!(out, "  {name:36} {value:>16}")?;
    }
    let faults = [
        ("two orders", &verdict.double),
        ("lost", &verdict.lost),
        ("told another", &verdict.told_another),
    ];
    for (what, purchases) in faults {
        for purchase in purchases.iter().take(NAMED) {
            writeln!(out, "  {what}: {purchase}")?;
        }
    }
    let verdict = if verdict.holds() { "holds" } else { "FAILS" };
    writeln!(out, "One order for each purchase: {verdict}.")
}
