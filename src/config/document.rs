//! A file as a tree in which every entry knows where it stands, whatever the
//! file is written in.

use std::collections::HashSet;
use std::fmt;

use jsonc_parser::ast;
use toml::de::{DeTable, DeValue};

use super::error::FileError;

/// The text of a file and what it says.
#[derive(Clone)]
pub(super) struct Document {
    /// Where each line begins, in bytes.
    lines: Vec<usize>,
    text: String,
    pub(super) root: Node,
}

/// One entry.
#[derive(Clone)]
pub(super) struct Node {
    /// In bytes: where its name begins, or the entry itself if it has none.
    pub(super) at: usize,
    pub(super) value: Value,
}

#[derive(Clone)]
pub(super) enum Value {
    Null,
    Bool(bool),
    Integer(i128),
    Float(f64),
    Text(String),
    /// TOML has them, no option does.
    Date,
    List(Vec<Node>),
    /// In the order of the file.
    Table(Vec<(String, Node)>),
}

/// One step on the way to an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Name(String),
    Index(usize),
}

impl From<&str> for Step {
    fn from(name: &str) -> Self {
        Step::Name(name.to_owned())
    }
}

impl From<usize> for Step {
    fn from(index: usize) -> Self {
        Step::Index(index)
    }
}

/// A way, as it is shown: `route[1].match`.
pub(super) struct Path<'a>(pub(super) &'a [Step]);

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, step) in self.0.iter().enumerate() {
            match step {
                Step::Index(index) => write!(f, "[{index}]")?,
                Step::Name(name) => {
                    if at > 0 {
                        f.write_str(".")?;
                    }
                    let bare = |byte: u8| byte.is_ascii_alphanumeric() || b"-_$".contains(&byte);
                    if !name.is_empty() && name.bytes().all(bare) {
                        f.write_str(name)?;
                    } else {
                        write!(f, "{name:?}")?;
                    }
                }
            }
        }
        Ok(())
    }
}

impl Node {
    fn step(&self, step: &Step) -> Option<&Node> {
        match (&self.value, step) {
            (Value::Table(entries), Step::Name(name)) => {
                let found = entries.iter().find(|(own, _)| own == name)?;
                Some(&found.1)
            }
            (Value::List(nodes), Step::Index(index)) => nodes.get(*index),
            _ => None,
        }
    }
}

impl Document {
    pub(super) fn from_toml(text: &str) -> Result<Self, FileError> {
        let document = Self::of(text);
        // Not the error's `Display`, which quotes the line: it may hold a secret.
        let table = DeTable::parse(&document.text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start);
            FileError::new(format!("not TOML: {}", error.message())).at(document.place(at))
        })?;
        let root = Node {
            at: 0,
            value: toml_table(table.get_ref()),
        };
        Ok(Self { root, ..document })
    }

    pub(super) fn from_json(text: &str) -> Result<Self, FileError> {
        let document = Self::of(text);
        // It is strict where the parser that knows the places is lenient.
        serde_json::from_str::<serde_json::Value>(&document.text).map_err(|error| {
            let message = error.to_string();
            let said = message
                .rsplit_once(" at line ")
                .map_or("", |(said, _)| said);
            let column = document.characters(error.line(), error.column());
            FileError::new(format!("not JSON: {said}")).at((error.line(), column))
        })?;
        let parsed = jsonc_parser::parse_to_ast(
            &document.text,
            &jsonc_parser::CollectOptions::default(),
            &jsonc_parser::ParseOptions::default(),
        )
        .map_err(|error| {
            let at = error.range().start;
            FileError::new(format!("not JSON: {}", error.kind())).at(document.place(at))
        })?;
        let root = match &parsed.value {
            Some(value) => json(value, 0, &mut Vec::new(), &document)?,
            None => return Err(FileError::new("not JSON: it is empty").at((1, 1))),
        };
        Ok(Self { root, ..document })
    }

    fn of(text: &str) -> Self {
        // Editors of some systems begin a file with it.
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let ends = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        Self {
            lines: [0].into_iter().chain(ends.map(|(at, _)| at + 1)).collect(),
            text: text.to_owned(),
            root: Node {
                at: 0,
                value: Value::Null,
            },
        }
    }

    /// Line and column, both from 1, the column in characters.
    pub(super) fn place(&self, at: usize) -> (usize, usize) {
        let line = self.lines.partition_point(|begin| *begin <= at);
        let begin = self.lines[line - 1];
        let before = self.text.as_bytes().get(begin..at).unwrap_or_default();
        (line, String::from_utf8_lossy(before).chars().count() + 1)
    }

    /// The column in characters, of one in bytes, from 1.
    fn characters(&self, line: usize, column: usize) -> usize {
        let begin = self.lines.get(line.saturating_sub(1)).copied();
        let at = begin.unwrap_or(0) + column.saturating_sub(1);
        self.place(at.min(self.text.len())).1
    }

    pub(super) fn find(&self, path: &[Step]) -> Option<&Node> {
        path.iter()
            .try_fold(&self.root, |node, step| node.step(step))
    }
}

