//! Finds a member of a JSON text by its pointer, and writes another value in its place. The rest of
//! the text stays as it is, byte for byte.

use std::fmt;
use std::ops::Range;

use crate::options::json::lexer::Lexer;
use crate::options::json::write;

/// A JSON pointer (RFC 6901) each of whose steps leads into an object. It names nothing in a text
/// where a step would lead into an array or past any other value, and nothing where an object on its
/// way has the next member twice.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct MemberPointer {
    text: Box<str>,
    names: Box<[String]>,
}

impl MemberPointer {
    /// An error is the rest of a sentence.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let rest = text.strip_prefix('/').ok_or_else(|| {
            format!("names `{text}`, which is not a JSON pointer: it must start with `/`")
        })?;
        let names = rest.split('/').map(|token| {
            let is_whole = token
                .split('~')
                .skip(1)
                .all(|rest| rest.starts_with(['0', '1']));
            is_whole.then(|| token.replace("~1", "/").replace("~0", "~"))
        });
        let names: Option<Box<[String]>> = names.collect();
        let names = names.ok_or_else(|| {
            format!("names `{text}`, in which a `~` must be followed by `0` or `1`")
        })?;
        if names.len() > MAX_STEPS {
            return Err(format!("has a JSON pointer of more than {MAX_STEPS} steps"));
        }
        Ok(Self {
            text: text.into(),
            names,
        })
    }

    #[cfg(feature = "contract")]
    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }

    pub(crate) fn names(&self) -> &[String] {
        &self.names
    }

    /// Whether one of the two pointers leads to something inside of what the other names, or both
    /// are the same.
    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        other.names.starts_with(&self.names) || self.names.starts_with(&other.names)
    }

    /// What this pointer names in a text. `None` if the text is not JSON.
    ///
    /// The text is read once, and nothing of it is kept but a byte for each array or object that is
    /// open: the depth of the text and the number of its values need no bound.
    pub(crate) fn find(&self, text: &str) -> Option<Place> {
        let mut walk = Walk(Lexer::new(text.as_bytes()));
        let place = walk.place(&self.names)?;
        walk.0.peek().is_none().then_some(place)
    }
}

/// The most steps of a pointer: one calls the next.
const MAX_STEPS: usize = 127;

impl fmt::Debug for MemberPointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.text, f)
    }
}

impl fmt::Display for MemberPointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Where a pointer leads in a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// To the value that stands there.
    Value(Range<usize>),
    /// To an object that has no such member: where the member would stand.
    Absent {
        at: usize,
        /// Whether the object has no member at all.
        is_first: bool,
    },
    Nowhere,
}

/// The characters of a string, from its JSON text with the quotation marks. `None` if the text is of
/// another value.
pub(crate) fn string(text: &str) -> Option<Vec<u8>> {
    let content = text.strip_prefix('"')?.strip_suffix('"')?;
    let mut characters = Vec::with_capacity(content.len());
    write::unescape(content.as_bytes(), &mut characters)?;
    Some(characters)
}

struct Walk<'a>(Lexer<'a>);

