//! Mutation testing of the library's core.
//!
//! All mutants are compiled into one copy of the library, each behind a switch, so that a
//! mutant costs no build. docs/testing.md says how to run it and what it found.

mod library;
mod results;
mod rewrite;
mod sites;
mod survivors;
mod tests;
mod values;

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::Mutex;

use crate::library::{Library, files_below};
use crate::results::Results;
use crate::sites::Site;
use crate::survivors::Report;
use crate::tests::Verdict;

const USAGE: &str = "\
cargo run --release -p mutants -- [ROOM…]

Runs the tests against mutants of the core: of these rooms, or of all. Results are kept in
target/mutants; a run that was stopped goes on where it was.

  --since COMMIT   only mutants of lines that have changed since this commit
  --missed         runs those again that no test has caught
  --build          builds the tests with all mutants, and runs nothing
  --no-build       tests what was built last: the sources must be the same
  --list           prints the mutants, and runs nothing
  --report         prints the results that are there, and runs nothing
  --jobs N         how many mutants are tested at once (default: the number of processors)

Fails if a mutant survives that the list in docs/testing.md does not have.";

/// The rooms of the core, and where they are. Folders below these are not part of them.
const ROOMS: &[(&str, &str)] = &[
    ("counts", "src/counts.rs"),
    ("json", "src/options/json"),
    ("layer", "src/layer"),
    ("lease", "src/lease"),
    ("limits", "src/limits"),
    ("memory", "src/store/memory"),
    ("message", "src/message"),
    ("options", "src/options"),
    ("record", "src/record"),
    ("rejection", "src/rejection"),
    ("request", "src/request"),
    ("runtime", "src/runtime"),
    ("scope", "src/scope"),
    ("store", "src/store"),
];

#[derive(Default)]
struct Arguments {
    rooms: Vec<String>,
    since: Option<String>,
    missed: bool,
    task: Task,
    jobs: usize,
}

#[derive(Default, PartialEq, Eq)]
enum Task {
    #[default]
    BuildAndTest,
    Build,
    Test,
    List,
    Report,
}