/// Without the text, which may hold a secret.
impl fmt::Debug for Document {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Document").finish_non_exhaustive()
    }
}

fn toml_table(table: &DeTable<'_>) -> Value {
    let mut entries: Vec<(String, Node)> = table
        .iter()
        .map(|(name, value)| {
            let node = Node {
                at: name.span().start,
                value: toml(value.get_ref()),
            };
            (name.get_ref().clone().into_owned(), node)
        })
        .collect();
    entries.sort_by_key(|(_, node)| node.at);
    Value::Table(entries)
}

fn toml(value: &DeValue<'_>) -> Value {
    match value {
        DeValue::String(text) => Value::Text(text.clone().into_owned()),
        DeValue::Integer(number) => {
            let parsed = i128::from_str_radix(number.as_str(), number.radix());
            // As wrong as a number without a place among the integers.
            parsed.map_or(Value::Float(f64::INFINITY), Value::Integer)
        }
        DeValue::Float(number) => Value::Float(number.as_str().parse().unwrap_or(f64::NAN)),
        DeValue::Boolean(on) => Value::Bool(*on),
        DeValue::Datetime(_) => Value::Date,
        DeValue::Array(elements) => Value::List(
            elements
                .iter()
                .map(|element| Node {
                    at: element.span().start,
                    value: toml(element.get_ref()),
                })
                .collect(),
        ),
        DeValue::Table(table) => toml_table(table),
    }
}

fn json(
    value: &ast::Value<'_>,
    at: usize,
    path: &mut Vec<Step>,
    document: &Document,
) -> Result<Node, FileError> {
    let value = match value {
        ast::Value::NullKeyword(_) => Value::Null,
        ast::Value::BooleanLit(own) => Value::Bool(own.value),
        ast::Value::StringLit(own) => Value::Text(own.value.clone().into_owned()),
        ast::Value::NumberLit(own) => match own.value.parse() {
            Ok(number) => Value::Integer(number),
            Err(_) => Value::Float(own.value.parse().unwrap_or(f64::NAN)),
        },
        ast::Value::Array(own) => {
            let mut nodes = Vec::with_capacity(own.elements.len());
            for (index, element) in own.elements.iter().enumerate() {
                path.push(index.into());
                nodes.push(json(element, json_start(element), path, document)?);
                path.pop();
            }
            Value::List(nodes)
        }
        ast::Value::Object(own) => {
            let mut seen = HashSet::new();
            let mut entries = Vec::with_capacity(own.properties.len());
            for member in &own.properties {
                let name = member.name.as_str();
                path.push(name.into());
                if !seen.insert(name) {
                    return Err(FileError::new("stands twice")
                        .on(path)
                        .at(document.place(member.range.start)));
                }
                let node = json(&member.value, member.range.start, path, document)?;
                path.pop();
                entries.push((name.to_owned(), node));
            }
            Value::Table(entries)
        }
    };
    Ok(Node { at, value })
}

fn json_start(value: &ast::Value<'_>) -> usize {
    use jsonc_parser::common::Ranged;

    value.start()
}
