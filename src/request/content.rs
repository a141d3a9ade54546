//! Step 4: the content of a request, as far as there is room for it.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Buf;
use http::request::Parts;
use http_body::Body;
use http_body_util::LengthLimitError;
use tracing::debug;

use crate::limits::{Full, Holding, Resource};
use crate::message::body::{BodyBuffer, BoxError, FullBody, TURN};
use crate::message::own_head::own_head;
use crate::options::fingerprint::{BegunFingerprint, BodyDigest};
use crate::record::Fingerprint;
use crate::record::digest::Digests;
use crate::rejection::Rejection;
use crate::request::operation::Operation;
use crate::request::stop::Stop;
use crate::runtime::deadline::Deadline;

/// The body of a request, or what it would be compared by. What is rare is boxed: the request keeps
/// its content while it is claimed.
pub(crate) enum Content {
    Whole(FullBody),
    /// A body whose digest takes long, and its fingerprint under each secret.
    Large(Box<(FullBody, Vec<Fingerprint>)>),
    /// There was no room for the body, so it was digested while it was read: the fingerprint
    /// under each secret, the current one first. The handler can't run, but the fingerprint says
    /// whether there is a response to be replayed.
    Digested(Box<(Vec<Fingerprint>, Full)>),
}

impl Operation {
    /// Step 4: the whole body, within `max_request_body`, `body_timeout` and
    /// `max_buffered_bytes`.
    pub(super) fn read<'a, B>(
        &'a self,
        head: &'a mut Parts,
        body: B,
    ) -> impl Future<Output = Result<Content, Stop>> + use<'a, B>
    where
        B: Body,
        B::Error: Into<BoxError>,
    {
        let promised = body.size_hint().exact();
        let promised = promised.and_then(|length| usize::try_from(length).ok());
        async move {
            let mut body = pin!(body);
            let mut room = self.account().nothing(Resource::RequestBytes);
            let limit = self.options.body_timeout;
            // Room for all of an announced body is taken before the body is asked for: half a
            // body is of no use.
            if let Err(full) = room.grow(promised.unwrap_or(0)) {
                let digested = self.digest(head, body, promised, full);
                let digested = Deadline::new(limit, Box::pin(digested)).await;
                return digested.unwrap_or_else(|| Err(Rejection::body_timeout().into()));
            }
            let mut kept = Kept {
                read: BodyBuffer::of_length(promised),
                may_have: self.options.max_request_body,
                room,
                full: None,
                waits: false,
            };
            let ended = poll_fn(|cx| {
                let polled = kept.poll(body.as_mut(), cx);
                if polled.is_pending() && !kept.waits {
                    kept.waits = true;
                    own_head(head);
                }
                polled
            });
            match Deadline::new(limit, ended).await {
                Some(Ok(true)) if promised.is_some_and(|length| length > kept.read.len()) => {
                    Err(cut_short())
                }
                Some(Ok(true)) => {
                    self.hold_body(kept.room);
                    let body = kept.read.alone();
                    if self.options.fingerprint.takes_long(head, body.data.len()) {
                        return Ok(Box::pin(self.digest_aside(head, body)).await);
                    }
                    Ok(Content::Whole(body))
                }
                Some(Ok(false)) => Err(match kept.full {
                    Some(full) => self.refuse(full),
                    None => self.body_too_large(),
                }),
                Some(Err(error)) => Err(broken(&error)),
                None => Err(Rejection::body_timeout().into()),
            }
        }
    }

    /// Digests a large body on another thread, so that no other request waits, and in turns with
    /// other callers (G11).
    async fn digest_aside(&self, head: &Parts, body: FullBody) -> Content {
        let rules = &self.core.rules;
        let sent = rules.routes.sent(head);
        let begin = |digests| self.options.fingerprint.begin(digests, head, sent);
        let all = [&rules.digests].into_iter().chain(&rules.old_digests);
        let begun: Vec<_> = all.map(begin).collect();
        let digest = {
            let (options, data) = (Arc::clone(&self.options), body.data.clone());
            move || {
                let end = |begun: &BegunFingerprint| options.fingerprint.end(begun.clone(), &data);
                begun.iter().map(end).collect::<Vec<_>>()
            }
        };
        let caller = self.account().caller();
        let digested = self.core.turns.run(caller, digest.clone()).await;
        // Without a thread for it, the work holds up this one.
        let fingerprints = digested.unwrap_or_else(digest);
        Content::Large(Box::new((body, fingerprints)))
    }

    /// Reads a body that there is no room for, and keeps its digest alone. A body of unknown length
    /// and one that is compared as JSON can't be digested so.
    async fn digest<B>(
        &self,
        head: &mut Parts,
        mut body: Pin<&mut B>,
        promised: Option<usize>,
        full: Full,
    ) -> Result<Content, Stop>
    where
        B: Body,
        B::Error: Into<BoxError>,
    {
        own_head(head);
        let rules = &self.core.rules;
        let sent = rules.routes.sent(head);
        let begin = |digests: &Digests| {
            let rules = &self.options.fingerprint;
            rules.of_body_in_pieces(digests, head, sent, promised?)
        };
        let all = [&rules.digests].into_iter().chain(&rules.old_digests);
        let begun: Option<Vec<BodyDigest>> = all.map(begin).collect();
        let Some(mut begun) = begun else {
            return Err(self.refuse(full));
        };
        let mut left = promised.unwrap_or(0);
        let mut turn = 0;
        let read = poll_fn(|cx| {
            loop {
                let frame = match ready!(body.as_mut().poll_frame(cx)) {
                    Some(Ok(frame)) => frame,
                    Some(Err(error)) => return Poll::Ready(Err(broken(&error.into()))),
                    None if left > 0 => return Poll::Ready(Err(cut_short())),
                    None => return Poll::Ready(Ok(())),
                };
                let Ok(mut data) = frame.into_data() else {
                    continue;
                };
                if data.remaining() > left {
                    return Poll::Ready(Err(cut_short()));
                }
                left -= data.remaining();
                while data.has_remaining() {
                    let chunk = data.chunk();
                    for digest in &mut begun {
                        digest.add(chunk);
                    }
                    data.advance(data.chunk().len());
                }
                turn += 1;
                if turn % TURN == 0 {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
            }
        });
        read.await?;
        let digests = begun.into_iter().map(BodyDigest::finish);
        Ok(Content::Digested(Box::new((digests.collect(), full))))
    }

    pub(super) fn body_too_large(&self) -> Stop {
        Rejection::body_too_large(self.options.max_request_body).into()
    }
}

