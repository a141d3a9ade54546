//! This module compares the rows with those that are checked in.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::BoxError;
use crate::rows::Row;

/// What a row may rise by before the check fails.
const MAY_RISE: f64 = 1.03;

fn file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/bin/wire/figures.txt")
}

/// Fails if a row has more than 3 % more instructions than it had. Where the bare application has
/// more than it had, by another compiler or another machine, each row of its server may have as
/// many times more.
pub(crate) fn check(rows: &[Row]) -> Result<(), BoxError> {
    let figures = std::fs::read_to_string(file())?;
    let risen = risen(rows, &figures)?;
    if risen.is_empty() {
        return Ok(());
    }
    let mut report = String::from("these rows have risen by more than 3 %:\n");
    for line in risen {
        writeln!(report, "  {line}")?;
    }
    let compiler = compiler()?;
    if !figures.contains(&compiler) {
        writeln!(report, "The figures are not those of {compiler}.")?;
    }
    report.push_str("If that has to be, write the new figures with `wire --update`.");
    Err(report.into())
}

fn risen(rows: &[Row], figures: &str) -> Result<Vec<String>, BoxError> {
    let mut known = HashMap::new();
    for line in figures.lines().filter(|line| !line.starts_with('#')) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [server, kind, all, without] = words[..] else {
            return Err(format!("a line is wrong: {line}").into());
        };
        known.insert(
            (server, kind),
            (all.parse::<f64>()?, without.parse::<f64>()?),
        );
    }
    let known_bare: HashMap<&str, f64> = known
        .iter()
        .filter(|((_, kind), _)| *kind == "bare")
        .map(|((server, _), (_, without))| (*server, *without))
        .collect();
    let mut risen = Vec::new();
    for row in rows {
        let kind = row.kind.name();
        let Some((all, without)) = known.remove(&(row.server, kind)) else {
            return Err(format!("there are no figures for {} {kind}", row.server).into());
        };
        let Some(bare) = known_bare.get(row.server) else {
            return Err(format!("there are no figures for {} bare", row.server).into());
        };
        let may_rise = MAY_RISE * (row.bare / bare).max(1.0);
        if row.all > all * may_rise || row.without > without * may_rise {
            risen.push(format!(
                "{} {kind}: {:.0} instead of {all:.0}, without SHA-256 {:.0} instead of {without:.0}",
                row.server, row.all, row.without
            ));
        }
    }
    Ok(risen)
}

/// The compiler's own version line.
fn compiler() -> Result<String, BoxError> {
    let output = Command::new("rustc").arg("--version").output()?;
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

/// Writes the rows as those to compare with.
pub(crate) fn update(rows: &[Row]) -> Result<(), BoxError> {
    let mut text = format!(
        "# Instructions a request over the wire: server, kind, all, without SHA-256's compression.\n\
         # `cargo run -p proof --profile bench --bin wire -- --update` has written this file.\n\
         # Compiled by {}\n",
        compiler()?
    );
    for row in rows {
        writeln!(
            text,
            "{} {} {:.0} {:.0}",
            row.server,
            row.kind.name(),
            row.all,
            row.without
        )?;
    }
    Ok(std::fs::write(file(), text)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Kind;

    const FIGURES: &str = "# comment\naxum bare 20000 20000\naxum first 100000 40000\n";

    fn risen_of(all: f64, without: f64, bare: f64) -> usize {
        let row = Row {
            server: "axum",
            kind: Kind::First,
            all,
            without,
            bare,
        };
        risen(&[row], FIGURES).unwrap().len()
    }

    #[test]
    fn a_row_may_rise_by_3_percent_and_no_more() {
        assert_eq!(risen_of(103_000.0, 41_200.0, 20_000.0), 0);
        assert_eq!(risen_of(90_000.0, 30_000.0, 20_000.0), 0);
        assert_eq!(risen_of(103_001.0, 40_000.0, 20_000.0), 1);
        assert_eq!(risen_of(100_000.0, 41_201.0, 20_000.0), 1);
    }

    #[test]
    fn a_row_may_rise_as_the_bare_application_has_risen() {
        assert_eq!(risen_of(113_300.0, 45_320.0, 22_000.0), 0);
        assert_eq!(risen_of(113_301.0, 40_000.0, 22_000.0), 1);
        assert_eq!(risen_of(103_001.0, 40_000.0, 18_000.0), 1);
    }

    #[test]
    fn a_row_without_a_figure_is_an_error() {
        for figures in ["axum bare 1 1\n", "axum first 1 1\n"] {
            let row = Row {
                server: "axum",
                kind: Kind::First,
                all: 1.0,
                without: 1.0,
                bare: 1.0,
            };
            assert!(risen(&[row], figures).is_err());
        }
    }
}
