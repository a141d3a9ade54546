//! What is in force: each entry with its value, and where the value comes from.

use std::fmt::Write as _;

use serde_json::{Map, Value};

use super::Config;
use super::document::{RENAMED, member};

/// What stands in the place of a secret.
const REDACTED: &str = "***";

/// Prints all entries in TOML. `defaults` are those of the program that differ from the schema's, by path.
pub(super) fn in_force(config: &Config, defaults: &[(&str, Value)]) -> String {
    let schema = Config::schema();
    let mut page = Page {
        config,
        defaults,
        text: String::new(),
    };
    let top = &schema["properties"];
    page.table("", top, &["idempotency", "limits", "route"]);
    for name in ["limits", "idempotency"] {
        let _ = writeln!(page.text, "\n[{name}]");
        page.table(name, &top[name]["properties"], &[]);
    }
    let routes = config.said.document.root["route"].as_array();
    for (at, route) in routes.into_iter().flatten().enumerate() {
        page.text.push_str("\n[[route]]\n");
        let path = format!("route[{at}]");
        for (name, value) in route.as_object().into_iter().flatten() {
            page.entry(&path, name, value, None);
        }
    }
    page.text
}

struct Page<'a> {
    config: &'a Config,
    defaults: &'a [(&'a str, Value)],
    text: String,
}

impl Page<'_> {
    /// Prints the entries of a table, those that are left out with their defaults.
    fn table(&mut self, table: &str, options: &Value, others: &[&str]) {
        let document = &self.config.said.document;
        let pointer = if table.is_empty() {
            String::new()
        } else {
            format!("/{table}")
        };
        let set = document.root.pointer(&pointer).and_then(Value::as_object);
        let is_old = |name: &str| RENAMED.iter().any(|(old, _)| *old == name);
        for (name, schema) in options.as_object().into_iter().flatten() {
            if others.contains(&&**name) || is_old(name) {
                continue;
            }
            let path = member(table, name);
            if let Some(value) = set.and_then(|set| set.get(name)) {
                self.entry(table, name, value, None);
                continue;
            }
            let own = self.defaults.iter().find(|(own, _)| *own == path);
            match own
                .map(|(_, value)| value)
                .or_else(|| schema.get("default"))
            {
                Some(value) => self.entry(table, name, value, Some("default")),
                None if name != "$schema" => {
                    let _ = writeln!(self.text, "# {name} is not set");
                }
                None => {}
            }
        }
    }

    /// Prints an entry, and those in it one by one, since they may come from different places.
    fn entry(&mut self, table: &str, name: &str, value: &Value, from: Option<&str>) {
        let path = member(table, name);
        self.lines(&path, &key(name), value, from);
    }

    fn lines(&mut self, path: &str, name: &str, value: &Value, from: Option<&str>) {
        if let Value::Object(entries) = value
            && !entries.is_empty()
        {
            for (own, value) in entries {
                self.lines(
                    &member(path, own),
                    &format!("{name}.{}", key(own)),
                    value,
                    from,
                );
            }
            return;
        }
        let from = match from {
            Some(from) => from.to_owned(),
            None => self.config.origin(path),
        };
        let line = format!("{name} = {}", toml(&redacted(path, value)));
        let _ = writeln!(self.text, "{line:<48} # {from}");
    }
}

/// The value without what is a secret.
fn redacted(path: &str, value: &Value) -> Value {
    match value {
        Value::String(text) if !text.starts_with("env:") => match path {
            "store" | "authorize" | "authorize.url" => url(text).into(),
            "desk.token" => REDACTED.into(),
            _ if path.starts_with("secrets") => REDACTED.into(),
            _ if path.contains("known_sha256") => REDACTED.into(),
            _ => value.clone(),
        },
        Value::Array(values) => {
            let values = values.iter().enumerate();
            let values = values.map(|(at, value)| redacted(&format!("{path}[{at}]"), value));
            Value::Array(values.collect())
        }
        Value::Object(entries) => {
            let entries = entries.iter();
            let entries =
                entries.map(|(name, value)| (name.clone(), redacted(&member(path, name), value)));
            Value::Object(entries.collect::<Map<_, _>>())
        }
        _ => value.clone(),
    }
}

/// The URL without its user, its password and its query, any of which may be a secret.
fn url(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once(':') else {
        return REDACTED.to_owned();
    };
    if scheme == "memory" {
        return text.to_owned();
    }
    let (slashes, rest) = match rest.strip_prefix("//") {
        Some(rest) => ("//", rest),
        None => ("", rest),
    };
    let (before, query) = match rest.split_once('?') {
        Some((before, _)) => (before, format!("?{REDACTED}")),
        None => (rest, String::new()),
    };
    // A password that is not encoded may have any of these characters itself.
    if rest.len() != before.len() && rest[before.len()..].contains('@') {
        return format!("{scheme}:{slashes}{REDACTED}");
    }
    match before.rsplit_once('@') {
        Some((_, host)) => format!("{scheme}:{slashes}{REDACTED}@{host}{query}"),
        None => format!("{scheme}:{slashes}{before}{query}"),
    }
}

fn key(name: &str) -> String {
    let is_bare = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    if !name.is_empty() && name.bytes().all(is_bare) {
        name.to_owned()
    } else {
        Value::from(name).to_string()
    }
}

/// A value as TOML writes it. A string of JSON is one of TOML, too.
fn toml(value: &Value) -> String {
    match value {
        Value::Array(values) => {
            let values: Vec<_> = values.iter().map(toml).collect();
            format!("[{}]", values.join(", "))
        }
        Value::Object(entries) if entries.is_empty() => "{}".to_owned(),
        Value::Object(entries) => {
            let entries = entries.iter();
            let entries: Vec<_> = entries
                .map(|(name, value)| format!("{} = {}", key(name), toml(value)))
                .collect();
            format!("{{ {} }}", entries.join(", "))
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_part_of_a_url_that_may_be_a_secret_is_left() {
        for (text, expected) in [
            ("memory:?max_records=5", "memory:?max_records=5"),
            ("sqlite:/var/lib/a.db", "sqlite:/var/lib/a.db"),
            ("redis://cache:6379/1", "redis://cache:6379/1"),
            ("redis://:hunter2@cache/1", "redis://***@cache/1"),
            (
                "postgres://u:hunter2@db/a?sslmode=require",
                "postgres://***@db/a?***",
            ),
            ("postgres://u:hun/ter@2@db/a", "postgres://***@db/a"),
            ("postgres://u:hun?ter2@db/a", "postgres://***"),
            ("http://auth/check?token=hunter2", "http://auth/check?***"),
            ("postgres://db/a?password=hunt@er2", "postgres://***"),
            ("hunter2", "***"),
        ] {
            assert_eq!(url(text), expected, "{text}");
        }
    }
}
