//! What a target expects of JSON and of streams of events, by `serde_json` and a reader that splits
//! a stream into lines.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

/// A JSON text as a tree, in which a member that stands twice is there twice.
#[derive(Clone, Debug, PartialEq)]
pub enum Tree {
    Scalar(Value),
    Array(Vec<Tree>),
    Object(Vec<(String, Tree)>),
}

/// Why there is no tree of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoTree {
    /// The text is not JSON.
    NotJson,
    /// The text is deeper than `serde_json` reads it, or has a number that is no double. Whether the
    /// text is JSON is not known then.
    Unknown,
}

impl Tree {
    /// Reads a text.
    pub fn read(text: &[u8]) -> Result<Self, NoTree> {
        serde_json::from_slice(text).map_err(|error| {
            let text = error.to_string();
            let limits = ["number out of range", "recursion limit exceeded"];
            if limits.iter().any(|limit| text.starts_with(limit)) {
                NoTree::Unknown
            } else {
                NoTree::NotJson
            }
        })
    }

    /// The members that a pointer names; a pointer that was refused names none.
    pub fn members(&self, pointer: &str) -> Vec<&Self> {
        let Some(steps) = steps(pointer) else {
            return Vec::new();
        };
        let (last, path) = steps.split_last().expect("a pointer has a step");
        let object = path
            .iter()
            .try_fold(self, |tree, name| match tree.named(name)[..] {
                [one] => Some(one),
                _ => None,
            });
        object.map_or_else(Vec::new, |object| object.named(last))
    }

    /// The member that a pointer names, if there is one.
    pub fn member(&self, pointer: &str) -> Option<&Self> {
        match self.members(pointer)[..] {
            [one] => Some(one),
            _ => None,
        }
    }

    /// The member that a pointer names, if it is a string.
    pub fn string(&self, pointer: &str) -> Option<&str> {
        match self.member(pointer)? {
            Self::Scalar(Value::String(text)) => Some(text),
            _ => None,
        }
    }

    fn named(&self, name: &str) -> Vec<&Self> {
        let Self::Object(members) = self else {
            return Vec::new();
        };
        let named = members.iter().filter(|(own, _)| own == name);
        named.map(|(_, tree)| tree).collect()
    }

    /// Sets the member that a pointer names, or adds it to an object that lacks it.
    pub fn set(&mut self, pointer: &str, value: &Self, adds: bool) {
        let steps = steps(pointer).expect("a pointer that was accepted");
        let (last, path) = steps.split_last().expect("a pointer has a step");
        let object = path.iter().try_fold(self, |tree, name| tree.only(name));
        let Some(object) = object else { return };
        if object.named(last).len() == 1 {
            *object.only(last).expect("a member") = value.clone();
        } else if let Self::Object(members) = object
            && adds
            && members.iter().all(|(own, _)| own != last)
        {
            members.push((last.clone(), value.clone()));
        }
    }

    fn only(&mut self, name: &str) -> Option<&mut Self> {
        let Self::Object(members) = self else {
            return None;
        };
        let mut named = members.iter_mut().filter(|(own, _)| own == name);
        let (_, found) = named.next()?;
        named.next().is_none().then_some(found)
    }
}

/// The names that a pointer leads through; `None` if the layer must refuse the pointer.
pub fn steps(pointer: &str) -> Option<Vec<String>> {
    let steps = pointer.strip_prefix('/')?.split('/').map(|step| {
        let mut name = String::new();
        let mut rest = step.chars();
        while let Some(character) = rest.next() {
            name.push(match character {
                '~' => match rest.next()? {
                    '0' => '~',
                    '1' => '/',
                    _ => return None,
                },
                other => other,
            });
        }
        Some(name)
    });
    let steps: Vec<_> = steps.collect::<Option<_>>()?;
    (steps.len() <= 127).then_some(steps)
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reader)
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Tree;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON text")
    }

    fn visit_unit<E: Error>(self) -> Result<Tree, E> {
        Ok(Tree::Scalar(Value::Null))
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Tree, E> {
        Ok(Tree::Scalar(value.into()))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Tree, E> {
        Ok(Tree::Scalar(value.into()))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Tree, E> {
        Ok(Tree::Scalar(value.into()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Tree, E> {
        Ok(Tree::Scalar(value.into()))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Tree, E> {
        Ok(Tree::Scalar(value.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Tree, A::Error> {
        let mut all = Vec::new();
        while let Some(element) = elements.next_element()? {
            all.push(element);
        }
        Ok(Tree::Array(all))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Tree, A::Error> {
        let mut all = Vec::new();
        while let Some(member) = members.next_entry()? {
            all.push(member);
        }
        Ok(Tree::Object(all))
    }
}

/// What stands between two empty lines of a stream of events.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// The lines that are not of the data, as they are written.
    pub others: Vec<Vec<u8>>,
    /// The data; `None` if no line is of them.
    pub data: Option<Vec<u8>>,
    /// Whether an empty line ends it.
    pub ends: bool,
}

/// The events of a stream (HTML Living Standard, 9.2), and what is between them without data.
pub fn events(stream: &[u8]) -> Vec<Event> {
    let mut plain = Vec::new();
    let stream = stream.strip_prefix(b"\xef\xbb\xbf").unwrap_or(stream);
    for (at, byte) in stream.iter().enumerate() {
        match byte {
            b'\n' if at > 0 && stream[at - 1] == b'\r' => {}
            b'\r' => plain.push(b'\n'),
            byte => plain.push(*byte),
        }
    }
    let mut events = Vec::new();
    let (mut others, mut data) = (Vec::new(), None::<Vec<u8>>);
    let mut lines: Vec<_> = plain.split(|byte| *byte == b'\n').collect();
    // Behind the last line break no line has begun.
    let last = lines.pop().expect("a part");
    lines.extend((!last.is_empty()).then_some(last));
    for line in lines {
        let colon = line.iter().position(|byte| *byte == b':');
        let (name, value) = match colon {
            Some(at) => (&line[..at], &line[at + 1..]),
            None => (line, &[][..]),
        };
        if line.is_empty() {
            if data.is_some() || !others.is_empty() {
                let (others, data) = (std::mem::take(&mut others), data.take());
                events.push(Event {
                    others,
                    data,
                    ends: true,
                });
            }
        } else if name == b"data" {
            let value = value.strip_prefix(b" ").unwrap_or(value);
            match &mut data {
                Some(data) => {
                    data.push(b'\n');
                    data.extend_from_slice(value);
                }
                None => data = Some(value.to_vec()),
            }
        } else {
            others.push(line.to_vec());
        }
    }
    if data.is_some() || !others.is_empty() {
        events.push(Event {
            others,
            data,
            ends: false,
        });
    }
    events
}

/// The name of the field that a line is of.
pub fn field(line: &[u8]) -> &[u8] {
    line.split(|byte| *byte == b':').next().unwrap_or_default()
}
