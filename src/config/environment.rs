//! Entries from environment variables: `IDEMPOTENCY_LIMITS__KEEP_ALIVE` is `limits.keep_alive`.
//!
//! The JSON Schema says which values an entry takes, so that `true` is a switch for one entry and text
//! for another.

use std::ffi::OsString;

use serde_json::{Map, Value};

use super::document::{Document, member};
use super::error::FileError;

/// What the names of the variables begin with.
const PREFIX: &str = "IDEMPOTENCY_";

/// A variable, and the names in the path of its entry.
struct Variable {
    name: String,
    text: String,
    path: Vec<String>,
}

/// Sets the entries that variables name, and returns what is wrong with the variables. What is wrong with
/// their values is found when the entries are read.
pub(super) fn apply(
    document: &mut Document,
    schema: &Value,
    variables: impl IntoIterator<Item = (OsString, OsString)>,
) -> Vec<FileError> {
    let mut errors = Vec::new();
    let mut all = Vec::new();
    for (name, text) in variables {
        let Some(name) = name.to_str().filter(|name| name.starts_with(PREFIX)) else {
            continue;
        };
        let entry = &name[PREFIX.len()..];
        if is_of_kubernetes(entry) {
            continue;
        }
        let path = entry.split("__").map(str::to_lowercase);
        let path: Vec<_> = path.collect();
        match text.into_string() {
            Ok(text) => all.push(Variable {
                name: name.to_owned(),
                text: without_newline(text),
                path,
            }),
            Err(_) => errors.push(FileError::new("is not UTF-8").of_variable(name)),
        }
    }
    // What a value refers to as `env:NAME` is no entry itself.
    let mut referred = Vec::new();
    references(&document.root, &mut referred);
    referred.extend(
        all.iter()
            .filter_map(|own| own.text.strip_prefix("env:"))
            .map(str::to_owned),
    );
    all.retain(|own| !referred.contains(&own.name));
    // A table comes before its entries.
    all.sort_by(|one, other| one.path.cmp(&other.path));
    for own in all {
        let Variable { name, text, path } = own;
        let mut entry = Place {
            schema,
            node: schema,
            path: String::new(),
        };
        let mut root = document.root.clone();
        match set(&mut root, &mut entry, &path, &text) {
            Ok(()) => {
                document.root = root;
                document.come_from(&entry.path, &name);
            }
            Err(message) => errors.push(FileError::new(message).of_variable(&name)),
        }
    }
    errors
}

/// Whether Kubernetes sets a variable of this name, after the prefix, in each pod beside a service that is
/// called `idempotency`: `SERVICE_HOST`, `SERVICE_PORT`, `PORT_8080_TCP_ADDR`. No entry has such a name.
fn is_of_kubernetes(name: &str) -> bool {
    let of_port = |rest: &str| rest.is_empty() || rest.starts_with('_');
    name == "SERVICE_HOST"
        || name.strip_prefix("SERVICE_PORT").is_some_and(of_port)
        || name.strip_prefix("PORT").is_some_and(of_port)
}

/// A variable that is set from a file often ends in the newline of the file's last line, which is no part
/// of the value.
pub(super) fn without_newline(mut value: String) -> String {
    if value.ends_with('\n') {
        value.pop();
        if value.ends_with('\r') {
            value.pop();
        }
    }
    value
}

/// The names in all strings `env:NAME`.
fn references(value: &Value, names: &mut Vec<String>) {
    match value {
        Value::String(text) => names.extend(text.strip_prefix("env:").map(str::to_owned)),
        Value::Array(values) => values.iter().for_each(|value| references(value, names)),
        Value::Object(entries) => entries.values().for_each(|value| references(value, names)),
        _ => {}
    }
}

/// An entry, and what the schema says of it.
struct Place<'a> {
    schema: &'a Value,
    node: &'a Value,
    path: String,
}

