//! Text that no error and no log may show.

use schemars::{Schema, SchemaGenerator, json_schema};

use super::environment::without_newline;
use super::value::{Plain, Value, read_as_value};

read_as_value![Credential];

/// Text that may be a secret, or the name of an environment variable that has it.
#[derive(Clone)]
pub(super) struct Credential(pub(super) String);

impl Value for Credential {
    fn allowed() -> String {
        "a string, or \"env:NAME\" for the value of a variable".to_owned()
    }

    fn plain(plain: Plain<'_>) -> Result<Self, String> {
        let Plain::Text(text) = plain else {
            return Err(format!("must be {}", Self::allowed()));
        };
        let Some(name) = text.strip_prefix("env:") else {
            return Ok(Self(text.to_owned()));
        };
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        if name.is_empty() || !name.bytes().all(is_plain) {
            return Err("must have a variable's name after `env:`".to_owned());
        }
        let read = std::env::var(name).map(without_newline);
        let why = match read {
            Ok(value) if value.is_empty() => "empty",
            Ok(value) => return Ok(Self(value)),
            Err(std::env::VarError::NotPresent) => "not set",
            Err(std::env::VarError::NotUnicode(_)) => "not UTF-8",
        };
        Err(format!("names the variable `{name}`, which is {why}"))
    }

    fn schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_newline_at_the_end_is_taken_off() {
        for (read, value) in [
            ("a", "a"),
            ("a\n", "a"),
            ("a\r\n", "a"),
            ("a\n\n", "a\n"),
            ("a\r", "a\r"),
            ("a\nb\n", "a\nb"),
            (" a ", " a "),
            ("\n", ""),
            ("", ""),
        ] {
            assert_eq!(without_newline(read.to_owned()), value, "{read:?}");
        }
    }
}
