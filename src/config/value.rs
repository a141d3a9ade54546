//! How a value is written: by a syntax of its own, as a word, or as a list.

use std::fmt;
use std::marker::PhantomData;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, Unexpected, Visitor};

use crate::display::Words;
use crate::display::one_of;

/// A value that is not a table.
pub(super) enum Plain<'a> {
    Text(&'a str),
    Number(u64),
    Switch(bool),
}

/// A value with a syntax of its own.
pub(super) trait Value: Sized {
    /// As in "must be …".
    fn allowed() -> String;

    /// The error is the rest of a sentence. It does not quote the value, which may be a
    /// credential.
    fn plain(plain: Plain<'_>) -> Result<Self, String>;

    fn table<'de, A: MapAccess<'de>>(_: A) -> Result<Self, A::Error> {
        Err(A::Error::invalid_type(Unexpected::Map, &&*Self::allowed()))
    }

    fn schema(generator: &mut SchemaGenerator) -> Schema;
}

pub(super) struct ValueVisitor<T>(pub(super) PhantomData<T>);

impl<'de, T: Value> Visitor<'de> for ValueVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&T::allowed())
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        T::plain(Plain::Text(text)).map_err(E::custom)
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<T, E> {
        T::plain(Plain::Number(number)).map_err(E::custom)
    }

    fn visit_bool<E: Error>(self, on: bool) -> Result<T, E> {
        T::plain(Plain::Switch(on)).map_err(E::custom)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
        T::table(map)
    }
}

/// Has serde and the JSON Schema read a type as [`Value`] says.
macro_rules! read_as_value {
    ($($name:ident),+) => {$(
        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let visitor = $crate::config::value::ValueVisitor(std::marker::PhantomData);
                deserializer.deserialize_any(visitor)
            }
        }

        impl schemars::JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
                <$name as $crate::config::value::Value>::schema(generator)
            }
        }
    )+};
}
pub(super) use read_as_value;

/// A type for a value: what it holds, what is allowed, its JSON Schema, and how it is read.
/// After `or`, the table that may stand there instead, and how that is read.
macro_rules! values {
    ($(
        $(#[$doc:meta])*
        $name:ident($inner:ty): $allowed:literal, $schema:tt, $plain:expr
        $(, or $table:ty, $from:expr)?;
    )+) => {$(
        $(#[$doc])*
        #[derive(Clone)]
        pub(super) struct $name(pub(super) $inner);

        impl $crate::config::value::Value for $name {
            fn allowed() -> String {
                $allowed.to_owned()
            }

            fn plain(plain: $crate::config::value::Plain<'_>) -> Result<Self, String> {
                let read: fn($crate::config::value::Plain<'_>) -> Option<$inner> = $plain;
                read(plain).map(Self).ok_or_else(|| format!("must be {}", Self::allowed()))
            }

            $(fn table<'de, A: serde::de::MapAccess<'de>>(map: A) -> Result<Self, A::Error> {
                let deserializer = serde::de::value::MapAccessDeserializer::new(map);
                let table = <$table as serde::Deserialize>::deserialize(deserializer)?;
                let from: fn($table) -> $inner = $from;
                Ok(Self(from(table)))
            })?

            fn schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
                let _ = &*generator;
                let plain = schemars::json_schema!($schema);
                $(let table = generator.subschema_for::<$table>();
                let plain = schemars::json_schema!({ "anyOf": [plain, table] });)?
                plain
            }
        }

        impl $crate::config::value::Setting for $name {
            type Set = $inner;

            fn set(&self) -> $inner {
                self.0.clone()
            }
        }

        $crate::config::value::read_as_value!($name);
    )+};
}
pub(super) use values;

/// What the value of an option is to the method that sets the option.
pub(super) trait Setting {
    type Set;

    fn set(&self) -> Self::Set;
}

impl Setting for bool {
    type Set = bool;

    fn set(&self) -> bool {
        *self
    }
}

impl Setting for usize {
    type Set = usize;

    fn set(&self) -> usize {
        *self
    }
}

impl<T: Setting> Setting for Vec<T> {
    type Set = Vec<T::Set>;

    fn set(&self) -> Vec<T::Set> {
        self.iter().map(T::set).collect()
    }
}

/// One of a few words.
#[derive(Clone, Copy)]
pub(super) struct Word<T>(pub(super) T);

impl<T: Words> Setting for Word<T> {
    type Set = T;

    fn set(&self) -> T {
        self.0
    }
}

impl<T: Words> Value for Word<T> {
    fn allowed() -> String {
        let words: Vec<&str> = T::WORDS.iter().map(|(word, _)| *word).collect();
        one_of(&words)
    }

    fn plain(plain: Plain<'_>) -> Result<Self, String> {
        let is_it = |word: &str| matches!(plain, Plain::Text(text) if text == word);
        let mut words = T::WORDS.iter().chain(T::ALIASES);
        let found = words.find(|(word, _)| is_it(word));
        let wrong = || format!("must be {}", Self::allowed());
        found.map(|(_, meant)| Self(*meant)).ok_or_else(wrong)
    }

    fn schema(_: &mut SchemaGenerator) -> Schema {
        let words = T::WORDS.iter().chain(T::ALIASES).map(|(word, _)| *word);
        json_schema!({ "type": "string", "enum": words.collect::<Vec<_>>() })
    }
}

impl<'de, T: Words> Deserialize<'de> for Word<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor(PhantomData))
    }
}

impl<T: Words> JsonSchema for Word<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Word".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        Self::schema(generator)
    }
}

// A list with at least one entry. (No `///`: the schema would show it.)
#[derive(Clone, Deserialize, JsonSchema)]
#[serde(try_from = "Vec<T>", bound(deserialize = "T: Deserialize<'de>"))]
#[schemars(inline, extend("minItems" = 1))]
pub(super) struct List<T>(pub(super) Vec<T>);

impl<T> TryFrom<Vec<T>> for List<T> {
    type Error = &'static str;

    fn try_from(entries: Vec<T>) -> Result<Self, &'static str> {
        if entries.is_empty() {
            return Err("must not be empty");
        }
        Ok(Self(entries))
    }
}

impl<T: Setting> Setting for List<T> {
    type Set = Vec<T::Set>;

    fn set(&self) -> Vec<T::Set> {
        self.0.set()
    }
}