impl<'a> Place<'a> {
    /// The forms that the entry may have: itself, or those in `anyOf`.
    fn forms(&self) -> Vec<&'a Value> {
        let node = match self.node["$ref"].as_str() {
            Some(name) => &self.schema["$defs"][name.trim_start_matches("#/$defs/")],
            None => self.node,
        };
        match node["anyOf"].as_array() {
            Some(forms) => forms.iter().collect(),
            None => vec![node],
        }
    }

    /// Whether the entry may have a value of this type.
    fn takes(&self, kind: &str) -> bool {
        self.forms().into_iter().any(|form| {
            let is_kind = |value: &Value| match kind {
                "boolean" => value.is_boolean(),
                "string" => value.is_string(),
                _ => false,
            };
            form["type"] == kind
                || is_kind(&form["const"])
                || form["enum"]
                    .as_array()
                    .is_some_and(|all| all.iter().any(is_kind))
        })
    }

    /// Goes to an entry of this table, and returns the name of the entry. The names of variables have `_`
    /// where some entries have `-`.
    fn enter(&mut self, name: &str) -> String {
        let mut found = (name.to_owned(), &Value::Null);
        for form in self.forms() {
            let properties = form["properties"].as_object().into_iter().flatten();
            for (own, node) in properties {
                if own.replace('-', "_") == name {
                    found = (own.clone(), node);
                }
            }
            let patterns = form["patternProperties"].as_object();
            if let (Value::Null, Some(node)) =
                (found.1, patterns.and_then(|own| own.values().next()))
            {
                found.1 = node;
            }
        }
        self.node = found.1;
        self.path = member(&self.path, &found.0);
        found.0
    }

    fn enter_list(&mut self, index: usize) {
        let mut forms = self.forms().into_iter();
        self.node = forms
            .find_map(|form| form.get("items"))
            .unwrap_or(&Value::Null);
        self.path = format!("{}[{index}]", self.path);
    }
}

/// Sets the entry at this path. The error is the rest of a sentence about the variable.
fn set(
    value: &mut Value,
    place: &mut Place<'_>,
    path: &[String],
    text: &str,
) -> Result<(), String> {
    let Some((name, rest)) = path.split_first() else {
        *value = typed(place, text)?;
        return Ok(());
    };
    let number = name.parse::<usize>().ok();
    if let Some(index) = number.filter(|_| place.takes("array")) {
        if value.is_null() {
            *value = Value::Array(Vec::new());
        }
        let Value::Array(values) = value else {
            return Err(format!(
                "names an entry of `{}`, which is no list",
                place.path
            ));
        };
        if index > values.len() {
            let (list, length) = (&place.path, values.len());
            return Err(format!(
                "names entry {index} of `{list}`, which has {length}, counted from 0"
            ));
        }
        if index == values.len() {
            values.push(Value::Null);
        }
        place.enter_list(index);
        return set(&mut values[index], place, rest, text);
    }
    if value.is_null() {
        *value = Value::Object(Map::new());
    }
    let Value::Object(entries) = value else {
        return Err(format!(
            "names an entry of `{}`, which is no table",
            place.path
        ));
    };
    let name = place.enter(name);
    set(
        entries.entry(name).or_insert(Value::Null),
        place,
        rest,
        text,
    )
}

/// The value that a text stands for.
fn typed(place: &Place<'_>, text: &str) -> Result<Value, String> {
    let trimmed = text.trim();
    let is_list = place.takes("array");
    if is_list && trimmed.starts_with('[') || place.takes("object") && trimmed.starts_with('{') {
        let mut read = Document::from_toml(&format!("value = {trimmed}"))
            .map_err(|error| format!("is {}", error.message()))?;
        return match read.root.as_object_mut() {
            Some(entries) if entries.len() == 1 => Ok(entries["value"].take()),
            _ => Err("must be one value".to_owned()),
        };
    }
    if place.takes("boolean")
        && let Ok(on) = trimmed.parse::<bool>()
    {
        return Ok(on.into());
    }
    if place.takes("integer")
        && let Ok(number) = trimmed.parse::<i64>()
    {
        return Ok(number.into());
    }
    let alone = Value::from(text);
    // One entry of a list may stand without brackets.
    Ok(if is_list && !place.takes("string") {
        vec![alone].into()
    } else {
        alone
    })
}
