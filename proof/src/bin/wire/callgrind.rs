//! This module runs a server under callgrind and reads what callgrind has counted.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::BoxError;
use crate::client::{Connection, Kind, Protocol};
use crate::process::Server;

/// Requests before the counted ones, so that buffers, tables and lazily made values are there.
const WARM: u64 = 200;
/// Requests that are counted.
const COUNTED: u64 = 1_000;

/// Instructions of one request, by function and by the file that the instructions were
/// written in (a function that was compiled into another keeps its file).
#[derive(Clone, Debug, Default)]
pub(crate) struct Profile {
    pub(crate) by_place: HashMap<Place, f64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Place {
    pub(crate) function: String,
    pub(crate) file: String,
}

impl Place {
    /// Callgrind's processor has no instructions for SHA-256, so the compression takes
    /// hundreds of times the instructions that it takes on a processor which has them.
    fn is_compression(&self) -> bool {
        self.function.contains("sha2::") || self.file.contains("/sha2-")
    }
}

impl Profile {
    pub(crate) fn all(&self) -> f64 {
        self.by_place.values().sum()
    }

    pub(crate) fn without_compression(&self) -> f64 {
        let others = self.by_place.iter();
        others
            .filter(|(place, _)| !place.is_compression())
            .map(|(_, count)| count)
            .sum()
    }

    /// This profile without the compression of SHA-256 and without what `other` counts too.
    pub(crate) fn beyond(&self, other: &Self) -> Vec<(Place, f64)> {
        let mut more = self.by_place.clone();
        for (place, count) in &other.by_place {
            *more.entry(place.clone()).or_default() -= count;
        }
        more.retain(|place, _| !place.is_compression());
        more.into_iter().collect()
    }

    /// Reads a file of callgrind's, of which each line is an instruction's place in the
    /// source and a count; `fn` says which function, `fl`, `fi` and `fe` which file.
    fn read(text: &str) -> Self {
        let mut profile = Self::default();
        let (mut function, mut file) = (String::new(), String::new());
        let mut is_of_a_call = false;
        for line in text.lines() {
            if let Some((field, value)) = line.split_once('=') {
                match field {
                    "fn" => value.clone_into(&mut function),
                    "fl" | "fi" | "fe" => value.clone_into(&mut file),
                    // The next line counts what the called function took.
                    "calls" => is_of_a_call = true,
                    _ => {}
                }
            } else if line.starts_with(|first: char| first.is_ascii_digit()) {
                let count = line.split_whitespace().nth(1);
                let count = count.and_then(|count| count.parse::<f64>().ok());
                if let (Some(count), false) = (count, is_of_a_call) {
                    let place = Place {
                        function: function.clone(),
                        file: file.clone(),
                    };
                    #[expect(clippy::cast_precision_loss, reason = "a small number")]
                    let each = count / COUNTED as f64;
                    *profile.by_place.entry(place).or_default() += each;
                }
                is_of_a_call = false;
            }
        }
        profile
    }
}

/// A server under callgrind.
pub(crate) struct Counter {
    server: Server,
    directory: PathBuf,
    files: usize,
    numbers: u64,
}

impl Counter {
    /// Starts `program` with `arguments` under callgrind.
    pub(crate) fn start(program: &Path, arguments: &[&str]) -> Result<Self, BoxError> {
        let directory = std::env::temp_dir().join(format!("wire-{}", std::process::id()));
        let directory = directory.join(program.file_name().ok_or("a program has a name")?);
        fs::create_dir_all(&directory)?;
        let mut out = std::ffi::OsString::from("--callgrind-out-file=");
        out.push(directory.join("out"));
        let mut command = Command::new("valgrind");
        command
            .args(["--tool=callgrind", "--quiet", "--compress-strings=no"])
            .arg("--compress-pos=no")
            .arg("--dump-before=*instructions_are_counted_until_here*")
            .arg(out)
            .arg(program)
            .args(arguments);
        let server = Server::start(&mut command)?;
        Ok(Self {
            server,
            directory,
            files: 0,
            numbers: 0,
        })
    }

    /// Counts the instructions of a request of this kind to the app of this name.
    pub(crate) fn count(
        &mut self,
        app: &str,
        protocol: Protocol,
        kind: Kind,
    ) -> Result<Profile, BoxError> {
        let mut connection = Connection::open(protocol, self.server.address(app)?)?;
        // Whatever runs before: the response that is replayed or refused is there.
        if matches!(kind, Kind::Replay | Kind::Refused) {
            connection.exchange(Kind::Replay, 0)?;
        }
        self.exchange(&mut connection, kind, WARM)?;
        self.server.mark()?;
        self.exchange(&mut connection, kind, COUNTED)?;
        self.server.mark()?;
        self.files += 2;
        let file = self.directory.join(format!("out.{}", self.files));
        Ok(Profile::read(&fs::read_to_string(file)?))
    }

    fn exchange(
        &mut self,
        connection: &mut Connection,
        kind: Kind,
        times: u64,
    ) -> Result<(), BoxError> {
        for _ in 0..times {
            self.numbers += 1;
            connection.exchange(kind, self.numbers)?;
        }
        Ok(())
    }
}

impl Drop for Counter {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_is_of_a_function_itself_and_not_of_what_it_calls() {
        let text = "positions: line\nevents: Ir\nsummary: 99\n\nfl=src/a.rs\nfn=one\n10 2000\nfi=/sha2-0.11.0/b.rs\n\
                    11 3000\nfe=src/a.rs\n12 1000\ncfn=two\ncalls=7 20\n12 500000\n\nfn=sha2::compress\n20 4000\n";
        let profile = Profile::read(text);
        assert!((profile.all() - 10.0).abs() < 1e-9, "{profile:?}");
        assert!(
            (profile.without_compression() - 3.0).abs() < 1e-9,
            "{profile:?}"
        );
    }
}
