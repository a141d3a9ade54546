//! The body of a request to the upstream. Its beginning is kept, in case the request has to be sent
//! again.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use tokio::time::Instant;
use tower_idempotency::RequestBody;

use crate::BoxError;
use crate::forwarded::ReservedHeaders;
use crate::metrics::{Limit, Numbers};
use crate::patience::Patience;
use crate::received::ReceivedBody;

/// How many bytes of a body that is still arriving are kept, to be sent again. A body that the layer
/// has read is in memory anyway.
const KEPT: usize = 64 << 10;

/// What each piece of a body takes beside its data, in bytes. A client may send a body byte by byte.
const PIECE: usize = 64;

/// The body of a request, for one attempt after another to send it.
#[derive(Clone, Debug)]
pub(crate) struct Upload(Arc<Mutex<Arriving>>);

#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a fact of its own about the body"
)]
#[derive(Debug)]
struct Arriving {
    body: RequestBody<ReceivedBody>,
    /// The data that earlier attempts have taken.
    taken: Vec<Bytes>,
    kept: usize,
    /// Whether `taken` may exceed `KEPT`.
    is_read: bool,
    /// Whether data was taken and not kept.
    is_lost: bool,
    trailers: Option<HeaderMap>,
    has_ended: bool,
    /// The number of the last attempt.
    attempt: usize,
    reserved: ReservedHeaders,
    /// How long the client may send nothing. `None` once the response has begun: from then on both
    /// sides may have nothing to say for a while.
    patience: Option<(Patience, Arc<Numbers>)>,
    /// Whether data has come since `has_moved` was asked last.
    has_moved: bool,
    /// When the upstream got the last byte.
    sent: Option<Instant>,
}

impl Upload {
    /// `trailers` are those of a body that the layer has read; `is_read` says whether it has.
    pub(crate) fn new(
        body: RequestBody<ReceivedBody>,
        is_read: bool,
        trailers: Option<HeaderMap>,
        reserved: ReservedHeaders,
        patience: (Patience, Arc<Numbers>),
    ) -> Self {
        let mut arriving = Arriving {
            body,
            taken: Vec::new(),
            kept: 0,
            is_read,
            is_lost: false,
            trailers: None,
            has_ended: false,
            attempt: 0,
            reserved,
            patience: Some(patience),
            has_moved: false,
            sent: None,
        };
        if let Some(mut trailers) = trailers {
            arriving.reserved.strip_from_trailers(&mut trailers);
            arriving.trailers = Some(trailers);
        }
        arriving.note_end();
        Self(Arc::new(Mutex::new(arriving)))
    }

    /// The body for the next attempt. `None` if the client has sent more than is kept.
    pub(crate) fn attempt(&self) -> Option<Outgoing> {
        let mut arriving = self.arriving();
        if arriving.is_lost {
            return None;
        }
        arriving.attempt += 1;
        Some(Outgoing {
            attempt: arriving.attempt,
            upload: self.clone(),
            sent: 0,
            has_ended: false,
        })
    }

    /// For how long the upstream has had the whole request; zero if it has not.
    pub(crate) fn time_since_sent(&self) -> Duration {
        let sent = self.arriving().sent;
        sent.map_or(Duration::ZERO, |sent| sent.elapsed())
    }

    /// The response has begun.
    pub(crate) fn is_answered(&self) {
        self.arriving().patience = None;
    }

    /// Whether data has come since this was asked last.
    pub(crate) fn has_moved(&self) -> bool {
        std::mem::take(&mut self.arriving().has_moved)
    }

    fn arriving(&self) -> MutexGuard<'_, Arriving> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Arriving {
    fn note_end(&mut self) {
        self.has_ended |= self.body.is_end_stream();
        if self.has_ended {
            self.sent.get_or_insert_with(Instant::now);
        }
    }

    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BoxError>>> {
        while !self.has_ended {
            let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) else {
                let Some((patience, numbers)) = &mut self.patience else {
                    return Poll::Pending;
                };
                ready!(patience.poll_end(cx));
                numbers.refused(Limit::Client);
                return Poll::Ready(Some(Err("the client sends nothing".into())));
            };
            self.has_moved = true;
            if let Some((patience, _)) = &mut self.patience {
                patience.restart();
            }
            match frame {
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => {
                        self.keep(&data);
                        self.note_end();
                        return Poll::Ready(Some(Ok(data)));
                    }
                    Err(frame) => {
                        if let Ok(mut trailers) = frame.into_trailers() {
                            self.reserved.strip_from_trailers(&mut trailers);
                            self.trailers = Some(trailers);
                        }
                    }
                },
                None => self.has_ended = true,
            }
            self.note_end();
        }
        Poll::Ready(None)
    }

    fn keep(&mut self, data: &Bytes) {
        self.kept += data.len() + PIECE;
        if !self.is_read && self.kept > KEPT {
            self.is_lost = true;
            self.taken = Vec::new();
        }
        if !self.is_lost {
            self.taken.push(data.clone());
        }
    }
}

/// The body of a request, as the upstream gets it in one attempt.
#[derive(Debug)]
pub(crate) struct Outgoing {
    upload: Upload,
    attempt: usize,
    /// How many pieces of data this attempt has sent.
    sent: usize,
    has_ended: bool,
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        if this.has_ended {
            return Poll::Ready(None);
        }
        let mut arriving = this.upload.arriving();
        // hyper may poll the body of an attempt that has failed. It would take the wake-ups of the
        // attempt that runs.
        if arriving.attempt != this.attempt {
            return Poll::Ready(Some(Err("this attempt has failed".into())));
        }
        let data = match arriving.taken.get(this.sent) {
            Some(data) => Some(data.clone()),
            None => match ready!(arriving.poll_data(cx)) {
                Some(data) => Some(data?),
                None => None,
            },
        };
        if let Some(data) = data {
            this.sent += 1;
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        this.has_ended = true;
        let trailers = arriving.trailers.clone();
        Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        let arriving = self.upload.arriving();
        self.has_ended
            || arriving.has_ended
                && arriving.trailers.is_none()
                && self.sent >= arriving.taken.len()
    }

    fn size_hint(&self) -> SizeHint {
        let arriving = self.upload.arriving();
        if arriving.trailers.is_some() {
            // HTTP/1.1 sends trailers only after a chunked body, so no length may be announced.
            return SizeHint::new();
        }
        let taken = arriving.taken.get(self.sent..).unwrap_or_default();
        let taken: usize = taken.iter().map(Bytes::len).sum();
        match arriving.body.size_hint().exact() {
            Some(rest) => SizeHint::with_exact(rest + taken as u64),
            None => SizeHint::new(),
        }
    }
}
