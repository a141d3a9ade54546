//! Which part of a stream of events waits until the stream is recorded.

use bytes::{Bytes, BytesMut};

use crate::message::event_stream::end_of_events;
use crate::message::kept::AHEAD;
use crate::options::mcp::ToolAnswer;

/// Tells the answer to a call from the events before it. The answer waits until its record is stored
/// (G3), and so does what follows. Other events do not wait: in revisions before 2026-07-28 the server
/// may ask the client something, and send nothing until it is told.
///
/// An event that is too long to be searched on a thread that serves requests (G11) may be the answer, and
/// waits like one.
///
/// What waits is no longer than the record: a stream beyond `max_recorded_body` withholds nothing.
#[derive(Debug, Default)]
pub(crate) struct EventPieces {
    /// What has come of the current event.
    event: Vec<u8>,
    /// Whether the answer has come, or what may be it.
    is_answered: bool,
    /// What waits.
    last: Option<Bytes>,
}

impl EventPieces {
    /// Takes the next piece of the stream, and returns what the client may have now.
    pub(crate) fn next(&mut self, piece: Bytes) -> [Option<Bytes>; 2] {
        let before = self.last.take();
        if self.is_answered {
            let mut joined = BytesMut::from(before.unwrap_or_default());
            joined.extend_from_slice(&piece);
            self.last = Some(joined.freeze());
            return [None, None];
        }
        // What follows the last end may be the beginning of the answer.
        let mut ended = piece;
        let begun = ended.split_off(self.search(&ended));
        self.last = Some(begun).filter(|begun| !begun.is_empty());
        [before, Some(ended).filter(|ended| !ended.is_empty())]
    }

    /// Looks for the answer, and returns where the last event before it ends in the piece.
    fn search(&mut self, piece: &[u8]) -> usize {
        let (mut at, mut ended) = (0, 0);
        for part in piece.chunks(SEARCHED) {
            at += part.len();
            let from = self.event.len();
            self.event.extend_from_slice(part);
            if let Some(end) = end_of_events(&self.event, from) {
                self.is_answered = !ToolAnswer::in_events(&self.event[..end]).is_empty();
                self.event.drain(..end);
            } else {
                self.is_answered = self.event.len() > AHEAD;
            }
            if self.is_answered {
                self.event = Vec::new();
                break;
            }
            if self.event.len() < from + part.len() {
                ended = at - self.event.len();
            }
        }
        ended
    }

    /// What waits until the record is stored.
    pub(crate) fn last(&mut self) -> Option<Bytes> {
        self.last.take()
    }
}

/// How much of a piece is searched at once.
const SEARCHED: usize = 16 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    const ASKS: &str = "data: {\"id\":1,\"method\":\"elicitation/create\"}\n\n";
    const RESULT: &str = "data: {\"id\":1,\"result\":{}}\n\n";

    /// What the client has after each piece, and what waits at the end.
    fn sent(pieces: &[&str]) -> (Vec<String>, String) {
        let mut stream = EventPieces::default();
        let text = |bytes: Bytes| String::from_utf8(bytes.to_vec()).unwrap();
        let sent = pieces.iter().map(|piece| {
            let now = stream.next(Bytes::from((*piece).to_owned()));
            now.into_iter().flatten().map(text).collect()
        });
        let sent = sent.collect();
        (sent, stream.last().map(text).unwrap_or_default())
    }

    #[test]
    fn only_the_answer_waits_and_what_follows() {
        let own = |all: &[&str]| {
            all.iter()
                .map(|text| (*text).to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(sent(&[ASKS, RESULT]), (own(&[ASKS, ""]), RESULT.to_owned()));
        let both = [ASKS, RESULT].concat();
        assert_eq!(sent(&[&both]), (own(&[""]), both.clone()));
        let (start, end) = ASKS.split_at(20);
        assert_eq!(sent(&[start, end]), (own(&["", ASKS]), String::new()));
        let (start, end) = RESULT.split_at(20);
        assert_eq!(sent(&[start, end]), (own(&["", start]), end.to_owned()));
        let rest = [RESULT, ": ping\n\n"].concat();
        assert_eq!(sent(&[RESULT, ": ping\n\n"]), (own(&["", ""]), rest));
        assert_eq!(sent(&[": ping\n\n"]), (own(&[": ping\n\n"]), String::new()));
    }

    /// G11: no event is copied or read whose length is that of a record.
    #[test]
    fn an_event_that_is_too_long_to_be_searched_waits() {
        let long = ASKS.replace("create", &"x".repeat(200 << 10));
        let [ask, long] = [ASKS, &long].map(|text| Bytes::from(text.to_owned()));
        for size in [1 << 10, 20 << 10, 1 << 20] {
            let mut stream = EventPieces::default();
            let (mut sent, mut most) = (Vec::new(), 0);
            let whole = Bytes::from([&*ask, &*long, &*ask].concat());
            for at in (0..whole.len()).step_by(size) {
                let piece = whole.slice(at..whole.len().min(at + size));
                for data in stream.next(piece).into_iter().flatten() {
                    sent.extend_from_slice(&data);
                }
                most = most.max(stream.event.capacity());
            }
            assert!(
                stream.is_answered && most <= 2 * (AHEAD + SEARCHED),
                "{most}"
            );
            assert!(sent.len() <= ask.len() + AHEAD + SEARCHED, "{size}");
            sent.extend_from_slice(&stream.last().unwrap());
            assert!(sent == whole, "{size}");
        }
        // Many short ones do not wait, in however large a piece they come.
        let many = Bytes::from(ask.repeat(10_000));
        let mut stream = EventPieces::default();
        assert_eq!(stream.next(many.clone()), [None, Some(many)]);
    }

    /// Events end where the standard says, and not where pieces do.
    #[test]
    fn the_answer_waits_wherever_its_piece_ends() {
        let crlf = RESULT.replace('\n', "\r\n");
        let mixed = RESULT.replace("\n\n", "\n\r\n");
        let marked = ["\u{feff}", RESULT].concat();
        for result in [RESULT, &crlf, &mixed, &marked] {
            for follows in ["", ": pi", ": ping\n\n: pi"] {
                let answer = [result, follows].concat();
                let (sent, waits) = sent(&[&answer, "ng\n\n"]);
                assert_eq!(
                    sent,
                    [vec![String::new(); 2], vec![]].concat(),
                    "{answer:?}"
                );
                assert_eq!(waits, [&answer, "ng\n\n"].concat());
            }
            let bytes: Vec<_> = (0..result.len())
                .filter(|at| result.is_char_boundary(*at))
                .collect();
            for at in bytes {
                let (start, end) = result.split_at(at);
                let (now, waits) = sent(&[&[ASKS, start].concat(), end, ": ping\n\n"]);
                // A line that `\r` ends has ended, also if `\n` follows.
                assert!(now[0].starts_with(ASKS) || end == "\n", "{now:?}");
                assert_eq!(now.concat() + &waits, [ASKS, result, ": ping\n\n"].concat());
                assert!(
                    waits.ends_with(": ping\n\n") && waits.len() > 8,
                    "{waits:?}"
                );
            }
        }
    }
}
