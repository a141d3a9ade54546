//! The tests, which mutants each of them reaches, and what they say of one mutant.

use std::collections::{HashMap, HashSet};
use std::fmt::Write;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant, UNIX_EPOCH};

use crate::in_parallel;

/// What a mutant gets beside many times what its tests take without it.
const PATIENCE: Duration = Duration::from_secs(30);
/// What takes longer without any mutant is left out.
const LONGEST: Duration = Duration::from_secs(60);
/// How many kilobytes of addresses a test may have: a mutant may allocate without end.
const ADDRESSES: u32 = 8 << 20;

#[derive(Clone, Debug)]
pub(crate) struct Test {
    program: PathBuf,
    pub(crate) name: String,
    takes: Duration,
    reaches: HashSet<usize>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// By this test.
    Caught(String),
    TimedOut,
    Survived,
    /// No test runs the code.
    Unreached,
}

/// Lists the tests and runs each alone, to see what it reaches.
pub(crate) fn record(programs: &[PathBuf], directory: &Path, jobs: usize) -> Vec<Test> {
    let record = directory.join("reached");
    // As long as the programs are the same, so is what they reach.
    let built = programs
        .iter()
        .map(|program| {
            let modified = fs::metadata(program).unwrap().modified().unwrap();
            let nanos = modified.duration_since(UNIX_EPOCH).unwrap().as_nanos();
            format!("{}\t{nanos}", program.display())
        })
        .collect::<Vec<_>>()
        .join("\n");
    let stamp = directory.join("reached-by");
    if fs::read_to_string(&stamp).is_ok_and(|before| before == built) {
        return read(&record);
    }
    let mut listed = Vec::new();
    for program in programs {
        let list = Command::new(program)
            .args(["--list", "--format", "terse"])
            .output()
            .unwrap();
        for line in String::from_utf8(list.stdout).unwrap().lines() {
            if let Some(name) = line.strip_suffix(": test") {
                listed.push((program.clone(), name.to_owned()));
            }
        }
    }
    println!("recording what {} tests reach", listed.len());
    let numbered = listed.into_iter().enumerate();
    let tests = in_parallel(numbered.collect(), jobs, |(number, (program, name))| {
        let file = directory.join(format!("reached-{number}"));
        let began = Instant::now();
        let mut run = program_with(&program, &[&name], 1)
            .env("MUTANTS_REACHED", &file)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let mut ended = run.try_wait().unwrap();
        while ended.is_none() && began.elapsed() < LONGEST {
            std::thread::sleep(Duration::from_millis(2));
            ended = run.try_wait().unwrap();
        }
        let _ = run.kill();
        let takes = began.elapsed();
        let reached = fs::read(&file).unwrap_or_default();
        let _ = fs::remove_file(&file);
        if !ended.is_some_and(|status| status.success()) {
            println!("left out, since it fails or hangs without any mutant: {name}");
            return None;
        }
        let numbers = reached.chunks_exact(4).map(|bytes| {
            let number = u32::from_le_bytes(bytes.try_into().unwrap());
            usize::try_from(number).unwrap()
        });
        let reaches = numbers.collect();
        Some(Test {
            program,
            name,
            takes,
            reaches,
        })
    });
    let mut tests: Vec<_> = tests.into_iter().flatten().collect();
    // What reaches little is about what it reaches, and is run first.
    tests.sort_by_key(|test| (test.reaches.len(), test.takes));
    write(&record, &tests);
    fs::write(stamp, built).unwrap();
    tests
}

fn write(path: &Path, tests: &[Test]) {
    let mut text = String::new();
    for test in tests {
        let mut numbers: Vec<_> = test.reaches.iter().map(usize::to_string).collect();
        numbers.sort();
        let (program, millis) = (test.program.display(), test.takes.as_millis());
        let numbers = numbers.join(" ");
        let line = writeln!(text, "{program}\t{}\t{millis}\t{numbers}", test.name);
        line.expect("a string takes it");
    }
    fs::write(path, text).unwrap();
}

fn read(path: &Path) -> Vec<Test> {
    let text = fs::read_to_string(path).unwrap();
    let test = |line: &str| {
        let mut parts = line.split('\t');
        let mut part = || parts.next().unwrap();
        Test {
            program: part().into(),
            name: part().to_owned(),
            takes: Duration::from_millis(part().parse().unwrap()),
            reaches: part()
                .split_whitespace()
                .map(|number| number.parse().unwrap())
                .collect(),
        }
    };
    text.lines().map(test).collect()
}

/// Runs the tests that reach a mutant until one fails.
pub(crate) fn judge(mutant: usize, tests: &[Test]) -> Verdict {
    let reaching: Vec<_> = tests
        .iter()
        .filter(|test| test.reaches.contains(&mutant))
        .collect();
    if reaching.is_empty() {
        return Verdict::Unreached;
    }
    // Most mutants are caught by the first few.
    let (first, rest) = reaching.split_at(reaching.len().min(8));
    let (second, rest) = rest.split_at(rest.len().min(40));
    for part in [first, second, rest] {
        let mut by_program: HashMap<&Path, Vec<&Test>> = HashMap::new();
        for test in part {
            by_program.entry(&test.program).or_default().push(test);
        }
        for (program, tests) in by_program {
            match run(program, &tests, mutant) {
                Verdict::Survived => {}
                verdict => return verdict,
            }
        }
    }
    Verdict::Survived
}

fn run(program: &Path, tests: &[&Test], mutant: usize) -> Verdict {
    let names: Vec<_> = tests.iter().map(|test| &*test.name).collect();
    let takes: Duration = tests.iter().map(|test| test.takes).sum();
    let end = Instant::now() + PATIENCE + takes * 5;
    let mut child = program_with(program, &names, 2)
        .env("MUTANT", mutant.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (sender, lines) = channel();
    let output = BufReader::new(child.stdout.take().unwrap());
    std::thread::spawn(move || {
        for line in output.lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    let verdict = loop {
        match lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                if let Some(name) = line.strip_suffix(" ... FAILED") {
                    break Verdict::Caught(name.trim_start_matches("test ").to_owned());
                }
            }
            Err(RecvTimeoutError::Timeout) => break Verdict::TimedOut,
            Err(RecvTimeoutError::Disconnected) => {
                let success = child.wait().unwrap().success();
                // A process may end without a word, such as by a stack that overflows.
                break if success {
                    Verdict::Survived
                } else {
                    Verdict::Caught(format!("one of {}", names.join(", ")))
                };
            }
        }
    };
    let _ = child.kill();
    let _ = child.wait();
    verdict
}

fn program_with(program: &Path, tests: &[&str], threads: u32) -> Command {
    let mut command = Command::new("sh");
    command
        .arg("-c")
        .arg(format!("ulimit -v {ADDRESSES} -c 0; exec \"$0\" \"$@\""))
        .arg(program)
        .args(tests)
        .args(["--exact", "--test-threads", &threads.to_string()])
        .stdin(Stdio::null())
        .stderr(Stdio::null());
    command
}