impl Walk<'_> {
    /// Reads a value, and returns where the pointer leads from it.
    fn place(&mut self, names: &[String]) -> Option<Place> {
        let first = self.0.peek()?;
        let Some((name, rest)) = names.split_first() else {
            let from = self.0.at;
            self.value()?;
            return Some(Place::Value(from..self.0.at));
        };
        if first != b'{' {
            self.value()?;
            return Some(Place::Nowhere);
        }
        self.0.at += 1;
        let mut absent = Place::Absent {
            at: self.0.at,
            is_first: true,
        };
        let mut found = None;
        if !self.0.take(b'}') {
            loop {
                if self.name_is(name)? {
                    let place = self.place(rest)?;
                    found = Some(found.map_or(place, |_| Place::Nowhere));
                } else {
                    self.value()?;
                }
                absent = Place::Absent {
                    at: self.0.at,
                    is_first: false,
                };
                match self.0.next()? {
                    b',' => {}
                    b'}' => break,
                    _ => return None,
                }
            }
        }
        Some(match found {
            Some(place) => place,
            None if rest.is_empty() => absent,
            None => Place::Nowhere,
        })
    }

    fn name_is(&mut self, name: &str) -> Option<bool> {
        let (place, escaped) = self.0.name()?;
        let own = if escaped {
            &self.0.unescaped
        } else {
            &self.0.text[place.start + 1..place.end - 1]
        };
        Some(own == name.as_bytes())
    }

    /// Reads a value, however deep it is.
    fn value(&mut self) -> Option<()> {
        // The ends of what is open.
        let mut open = Vec::new();
        loop {
            match self.0.peek()? {
                b'{' => {
                    self.0.at += 1;
                    if !self.0.take(b'}') {
                        self.0.name()?;
                        open.push(b'}');
                        continue;
                    }
                }
                b'[' => {
                    self.0.at += 1;
                    if !self.0.take(b']') {
                        open.push(b']');
                        continue;
                    }
                }
                first => {
                    self.0.scalar(first)?;
                }
            }
            loop {
                let Some(end) = open.last() else {
                    return Some(());
                };
                match self.0.next()? {
                    b',' => break,
                    byte if byte == *end => {
                        open.pop();
                    }
                    _ => return None,
                }
            }
            if open.last() == Some(&b'}') {
                self.0.name()?;
            }
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;
    use serde_json::{Map, Value};

    use super::*;

    /// What the pointer names, by a parser that builds a tree.
    fn by_tree<'a>(value: &'a Value, pointer: &MemberPointer) -> Option<&'a Value> {
        let mut names = pointer.names().iter();
        names.try_fold(value, |value, name| value.as_object()?.get(name))
    }

    fn pointer(text: &str) -> MemberPointer {
        MemberPointer::parse(text).unwrap()
    }

    fn found<'a>(text: &'a str, of: &str) -> Option<&'a str> {
        match pointer(of).find(text) {
            Some(Place::Value(place)) => Some(&text[place]),
            _ => None,
        }
    }

    pub(in crate::options::json) fn documents() -> impl Strategy<Value = Value> {
        let text = "[a-c/~\"\\\\\u{e9}\u{1f600} ]{0,3}";
        let scalars = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            (-1e9..1e9).prop_map(Value::from),
            text.prop_map(Value::from),
        ];
        scalars.prop_recursive(4, 40, 5, move |inner| {
            let members = proptest::collection::vec((text, inner.clone()), 0..5);
            prop_oneof![
                proptest::collection::vec(inner, 0..4).prop_map(Value::from),
                members.prop_map(|own| Value::from(own.into_iter().collect::<Map<_, _>>())),
            ]
        })
    }

    /// A pointer of any steps, or along the members of the document.
    fn pointers(document: &Value) -> BoxedStrategy<String> {
        let mut all = Vec::new();
        let mut open = vec![(String::new(), document)];
        while let Some((path, value)) = open.pop() {
            for (name, value) in value.as_object().into_iter().flatten() {
                let token = name.replace('~', "~0").replace('/', "~1");
                open.push((format!("{path}/{token}"), value));
                all.push(format!("{path}/{token}"));
            }
        }
        all.push("/".to_owned());
        let any = proptest::collection::vec("[a-c0]{0,2}", 1..4);
        prop_oneof![
            proptest::sample::select(all),
            any.prop_map(|steps| format!("/{}", steps.join("/"))),
        ]
        .boxed()
    }

    proptest! {
        #[test]
        fn a_pointer_finds_what_a_tree_has_there(
            (document, text, of) in documents().prop_flat_map(|document| {
                let texts = [
                    serde_json::to_string(&document).unwrap(),
                    serde_json::to_string_pretty(&document).unwrap(),
                    escaped(&document),
                ];
                let pointers = pointers(&document);
                (Just(document), proptest::sample::select(texts.to_vec()), pointers)
            }),
        ) {
            let of = pointer(&of);
            let place = of.find(&text).expect("it is JSON");
            let found = match place {
                Place::Value(place) => Some(serde_json::from_str::<Value>(&text[place]).unwrap()),
                _ => None,
            };
            prop_assert_eq!(found.as_ref(), by_tree(&document, &of));
        }

        /// Bytes that are lost, changed or added: what is no JSON to one reader is none to the other.
        #[test]
        fn what_is_not_json_is_none(
            document in documents(), at in any::<prop::sample::Index>(), with in "[\\[\\]{},:\"0a\\\\ -]?",
            cut in 0..2_usize,
        ) {
            let text = serde_json::to_string(&document).unwrap();
            let places: Vec<_> = text.char_indices().map(|(at, _)| at).collect();
            let at = places[at.index(places.len())];
            let rest = text[at..].chars().skip(cut).collect::<String>();
            let text = format!("{}{with}{rest}", &text[..at]);
            let tree = serde_json::from_str::<Value>(&text);
            // The only bound that a number has there is that of a double.
            prop_assume!(!matches!(&tree, Err(error) if error.to_string().contains("out of range")));
            prop_assert_eq!(pointer("/a").find(&text).is_some(), tree.is_ok(), "{}", text);
        }
    }

    /// The same document, with every character of a string as an escape and white space everywhere.
    pub(in crate::options::json) fn escaped(value: &Value) -> String {
        let string = |text: &str| {
            let units = text.encode_utf16().map(|unit| format!("\\u{unit:04X}"));
            format!("\"{}\"", units.collect::<String>())
        };
        match value {
            Value::String(text) => string(text),
            Value::Array(own) => {
                let own: Vec<_> = own.iter().map(escaped).collect();
                format!("[ {}\n]", own.join("\t, "))
            }
            Value::Object(own) => {
                let own = own.iter();
                let own = own.map(|(name, own)| format!("{} : {}", string(name), escaped(own)));
                format!("{{\r\n{} }}", own.collect::<Vec<_>>().join(" ,"))
            }
            other => format!(" {other} "),
        }
    }

    #[test]
    fn pointers_lead_through_objects_alone() {
        let text = r#"{"a":[{"b":1}],"b":{"c":"d","~/":null,"":{"":7}},"0":"x"}"#;
        for (of, value) in [
            ("/a", Some(r#"[{"b":1}]"#)),
            ("/a/0", None),
            ("/a/0/b", None),
            ("/b/c", Some(r#""d""#)),
            ("/b/c/0", None),
            ("/b/~0~1", Some("null")),
            ("/b//", Some("7")),
            ("/0", Some(r#""x""#)),
            ("/", None),
        ] {
            assert_eq!(found(text, of), value, "{of}");
        }
        assert_eq!(found("[1]", "/0"), None);
    }

    #[test]
    fn a_member_that_stands_twice_on_the_way_is_not_found() {
        assert_eq!(found(r#"{"a":1,"\u0061":1}"#, "/a"), None);
        assert_eq!(found(r#"{"a":{"b":1},"a":2}"#, "/a/b"), None);
        assert_eq!(found(r#"{"a":{"b":1,"b":1}}"#, "/a/b"), None);
        assert_eq!(found(r#"{"a":{"b":1},"c":1,"c":2}"#, "/a/b"), Some("1"));
    }

    #[test]
    fn depth_and_length_have_no_bound() {
        let deep = format!(
            "{{\"x\":{}{},\"k\":\"v\"}}",
            "[".repeat(500_000),
            "]".repeat(500_000)
        );
        assert_eq!(found(&deep, "/k"), Some("\"v\""));
        assert_eq!(pointer("/k").find(&"[".repeat(1 << 20)), None);
        let long = format!("{{\"x\":[{}0],\"k\":\"v\"}}", "0,".repeat(400_000));
        assert_eq!(found(&long, "/k"), Some("\"v\""));
    }

    #[test]
    fn wrong_pointers_are_told() {
        for wrong in ["", "a", "#/a", "/~", "/a~2", "/~/b"] {
            assert!(MemberPointer::parse(wrong).is_err(), "{wrong}");
        }
        assert!(MemberPointer::parse(&"/a".repeat(127)).is_ok());
        assert!(MemberPointer::parse(&"/a".repeat(128)).is_err());
        assert!(pointer("/a").overlaps(&pointer("/a/b")));
        assert!(pointer("/a/b").overlaps(&pointer("/a")));
        assert!(pointer("/a").overlaps(&pointer("/a")));
        assert!(!pointer("/a").overlaps(&pointer("/ab")));
    }
}
