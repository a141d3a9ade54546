//! Sets members of a JSON text. What is not set stays as it is, byte for byte.

use std::ops::Range;

use crate::options::json::member::{MemberPointer, Place};
use crate::options::json::write::quote;

/// A member to set in a text.
pub(crate) struct Change<'a> {
    pub(crate) pointer: &'a MemberPointer,
    /// The JSON text of the new value.
    pub(crate) value: &'a str,
    /// Whether the member is added to an object that lacks it.
    pub(crate) adds: bool,
}

/// What stands in the place of a part of a text.
#[derive(Debug)]
pub(crate) struct Edit {
    pub(crate) place: Range<usize>,
    pub(crate) with: Vec<u8>,
}

/// What a text must change in, in the order of its bytes, for these members to have their values.
/// `None` if the text is not JSON. No pointer may lead into what another one names.
pub(crate) fn edits<'a>(
    text: &str,
    changes: impl IntoIterator<Item = &'a Change<'a>>,
) -> Option<Vec<Edit>> {
    let mut edits: Vec<Edit> = Vec::new();
    for change in changes {
        match change.pointer.find(text)? {
            Place::Value(place) if text[place.clone()] != *change.value => edits.push(Edit {
                place,
                with: change.value.as_bytes().to_vec(),
            }),
            Place::Absent { at, is_first } if change.adds => {
                let place = at..at;
                let is_after_another = || edits.iter().any(|edit| edit.place == place);
                let mut with = Vec::new();
                if !is_first || is_after_another() {
                    with.push(b',');
                }
                let name = change.pointer.names().last();
                let name = name.expect("a pointer has a step");
                quote(name.as_bytes(), &mut with);
                with.push(b':');
                with.extend_from_slice(change.value.as_bytes());
                edits.push(Edit { place, with });
            }
            Place::Value(_) | Place::Absent { .. } | Place::Nowhere => {}
        }
    }
    // The sort is stable: members that are added to one object stay in the order of the options.
    edits.sort_by_key(|edit| edit.place.start);
    Some(edits)
}

/// The text with these edits made in it.
pub(crate) fn spliced(text: &[u8], edits: &[Edit]) -> Vec<u8> {
    let mut splice = Splice::new(text);
    for edit in edits {
        splice.make(edit);
    }
    splice.finish()
}

/// A text in which edits are made, from its beginning to its end.
pub(crate) struct Splice<'a> {
    text: &'a [u8],
    /// How far the text is copied or edited.
    at: usize,
    out: Vec<u8>,
}

impl<'a> Splice<'a> {
    pub(crate) fn new(text: &'a [u8]) -> Self {
        Self {
            text,
            at: 0,
            out: Vec::with_capacity(text.len()),
        }
    }

    /// Makes the next edit, whose place is behind that of the last one. Two line breaks between which
    /// a text is taken out stay two.
    pub(crate) fn make(&mut self, Edit { place, with }: &Edit) {
        self.out.extend_from_slice(&self.text[self.at..place.start]);
        self.out.extend_from_slice(with);
        self.at = place.end;
        let is_taken_out = with.is_empty() && !place.is_empty();
        // Side by side, the two would be one.
        if is_taken_out && self.out.ends_with(b"\r") && self.text[self.at..].starts_with(b"\n") {
            self.out.push(b'\n');
        }
    }

    /// How long the text is up to the last edit.
    pub(crate) fn length(&self) -> usize {
        self.out.len()
    }

    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.out.extend_from_slice(&self.text[self.at..]);
        self.out
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::options::json::member::tests::{documents, escaped};

    fn set(text: &str, changes: &[(&str, &str)]) -> Option<String> {
        let pointers: Vec<_> = changes
            .iter()
            .map(|(pointer, _)| MemberPointer::parse(pointer).unwrap())
            .collect();
        let changes = pointers.iter().zip(changes);
        let changes: Vec<_> = changes
            .map(|(pointer, (_, value))| Change {
                pointer,
                value,
                adds: true,
            })
            .collect();
        let edits = edits(text, &changes)?;
        Some(String::from_utf8(spliced(text.as_bytes(), &edits)).unwrap())
    }

