//! Reads strict JSON in one pass, without a copy of its text.

use std::borrow::Cow;

use crate::options::json::write;

/// The deepest nesting of arrays and objects.
const MAX_DEPTH: usize = 127;

/// The most values and names of members. They bound the time that sorting takes, and the memory of a
/// [`Document`] to 8 MiB beside the text.
pub(super) const MAX_VALUES: usize = 1 << 18;

/// A JSON text in which no object has a member twice.
pub(super) struct Document<'a> {
    text: &'a [u8],
    /// The values in the order of the text: the first child of a value is the next node.
    nodes: Vec<Node>,
    /// The members of each object stand together, in the order of RFC 8785, 3.2.3.
    members: Vec<Member<'a>>,
}

/// A value.
struct Node {
    kind: Kind,
    /// The place of the value in the text; of an object, the place of its members in
    /// [`Document::members`].
    from: u32,
    to: u32,
    /// The node behind this value and all that is inside of it.
    next: u32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Null,
    Bool,
    Number,
    String {
        escaped: bool,
    },
    Array,
    Object,
    /// A member that does not count.
    Excluded,
}

struct Member<'a> {
    /// See [`sort_key`].
    key: Cow<'a, [u8]>,
    /// The place of the name in the text, with its quotation marks.
    from: u32,
    to: u32,
    escaped: bool,
    value: u32,
}

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

    /// The node of the value that a JSON pointer names.
    pub(super) fn find(&self, pointer: &str) -> Option<usize> {
        if pointer.is_empty() {
            return Some(0);
        }
        let mut tokens = pointer.strip_prefix('/')?.split('/');
        tokens.try_fold(0, |node, token| self.child(node, token))
    }

    fn child(&self, node: usize, token: &str) -> Option<usize> {
        match self.nodes[node].kind {
            Kind::Object => {
                let name = token.replace("~1", "/").replace("~0", "~");
                let key = sort_key(Cow::Borrowed(name.as_bytes()));
                let members = self.members_of(node);
                let found = members.binary_search_by(|member| member.key.cmp(&key));
                let value = members[found.ok()?].value as usize;
                (self.nodes[value].kind != Kind::Excluded).then_some(value)
            }
            Kind::Array if token == "0" || !token.starts_with(['0', '+']) => {
                self.elements_of(node).nth(token.parse().ok()?)
            }
            _ => None,
        }
    }

    /// Removes the value that a JSON pointer names. In an array the value becomes `null`, so that
    /// the other elements keep their places.
    pub(super) fn exclude(&mut self, pointer: &str) {
        let (parent, node) = match pointer.rsplit_once('/') {
            None => (None, Some(0)),
            Some((parent, last)) => {
                let parent = self.find(parent);
                (parent, parent.and_then(|parent| self.child(parent, last)))
            }
        };
        let Some(node) = node else { return };
        let of_object = parent.is_some_and(|parent| self.nodes[parent].kind == Kind::Object);
        self.nodes[node].kind = if of_object {
            Kind::Excluded
        } else {
            Kind::Null
        };
    }

    /// Writes the canonical form of a value. Returns whether something in the value is more than
    /// `null`, an object or an array; `None` if a number is not exact.
    pub(super) fn write(&self, node: usize, out: &mut Vec<u8>) -> Option<bool> {
        let Node { kind, from, to, .. } = self.nodes[node];
        let text = || &self.text[from as usize..to as usize];
        match kind {
            Kind::Null | Kind::Excluded => {
                out.extend_from_slice(b"null");
                return Some(false);
            }
            Kind::Bool => out.extend_from_slice(text()),
            Kind::Number => write::number(text(), out)?,
            Kind::String { escaped } => write::string(text(), escaped, out),
            Kind::Array => return self.write_array(node, out),
            Kind::Object => return self.write_object(node, out),
        }
        Some(true)
    }

    fn write_array(&self, node: usize, out: &mut Vec<u8>) -> Option<bool> {
        let mut counts = false;
        out.push(b'[');
        for (place, element) in self.elements_of(node).enumerate() {
            if place > 0 {
                out.push(b',');
            }
            counts |= self.write(element, out)?;
        }
        out.push(b']');
        Some(counts)
    }

    fn write_object(&self, node: usize, out: &mut Vec<u8>) -> Option<bool> {
        let mut counts = false;
        let mut first = true;
        out.push(b'{');
        for member in self.members_of(node) {
            let value = member.value as usize;
            if self.nodes[value].kind == Kind::Excluded {
                continue;
            }
            if !first {
                out.push(b',');
            }
            first = false;
            let name = &self.text[member.from as usize..member.to as usize];
            write::string(name, member.escaped, out);
            out.push(b':');
            counts |= self.write(value, out)?;
        }
        out.push(b'}');
        Some(counts)
    }

    fn members_of(&self, object: usize) -> &[Member<'a>] {
        let Node { from, to, .. } = self.nodes[object];
        &self.members[from as usize..to as usize]
    }

    fn elements_of(&self, array: usize) -> impl Iterator<Item = usize> {
        let end = self.nodes[array].next as usize;
        let in_array = move |node: &usize| *node < end;
        std::iter::successors(Some(array + 1).filter(in_array), move |node| {
            Some(self.nodes[*node].next as usize).filter(in_array)
        })
    }
}

/// The bytes by which members are sorted: the name in UTF-8, with its bytes changed such that their
/// order is that of the name's UTF-16 code units.
///
/// The two orders differ only where U+E000 to U+FFFF, which begin with EE and EF in UTF-8, meet the
/// characters of two code units, which begin with F0 to F4. No other byte is as large.
pub(super) fn sort_key(name: Cow<'_, [u8]>) -> Cow<'_, [u8]> {
    let is_moved = |byte: &u8| matches!(byte, 0xee | 0xef);
    if !name.iter().any(is_moved) {
        return name;
    }
    let mut name = name.into_owned();
    for byte in name.iter_mut().filter(|byte| is_moved(byte)) {
        *byte |= 0x10;
    }
    Cow::Owned(name)
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
