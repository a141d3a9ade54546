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

/// Fails if a row has more than 3 % more instructions than it had.
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
    let mut risen = Vec::new();
    for row in rows {
        let kind = row.kind.name();
        let Some((all, without)) = known.remove(&(row.server, kind)) else {
            return Err(format!("there are no figures for {} {kind}", row.server).into());
        };
        if row.all > all * MAY_RISE || row.without > without * MAY_RISE {
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

    fn row(all: f64, without: f64) -> Row {
        Row {
            server: "axum",
            kind: Kind::First,
            all,
            without,
            bare: 20_000.0,
        }
    }

    #[test]
    fn a_row_may_rise_by_3_percent_and_no_more() {
        let figures = "# comment\naxum first 100000 40000\n";
        let rows = |all, without| risen(&[row(all, without)], figures).unwrap().len();
        assert_eq!(rows(103_000.0, 41_200.0), 0);
        assert_eq!(rows(90_000.0, 30_000.0), 0);
        assert_eq!(rows(103_001.0, 40_000.0), 1);
        assert_eq!(rows(100_000.0, 41_201.0), 1);
    }

    #[test]
    fn a_row_without_a_figure_is_an_error() {
        assert!(risen(&[row(1.0, 1.0)], "axum replay 1 1\n").is_err());
    }
}
