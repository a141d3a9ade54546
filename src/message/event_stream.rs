//! Streams of events (`text/event-stream`, HTML Living Standard, 9.2), as far as their data go.

use std::borrow::Cow;
use std::ops::Range;

/// One event: where its lines stand in the stream.
pub(crate) struct Event<'a> {
    stream: &'a [u8],
    /// The values of the lines that have data.
    data: Vec<Range<usize>>,
    /// The whole lines that name the id of the event.
    pub(crate) ids: Vec<Range<usize>>,
    /// All lines, and the empty one behind them.
    pub(crate) place: Range<usize>,
}

/// The events of a stream that have data or an id, also the last one if no empty line ends it.
pub(crate) fn events(stream: &[u8]) -> Events<'_> {
    let has_mark = stream.starts_with(b"\xef\xbb\xbf");
    let at = if has_mark { 3 } else { 0 };
    Events { stream, at }
}

/// Reads one event after the other, and keeps none of them: a stream may have an event for each of its
/// bytes.
pub(crate) struct Events<'a> {
    stream: &'a [u8],
    at: usize,
}

impl<'a> Iterator for Events<'a> {
    type Item = Event<'a>;

    fn next(&mut self) -> Option<Event<'a>> {
        let stream = self.stream;
        let (mut data, mut ids) = (Vec::new(), Vec::new());
        let mut from = self.at;
        while self.at < stream.len() {
            let at = self.at;
            let rest = &stream[at..];
            let length = rest.iter().position(|byte| matches!(byte, b'\n' | b'\r'));
            let length = length.unwrap_or(rest.len());
            let is_crlf = rest[length..].starts_with(b"\r\n");
            self.at = (at + length + if is_crlf { 2 } else { 1 }).min(stream.len());
            let line = &rest[..length];
            if line.is_empty() {
                if !data.is_empty() || !ids.is_empty() {
                    break;
                }
                from = self.at;
            } else if let Some(value) = value(line, b"data") {
                let end = at + length;
                data.push(end - value.len()..end);
            } else if value(line, b"id").is_some() {
                ids.push(at..self.at);
            }
        }
        let place = from..self.at;
        (!data.is_empty() || !ids.is_empty()).then_some(Event {
            stream,
            data,
            ids,
            place,
        })
    }
}

/// The value of this field, if the line is of it.
fn value<'a>(line: &'a [u8], field: &[u8]) -> Option<&'a [u8]> {
    match line.strip_prefix(field)? {
        [] => Some(&[]),
        [b':', b' ', value @ ..] | [b':', value @ ..] => Some(value),
        _ => None,
    }
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

impl<'a> Event<'a> {
    /// The data, as a client gets them.
    pub(crate) fn text(&self) -> Cow<'a, [u8]> {
        match &*self.data {
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

    /// Where this part of the data stands in the stream: a place in each of its lines, between which
    /// other fields may stand. A part of no length must not be between two lines.
    pub(crate) fn places(&self, part: &Range<usize>) -> impl Iterator<Item = Range<usize>> {
        let mut start = 0;
        self.data.iter().filter_map(move |line| {
            let end = start + line.len();
            let (from, to) = (part.start.max(start), part.end.min(end));
            let place = (from <= to).then(|| line.start + from - start..line.start + to - start);
            start = end + 1;
            place
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(stream: &str) -> Vec<String> {
        let texts = events(stream.as_bytes()).map(|event| event.text());
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
            (": comment\nretry: 1\n\n", &[]),
            ("id: 7\n\n", &[""]),
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
    fn every_part_of_the_data_has_its_places() {
        let stream = "event: x\r\ndata: ab\r\n: no\r\ndata:cd\r\ndata\r\n\r\ndata: e\n\n";
        let events: Vec<_> = events(stream.as_bytes()).collect();
        let text = events[0].text();
        assert_eq!(&*text, b"ab\ncd\n");
        for (event, part, places) in [
            (0, 0..2, &["ab"][..]),
            (0, 1..2, &["b"]),
            (0, 3..5, &["cd"]),
            (0, 3..3, &[""]),
            (0, 1..4, &["b", "c"]),
            (0, 0..6, &["ab", "cd", ""]),
            (1, 0..1, &["e"]),
        ] {
            let own = events[event].places(&part);
            let own: Vec<_> = own.map(|place| &stream[place]).collect();
            assert_eq!(own, places, "{part:?}");
        }
    }

    #[test]
    fn an_event_has_all_its_lines() {
        let stream = "\u{feff}: a\n\nid\nid:1\nevent: x\nidx\ndata\r\n\r\nid: 2\r\rid: 3";
        let events: Vec<_> = events(stream.as_bytes()).collect();
        let texts = |places: &[Range<usize>]| -> Vec<_> {
            places.iter().map(|place| &stream[place.clone()]).collect()
        };
        for (event, ids, whole) in [
            (
                0,
                &["id\n", "id:1\n"][..],
                "id\nid:1\nevent: x\nidx\ndata\r\n\r\n",
            ),
            (1, &["id: 2\r"], "id: 2\r\r"),
            (2, &["id: 3"], "id: 3"),
        ] {
            assert_eq!(texts(&events[event].ids), ids);
            assert_eq!(&stream[events[event].place.clone()], whole);
        }
    }
}
