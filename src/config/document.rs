//! The entries of a file, in TOML or in JSON, and the places of those in TOML.

use std::collections::HashMap;

use serde_json::{Map, Value};
use toml::de::{DeTable, DeValue};

use super::error::FileError;
use super::strict::read_strict;

/// Keys of `[idempotency]` that had another name once: the old name, and the name now.
pub(super) const RENAMED: [(&str, &str); 3] = [
    ("max_buffered", "max_buffered_bytes"),
    ("max_detached", "max_background_operations"),
    ("max_waiters", "max_waiting_requests"),
];

/// A file that is TOML or JSON.
///
/// A path names an entry: `route[1].match`.
pub(super) struct Document {
    pub(super) root: Value,
    /// The TOML. It may hold a secret.
    text: String,
    /// Where the name of each entry of the TOML begins, in bytes, by the entry's path.
    offsets: HashMap<String, usize>,
}

impl Document {
    pub(super) fn from_toml(text: &str) -> Result<Self, FileError> {
        let text = without_mark(text);
        // The error's `Display` would quote the line, which may hold a secret.
        let table = DeTable::parse(text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start);
            FileError::new(format!("not TOML: {}", error.message())).at(Some(place(text, at)))
        })?;
        let mut document = Self {
            root: Value::Null,
            text: text.to_owned(),
            offsets: HashMap::from([(String::new(), 0)]),
        };
        document.root = document.table("", table.get_ref())?;
        document.rename()
    }

    /// JSON as RFC 8259 has it, without a name that stands twice in one object.
    pub(super) fn from_json(text: &str) -> Result<Self, FileError> {
        let text = without_mark(text);
        let root = read_strict(text).map_err(|error| {
            let message = error.to_string();
            let what = message
                .rsplit_once(" at line ")
                .map_or("", |(what, _)| what);
            let lines = text.split_inclusive('\n').take(error.line() - 1);
            let at = lines.map(str::len).sum::<usize>() + error.column().saturating_sub(1);
            FileError::new(format!("not JSON: {what}")).at(Some(place(text, at)))
        })?;
        let document = Self {
            root,
            text: String::new(),
            offsets: HashMap::new(),
        };
        document.rename()
    }

    /// Gives the entries in [`RENAMED`] their new names.
    fn rename(mut self) -> Result<Self, FileError> {
        for (old, new) in RENAMED {
            let Some(Value::Object(entries)) = self.root.get_mut("idempotency") else {
                break;
            };
            let Some(value) = entries.remove(old) else {
                continue;
            };
            let path = format!("idempotency.{old}");
            if entries.insert(new.to_owned(), value).is_some() {
                let message = format!("is the old name of `{new}`, which stands there too");
                return Err(self.error(&path, message));
            }
            if let Some(at) = self.offsets.remove(&path) {
                self.offsets.insert(format!("idempotency.{new}"), at);
            }
        }
        Ok(self)
    }

    /// An error of the entry at this path, or of the table where that entry is missing.
    pub(super) fn error(&self, path: &str, message: impl Into<String>) -> FileError {
        FileError::new(message).on(path).at(self.place(path))
    }

    /// The line and the column of an entry, or of the table where it is missing.
    /// `None` in JSON.
    fn place(&self, mut path: &str) -> Option<(usize, usize)> {
        loop {
            if let Some(at) = self.offsets.get(path) {
                return Some(place(&self.text, *at));
            }
            if path.is_empty() {
                return None;
            }
            path = &path[..path.rfind(['.', '[']).unwrap_or(0)];
        }
    }

    /// Whether there is an entry at a path, all of whose names are options.
    pub(super) fn has(&self, path: &str) -> bool {
        let pointer = path.replace(['.', '['], "/").replace(']', "");
        self.root.pointer(&format!("/{pointer}")).is_some()
    }

    fn table(&mut self, path: &str, table: &DeTable<'_>) -> Result<Value, FileError> {
        let mut entries = Map::new();
        for (name, value) in table {
            let path = member(path, name.get_ref());
            self.offsets.insert(path.clone(), name.span().start);
            let value = self.value(&path, value.get_ref())?;
            entries.insert(name.get_ref().clone().into_owned(), value);
        }
        Ok(Value::Object(entries))
    }

    fn value(&mut self, path: &str, value: &DeValue<'_>) -> Result<Value, FileError> {
        Ok(match value {
            DeValue::String(text) => text.as_ref().into(),
            DeValue::Integer(number) => {
                let read = i64::from_str_radix(number.as_str(), number.radix());
                // A number that is too large is refused as a fraction is.
                read.map_or(f64::MAX.into(), Value::from)
            }
            DeValue::Float(number) => number.as_str().parse().unwrap_or(f64::MAX).into(),
            DeValue::Boolean(on) => (*on).into(),
            DeValue::Datetime(_) => {
                return Err(self.error(path, "is a date, which no option takes"));
            }
            DeValue::Array(elements) => {
                let mut values = Vec::with_capacity(elements.len());
                for (index, element) in elements.iter().enumerate() {
                    let path = format!("{path}[{index}]");
                    self.offsets.insert(path.clone(), element.span().start);
                    values.push(self.value(&path, element.get_ref())?);
                }
                values.into()
            }
            DeValue::Table(table) => self.table(path, table)?,
        })
    }
}

/// The path of an entry of the table at `path`.
pub(super) fn member(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}

/// Editors of some systems begin a file with a byte order mark.
fn without_mark(text: &str) -> &str {
    text.strip_prefix('\u{feff}').unwrap_or(text)
}

/// The line and the column of an offset in bytes, both from 1, the column in characters.
fn place(text: &str, at: usize) -> (usize, usize) {
    let before = &text.as_bytes()[..at.min(text.len())];
    let lines = before.split(|byte| *byte == b'\n').enumerate();
    let (line, begin) = lines.last().unwrap_or_default();
    (line + 1, String::from_utf8_lossy(begin).chars().count() + 1)
}
