//! Reading a response's body before its head is sent: to its end where that is possible
//! at once, else as far as the body is ready.

use std::error::Error;
use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use http::response;
use http_body::Body;

use crate::limits::Account;
use crate::message::body::{BodyBuffer, BoxError, FullBody, announced_length};
use crate::message::kept::{AHEAD, Room};
use crate::message::media_type::can_have_body;
use crate::runtime::Handle;
use crate::runtime::catch::{CatchUnwind, Panic};

/// The length that a response announces, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AnnouncedLength {
    /// Exact length from the body's size hint.
    pub(crate) by_size_hint: Option<u64>,
    /// Length the server will enforce: `Content-Length` if present, else
    /// `by_size_hint`.
    pub(crate) by_header: Option<u64>,
}

impl AnnouncedLength {
    /// The length of a body that announces none.
    pub(crate) const UNKNOWN: Self = Self {
        by_size_hint: None,
        by_header: None,
    };

    /// A body that announces no more is read to its end before its head leaves. It needs no room to be
    /// read ahead, so that nothing but its end stops that.
    const SMALL: u64 = AHEAD as u64;

    pub(crate) fn of(head: &response::Parts, body: &impl Body) -> Self {
        let exact = body.size_hint().exact();
        let announced = can_have_body(head.status)
            .then(|| announced_length(&head.headers))
            .flatten();
        Self {
            by_size_hint: exact,
            // A server enforces the header, if there are both.
            by_header: announced.or(exact),
        }
    }

    /// The part of a broken body that may be sent. A server that knows the length
    /// takes all of its bytes for a full body, so the last byte is left out.
    fn unfinished(self, mut read: Bytes) -> Bytes {
        let all = self.by_header.map(usize::try_from);
        if let Some(Ok(all)) = all {
            read.truncate(all.saturating_sub(1));
        }
        read
    }

    /// Whether a body of this many bytes, which has ended or not, is not as long as it announced.
    fn is_off(self, bytes: usize, has_ended: bool) -> bool {
        let is_off = |length| bytes as u64 > length || has_ended && length > bytes as u64;
        self.by_header.is_some_and(is_off)
    }

    /// The number of bytes, if they are [few](Self::is_small) and no more than `most`.
    pub(crate) fn small_within(self, most: usize) -> Option<usize> {
        let length = self.by_header.filter(|_| self.is_small())?;
        usize::try_from(length)
            .ok()
            .filter(|length| *length <= most)
    }

    pub(crate) fn is_small(self) -> bool {
        self.by_header.is_some_and(|length| length <= Self::SMALL)
    }
}

/// How far a response was read before its head leaves.
pub(crate) enum FirstRead {
    /// The whole body, and the room that was taken for it.
    Full(FullBody, Room),
    /// The part that may be sent, which counts as long as it is held.
    Broken(Bytes, BoxError),
    Panicked(Panic),
    /// The rest is read while it is sent, by a task of this runtime. Holds the room that was
    /// taken for the part.
    Part(BodyBuffer, Room, Handle),
}

/// Reads up to `limit` bytes and one frame more, of a body that is
/// [small](AnnouncedLength::small_within) until it has ended or is too long. With `at_once`, reading
/// stops at the first frame that is not ready. It also stops where the caller has no room for more bytes
/// that are read ahead of the client; a body of one frame is there as a whole, and needs none.
pub(crate) async fn read<R>(
    mut body: Pin<&mut R>,
    length: AnnouncedLength,
    limit: usize,
    at_once: bool,
    account: &Arc<Account>,
) -> FirstRead
where
    R: Body,
    R::Error: Into<BoxError>,
{
    let mut read = BodyBuffer::default();
    let mut room = Room::default();
    let mut bytes = 0_usize;
    let mut admit = |more| {
        let is_first = bytes == 0;
        bytes = bytes.saturating_add(more);
        bytes <= limit && (is_first || room.reach(account, bytes))
    };
    let reading = poll_fn(|cx| match read.poll_from(body.as_mut(), &mut admit, cx) {
        Poll::Pending if at_once => Poll::Ready(Ok(false)),
        other => other,
    });
    let broken = |read: BodyBuffer, room: Room, error| {
        let read = room.of_whole(read.whole().data, account);
        FirstRead::Broken(length.unfinished(read), error)
    };
    match CatchUnwind::call(|| reading).await {
        Ok(Ok(has_ended)) if length.is_off(read.len(), has_ended) => {
            broken(read, room, Box::new(Misannounced))
        }
        Ok(Ok(true)) => FirstRead::Full(read.whole(), room),
        Ok(Ok(false)) => match Handle::try_current() {
            Ok(runtime) => FirstRead::Part(read, room, runtime),
            Err(error) => broken(read, room, error.into()),
        },
        Ok(Err(error)) => broken(read, room, error),
        Err(panic) => FirstRead::Panicked(panic),
    }
}

/// A response whose body is not as long as it announced. A client can't take such a
/// body for complete, so it is not recorded.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Misannounced;

impl fmt::Display for Misannounced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the response's body is not as long as it announced")
    }
}

impl Error for Misannounced {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_broken_body_all_but_the_last_byte_that_it_announced_may_be_sent() {
        for (announced, read, sent) in [
            (None, 10, 10),
            (Some(10), 10, 9),
            (Some(10), 9, 9),
            (Some(10), 12, 9),
            (Some(1), 1, 0),
            (Some(0), 1, 0),
            (Some(u64::MAX), 10, 10),
        ] {
            let length = AnnouncedLength {
                by_header: announced,
                by_size_hint: None,
            };
            let unfinished = length.unfinished(Bytes::from(vec![b'x'; read]));
            assert_eq!(unfinished.len(), sent, "{announced:?} {read}");
        }
    }
}