/// A body that is kept while it is read.
struct Kept {
    read: BodyBuffer,
    /// The option `max_request_body`.
    may_have: usize,
    room: Holding,
    /// Why there was no room for more.
    full: Option<Full>,
    /// Whether a part of the body was not there yet.
    waits: bool,
}

impl Kept {
    /// Resolves to `true` at the end of the body, or to `false` where it is too large or there is
    /// no room for more.
    fn poll<B>(&mut self, body: Pin<&mut B>, cx: &mut Context<'_>) -> Poll<Result<bool, BoxError>>
    where
        B: Body,
        B::Error: Into<BoxError>,
    {
        let mut length = self.read.len();
        let admit = |bytes| {
            length += bytes;
            // An announced body has its room already.
            let more = length.saturating_sub(self.room.amount());
            length <= self.may_have && {
                self.full = self.room.grow(more).err();
                self.full.is_none()
            }
        };
        self.read.poll_from(body, admit, cx)
    }
}

/// hyper ends a body of HTTP/2 without an error when the client resets the stream with `NO_ERROR`.
fn cut_short() -> Stop {
    Rejection::body_unreadable().into()
}

fn broken(error: &BoxError) -> Stop {
    let error: &(dyn std::error::Error + 'static) = &**error;
    if is_length_limit(error) {
        return Rejection::body_too_large_elsewhere().into();
    }
    debug!(error, "a request's body broke off");
    Rejection::body_unreadable().into()
}

/// Whether a body limit outside the layer ended the body.
fn is_length_limit(error: &(dyn std::error::Error + 'static)) -> bool {
    std::iter::successors(Some(error), |error| error.source())
        .any(<dyn std::error::Error>::is::<LengthLimitError>)
}
