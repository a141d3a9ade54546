//! Streams of events (`text/event-stream`, HTML Living Standard, 9.2), as far as their data go.

use std::borrow::Cow;
use std::ops::Range;

/// The data of one event: where its lines stand in the stream.
pub(crate) struct EventData<'a> {
    stream: &'a [u8],
    lines: Vec<Range<usize>>,
}

/// The data of each event in a stream that has them, also of one that ends without an empty line.
pub(crate) fn data_of_events(stream: &[u8]) -> Vec<EventData<'_>> {
    let mut events = Vec::new();
    let mut lines = Vec::new();
    let mut at = if stream.starts_with(b"\xef\xbb\xbf") {
        3
    } else {
        0
    };
    while at < stream.len() {
        let rest = &stream[at..];
        let length = rest.iter().position(|byte| matches!(byte, b'\n' | b'\r'));
        let length = length.unwrap_or(rest.len());
        let line = &rest[..length];
        if line.is_empty() {
            if !lines.is_empty() {
                let lines = std::mem::take(&mut lines);
                events.push(EventData { stream, lines });
            }
        } else if let Some(value) = line.strip_prefix(b"data:") {
            let value = value.strip_prefix(b" ").unwrap_or(value);
            let end = at + length;
            lines.push(end - value.len()..end);
        } else if line == b"data" {
            lines.push(at + length..at + length);
        }
        let end = if rest[length..].starts_with(b"\r\n") {
            2
        } else {
            1
        };
        at += length + end;
    }
    if !lines.is_empty() {
        events.push(EventData { stream, lines });
    }
    events
}

/// Where the last event ends that an empty line ends, if that line begins at or behind `from`. The stream
/// begins with a line.
pub(crate) fn end_of_events(stream: &[u8], from: usize) -> Option<usize> {
    let is_empty_line = |at: &usize| {
        let before = at.checked_sub(1).map(|before| stream[before]);
        match stream[*at] {
            b'\n' => matches!(before, None | Some(b'\n')),
            b'\r' => matches!(before, None | Some(b'\n' | b'\r')),
            _ => false,
        }
    };
    let line = (from..stream.len()).rev().find(is_empty_line)?;
    let length = if stream[line..].starts_with(b"\r\n") {
        2
    } else {
        1
    };
    Some(line + length)
}

impl<'a> EventData<'a> {
    /// The data, as a client gets them.
    pub(crate) fn text(&self) -> Cow<'a, [u8]> {
        match &*self.lines {
            [one] => Cow::Borrowed(&self.stream[one.clone()]),
            lines => {
                let lines: Vec<_> = lines
                    .iter()
                    .map(|line| &self.stream[line.clone()])
                    .collect();
                Cow::Owned(lines.join(&b'\n'))
            }
        }
    }

    /// Where this part of the data stands in the stream. Neither of its ends may be between two
    /// lines.
    pub(crate) fn place(&self, part: &Range<usize>) -> Range<usize> {
        self.offset(part.start)..self.offset(part.end)
    }

    fn offset(&self, mut at: usize) -> usize {
        for line in &self.lines {
            if at <= line.len() {
                return line.start + at;
            }
            at -= line.len() + 1;
        }
        self.stream.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(stream: &str) -> Vec<String> {
        let events = data_of_events(stream.as_bytes());
        let texts = events.iter().map(EventData::text);
        texts
            .map(|text| String::from_utf8(text.into_owned()).unwrap())
            .collect()
    }

    #[test]
    fn data_are_read_as_the_standard_says() {
        for (stream, data) in [
            ("data: a\n\ndata:b\n\n", &["a", "b"][..]),
            ("data:  a\r\n\r\n", &[" a"]),
            ("event: x\rdata: a\rdata: b\r\rdata: c", &["a\nb", "c"]),
            (": comment\nid: 7\nretry: 1\n\n", &[]),
            ("\u{feff}data: a\n\n\n\n", &["a"]),
            ("data\ndata\n\n", &["\n"]),
            ("datax: a\n data: b\nDATA: c\n\n", &[]),
            ("", &[]),
        ] {
            assert_eq!(texts(stream), data, "{stream:?}");
        }
    }

    #[test]
    fn an_event_ends_with_an_empty_line() {
        for (stream, end) in [
            ("a\n\nb\n", Some(3)),
            ("a\r\n\r\n", Some(5)),
            ("a\r\rb", Some(3)),
            ("a\n\r\nb", Some(4)),
            ("a\r\n\nb", Some(4)),
            ("a\r\n\r", Some(4)),
            ("a\n\nb\n\n\nc", Some(7)),
            ("\na", Some(1)),
            ("a\r\nb\r", None),
            ("", None),
        ] {
            assert_eq!(end_of_events(stream.as_bytes(), 0), end, "{stream:?}");
        }
        assert_eq!(end_of_events(b"a\n\nb", 3), None);
        assert_eq!(end_of_events(b"a\n\nb", 2), Some(3));
    }

    #[test]
    fn events_without_data_take_no_memory() {
        assert_eq!(data_of_events(&vec![b'\n'; 1 << 20]).capacity(), 0);
    }

    #[test]
    fn every_part_of_the_data_has_its_place() {
        let stream = "event: x\r\ndata: ab\r\n: no\r\ndata:cd\r\ndata\r\n\r\ndata: e\n\n";
        let events = data_of_events(stream.as_bytes());
        let text = events[0].text();
        assert_eq!(&*text, b"ab\ncd\n");
        for (part, place) in [(0..2, "ab"), (1..2, "b"), (3..5, "cd"), (3..3, "")] {
            assert_eq!(&stream[events[0].place(&part)], place);
        }
        assert_eq!(&stream[events[0].place(&(1..4))], "b\r\n: no\r\ndata:c");
        assert_eq!(&stream[events[1].place(&(0..1))], "e");
    }
}
