//! Reads a JSON text piece by piece: names, strings, numbers, and what stands between them.

use std::ops::Range;

use crate::options::json::write;

/// A JSON text that must be UTF-8, and how far it was read.
pub(super) struct Lexer<'a> {
    pub(super) text: &'a [u8],
    pub(super) at: usize,
    /// The last string with escapes that was read, without them.
    pub(super) unescaped: Vec<u8>,
}

impl<'a> Lexer<'a> {
    pub(super) fn new(text: &'a [u8]) -> Self {
        Self {
            text,
            at: 0,
            unescaped: Vec::new(),
        }
    }

    /// Reads the name of a member and its colon. Returns the place of the name in the text, with
    /// its quotation marks, and whether the name has escapes.
    pub(super) fn name(&mut self) -> Option<(Range<usize>, bool)> {
        if self.peek()? != b'"' {
            return None;
        }
        let from = self.at;
        let escaped = self.string()?;
        let place = from..self.at;
        (self.next()? == b':').then_some((place, escaped))
    }

    /// Reads a value that is no object and no array, and begins with this byte.
    pub(super) fn scalar(&mut self, first: u8) -> Option<Kind> {
        match first {
            b'"' => Some(Kind::String {
                escaped: self.string()?,
            }),
            b'-' | b'0'..=b'9' => self.number(),
            b't' => self.word(b"true", Kind::Bool),
            b'f' => self.word(b"false", Kind::Bool),
            b'n' => self.word(b"null", Kind::Null),
            _ => None,
        }
    }

    /// Reads a string. Returns whether it has escapes; then [`Lexer::unescaped`] is the string
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

    /// The next byte that is not white space, not yet read. White space before the byte is read.
    pub(super) fn peek(&mut self) -> Option<u8> {
        loop {
            match *self.text.get(self.at)? {
                b' ' | b'\t' | b'\n' | b'\r' => self.at += 1,
                byte => return Some(byte),
            }
        }
    }

    pub(super) fn next(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.at += 1;
        Some(byte)
    }

    pub(super) fn take(&mut self, wanted: u8) -> bool {
        let is_next = self.peek() == Some(wanted);
        self.at += usize::from(is_next);
        is_next
    }
}

/// What a value is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
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
