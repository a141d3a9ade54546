//! A file is a configuration that a layer can be built of, or has errors with a place in the text each.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tower_idempotency::config::{Config, FileError};

/// A `{` begins JSON.
fn read(text: &str) -> Result<Config, FileError> {
    if text.starts_with('{') {
        Config::from_json(text)
    } else {
        Config::from_toml(text)
    }
}

/// Each error has a line of the message, and a place.
fn check(text: &str, error: &FileError) {
    let shown = error.to_string();
    let lines = shown.lines().filter(|line| !line.is_empty()).count();
    assert_eq!(lines, 1 + error.others().len(), "{shown:?}");
    check_place(text, error);
    for other in error.others() {
        check_place(text, other);
    }
}

fn check_place(text: &str, error: &FileError) {
    let shown = error.to_string();
    assert_eq!(error.line().is_some(), error.column().is_some());
    let (Some(line), Some(column)) = (error.line(), error.column()) else {
        assert!(text.starts_with('{') && error.option().is_some(), "{shown}");
        return;
    };
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let of_line = text.split('\n').nth(line - 1);
    let length = of_line.map(|line| line.chars().count());
    assert!(
        length.is_some_and(|length| (1..=length + 1).contains(&column)),
        "{shown}"
    );
}

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let config = match read(text) {
        Ok(config) => config,
        Err(error) => return check(text, &error),
    };
    match config.builder(fuzz::OneRecord::default()) {
        Err(error) => check(text, &error),
        // What is wrong is found when the file is read.
        Ok(builder) => drop(builder.build().expect("a file without an error")),
    }
});
