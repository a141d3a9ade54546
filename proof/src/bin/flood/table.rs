//! The table at the end of a run.

use std::io::{self, Write};
use std::time::Duration;

use crate::arguments::Options;
use crate::judge::{Period, Row};
use crate::{attacks, good, limits};

const MIB: u64 = 1 << 20;

/// Prints the names of the attacks.
pub(crate) fn list(out: &mut impl Write) -> io::Result<()> {
    for attack in &attacks::ALL {
        writeln!(out, "{:10} {}", attack.name, attack.about)?;
    }
    Ok(())
}

/// Prints all rows, and what the limits allow.
pub(crate) fn print(out: &mut impl Write, options: &Options, rows: &[Row]) -> io::Result<()> {
    writeln!(
        out,
        "The good caller sends {} requests a second.",
        good::RATE
    )?;
    writeln!(out, "The limits allow {} MiB:", limits::sum() / MIB)?;
    for limit in &limits::LIMITS {
        let (name, value) = (limit.name, limit.value);
        match limit.bytes() / MIB {
            0 => writeln!(out, "             {name} = {value}")?,
            bytes => writeln!(out, "{bytes:8} MiB {name} = {value}")?,
        }
    }
    if options.without_shares {
        writeln!(out, "The share of one caller is the whole of each limit.")?;
    }
    writeln!(
        out,
        "\n{:10} {:>10} {:>19} {:>20} {:>24} {:>14} {:>7}",
        "attack",
        "sent",
        "RSS, highest (MiB)",
        "rate before/dur/aft",
        "p99 (ms) before/dur/aft",
        "refused/failed",
        "replays"
    )?;
    for row in rows {
        writeln!(out, "{}", line(row))?;
    }
    let failed = rows.iter().filter(|row| !row.faults().is_empty()).count();
    writeln!(
        out,
        "\n{} of {} rows hold.",
        rows.len() - failed,
        rows.len()
    )
}

/// Returns the row as a line of the table.
pub(crate) fn line(row: &Row) -> String {
    let periods = [&row.before, &row.during, &row.after];
    let three = |of: &dyn Fn(&Period) -> String| periods.map(of).join(" ");
    let sum = |of: fn(&Period) -> usize| periods.map(of).iter().sum::<usize>();
    let faults: Vec<_> = row.faults().iter().map(ToString::to_string).collect();
    let verdict = if faults.is_empty() {
        "holds".to_owned()
    } else {
        format!("FAILS: {}", faults.join(", "))
    };
    let lost = match sum(|own| own.lost_replays) {
        0 => "all".to_owned(),
        lost => format!("-{lost}"),
    };
    format!(
        "{:10} {:>10} {:>19} {:>20} {:>24} {:>14} {lost:>7}  {verdict}",
        row.attack,
        bytes(row.sent),
        format!(
            "{} {}/{}",
            row.rss / MIB,
            row.peak / MIB,
            row.allowed() / MIB
        ),
        three(&|own| format!("{:.0}", own.rate)),
        three(&|own| own.p99.map_or_else(|| "-".to_owned(), milliseconds)),
        format!("{}/{}", sum(|own| own.refused), sum(|own| own.failed)),
    )
}

fn milliseconds(time: Duration) -> String {
    format!("{:.0}", time.as_secs_f64() * 1000.0)
}

fn bytes(bytes: u64) -> String {
    match bytes {
        0..10_240 => format!("{bytes} B"),
        10_240..10_485_760 => format!("{} KiB", bytes >> 10),
        _ => format!("{} MiB", bytes >> 20),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_what_fails() {
        let period = Period {
            rate: 100.0,
            p99: Some(Duration::from_millis(3)),
            ..Period::default()
        };
        let row = Row {
            attack: "rain",
            cpu: false,
            sent: 20 << 20,
            rss: 10 * MIB,
            peak: 50 * MIB,
            sum: 100 * MIB,
            is_alive: true,
            before: period.clone(),
            during: Period {
                rate: 3.0,
                p99: None,
                refused: 5,
                failed: 2,
                lost_replays: 4,
            },
            after: period,
        };
        let line = line(&row);
        for part in [
            "rain",
            "20 MiB",
            "10 50/130",
            "100 3 100",
            "3 - 3",
            "5/2",
            "-4",
            "FAILS: rate during, replays",
        ] {
            assert!(line.contains(part), "{part}: {line}");
        }
    }
}
