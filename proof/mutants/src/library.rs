//! A copy of the library with all mutants in it, and the tests that are built with it.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::rewrite::{Rewritten, SWITCH, rewrite};
use crate::sites::Site;

/// The test programs that run against the mutants, beside the library's unit tests.
const TESTS: &[&str] = &[
    "guarantees",
    "options",
    "disconnects",
    "frameworks",
    "conformance",
    "config",
];

/// Diagnostics of the compiler that a mutant is allowed to cause.
const ALLOWED: &str = "#![allow(warnings, arithmetic_overflow, unconditional_panic)]\n";

pub(crate) struct Library<'a> {
    root: &'a Path,
    /// Below `target/`.
    copy: PathBuf,
    sites: &'a [Site],
    /// The keys of mutants that do not compile, one a line; kept from run to run.
    not_viable: PathBuf,
    /// The test programs of the last build, below a digest of its mutants.
    programs: PathBuf,
}

impl<'a> Library<'a> {
    pub(crate) fn new(root: &'a Path, directory: &Path, sites: &'a [Site]) -> Self {
        Self {
            root,
            copy: directory.join("library"),
            sites,
            not_viable: directory.join("not-viable"),
            programs: directory.join("programs"),
        }
    }

    /// Builds the tests with all mutants that compile. Returns the numbers of these, and the
    /// test programs.
    pub(crate) fn build(&self) -> (HashSet<usize>, Vec<PathBuf>) {
        self.link_the_rest();
        let mut viable = self.viable();
        loop {
            let rewritten = self.write(&viable);
            let errors = self.errors();
            if errors.is_empty() {
                break;
            }
            let mut dropped = HashSet::new();
            for error in &errors {
                dropped.extend(blamed(error, &rewritten));
            }
            let error = &errors[0]["rendered"];
            assert!(!dropped.is_empty(), "no mutant is to blame:\n{error}");
            println!(
                "{} errors, {} mutants left out",
                errors.len(),
                dropped.len()
            );
            let keys: String = dropped
                .iter()
                .map(|number| self.sites[*number].key() + "\n")
                .collect();
            let before = fs::read_to_string(&self.not_viable).unwrap_or_default();
            fs::write(&self.not_viable, before + &keys).unwrap();
            viable.retain(|number| !dropped.contains(number));
        }
        let programs = self.test_programs();
        let lines = programs.iter().map(|program| program.display().to_string());
        let lines: Vec<_> = std::iter::once(self.digest()).chain(lines).collect();
        fs::write(&self.programs, lines.join("\n")).unwrap();
        (viable, programs)
    }

    /// What [`build`](Self::build) returned last.
    pub(crate) fn built(&self) -> (HashSet<usize>, Vec<PathBuf>) {
        let programs = fs::read_to_string(&self.programs).expect("nothing was built yet");
        let mut lines = programs.lines();
        let same = lines.next() == Some(&*self.digest());
        assert!(same, "the sources have changed since the last build");
        (self.viable(), lines.map(PathBuf::from).collect())
    }

    /// The mutants that are not known not to compile.
    fn viable(&self) -> HashSet<usize> {
        let known = fs::read_to_string(&self.not_viable).unwrap_or_default();
        let known: HashSet<_> = known.lines().collect();
        let viable = |(_, site): &(usize, &Site)| !known.contains(&*site.key());
        let sites = self.sites.iter().enumerate();
        sites.filter(viable).map(|(number, _)| number).collect()
    }

    fn digest(&self) -> String {
        let mut hasher = DefaultHasher::new();
        let keys = self.sites.iter().map(Site::key);
        keys.for_each(|key| key.hash(&mut hasher));
        hasher.finish().to_string()
    }

    /// Everything but the sources and the manifest is the library's own.
    fn link_the_rest(&self) {
        fs::create_dir_all(self.copy.join("src")).unwrap();
        for name in [
            "benches",
            "docs",
            "sidecar",
            "examples",
            "README.md",
            "CHANGELOG.md",
        ] {
            let link = self.copy.join(name);
            if !link.exists() {
                std::os::unix::fs::symlink(self.root.join(name), link).unwrap();
            }
        }
        // A test writes what made it fail beside its source: the tests are copied, not linked.
        for path in files_below(self.root, "tests") {
            let text = fs::read_to_string(self.root.join(&path)).unwrap();
            write(&self.copy.join(path), &text);
        }
        for path in ["src", "tests"]
            .map(|folder| files_below(&self.copy, folder))
            .concat()
        {
            if !self.root.join(&path).exists() {
                fs::remove_file(self.copy.join(&path)).unwrap();
            }
        }
        fs::copy(self.root.join("Cargo.lock"), self.copy.join("Cargo.lock")).unwrap();
        let manifest = fs::read_to_string(self.root.join("Cargo.toml")).unwrap();
        let alone = |line: &str| match line.split(" = ").next() {
            Some("members") => "members = []".to_owned(),
            // Of the same version, the copy would be built into the library's own files.
            Some("version") => "version = \"0.0.0\"".to_owned(),
            _ => line.to_owned(),
        };
        let manifest: Vec<_> = manifest.lines().map(alone).collect();
        write(&self.copy.join("Cargo.toml"), &manifest.join("\n"));
    }

