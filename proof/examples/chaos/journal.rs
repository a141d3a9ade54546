//! The journal is what a server writes down of its executions. Each line is one
//! write to the end of a file, so a written line survives kill -9.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use super::history::now;

#[derive(Debug)]
pub(crate) struct Journal(File);

impl Journal {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        Ok(Self(file))
    }

    pub(crate) fn began(&self, execution: &str, operation: u32, token: u64, attempt: u64) {
        self.write(
            "began",
            &format!("{execution} {operation} {token} {attempt}"),
        );
    }

    /// Notes that the execution begins to complete its record. The next line says
    /// how the completion ended, unless the server dies before.
    pub(crate) fn completing(&self, execution: &str) {
        self.write("completing", execution);
    }

    pub(crate) fn completed(&self, execution: &str) {
        self.write("completed", execution);
    }

    /// Notes that the completion was refused because another execution has taken
    /// over.
    pub(crate) fn refused(&self, execution: &str) {
        self.write("refused", execution);
    }

    pub(crate) fn failed(&self, execution: &str, why: &str) {
        let why = why.replace('\n', " ");
        self.write("failed", &format!("{execution} {why}"));
    }

    fn write(&self, what: &str, of: &str) {
        let line = format!("{what} {} {of}\n", now());
        (&self.0)
            .write_all(line.as_bytes())
            .expect("there is room for a line");
    }
}
