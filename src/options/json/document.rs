//! A JSON text that was read: what its pointers name, and its canonical form.

use std::borrow::Cow;

use crate::options::json::lexer::Kind;
use crate::options::json::member::MemberPointer;
use crate::options::json::write;

/// A JSON text in which no object has a member twice.
pub(super) struct Document<'a> {
    pub(super) text: &'a [u8],
    /// The values in the order of the text: the first child of a value is the next node.
    pub(super) nodes: Vec<Node>,
    /// The members of each object stand together, in the order of RFC 8785, 3.2.3.
    pub(super) members: Vec<Member<'a>>,
}

/// A value.
pub(super) struct Node {
    pub(super) kind: Kind,
    /// The place of the value in the text; of an object, the place of its members in
    /// [`Document::members`].
    pub(super) from: u32,
    pub(super) to: u32,
    /// The node behind this value and all that is inside of it.
    pub(super) next: u32,
}

pub(super) struct Member<'a> {
    /// See [`sort_key`].
    pub(super) key: Cow<'a, [u8]>,
    /// The place of the name in the text, with its quotation marks.
    pub(super) from: u32,
    pub(super) to: u32,
    pub(super) escaped: bool,
    pub(super) value: u32,
}

impl<'a> Document<'a> {
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
                self.member(node, &name)
            }
            Kind::Array if token == "0" || !token.starts_with(['0', '+']) => {
                self.elements_of(node).nth(token.parse().ok()?)
            }
            _ => None,
        }
    }

    fn member(&self, node: usize, name: &str) -> Option<usize> {
        if self.nodes[node].kind != Kind::Object {
            return None;
        }
        let key = sort_key(Cow::Borrowed(name.as_bytes()));
        let members = self.members_of(node);
        let found = members.binary_search_by(|member| member.key.cmp(&key));
        let value = members[found.ok()?].value as usize;
        (self.nodes[value].kind != Kind::Excluded).then_some(value)
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

    /// Removes the member that a pointer names, and returns whether there is one.
    pub(super) fn exclude_member(&mut self, pointer: &MemberPointer) -> bool {
        let mut names = pointer.names().iter();
        let node = names.try_fold(0, |node, name| self.member(node, name));
        if let Some(node) = node {
            self.nodes[node].kind = Kind::Excluded;
        }
        node.is_some()
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
