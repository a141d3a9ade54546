//! The sources with all mutants in them, each behind the check of a switch.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::ops::Range;

use crate::sites::Site;

/// A rewritten file, and where in it each mutant stands.
pub(crate) struct Rewritten {
    pub(crate) text: String,
    /// The code of one mutant.
    pub(crate) mutants: Vec<(Range<usize>, usize)>,
    /// An expression or statement with its mutants, which an error may be about as a whole.
    pub(crate) around: Vec<(Range<usize>, Vec<usize>)>,
}

/// The mutants of one place.
struct Place<'a> {
    range: Range<usize>,
    statement: bool,
    mutants: Vec<(usize, &'a str)>,
}

/// Rewrites a file with these mutants, each under its number.
pub(crate) fn rewrite(source: &str, sites: &[(usize, &Site)]) -> Rewritten {
    // From the outside inwards; an insertion before what begins at the same byte.
    let mut places = BTreeMap::new();
    for (number, site) in sites {
        let range = site.range.clone();
        let order = (range.start, !range.is_empty(), Reverse(range.end));
        let place = places.entry(order).or_insert_with(|| Place {
            range,
            statement: site.statement,
            mutants: Vec::new(),
        });
        place.mutants.push((*number, &site.code));
    }
    let places: Vec<_> = places.into_values().collect();
    let mut rewritten = Rewritten {
        text: String::with_capacity(source.len() * 3),
        mutants: Vec::new(),
        around: Vec::new(),
    };
    rewritten.write(source, 0..source.len(), &places);
    rewritten
}

impl Rewritten {
    fn write(&mut self, source: &str, range: Range<usize>, places: &[Place<'_>]) {
        let mut position = range.start;
        let mut places = places;
        while let [place, rest @ ..] = places {
            self.text.push_str(&source[position..place.range.start]);
            if place.range.is_empty() {
                for (number, code) in &place.mutants {
                    self.mutant(*number, &code.replace("$on", &is_on(*number)));
                }
                position = place.range.start;
                places = rest;
                continue;
            }
            let inner = rest.partition_point(|other| other.range.start < place.range.end);
            let begin = self.text.len();
            if !place.statement {
                self.text.push('(');
            }
            for (number, code) in &place.mutants {
                self.text.extend(["if ", &is_on(*number), " { "]);
                self.mutant(*number, code);
                self.text.push_str(" } else ");
            }
            self.text.push_str("{ ");
            self.write(source, place.range.clone(), &rest[..inner]);
            self.text.push_str(" }");
            if !place.statement {
                self.text.push(')');
            }
            let numbers = place.mutants.iter().map(|(number, _)| *number).collect();
            self.around.push((begin..self.text.len(), numbers));
            position = place.range.end;
            places = &rest[inner..];
        }
        self.text.push_str(&source[position..range.end]);
    }

    fn mutant(&mut self, number: usize, code: &str) {
        let begin = self.text.len();
        self.text.push_str(code);
        self.mutants.push((begin..self.text.len(), number));
    }
}

fn is_on(number: usize) -> String {
    format!("crate::mutants::is_on({number})")
}

/// The module of the library that says which mutant is active: the one whose number is in
/// `MUTANT`. With `MUTANTS_REACHED`, no mutant is active, and the number of each that is
/// reached goes into that file.
pub(crate) const SWITCH: &str = r#"
/// Which mutant is active.
#[doc(hidden)]
pub mod mutants {
    use std::io::Write;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::{Mutex, OnceLock};

    enum Mode {
        Active(usize),
        Reached(Mutex<std::fs::File>),
    }

    static MODE: OnceLock<Mode> = OnceLock::new();
    static REACHED: [AtomicBool; COUNT] = [const { AtomicBool::new(false) }; COUNT];

    fn mode() -> Mode {
        if let Ok(number) = std::env::var("MUTANT") {
            return Mode::Active(number.parse().unwrap());
        }
        match std::env::var_os("MUTANTS_REACHED") {
            Some(path) => {
                let file = std::fs::OpenOptions::new().append(true).create(true).open(path);
                Mode::Reached(Mutex::new(file.unwrap()))
            }
            None => Mode::Active(usize::MAX),
        }
    }

    pub fn is_on(number: usize) -> bool {
        match MODE.get_or_init(mode) {
            Mode::Active(active) => *active == number,
            Mode::Reached(file) => {
                if !REACHED[number].swap(true, Ordering::Relaxed) {
                    let mut file = file.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                    file.write_all(&u32::try_from(number).unwrap().to_le_bytes()).unwrap();
                }
                false
            }
        }
    }
}
"#;
