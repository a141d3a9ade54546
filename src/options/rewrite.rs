//! What changes in the body of a recorded response before it is replayed: in JSON, and in each message
//! of a stream of events.

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_RANGE, ETAG};
use http::{HeaderMap, HeaderName, StatusCode};

use crate::message::event_stream::events;
use crate::options::json::splice::{Edit, Splice};
use crate::record::Completion;

/// How much larger a response that changes may be than `max_recorded_body`, or than it was.
const SLACK: usize = 64 << 10;

/// A response would be too large: what a retry puts into each of many messages could be many times
/// its own size.
#[derive(Debug)]
pub(crate) struct TooLarge;

/// What becomes of one message.
pub(crate) enum Rewrite {
    Edits(Vec<Edit>),
    /// The message is left out of its stream.
    LeftOut,
}

/// Where the messages of a body stand.
#[derive(Clone, Copy)]
pub(crate) enum Messages {
    /// The body is one message.
    Whole,
    /// Each event of a stream has one.
    InEvents {
        /// Whether the ids of the events stay in it.
        keeps_ids: bool,
    },
}

/// The recorded response with each of its messages rewritten; `None` if nothing changes.
pub(crate) fn rewritten(
    recorded: &Completion,
    messages: Messages,
    max_recorded_body: usize,
    mut rewrite: impl FnMut(&str) -> Rewrite,
) -> Result<Option<Completion>, TooLarge> {
    let body = &*recorded.body;
    let mut rewrite = |message: &[u8]| match std::str::from_utf8(message) {
        Ok(text) => rewrite(text),
        Err(_) => Rewrite::Edits(Vec::new()),
    };
    // The limit may have been larger when the response was recorded.
    let most = max_recorded_body.max(body.len()).saturating_add(SLACK);
    let mut changed = Changed::new(body, most);
    match messages {
        Messages::Whole => {
            if let Rewrite::Edits(edits) = rewrite(body) {
                changed.make(&edits)?;
            }
        }
        Messages::InEvents { keeps_ids } => {
            for event in events(body) {
                let removed = |place| Edit {
                    place,
                    with: Vec::new(),
                };
                changed.make(&match rewrite(&event.text()) {
                    Rewrite::LeftOut => vec![removed(event.place)],
                    Rewrite::Edits(message) => {
                        let mut edits = Vec::new();
                        for Edit { place, mut with } in message {
                            // A line break ends a line of the stream. A string of JSON has none.
                            let breaks = with.iter_mut();
                            for byte in breaks.filter(|byte| matches!(byte, b'\n' | b'\r')) {
                                *byte = b' ';
                            }
                            // The line in which a value begins has all of the new one.
                            edits.extend(event.places(&place).map(|place| Edit {
                                place,
                                with: std::mem::take(&mut with),
                            }));
                        }
                        if !keeps_ids {
                            edits.extend(event.ids.into_iter().map(removed));
                            edits.sort_by_key(|edit| edit.place.start);
                        }
                        edits
                    }
                })?;
            }
        }
    }
    let Some(body) = changed.finish()? else {
        return Ok(None);
    };
    let mut own = recorded.clone();
    own.body = Bytes::from(body);
    remove_digests(&mut own.headers);
    if let Some(trailers) = &mut own.trailers {
        remove_digests(trailers);
    }
    Ok(Some(own))
}

/// A body in which edits are made, up to a length.
struct Changed<'a> {
    body: &'a [u8],
    /// `None` before the first edit: most bodies have none, and are not copied.
    splice: Option<Splice<'a>>,
    most: usize,
}

impl<'a> Changed<'a> {
    fn new(body: &'a [u8], most: usize) -> Self {
        Self {
            body,
            splice: None,
            most,
        }
    }

    fn make(&mut self, edits: &[Edit]) -> Result<(), TooLarge> {
        for edit in edits {
            let splice = self.splice.get_or_insert_with(|| Splice::new(self.body));
            splice.make(edit);
            if splice.length() > self.most {
                return Err(TooLarge);
            }
        }
        Ok(())
    }

    fn finish(self) -> Result<Option<Vec<u8>>, TooLarge> {
        let body = self.splice.map(Splice::finish);
        match body {
            Some(body) if body.len() > self.most => Err(TooLarge),
            body => Ok(body),
        }
    }
}

/// Whether the body of a recorded response is a whole text, as it was before any coding.
pub(crate) fn is_whole(recorded: &Completion) -> bool {
    !is_coded(&recorded.headers)
        && !recorded.headers.contains_key(CONTENT_RANGE)
        && recorded.status != StatusCode::PARTIAL_CONTENT
}

/// Whether the body of a message with these headers is in a coding.
pub(crate) fn is_coded(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(CONTENT_ENCODING).iter();
    codings.any(|coding| coding != "identity")
}

/// The digests of a body that is another one now (RFC 9110, 8.8.3; RFC 9530; RFC 3230; RFC 1864).
fn remove_digests(fields: &mut HeaderMap) {
    for name in DIGESTS {
        fields.remove(name);
    }
}

const DIGESTS: [HeaderName; 5] = [
    ETAG,
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("repr-digest"),
    HeaderName::from_static("digest"),
    HeaderName::from_static("content-md5"),
];