    #[test]
    fn members_are_replaced_and_added_where_their_objects_are() {
        for (text, changes, expected) in [
            (
                r#"{ "id" : 1 , "x":2}"#,
                &[("/id", "\"a\"")][..],
                r#"{ "id" : "a" , "x":2}"#,
            ),
            ("{\"x\":[1 ] }", &[("/id", "7")], "{\"x\":[1 ],\"id\":7 }"),
            ("{ }", &[("/a", "1"), ("/b", "2")], "{\"a\":1,\"b\":2 }"),
            (
                "{\"x\":0}",
                &[("/b", "1"), ("/a", "2")],
                "{\"x\":0,\"b\":1,\"a\":2}",
            ),
            (
                "{\"o\":{}}",
                &[("/p", "1"), ("/o/a", "2")],
                "{\"o\":{\"a\":2},\"p\":1}",
            ),
            (
                r#"{"a~/b":1}"#,
                &[("/a~0~1b", "2"), ("/\"", "3")],
                r#"{"a~/b":2,"\"":3}"#,
            ),
            (
                "[{\"id\":1}]",
                &[("/id", "2"), ("/0/id", "2")],
                "[{\"id\":1}]",
            ),
            ("{\"o\":1}", &[("/o/a", "2")], "{\"o\":1}"),
            (
                "{\"o\":null}",
                &[("/o/a", "2"), ("/q/a", "2")],
                "{\"o\":null}",
            ),
            ("{\"a\":1,\"a\":2}", &[("/a", "3")], "{\"a\":1,\"a\":2}"),
        ] {
            assert_eq!(set(text, changes).unwrap(), expected, "{text}");
        }
        for wrong in ["", "{", "{\"a\":1}}", "{'a':1}", "data"] {
            assert_eq!(set(wrong, &[("/a", "1")]), None);
        }
    }

    #[test]
    fn a_member_that_has_its_value_already_is_no_change() {
        let pointer = MemberPointer::parse("/a").unwrap();
        let change = |adds| {
            [Change {
                pointer: &pointer,
                value: "1",
                adds,
            }]
        };
        assert!(edits("{\"a\": 1}", &change(true)).unwrap().is_empty());
        assert!(edits("{}", &change(false)).unwrap().is_empty());
    }

    /// Sets a member in a tree. Only members of objects that are there are set.
    fn set_in_tree(tree: &mut Value, names: &[String], value: &Value) {
        let (last, path) = names.split_last().unwrap();
        let mut path = path.iter();
        let object = path.try_fold(tree, |value, name| value.as_object_mut()?.get_mut(name));
        if let Some(Value::Object(members)) = object {
            members.insert(last.clone(), value.clone());
        }
    }

    proptest! {
        #[test]
        fn a_text_means_what_a_tree_has_in_which_the_members_were_set(
            document in documents(), escapes: bool,
            steps in proptest::collection::vec("[a-c]{0,2}(/[a-c~]{0,1})?", 1..4),
            value in documents(),
        ) {
            let mut pointers: Vec<MemberPointer> = Vec::new();
            for step in steps {
                let pointer = MemberPointer::parse(&format!("/{}", step.replace('~', "~0"))).unwrap();
                if !pointers.iter().any(|other| other.overlaps(&pointer)) {
                    pointers.push(pointer);
                }
            }
            let text = if escapes {
                escaped(&document)
            } else {
                document.to_string()
            };
            let json = value.to_string();
            let changes: Vec<_> = pointers
                .iter()
                .map(|pointer| Change { pointer, value: &json, adds: true })
                .collect();
            let edits = edits(&text, &changes).expect("it is JSON");
            let spliced = spliced(text.as_bytes(), &edits);
            let mut tree = document;
            for pointer in &pointers {
                set_in_tree(&mut tree, pointer.names(), &value);
            }
            let read: Value = serde_json::from_slice(&spliced).unwrap();
            prop_assert_eq!(read, tree);
            // Without what was put in, the rest is the text without what was taken out.
            let kept = edits.iter().fold(0, |at, edit| {
                assert!(edit.place.start >= at);
                edit.place.end
            });
            prop_assert!(spliced.ends_with(&text.as_bytes()[kept..]));
            let first = edits.first().map_or(text.len(), |edit| edit.place.start);
            prop_assert!(spliced.starts_with(&text.as_bytes()[..first]));
        }
    }

    #[test]
    fn values_are_written_as_they_are_given() {
        let value = json!({ "a": [1, "\u{e9}"] }).to_string();
        let set = set("{\"x\":1}", &[("/x", &value)]).unwrap();
        assert_eq!(set, "{\"x\":{\"a\":[1,\"\u{e9}\"]}}");
    }
}
