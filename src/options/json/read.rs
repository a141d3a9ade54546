//! Reads strict JSON in one pass, without a copy of its text.

use std::borrow::Cow;

use crate::options::json::document::{Document, Member, Node, sort_key};
use crate::options::json::lexer::{Kind, Lexer};

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
            lexer: Lexer::new(text),
            depth: 0,
            nodes: Vec::new(),
            members: Vec::new(),
            open: Vec::new(),
        };
        reader.value()?;
        reader.lexer.peek().is_none().then_some(Self {
            text,
            nodes: reader.nodes,
            members: reader.members,
        })
    }
}

struct Reader<'a> {
    lexer: Lexer<'a>,
    depth: usize,
    nodes: Vec<Node>,
    members: Vec<Member<'a>>,
    /// The members read so far of the objects that have not ended.
    open: Vec<Member<'a>>,
}

impl Reader<'_> {
    fn value(&mut self) -> Option<()> {
        let first = self.lexer.peek()?;
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
        let from = self.lexer.at;
        self.nodes.push(place(from, from, Kind::Null));
        self.nodes[node] = match first {
            b'{' => {
                let (from, to) = self.inside(Self::object)?;
                place(from, to, Kind::Object)
            }
            b'[' => {
                self.inside(Self::array)?;
                place(from, self.lexer.at, Kind::Array)
            }
            _ => {
                let kind = self.lexer.scalar(first)?;
                place(from, self.lexer.at, kind)
            }
        };
        self.nodes[node].next = short(self.nodes.len());
        Some(())
    }

    fn inside<T>(&mut self, read: fn(&mut Self) -> Option<T>) -> Option<T> {
        self.lexer.at += 1;
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return None;
        }
        let read = read(self)?;
        self.depth -= 1;
        Some(read)
    }

    fn array(&mut self) -> Option<()> {
        if self.lexer.take(b']') {
            return Some(());
        }
        loop {
            self.value()?;
            match self.lexer.next()? {
                b',' => {}
                b']' => return Some(()),
                _ => return None,
            }
        }
    }

    /// Returns the place of the members.
    fn object(&mut self) -> Option<(usize, usize)> {
        let begin = self.open.len();
        if !self.lexer.take(b'}') {
            loop {
                self.member()?;
                match self.lexer.next()? {
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
        let (range, escaped) = self.lexer.name()?;
        let name = if escaped {
            Cow::Owned(self.lexer.unescaped.clone())
        } else {
            Cow::Borrowed(&self.lexer.text[range.start + 1..range.end - 1])
        };
        self.open.push(Member {
            key: sort_key(name),
            from: short(range.start),
            to: short(range.end),
            escaped,
            value: short(self.nodes.len()),
        });
        self.value()
    }
}

/// A place in the text, whose length is a `u32`.
fn short(place: usize) -> u32 {
    u32::try_from(place).expect("the text is not longer")
}
