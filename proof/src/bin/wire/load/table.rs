//! This module shows the measured rounds.

use std::fmt::Write as _;

use super::{CLIENTS, Load, ROWS, Round, Sample};
use crate::BoxError;

/// The rows that a picture shows, of this layer and of the other.
const PICTURED: [(&str, [usize; 3]); 2] = [("this layer", [2, 3, 4]), ("idempotent", [6, 7, 8])];

pub(crate) fn table(load: Load, rounds: &[Round]) -> Result<String, BoxError> {
    let mut text = format!(
        "{} rounds, {} connections, {} records at first, {} B of response, medians:\n",
        load.rounds, load.connections, load.records, load.response_bytes
    );
    for (place, (client, _)) in CLIENTS.iter().enumerate() {
        writeln!(
            text,
            "\n{client:36} {:>6} {:>6} {:>7} {:>6}   {:>6} {:>6} {:>6} {:>8}",
            "CPU us", "25 %", "to bare", "75 %", "no-op", "kernel", "faults", "per s"
        )?;
        for (row, (name, ..)) in ROWS.iter().enumerate() {
            let of = |figure: &dyn Fn(&Sample) -> f64| {
                middle(
                    rounds
                        .iter()
                        .map(|round| figure(&round[place][row]))
                        .collect(),
                )
            };
            let ratios = ratios(rounds, place, row, 0);
            writeln!(
                text,
                "  {name:34} {:>6.2} {:>6.3} {:>7.3} {:>6.3}   {:>6.3} {:>6.2} {:>6.2} {:>8.0}",
                of(&|sample| sample.micros),
                ratios[(ratios.len() - 1) / 4],
                ratios[(ratios.len() - 1) / 2],
                ratios[(ratios.len() - 1) * 3 / 4],
                middle(self::ratios(rounds, place, row, 1)),
                of(&|sample| sample.micros * sample.in_kernel),
                of(&|sample| sample.faults),
                of(&|sample| sample.per_second),
            )?;
        }
    }
    Ok(text)
}

/// The ratios to bare as bars.
pub(crate) fn picture(rounds: &[Round]) -> String {
    let mut groups = Vec::new();
    for (place, short) in ["one processor", "two processors"].iter().enumerate() {
        for (name, rows) in PICTURED {
            let bars = rows.map(|row| middle(ratios(rounds, place, row, 0)));
            groups.push((format!("{name}, {short}"), bars.to_vec()));
        }
    }
    let title = "CPU time of a server for a request, as multiples of the bare application";
    proof::picture::bars(title, &["not protected", "first", "replay"], &groups)
}

/// The ratios of two rows, each within one round, in order.
fn ratios(rounds: &[Round], place: usize, row: usize, to: usize) -> Vec<f64> {
    let ratio = |round: &Round| round[place][row].micros / round[place][to].micros;
    let mut ratios: Vec<f64> = rounds.iter().map(ratio).collect();
    ratios.sort_by(f64::total_cmp);
    ratios
}

fn middle(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[(values.len() - 1) / 2]
}
