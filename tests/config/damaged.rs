//! Files that were cut off or changed: the reader never panics, and no error
//! contains a credential.

use proptest::prelude::*;
use tower_idempotency::config::{Config, FileError};

use crate::examples::{whole_file, whole_file_in_json};

const CREDENTIAL: &str = "QZXJVKWYQPTHUBGM";

fn toml_with_credentials() -> String {
    whole_file()
        .replace("env:CARGO_PKG_DESCRIPTION", CREDENTIAL)
        .replace("memory:", &format!("postgres://app:{CREDENTIAL}@db/shop"))
        .replace(
            "upstream =",
            &format!("authorize = {{ url = \"http://a/?token={CREDENTIAL}\" }}\nupstream ="),
        )
}

fn json_with_credentials() -> String {
    let value: serde_json::Value = toml::from_str(&toml_with_credentials()).unwrap();
    serde_json::to_string_pretty(&value).unwrap()
}

/// Fails if the result contains five characters of the credential in a row. One
/// changed byte still leaves so many unchanged.
fn assert_shows_nothing(read: &Result<Config, FileError>, text: &str) {
    let shown = match read {
        Ok(config) => format!("{config:?}"),
        Err(error) => format!("{error} {error:?}"),
    };
    for at in 0..=CREDENTIAL.len() - 5 {
        let part = &CREDENTIAL[at..at + 5];
        assert!(!shown.contains(part), "{shown}\nof\n{text}");
    }
}

fn read_both(text: &str) {
    assert_shows_nothing(&Config::from_toml(text), text);
    assert_shows_nothing(&Config::from_json(text), text);
}

#[test]
fn the_files_to_damage_are_right() {
    Config::from_toml(&toml_with_credentials()).unwrap();
    Config::from_json(&json_with_credentials()).unwrap();
    read_both(&toml_with_credentials());
    read_both(&json_with_credentials());
}

#[test]
fn a_file_that_was_cut_off_is_an_error_or_a_shorter_file() {
    for text in [toml_with_credentials(), json_with_credentials()] {
        for (at, _) in text.char_indices() {
            read_both(&text[..at]);
        }
    }
}

#[test]
fn a_file_with_a_changed_byte_is_an_error_or_another_file() {
    for text in [toml_with_credentials(), json_with_credentials()] {
        for (turn, (at, _)) in text.char_indices().enumerate() {
            let mut bytes = text.clone().into_bytes();
            let changes = b"\"'\n[]{}=,#:\\0x \0-.";
            bytes[at] = changes[turn % changes.len()];
            if let Ok(text) = String::from_utf8(bytes) {
                read_both(&text);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_that_happens_to_a_file_panics_the_reader(
        json in any::<bool>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..3_u8), 1..5),
    ) {
        let text = if json { whole_file_in_json() } else { whole_file() };
        let mut bytes = text.into_bytes();
        for (at, byte, how) in changes {
            let at = at.index(bytes.len());
            match how {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                _ => drop(bytes.remove(at)),
            }
        }
        let text = String::from_utf8_lossy(&bytes);
        let _ = Config::from_toml(&text);
        let _ = Config::from_json(&text);
    }

    #[test]
    fn no_text_panics_the_reader(text in "[\\PC\\n\"'={}\\[\\]]{0,60}") {
        let _ = Config::from_toml(&text);
        let _ = Config::from_json(&text);
        let _ = Config::from_toml(&format!("[idempotency]\nlease = {text:?}\nretention = {text:?}"));
        let _ = Config::from_toml(&format!("[[route]]\nmatch = {text:?}"));
        let _ = Config::from_toml(&format!("[idempotency]\nrecord = [{text:?}]\nscope = [{text:?}]"));
    }
}
