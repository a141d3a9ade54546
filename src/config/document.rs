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
    /// The variable that has set each entry, by the entry's path.
    variables: HashMap<String, String>,
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
            variables: HashMap::new(),
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
            variables: HashMap::new(),
        };
        document.rename()
    }

    /// A file without entries.
    pub(super) fn empty() -> Self {
        Self {
            root: Value::Object(Map::new()),
            text: String::new(),
            offsets: HashMap::new(),
            variables: HashMap::new(),
        }
    }

    /// Gives the entries in [`RENAMED`] their new names.
    pub(super) fn rename(mut self) -> Result<Self, FileError> {
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
            if let Some(variable) = self.variables.remove(&path) {
                self.variables
                    .insert(format!("idempotency.{new}"), variable);
            }
        }
        Ok(self)
    }

    /// An error of the entry at this path, or of the table where that entry is missing.
    pub(super) fn error(&self, path: &str, message: impl Into<String>) -> FileError {
        let error = FileError::new(message).on(path);
        match self.origin(path) {
            Some(Origin::Variable(name)) => error.of_variable(name),
            Some(Origin::Place(line, column)) => error.at(Some((line, column))),
            None => error,
        }
    }

    /// The entry at this path, with all that is in it, was set by a variable.
    pub(super) fn come_from(&mut self, path: &str, variable: &str) {
        let is_within = |own: &str| {
            let rest = own.strip_prefix(path);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        };
        self.offsets.retain(|own, _| !is_within(own));
        self.variables.insert(path.to_owned(), variable.to_owned());
    }

    /// Where an entry comes from, or the table where it is missing. `None` in JSON.
    fn origin(&self, path: &str) -> Option<Origin<'_>> {
        self.nearest(path).map(|(_, origin)| origin)
    }

    /// Where an entry comes from that is there, and the variables that have set a part of it.
    pub(super) fn origins(&self, path: &str) -> Vec<Origin<'_>> {
        let nearest = self.nearest(path).filter(|(found, _)| !found.is_empty());
        let of_parts = self.variables.iter();
        let of_parts = of_parts.filter(|(own, _)| {
            let rest = own.strip_prefix(path);
            rest.is_some_and(|rest| rest.starts_with(['.', '[']))
        });
        let of_parts = of_parts.map(|(_, name)| Origin::Variable(name));
        nearest
            .map(|(_, origin)| origin)
            .into_iter()
            .chain(of_parts)
            .collect()
    }

    fn nearest<'a>(&self, mut path: &'a str) -> Option<(&'a str, Origin<'_>)> {
        loop {
            if let Some(variable) = self.variables.get(path) {
                return Some((path, Origin::Variable(variable)));
            }
            if let Some(at) = self.offsets.get(path) {
                let (line, column) = place(&self.text, *at);
                return Some((path, Origin::Place(line, column)));
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

/// Where an entry comes from.
#[derive(Clone, Copy)]
pub(super) enum Origin<'a> {
    /// An environment variable.
    Variable(&'a str),
    /// A line and a column of the file.
    Place(usize, usize),
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
