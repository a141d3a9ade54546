//! The examples in `docs/config.md` are read, and have the effect that the page
//! describes.

use serde_json::Value;
use tower_idempotency::MemoryStore;
use tower_idempotency::config::Config;

pub(crate) const DOCS: &str = include_str!("../../docs/config.md");

/// The first code block in this language.
fn block(language: &str) -> &'static str {
    let (_, rest) = DOCS.split_once(&format!("```{language}\n")).unwrap();
    rest.split_once("```").unwrap().0
}

/// The example of a whole file. Its secret comes from a variable that cargo
/// sets for every test.
pub(crate) fn whole_file() -> String {
    block("toml").replace("IDEMPOTENCY_SECRET", "CARGO_PKG_DESCRIPTION")
}

/// The same file as JSON.
pub(crate) fn whole_file_in_json() -> String {
    let value: Value = toml::from_str(&whole_file()).unwrap();
    serde_json::to_string_pretty(&value).unwrap()
}

#[test]
fn the_whole_file_is_read_in_both_languages() {
    for config in [
        Config::from_toml(&whole_file()).unwrap(),
        Config::from_json(&whole_file_in_json()).unwrap(),
        Config::from_json(block("json")).unwrap(),
    ] {
        assert_eq!(config.store(), Some("memory:"));
        config.builder(MemoryStore::new()).unwrap().build().unwrap();
    }
}

#[test]
fn a_variable_that_is_not_set_is_found_in_it() {
    let error = Config::from_toml(block("toml")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "4:12: `secrets[0]` names the variable `IDEMPOTENCY_SECRET`, which is not set"
    );
}

#[test]
fn the_reference_has_every_key_with_its_default() {
    let schema = Config::schema();
    let properties = |options: &Value| options["properties"].as_object().unwrap().clone();
    let tables = [
        properties(&schema),
        properties(&schema["properties"]["limits"]),
        properties(&schema["properties"]["idempotency"]),
        properties(&schema["$defs"]["Route"]),
    ];
    for (name, option) in tables.iter().flatten() {
        let is_old_name = option.get("deprecated").is_some();
        if ["limits", "idempotency", "route"].contains(&name.as_str()) || is_old_name {
            continue;
        }
        let begin = format!("| `{name}` | ");
        let row = DOCS.lines().find(|line| line.starts_with(&begin));
        let row = row.unwrap_or_else(|| panic!("no row for `{name}`"));
        if let Some(default) = option.get("default") {
            let written = format!("{begin}`{}` | ", toml_of(default));
            assert!(row.starts_with(&written), "{row}\nis not\n{written}");
        }
    }
}

fn toml_of(value: &Value) -> String {
    match value {
        Value::Object(entries) if entries.is_empty() => "{}".to_owned(),
        Value::Object(entries) => {
            let mut entries: Vec<String> = entries
                .iter()
                .map(|(name, value)| format!("{name} = {}", toml_of(value)))
                .collect();
            entries.sort_by_key(|entry| !entry.starts_with("min"));
            format!("{{ {} }}", entries.join(", "))
        }
        Value::Array(entries) => {
            let entries: Vec<String> = entries.iter().map(toml_of).collect();
            format!("[{}]", entries.join(", "))
        }
        other => other.to_string(),
    }
}