fn main() -> ExitCode {
    let arguments = match arguments() {
        Ok(arguments) => arguments,
        Err(error) => {
            eprintln!("{error}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let root = root.canonicalize().expect("the repository is there");
    let directory = root.join("target/mutants");
    fs::create_dir_all(&directory).expect("target/ can be written");

    let files: Vec<_> = ROOMS
        .iter()
        .flat_map(|(_, path)| files_of(&root, path))
        .collect();
    let variants = values::variants(&root, &files);
    let sites: Vec<_> = files
        .iter()
        .flat_map(|file| sites::of_file(&root, file, &variants))
        .collect();
    let changed = arguments
        .since
        .as_ref()
        .map(|commit| changed_lines(&root, commit));
    let is_chosen = |site: &Site| {
        let rooms = &arguments.rooms;
        let in_room = rooms.is_empty() || rooms.iter().any(|room| room == room_of(&site.file));
        let is_changed = |lines: &HashMap<String, Vec<usize>>| {
            lines
                .get(&site.file)
                .is_some_and(|lines| lines.contains(&site.line))
        };
        in_room && changed.as_ref().is_none_or(is_changed)
    };
    let chosen: Vec<_> = (0..sites.len())
        .filter(|&number| is_chosen(&sites[number]))
        .collect();
    if arguments.task == Task::List {
        for &number in &chosen {
            println!("{}", sites[number].name());
        }
        return ExitCode::SUCCESS;
    }
    let results = Results::open(&directory.join("results"));
    let report = |viable: &dyn Fn(usize) -> bool| {
        let judged = chosen
            .iter()
            .filter(|&&number| viable(number))
            .filter_map(|&number| {
                let verdict = results.get(&sites[number])?;
                Some((&sites[number], verdict))
            });
        Report::new(&root, judged.collect()).print()
    };
    if arguments.task == Task::Report {
        return report(&|_| true);
    }
    if chosen.is_empty() {
        println!("no line of the core with a mutant has changed");
        return ExitCode::SUCCESS;
    }

    let library = Library::new(&root, &directory, &sites);
    let (viable, programs) = if arguments.task == Task::Test {
        library.built()
    } else {
        library.build()
    };
    if arguments.task == Task::Build {
        return ExitCode::SUCCESS;
    }
    // As cargo runs them: a test writes what made it fail beside its source.
    std::env::set_current_dir(directory.join("library")).expect("the copy is there");
    let tests = tests::record(&programs, &directory, arguments.jobs);
    let open = |number: &usize| {
        let verdict = results.get(&sites[*number]);
        let missed = matches!(verdict, Some(Verdict::Survived | Verdict::Unreached));
        viable.contains(number) && (verdict.is_none() || arguments.missed && missed)
    };
    let open: Vec<_> = chosen.iter().copied().filter(open).collect();
    println!("{} of {} mutants to test", open.len(), chosen.len());
    let done = std::sync::atomic::AtomicUsize::new(0);
    let all = open.len();
    in_parallel(open, arguments.jobs, |number| {
        let site = &sites[number];
        let verdict = tests::judge(number, &tests);
        let done = 1 + done.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        if !matches!(verdict, Verdict::Caught(_)) {
            println!(
                "{done}/{all} {verdict:?}: {}:{} {}",
                site.file,
                site.line,
                site.name()
            );
        }
        results.add(site, verdict);
    });
    report(&|number| viable.contains(&number))
}

fn arguments() -> Result<Arguments, lexopt::Error> {
    use lexopt::prelude::*;
    let mut arguments = Arguments {
        jobs: std::thread::available_parallelism().map_or(1, usize::from),
        ..Arguments::default()
    };
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("since") => arguments.since = Some(parser.value()?.string()?),
            Long("missed") => arguments.missed = true,
            Long("build") => arguments.task = Task::Build,
            Long("no-build") => arguments.task = Task::Test,
            Long("list") => arguments.task = Task::List,
            Long("report") => arguments.task = Task::Report,
            Long("jobs") => arguments.jobs = parser.value()?.parse()?,
            Value(room) if ROOMS.iter().any(|(name, _)| room == *name) => {
                arguments.rooms.push(room.string()?);
            }
            other => return Err(other.unexpected()),
        }
    }
    Ok(arguments)
}

fn files_of(root: &Path, path: &str) -> Vec<String> {
    if root.join(path).is_file() {
        return vec![path.to_owned()];
    }
    let mut files = files_below(root, path);
    let left_out = sites::modules_left_out(root, &format!("{path}/mod.rs"));
    files.retain(|file| {
        let name = file.strip_prefix(path).unwrap_or(file);
        let name = name.trim_start_matches('/');
        is_rust(file) && !name.contains('/') && !left_out.iter().any(|left| *left == name)
    });
    files
}

fn is_rust(path: &str) -> bool {
    Path::new(path)
        .extension()
        .is_some_and(|extension| extension == "rs")
}

fn room_of(file: &str) -> &'static str {
    let folder = file.rsplit_once('/').map_or(file, |(folder, _)| folder);
    let room = ROOMS
        .iter()
        .find(|(_, path)| *path == folder || *path == file);
    room.map_or("other", |(room, _)| room)
}

/// The lines of each file that are new or changed since a commit.
fn changed_lines(root: &Path, commit: &str) -> HashMap<String, Vec<usize>> {
    let diff = Command::new("git")
        .args([
            "diff",
            "--unified=0",
            "--no-color",
            "--no-ext-diff",
            commit,
            "--",
            "src",
        ])
        .current_dir(root)
        .output()
        .expect("git runs");
    assert!(
        diff.status.success(),
        "git diff {commit}: {}",
        String::from_utf8_lossy(&diff.stderr)
    );
    let mut changed: HashMap<String, Vec<usize>> = HashMap::new();
    let mut file = String::new();
    for line in String::from_utf8_lossy(&diff.stdout).lines() {
        if let Some(path) = line.strip_prefix("+++ b/") {
            path.clone_into(&mut file);
        } else if let Some(hunk) = line.strip_prefix("@@ ") {
            // `-1,2 +3,4 @@`
            let new = hunk.split(['+', ' ']).nth(2).unwrap_or_default();
            let (first, count) = new.split_once(',').unwrap_or((new, "1"));
            let (first, count): (usize, usize) = (first.parse().unwrap(), count.parse().unwrap());
            changed
                .entry(file.clone())
                .or_default()
                .extend(first..first + count);
        }
    }
    changed
}

/// Does something with each of these, on so many threads.
fn in_parallel<T: Send, R: Send>(
    items: Vec<T>,
    jobs: usize,
    act: impl Fn(T) -> R + Sync,
) -> Vec<R> {
    let items = Mutex::new(items.into_iter());
    let results = Mutex::new(Vec::new());
    let next = || items.lock().unwrap().next();
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                while let Some(item) = next() {
                    let result = act(item);
                    results.lock().unwrap().push(result);
                }
            });
        }
    });
    results.into_inner().unwrap()
}
