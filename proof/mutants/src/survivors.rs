//! The score of each room, and the survivors beside the list of those that are known.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::ExitCode;

use crate::room_of;
use crate::sites::Site;
use crate::tests::Verdict;

/// Where each known survivor stands, with its reason.
const LIST: &str = "docs/testing.md";

pub(crate) struct Report<'a> {
    known: String,
    judged: Vec<(&'a Site, Verdict)>,
}

impl<'a> Report<'a> {
    pub(crate) fn new(root: &Path, judged: Vec<(&'a Site, Verdict)>) -> Self {
        let known = fs::read_to_string(root.join(LIST)).unwrap_or_default();
        Self { known, judged }
    }

    /// Prints a table, and each survivor that is not listed.
    pub(crate) fn print(&self) -> ExitCode {
        let mut rooms: BTreeMap<&str, [usize; 4]> = BTreeMap::new();
        for (site, verdict) in &self.judged {
            let column = match verdict {
                Verdict::Caught(_) => 0,
                Verdict::TimedOut => 1,
                Verdict::Survived => 2,
                Verdict::Unreached => 3,
            };
            rooms.entry(room_of(&site.file)).or_default()[column] += 1;
            rooms.entry("~ all").or_default()[column] += 1;
        }
        println!("\n| room | mutants | caught | by time | survived | not reached | score |");
        println!("| --- | --- | --- | --- | --- | --- | --- |");
        for (room, [caught, late, survived, unreached]) in rooms {
            let all = caught + late + survived + unreached;
            let (tenths, all_of) = (1000 * (caught + late) / all, room.trim_start_matches("~ "));
            println!(
                "| {all_of} | {all} | {caught} | {late} | {survived} | {unreached} | {}.{} % |",
                tenths / 10,
                tenths % 10
            );
        }
        let missed = self
            .judged
            .iter()
            .filter(|(_, verdict)| matches!(verdict, Verdict::Survived | Verdict::Unreached));
        let unknown: Vec<_> = missed
            .filter(|(site, _)| !self.known.contains(&format!("`{}`", site.name())))
            .collect();
        if unknown.is_empty() {
            return ExitCode::SUCCESS;
        }
        println!("\nNot caught, and not in the list of {LIST}:");
        for (site, verdict) in unknown {
            println!("{}:{} {verdict:?} {}", site.file, site.line, site.name());
        }
        ExitCode::FAILURE
    }
}
