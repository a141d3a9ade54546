//! What became of each mutant, kept from run to run.

use std::collections::HashMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use crate::sites::Site;
use crate::tests::Verdict;

/// The verdicts so far, one a line; a later one counts.
pub(crate) struct Results {
    path: PathBuf,
    verdicts: Mutex<HashMap<String, Verdict>>,
}

impl Results {
    pub(crate) fn open(path: &Path) -> Self {
        let text = fs::read_to_string(path).unwrap_or_default();
        let result = |line: &str| {
            let (verdict, key) = line.split_once('\t')?;
            let verdict = match verdict.split_once(' ').unwrap_or((verdict, "")) {
                ("caught", by) => Verdict::Caught(by.to_owned()),
                ("timed-out", _) => Verdict::TimedOut,
                ("unreached", _) => Verdict::Unreached,
                _ => Verdict::Survived,
            };
            Some((key.to_owned(), verdict))
        };
        Self {
            path: path.to_owned(),
            verdicts: Mutex::new(text.lines().filter_map(result).collect()),
        }
    }

    pub(crate) fn get(&self, site: &Site) -> Option<Verdict> {
        self.verdicts.lock().unwrap().get(&site.key()).cloned()
    }

    pub(crate) fn add(&self, site: &Site, verdict: Verdict) {
        let word = match &verdict {
            Verdict::Caught(by) => format!("caught {by}"),
            Verdict::TimedOut => "timed-out".to_owned(),
            Verdict::Unreached => "unreached".to_owned(),
            Verdict::Survived => "survived".to_owned(),
        };
        let mut verdicts = self.verdicts.lock().unwrap();
        let mut file = fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(&self.path)
            .unwrap();
        file.write_all(format!("{word}\t{}\n", site.key()).as_bytes())
            .unwrap();
        verdicts.insert(site.key(), verdict);
    }
}
