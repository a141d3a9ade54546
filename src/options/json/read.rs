//! Reads strict JSON in one pass, without a copy of its text.

use std::borrow::Cow;

use crate::options::json::document::{Document, Kind, Member, Node, sort_key};
use crate::options::json::write;

/// The deepest nesting of arrays and objects.
const MAX_DEPTH: usize = 127;

/// The most values and names of members. They bound the time that sorting takes, and the memory of a
/// [`Document`] to 16 MiB beside the text.
pub(super) const MAX_VALUES: usize = 1 << 18;

impl<'a> Document<'a> {
    /// `None` if the text is not strict JSON, is nested too deeply or has too many values.
    pub(super) fn read(text: &'a [u8]) -> Option<Self> {
        // Outside of strings JSON is ASCII, so that the whole text must be UTF-8.
        std::str::from_utf8(text).ok()?;
        u32::try_from(text.len()).ok()?;
        let mut reader = Reader {
            text,
            at: 0,
            depth: 0,
            nodes: Vec::new(),
            members: Vec::new(),
            open: Vec::new(),
            unescaped: Vec::new(),
        };
        reader.value()?;
        reader.peek().is_none().then_some(Self {
            text,
            nodes: reader.nodes,
            members: reader.members,
        })
    }
}

struct Reader<'a> {
    text: &'a [u8],
    at: usize,
    depth: usize,
    nodes: Vec<Node>,
    members: Vec<Member<'a>>,
    /// The members read so far of the objects that have not ended.
    open: Vec<Member<'a>>,
    unescaped: Vec<u8>,
}

impl Reader<'_> {
    fn value(&mut self) -> Option<()> {
        let first = self.peek()?;
        if self.nodes.len() + self.members.len() + self.open.len() >= MAX_VALUES {
            return None;
        }
        let node = self.nodes.len();
        let place = |from, to, kind| Node {
            kind,
            from: short(from),
            to: short(to),
            next: 0,
        };
        let from = self.at;
        self.nodes.push(place(from, from, Kind::Null));
        self.nodes[node] = match first {
            b'{' => {
                let (from, to) = self.inside(Self::object)?;
                place(from, to, Kind::Object)
            }
            b'[' => {
                self.inside(Self::array)?;
                place(from, self.at, Kind::Array)
            }
            _ => {
                let kind = match first {
                    b'"' => Kind::String {
                        escaped: self.string()?,
                    },
                    b'-' | b'0'..=b'9' => self.number()?,
                    b't' => self.word(b"true", Kind::Bool)?,
                    b'f' => self.word(b"false", Kind::Bool)?,
                    b'n' => self.word(b"null", Kind::Null)?,
                    _ => return None,
                };
                place(from, self.at, kind)
            }
        };
        self.nodes[node].next = short(self.nodes.len());
        Some(())
    }

    fn inside<T>(&mut self, read: fn(&mut Self) -> Option<T>) -> Option<T> {
        self.at += 1;
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return None;
        }
        let read = read(self)?;
        self.depth -= 1;
        Some(read)
    }

    fn array(&mut self) -> Option<()> {
        if self.take(b']') {
            return Some(());
        }
        loop {
            self.value()?;
            match self.next()? {
                b',' => {}
                b']' => return Some(()),
                _ => return None,
            }
        }
    }

    /// Returns the place of the members.
    fn object(&mut self) -> Option<(usize, usize)> {
        let begin = self.open.len();
        if !self.take(b'}') {
            loop {
                self.member()?;
                match self.next()? {
                    b',' => {}
                    b'}' => break,
                    _ => return None,
                }
            }
        }
        let own = &mut self.open[begin..];
        own.sort_unstable_by(|one, other| one.key.cmp(&other.key));
        if own.windows(2).any(|two| two[0].key == two[1].key) {
            return None;
        }
        let from = self.members.len();
        self.members.extend(self.open.drain(begin..));
        Some((from, self.members.len()))
    }

    fn member(&mut self) -> Option<()> {
        if self.peek()? != b'"' {
            return None;
        }
        let from = self.at;
        let escaped = self.string()?;
        let to = self.at;
        let name = if escaped {
            Cow::Owned(self.unescaped.clone())
        } else {
            Cow::Borrowed(&self.text[from + 1..to - 1])
        };
        if self.next()? != b':' {
            return None;
        }
        self.open.push(Member {
            key: sort_key(name),
            from: short(from),
            to: short(to),
            escaped,
            value: short(self.nodes.len()),
        });
        self.value()
    }

    /// Reads a string. Returns whether it has escapes; then [`Reader::unescaped`] is the string
    /// without them.
    fn string(&mut self) -> Option<bool> {
        let from = self.at + 1;
        let mut escaped = false;
        self.at = from;
        loop {
            let ends = |byte: &u8| matches!(byte, b'"' | b'\\' | 0..0x20);
            // A backslash may be the last byte.
            self.at += self.text.get(self.at..)?.iter().position(ends)?;
            match self.text[self.at] {
                b'"' => break,
                b'\\' => {
                    escaped = true;
                    self.at += 2;
                }
                _ => return None,
            }
        }
        if escaped {
            self.unescaped.clear();
            write::unescape(&self.text[from..self.at], &mut self.unescaped)?;
        }
        self.at += 1;
        Some(escaped)
    }

    fn number(&mut self) -> Option<Kind> {
        self.at += usize::from(self.text[self.at] == b'-');
        match self.digits() {
            0 => return None,
            1 => {}
            many if self.text[self.at - many] == b'0' => return None,
            _ => {}
        }
        if self.text.get(self.at) == Some(&b'.') {
            self.at += 1;
            (self.digits() > 0).then_some(())?;
        }
        if matches!(self.text.get(self.at), Some(b'e' | b'E')) {
            self.at += 1;
            self.at += usize::from(matches!(self.text.get(self.at), Some(b'+' | b'-')));
            (self.digits() > 0).then_some(())?;
        }
        Some(Kind::Number)
    }

    /// Reads digits, and returns how many there are.
    fn digits(&mut self) -> usize {
        let rest = &self.text[self.at..];
        let end = rest.iter().position(|byte| !byte.is_ascii_digit());
        let count = end.unwrap_or(rest.len());
        self.at += count;
        count
    }

    fn word(&mut self, word: &[u8], kind: Kind) -> Option<Kind> {
        self.text[self.at..].starts_with(word).then_some(())?;
        self.at += word.len();
        Some(kind)
    }

    /// The next byte that is not white space, not yet read.
    fn peek(&mut self) -> Option<u8> {
        loop {
            match *self.text.get(self.at)? {
                b' ' | b'\t' | b'\n' | b'\r' => self.at += 1,
                byte => return Some(byte),
            }
        }
    }

    fn next(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.at += 1;
        Some(byte)
    }

    fn take(&mut self, wanted: u8) -> bool {
        let is_next = self.peek() == Some(wanted);
        self.at += usize::from(is_next);
        is_next
    }
}

/// A place in the text, whose length is a `u32`.
fn short(place: usize) -> u32 {
    u32::try_from(place).expect("the text is not longer")
}