    fn write(&self, viable: &HashSet<usize>) -> HashMap<String, Rewritten> {
        let mut by_file: HashMap<&str, Vec<(usize, &Site)>> = HashMap::new();
        for (number, site) in self.sites.iter().enumerate() {
            if viable.contains(&number) {
                by_file.entry(&site.file).or_default().push((number, site));
            }
        }
        let mut written = HashMap::new();
        for path in files_below(self.root, "src") {
            let source = fs::read_to_string(self.root.join(&path)).unwrap();
            let sites = by_file.remove(&*path).unwrap_or_default();
            let mut rewritten = rewrite(&source, &sites);
            if path == "src/lib.rs" {
                let count = self.sites.len();
                let switch = SWITCH.replace("COUNT", &count.to_string());
                rewritten.text = format!("{ALLOWED}{}{switch}", rewritten.text);
            }
            write(&self.copy.join(&path), &rewritten.text);
            written.insert(path, rewritten);
        }
        written
    }

    fn cargo(&self, arguments: &[&str]) -> Vec<Value> {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let output = Command::new(cargo)
            .args(arguments)
            .args(["--all-features", "--message-format=json", "--target-dir"])
            .arg(self.root.join("target"))
            .current_dir(&self.copy)
            .stderr(Stdio::inherit())
            .output()
            .expect("cargo runs");
        let lines = String::from_utf8(output.stdout).unwrap();
        let messages = lines
            .lines()
            .map(|line| serde_json::from_str(line).unwrap());
        messages.collect()
    }

    fn errors(&self) -> Vec<Value> {
        let messages = self.cargo(&["check", "--quiet", "--lib"]);
        let errors = messages.into_iter().filter_map(|mut message| {
            let diagnostic = message["message"].take();
            let is_error = diagnostic["level"] == "error";
            let has_place = diagnostic["spans"]
                .as_array()
                .is_some_and(|spans| !spans.is_empty());
            (is_error && has_place).then_some(diagnostic)
        });
        errors.collect()
    }

    fn test_programs(&self) -> Vec<PathBuf> {
        let mut arguments = vec!["test", "--quiet", "--no-run", "--lib"];
        arguments.extend(TESTS.iter().flat_map(|test| ["--test", test]));
        let messages = self.cargo(&arguments);
        let programs: Vec<_> = messages
            .iter()
            .filter(|message| message["profile"]["test"] == true)
            .filter_map(|message| Some(PathBuf::from(message["executable"].as_str()?)))
            .collect();
        assert_eq!(programs.len(), 1 + TESTS.len(), "the tests do not build");
        programs
    }
}

/// The mutants that an error of the compiler is about.
fn blamed(error: &Value, files: &HashMap<String, Rewritten>) -> Vec<usize> {
    let mut spans = error["spans"].as_array().cloned().unwrap_or_default();
    spans.sort_by_key(|span| span["is_primary"] != true);
    let place = |span: &Value| {
        let file = span["file_name"].as_str()?;
        let offset = if file == "src/lib.rs" {
            ALLOWED.len()
        } else {
            0
        };
        let byte = |name: &str| {
            usize::try_from(span[name].as_u64()?)
                .ok()?
                .checked_sub(offset)
        };
        Some((files.get(file)?, byte("byte_start")?, byte("byte_end")?))
    };
    let places: Vec<_> = spans.iter().filter_map(place).collect();
    for (file, start, end) in &places {
        let inside = file
            .mutants
            .iter()
            .filter(|(range, _)| range.start <= *start && *end <= range.end);
        let inside: Vec<_> = inside.map(|(_, number)| *number).collect();
        if !inside.is_empty() {
            return inside;
        }
    }
    for (file, start, end) in &places {
        let around = file
            .around
            .iter()
            .filter(|(range, _)| range.start <= *start && *end <= range.end);
        if let Some((_, numbers)) = around.min_by_key(|(range, _)| range.len()) {
            return numbers.clone();
        }
    }
    // Such as a variable that a deleted statement no longer sets: all that stands in the line.
    for (file, start, end) in &places {
        let from = file.text[..*start].rfind("\n    }\n").unwrap_or(0);
        let to = file.text[*end..]
            .find("\n    }\n")
            .map_or(file.text.len(), |at| at + end);
        let near = file
            .mutants
            .iter()
            .filter(|(range, _)| from <= range.start && range.end <= to);
        let near: Vec<_> = near.map(|(_, number)| *number).collect();
        if !near.is_empty() {
            return near;
        }
    }
    Vec::new()
}

/// The files below a folder, as paths from the root.
pub(crate) fn files_below(root: &Path, folder: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(root.join(folder)).unwrap() {
        let entry = entry.unwrap();
        let path = format!("{folder}/{}", entry.file_name().to_str().unwrap());
        if entry.file_type().unwrap().is_dir() {
            found.extend(files_below(root, &path));
        } else {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// An unchanged file keeps its time, so that cargo compiles no more than it has to.
fn write(path: &Path, text: &str) {
    if fs::read_to_string(path).is_ok_and(|before| before == text) {
        return;
    }
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}
