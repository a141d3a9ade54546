//! The published JSON Schema: up to date, right, and of the same mind as the
//! reader.

use serde_json::Value;
use tower_idempotency::config::Config;

use crate::examples::{whole_file, whole_file_in_json};

const PUBLISHED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/config.schema.json");

pub(crate) fn validator() -> jsonschema::Validator {
    jsonschema::draft202012::new(&Config::schema()).unwrap()
}

#[test]
fn the_published_schema_is_that_of_the_types() {
    let current = format!("{:#}\n", Config::schema());
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(PUBLISHED, &current).unwrap();
    }
    let published = std::fs::read_to_string(PUBLISHED).unwrap_or_default();
    assert!(
        published == current,
        "docs/config.schema.json is out of date: write it anew with\n\
         UPDATE=1 cargo test --all-features --test config"
    );
}

#[test]
fn it_is_of_draft_2020_12() {
    let schema = Config::schema();
    assert_eq!(
        schema["$schema"],
        "https://json-schema.org/draft/2020-12/schema"
    );
    jsonschema::draft202012::meta::validate(&schema).unwrap();
}

#[test]
fn the_example_validates() {
    let validator = validator();
    for text in [whole_file_in_json(), toml_as_json(&whole_file())] {
        let value: Value = serde_json::from_str(&text).unwrap();
        validator.validate(&value).unwrap();
    }
}

/// The files of docs/contracts.md, which are there to be copied.
#[test]
fn the_contracts_in_the_field_validate() {
    let validator = validator();
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/sidecar/tests/contracts");
    let mut files = 0;
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path
            .extension()
            .is_some_and(|extension| extension == "toml")
        {
            let text = std::fs::read_to_string(&path).unwrap();
            let value: Value = serde_json::from_str(&toml_as_json(&text)).unwrap();
            let valid = validator.validate(&value);
            assert!(valid.is_ok(), "{}: {valid:?}", path.display());
            files += 1;
        }
    }
    assert_eq!(files, 13);
}

pub(crate) fn toml_as_json(text: &str) -> String {
    let value: Value = toml::from_str(text).unwrap();
    value.to_string()
}
