//! The entries of a file as serde reads them, and the entry in which serde finds a fault.

use std::collections::BTreeSet;
use std::fmt;
use std::vec::IntoIter;

use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, Error, Expected, MapAccess, SeqAccess,
    Unexpected, Visitor,
};
use serde::forward_to_deserialize_any;
use serde_json::Value;

use super::Config;
use super::document::{Document, member};
use super::error::FileError;
use super::names;

/// What is wrong with one entry. No message quotes a value, since any value may be
/// a credential that stands in the wrong place.
#[derive(Debug)]
pub(super) struct Fault {
    /// The rest of a sentence about the entry.
    pub(super) message: String,
    /// `None` until the entry is known.
    pub(super) path: Option<String>,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Fault {}

impl Error for Fault {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self {
            message: message.to_string(),
            path: None,
        }
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        let expected = expected.to_string();
        let allowed = match &*expected {
            "a sequence" => "a list",
            "a map" => "a table",
            "a boolean" => "`true` or `false`",
            "usize" => "a whole number from 0",
            name if name.starts_with("struct ") => "a table",
            other => other,
        };
        let kind = match found {
            Unexpected::Bool(_) => "`true` or `false`",
            Unexpected::Unsigned(_) => "a number",
            Unexpected::Signed(_) => "a negative number",
            Unexpected::Float(_) => "a fraction or a number too large",
            Unexpected::Str(_) => "a string",
            Unexpected::Seq => "a list",
            Unexpected::Map => "a table",
            _ => "null",
        };
        Self::custom(format!("must be {allowed}, not {kind}"))
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::invalid_type(found, expected)
    }

    fn unknown_field(name: &str, known: &'static [&'static str]) -> Self {
        Self::custom(unknown(name, known))
    }

    fn missing_field(name: &'static str) -> Self {
        Self::custom(format!("has no `{name}`"))
    }
}

/// An entry, or the name of one.
pub(super) struct Entry<'a> {
    pub(super) value: Value,
    pub(super) path: String,
    /// The paths of entries that are read as if they were not there.
    pub(super) left_out: &'a BTreeSet<String>,
}

impl Entry<'_> {
    /// A table can't be read because one of its entries can't: the fault keeps the path of the
    /// innermost entry.
    fn read<'de, S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, Fault> {
        let path = self.path.clone();
        seed.deserialize(self).map_err(|fault| Fault {
            path: fault.path.or(Some(path)),
            ..fault
        })
    }
}

impl<'de> Deserializer<'de> for Entry<'_> {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(on) => visitor.visit_bool(on),
            Value::Number(number) => match (number.as_u64(), number.as_i64()) {
                (Some(number), _) => visitor.visit_u64(number),
                (None, Some(number)) => visitor.visit_i64(number),
                (None, None) => visitor.visit_f64(number.as_f64().unwrap_or(f64::NAN)),
            },
            Value::String(text) => visitor.visit_string(text),
            Value::Array(values) => {
                let entries = values.into_iter().enumerate();
                let entries = entries.map(|(index, value)| Entry {
                    value,
                    path: format!("{}[{index}]", self.path),
                    left_out: self.left_out,
                });
                let entries = entries.filter(|own| !own.left_out.contains(&own.path));
                visitor.visit_seq(List(entries.collect::<Vec<_>>().into_iter()))
            }
            Value::Object(entries) => {
                let entries = entries.into_iter().map(|(name, value)| {
                    let path = member(&self.path, &name);
                    let left_out = self.left_out;
                    (
                        name,
                        Entry {
                            value,
                            path,
                            left_out,
                        },
                    )
                });
                let entries = entries.filter(|(_, own)| !own.left_out.contains(&own.path));
                visitor.visit_map(Table {
                    rest: entries.collect::<Vec<_>>().into_iter(),
                    entry: None,
                })
            }
        }
    }

    /// An entry that is left out is not there at all: `null` does not stand for it.
    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_some(self)
    }

    /// serde would take a list for the values of a table in their order.
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        match &self.value {
            Value::Array(_) => Err(Fault::invalid_type(Unexpected::Seq, &visitor)),
            _ => self.deserialize_any(visitor),
        }
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit
        unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

/// Reads all entries. What is wrong with one of them is told, and the rest is read without it.
pub(super) fn read<T: DeserializeOwned>(document: &Document) -> Result<T, Vec<FileError>> {
    let mut left_out = BTreeSet::new();
    let mut errors = Vec::new();
    loop {
        let root = Entry {
            value: document.root.clone(),
            path: String::new(),
            left_out: &left_out,
        };
        let fault = match T::deserialize(root) {
            Ok(read) if errors.is_empty() => return Ok(read),
            Ok(_) => return Err(errors),
            Err(fault) => fault,
        };
        let path = fault.path.unwrap_or_default();
        // A table is wrong because an entry that it needs is left out.
        let follows = left_out.iter().any(|own: &String| {
            let rest = own.strip_prefix(&*path);
            rest.is_some_and(|rest| rest.starts_with(['.', '[']))
        });
        if !follows {
            errors.push(document.error(&path, fault.message));
        }
        if path.is_empty() || !left_out.insert(path) {
            return Err(errors);
        }
    }
}

struct List<'a>(IntoIter<Entry<'a>>);

impl<'de> SeqAccess<'de> for List<'_> {
    type Error = Fault;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Fault> {
        self.0.next().map(|entry| entry.read(seed)).transpose()
    }
}

struct Table<'a> {
    rest: IntoIter<(String, Entry<'a>)>,
    /// The entry whose name was read last.
    entry: Option<Entry<'a>>,
}

impl<'de> MapAccess<'de> for Table<'_> {
    type Error = Fault;

    fn next_key_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Fault> {
        let Some((name, entry)) = self.rest.next() else {
            return Ok(None);
        };
        let name = Entry {
            value: name.into(),
            path: entry.path.clone(),
            left_out: entry.left_out,
        };
        self.entry = Some(entry);
        name.read(seed).map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Fault> {
        let entry = self.entry.take();
        entry.expect("serde reads a name first").read(seed)
    }
}

/// The error of a name that is no option of its table. `known` are the table's options.
fn unknown(name: &str, known: &[&str]) -> String {
    let schema = Config::schema();
    let top = &schema["properties"];
    let all = &top["idempotency"]["properties"];
    let route = &schema["$defs"]["Route"]["properties"];
    let places = [
        (top, "at the top of the file, before any table"),
        (route, "in `[idempotency]` or in a `[[route]]`"),
        (all, "in `[idempotency]`, since it is for all requests"),
    ];
    let place = places
        .iter()
        .find(|(options, _)| options.get(name).is_some());
    if let Some((_, place)) = place {
        return format!("stands in the wrong place: it belongs {place}");
    }
    names::unknown(name, known)
}
