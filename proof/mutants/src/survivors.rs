//! The score of each room, and the survivors beside the lists of those that are known.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::Path;
use std::process::ExitCode;

use crate::room_of;
use crate::sites::Site;
use crate::tests::Verdict;

/// Where each known survivor stands, with its reason.
const PAGE: &str = "docs/testing.md";
/// Below this heading stand the survivors that no caller of the code could tell from the
/// library, up to the next heading. The others stand elsewhere on the page.
const EQUIVALENT: &str = "#### Equivalent mutants";

/// The names on the page.
#[derive(Default)]
struct Lists {
    equivalent: HashSet<String>,
    others: HashSet<String>,
}

impl Lists {
    fn read(page: &str) -> Self {
        let mut lists = Self::default();
        let mut are_equivalent = false;
        for line in page.lines() {
            if line.starts_with('#') {
                are_equivalent = line == EQUIVALENT;
            }
            let item = line.trim_start().strip_prefix("- `src/");
            if let Some(name) = item.and_then(|rest| rest.strip_suffix('`')) {
                let list = if are_equivalent {
                    &mut lists.equivalent
                } else {
                    &mut lists.others
                };
                list.insert(format!("src/{name}"));
            }
        }
        lists
    }
}

pub(crate) struct Report<'a> {
    lists: Lists,
    judged: Vec<(&'a Site, Verdict)>,
}

/// What became of the mutants of one room.
#[derive(Default)]
struct Score {
    equivalent: usize,
    caught: usize,
    late: usize,
    survived: usize,
    unreached: usize,
}

impl<'a> Report<'a> {
    pub(crate) fn new(root: &Path, judged: Vec<(&'a Site, Verdict)>) -> Self {
        let page = fs::read_to_string(root.join(PAGE)).unwrap_or_default();
        Self {
            lists: Lists::read(&page),
            judged,
        }
    }

    /// Prints a table, and what the lists on the page and the verdicts disagree about.
    pub(crate) fn print(&self) -> ExitCode {
        let mut rooms: BTreeMap<&str, Score> = BTreeMap::new();
        let (mut unknown, mut caught) = (Vec::new(), Vec::new());
        for (site, verdict) in &self.judged {
            let name = site.name();
            let is_equivalent = self.lists.equivalent.contains(&name);
            let is_missed = matches!(verdict, Verdict::Survived | Verdict::Unreached);
            for room in [room_of(&site.file), "~ all"] {
                let score = rooms.entry(room).or_default();
                let column = match verdict {
                    Verdict::Caught(_) => &mut score.caught,
                    Verdict::TimedOut => &mut score.late,
                    _ if is_equivalent => &mut score.equivalent,
                    Verdict::Survived => &mut score.survived,
                    Verdict::Unreached => &mut score.unreached,
                };
                *column += 1;
            }
            if is_missed && !is_equivalent && !self.lists.others.contains(&name) {
                unknown.push(format!("{}:{} {verdict:?} {name}", site.file, site.line));
            }
            if let Verdict::Caught(by) = verdict
                && is_equivalent
            {
                caught.push(format!("{name}, by {by}"));
            }
        }
        println!(
            "\n| room | mutants | equivalent | caught | by time | survived | not reached \
             | of all | of the viable |"
        );
        println!("| --- | --- | --- | --- | --- | --- | --- | --- | --- |");
        for (room, score) in rooms {
            println!("{}", score.row(room.trim_start_matches("~ ")));
        }
        for (what, names) in [
            ("Not caught, and on no list of", &unknown),
            ("Caught, and yet equivalent by the list of", &caught),
        ] {
            if !names.is_empty() {
                println!("\n{what} {PAGE}:\n{}", names.join("\n"));
            }
        }
        if unknown.is_empty() && caught.is_empty() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }
}

impl Score {
    /// A line of the table. An equivalent mutant is not viable: no test could catch it.
    fn row(&self, room: &str) -> String {
        let Self {
            equivalent,
            caught,
            late,
            survived,
            unreached,
        } = self;
        let viable = caught + late + survived + unreached;
        let all = viable + equivalent;
        let percent = |of: usize| {
            let tenths = (1000 * (caught + late)).checked_div(of).unwrap_or(1000);
            format!("{}.{} %", tenths / 10, tenths % 10)
        };
        format!(
            "| {room} | {all} | {equivalent} | {caught} | {late} | {survived} | {unreached} \
             | {} | {} |",
            percent(all),
            percent(viable)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_stands_below_the_heading_is_equivalent() {
        let lists = Lists::read(
            "### Mutants\n- No test:\n  - `src/a.rs f: returns ()`\n#### Equivalent mutants\n\
             - Slower:\n  - `src/b.rs T::g: 1 is 2 (2)`\n  - `run` it\n### Other\n- `src/c.rs h: x`",
        );
        assert_eq!(
            lists.equivalent,
            ["src/b.rs T::g: 1 is 2 (2)"].map(String::from).into()
        );
        let others = ["src/a.rs f: returns ()", "src/c.rs h: x"];
        assert_eq!(lists.others, others.map(String::from).into());
    }

    #[test]
    fn equivalent_mutants_are_not_viable() {
        let score = Score {
            equivalent: 10,
            caught: 80,
            late: 8,
            survived: 1,
            unreached: 1,
        };
        let row = "| lease | 100 | 10 | 80 | 8 | 1 | 1 | 88.0 % | 97.7 % |";
        assert_eq!(score.row("lease"), row);
    }
}
