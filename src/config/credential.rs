//! What must not be shown.

use std::fmt;

use schemars::{Schema, SchemaGenerator, json_schema};

use super::value::{Value, values};

values![Credential];

/// Text that may be a secret, or the name of a variable that has it.
#[derive(Clone)]
pub(super) struct Credential(pub(super) String);

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credential(..)")
    }
}

impl Value for Credential {
    const ALLOWED: &'static str = "a string, or \"env:NAME\" for the value of a variable";

    fn text(text: &str) -> Result<Self, String> {
        let Some(name) = text.strip_prefix("env:") else {
            return Ok(Self(text.to_owned()));
        };
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        if name.is_empty() || !name.bytes().all(plain) {
            return Err("must have a variable's name after `env:`".to_owned());
        }
        match std::env::var(name) {
            Ok(value) if value.is_empty() => {
                Err(format!("names the variable `{name}`, which is empty"))
            }
            Ok(value) => Ok(Self(value)),
            Err(std::env::VarError::NotPresent) => {
                Err(format!("names the variable `{name}`, which is not set"))
            }
            Err(std::env::VarError::NotUnicode(_)) => {
                Err(format!("names the variable `{name}`, which is not UTF-8"))
            }
        }
    }

    fn schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string" })
    }
}
