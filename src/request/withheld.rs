//! What of a streamed response its client has at once, and what waits until the record is stored (G3).

use bytes::Bytes;
use http::Version;

use crate::message::first_read::Misannounced;
use crate::options::mcp::EventPieces;

/// The data that wait.
pub(super) struct Withheld {
    last_frame: LastFrame,
    /// The last data of the body.
    last: Option<Bytes>,
    /// How many bytes of a known length are not yet read.
    to_come: Option<u64>,
    /// In a stream of MCP the answer to a call waits, and what follows.
    events: Option<Box<EventPieces>>,
}

/// For how long the last frame of a body without a length waits: any frame may be the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LastFrame {
    IsSent,
    /// In a stream of events, until the handler has no other frame: an event must not wait for the
    /// next one. A client that was given the last event, and knows that it is the last, then mostly
    /// has a recorded response (G3).
    WaitsUntilPending,
    /// In HTTP/1.0, where the end of the connection is that of the body.
    WaitsForNext,
}

impl Withheld {
    /// For a body of this length, if it has one. `events` says of a stream of events that is recorded
    /// whether it is of MCP and can be read.
    pub(super) fn new(version: Version, length: Option<u64>, events: Option<bool>) -> Self {
        let last_frame = if version <= Version::HTTP_10 {
            LastFrame::WaitsForNext
        } else if events == Some(false) {
            LastFrame::WaitsUntilPending
        } else {
            LastFrame::IsSent
        };
        let of_mcp = events == Some(true) && last_frame == LastFrame::IsSent;
        Self {
            last_frame,
            last: None,
            to_come: length,
            events: of_mcp.then(Box::default),
        }
    }

    /// Takes the next data, and sends what the client may have now.
    pub(super) fn next(
        &mut self,
        data: Bytes,
        mut sends: impl FnMut(Bytes),
    ) -> Result<(), Misannounced> {
        if data.is_empty() {
            return Ok(());
        }
        let may_be_last = match &mut self.to_come {
            None => self.last_frame != LastFrame::IsSent,
            Some(to_come) => {
                let left = to_come.checked_sub(data.len() as u64);
                *to_come = left.ok_or(Misannounced)?;
                *to_come == 0
            }
        };
        let now = match &mut self.events {
            Some(events) => events.next(data),
            None => [Some(data), None],
        };
        for data in now.into_iter().flatten() {
            if !may_be_last {
                sends(data);
            } else if let Some(before) = self.last.replace(data) {
                sends(before);
            }
        }
        Ok(())
    }

    /// Whether the body may end here.
    pub(super) fn may_end(&self) -> bool {
        self.to_come.is_none_or(|left| left == 0)
    }

    /// What is sent when the handler has no other frame now.
    pub(super) fn pending(&mut self) -> Option<Bytes> {
        // The last data of a known length are known to be the last.
        let may_go_on = self.to_come.is_none();
        let waits_no_longer = self.last_frame == LastFrame::WaitsUntilPending && may_go_on;
        waits_no_longer.then(|| self.last.take()).flatten()
    }

    /// Withholds nothing from here on, because the record is sealed, or the operation may run again.
    /// Returns what waited.
    pub(super) fn let_go(&mut self) -> [Option<Bytes>; 2] {
        if self.last_frame == LastFrame::WaitsForNext {
            return [None, None];
        }
        self.last_frame = LastFrame::IsSent;
        self.rest()
    }

    /// What waits, in the order in which it is sent.
    pub(super) fn rest(&mut self) -> [Option<Bytes>; 2] {
        let answer = self.events.take().and_then(|mut events| events.last());
        [self.last.take(), answer]
    }
}
