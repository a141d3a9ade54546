//! Values that are written as one word or one number, or in a short form and a
//! long one.

use std::fmt;
use std::marker::PhantomData;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Unexpected, Visitor};

use super::read::one_of;

/// A value with a grammar of its own. What it can't be made of is refused.
pub(super) trait Value: Sized {
    /// As in "must be …".
    const ALLOWED: &'static str;

    fn text(_: &str) -> Result<Self, String> {
        Self::wrong(Unexpected::Str(""))
    }

    fn number(number: u64) -> Result<Self, String> {
        Self::wrong(Unexpected::Unsigned(number))
    }

    fn switch(on: bool) -> Result<Self, String> {
        Self::wrong(Unexpected::Bool(on))
    }

    fn table<'de, A: MapAccess<'de>>(_: A) -> Result<Self, A::Error> {
        Err(A::Error::invalid_type(Unexpected::Map, &Self::ALLOWED))
    }

    fn wrong(found: Unexpected<'_>) -> Result<Self, String> {
        use super::read::Fault;

        Err(Fault::invalid_type(found, &Self::ALLOWED).message)
    }

    /// For text that is not quoted, since it may be a credential.
    fn not_allowed() -> String {
        format!("must be {}", Self::ALLOWED)
    }

    fn schema(generator: &mut SchemaGenerator) -> Schema;
}

pub(super) struct ValueVisitor<T>(pub(super) PhantomData<T>);

impl<'de, T: Value> Visitor<'de> for ValueVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::ALLOWED)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        T::text(text).map_err(E::custom)
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<T, E> {
        T::number(number).map_err(E::custom)
    }

    fn visit_bool<E: Error>(self, on: bool) -> Result<T, E> {
        T::switch(on).map_err(E::custom)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
        T::table(map)
    }
}

/// What `Value` says, for serde and for the schema.
macro_rules! values {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {$(
        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_any($crate::config::value::ValueVisitor(
                    std::marker::PhantomData::<$name>,
                ))
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
pub(super) use values;

/// One of a few words.
#[derive(Clone, Copy)]
pub(super) struct Word<T>(pub(super) T);

pub(super) trait Words: Copy + 'static {
    const WORDS: &'static [(&'static str, Self)];
}

fn words<T: Words>() -> Vec<&'static str> {
    T::WORDS.iter().map(|(word, _)| *word).collect()
}

impl<'de, T: Words> Deserialize<'de> for Word<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct WordVisitor<T>(PhantomData<T>);

        impl<T: Words> Visitor<'_> for WordVisitor<T> {
            type Value = Word<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&one_of(&words::<T>()))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Word<T>, E> {
                let found = T::WORDS.iter().find(|(word, _)| *word == text);
                match found {
                    Some((_, meant)) => Ok(Word(*meant)),
                    None => Err(E::custom(format!("must be {}", one_of(&words::<T>())))),
                }
            }
        }

        deserializer.deserialize_any(WordVisitor(PhantomData))
    }
}

impl<T: Words> JsonSchema for Word<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Word".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "enum": words::<T>() })
    }
}

/// Entries of one kind, at least so many.
#[derive(Clone)]
pub(super) struct List<T, const LEAST: usize = 1>(pub(super) Vec<T>);

impl<T, const LEAST: usize> Default for List<T, LEAST> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: Value + Deserialize<'de>, const LEAST: usize> Deserialize<'de> for List<T, LEAST> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ListVisitor<T, const LEAST: usize>(PhantomData<T>);

        impl<'de, T: Value + Deserialize<'de>, const LEAST: usize> Visitor<'de> for ListVisitor<T, LEAST> {
            type Value = List<T, LEAST>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a list (an entry is {})", T::ALLOWED)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = seq.next_element()? {
                    entries.push(entry);
                }
                if entries.len() < LEAST {
                    let message = format!("must not be empty; an entry is {}", T::ALLOWED);
                    return Err(A::Error::custom(message));
                }
                Ok(List(entries))
            }
        }

        deserializer.deserialize_any(ListVisitor(PhantomData))
    }
}

impl<T: JsonSchema, const LEAST: usize> JsonSchema for List<T, LEAST> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "List".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let entry = generator.subschema_for::<T>();
        let mut schema = json_schema!({ "type": "array", "items": entry });
        if LEAST > 0 {
            schema.insert("minItems".to_owned(), LEAST.into());
        }
        schema
    }
}
