//! Step 4: the content of a request, as far as there is room for it.

use std::future::poll_fn;
use std::mem;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http::request::Parts;
use http_body::Body;
use http_body_util::LengthLimitError;
use pin_project_lite::pin_project;
use tracing::debug;

use crate::lease::SharedTimer;
use crate::limits::{Account, Full, Holding, Resource};
use crate::message::body::{BodyBuffer, BoxError, FullBody, TURN, announced_length};
use crate::message::own_head::own_head;
use crate::options::RouteOptions;
use crate::options::fingerprint::{BegunFingerprint, BodyDigest};
use crate::record::Fingerprint;
use crate::record::digest::Digests;
use crate::rejection::Rejection;
use crate::request::core::Core;
use crate::request::operation::{Operation, ProtectedRequest};
use crate::request::stop::Stop;

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

impl Content {
    /// The fingerprint under one of the layer's secrets: 0 is the current one, and the old ones
    /// follow.
    pub(super) fn fingerprint(
        &self,
        request: &ProtectedRequest,
        secret: usize,
        head: &Parts,
    ) -> Fingerprint {
        match self {
            Content::Whole(body) => request.fingerprint(secret, head, &body.data),
            Content::Large(large) => large.1[secret],
            Content::Digested(digested) => digested.0[secret],
        }
    }

    /// The body, if it was kept. A replay takes nothing from one that was not.
    pub(super) fn kept(&self) -> Bytes {
        match self {
            Content::Whole(body) => body.data.clone(),
            Content::Large(large) => large.0.data.clone(),
            Content::Digested(_) => Bytes::new(),
        }
    }
}

/// Within which limits the body of a request is read, and for whom.
#[derive(Clone, Copy)]
pub(crate) struct ReadLimits<'a> {
    pub(super) core: &'a Core,
    pub(super) options: &'a RouteOptions,
    pub(super) account: &'a Arc<Account>,
}

impl ProtectedRequest {
    pub(crate) fn limits(&self) -> ReadLimits<'_> {
        ReadLimits {
            core: &self.core,
            options: &self.options,
            account: self.account(),
        }
    }
}

impl ReadLimits<'_> {
    /// Step 4: a body that announces too much is not asked for.
    pub(crate) fn check_announced<B: Body>(self, head: &Parts, body: &B) -> Result<(), Rejection> {
        let hint = body.size_hint();
        let announced = hint.exact().or_else(|| announced_length(&head.headers));
        if announced.unwrap_or(0).max(hint.lower()) > self.options.max_request_body as u64 {
            return Err(self.body_too_large());
        }
        Ok(())
    }

    fn body_too_large(self) -> Rejection {
        Rejection::body_too_large(self.options.max_request_body)
    }

    /// What is full refuses this request.
    pub(super) fn refuse(self, full: Full) -> Rejection {
        self.core.leases.reached_limit(full);
        Rejection::full(full)
    }
}

pin_project! {
    /// Step 4: a body that is read to its end, within `max_request_body`, `body_timeout` and
    /// `max_buffered_bytes`.
    pub(super) struct BodyReading<B> {
        // Dropped once it has ended: its drop may panic, and nothing is claimed yet.
        #[pin]
        body: Option<B>,
        promised: Option<usize>,
        kept: Kept,
        // Set once a part of the body was not there yet.
        timer: Option<SharedTimer>,
    }
}

impl<B> BodyReading<B>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    /// Takes room for all of an announced body before the body is asked for: half a body is of no
    /// use. Without that room, the body is given back.
    pub(super) fn new(limits: ReadLimits<'_>, body: B) -> Result<Self, (B, Full)> {
        let promised = promised(&body);
        let mut room = limits.account.nothing(Resource::RequestBytes);
        if let Err(full) = room.grow(promised.unwrap_or(0)) {
            return Err((body, full));
        }
        Ok(Self {
            body: Some(body),
            promised,
            kept: Kept {
                read: BodyBuffer::of_length(promised),
                may_have: limits.options.max_request_body,
                room: Some(room),
                full: None,
            },
            timer: None,
        })
    }

    pub(super) fn poll(
        self: Pin<&mut Self>,
        limits: ReadLimits<'_>,
        head: &mut Parts,
        cx: &mut Context<'_>,
    ) -> Poll<Result<BodyBuffer, Stop>> {
        let mut this = self.project();
        let kept = this.kept;
        let body = this.body.as_mut().as_pin_mut();
        let body = body.expect("the body has not ended");
        let ended = match kept.poll(body, cx) {
            Poll::Ready(ended) => {
                this.body.set(None);
                ended
            }
            Poll::Pending => {
                let timer = this.timer.get_or_insert_with(|| {
                    own_head(head);
                    SharedTimer::new(&limits.core.leases, limits.options.body_timeout)
                });
                ready!(timer.poll(cx));
                return Poll::Ready(Err(Rejection::body_timeout().into()));
            }
        };
        Poll::Ready(match ended {
            Ok(true) if this.promised.is_some_and(|length| length > kept.read.len()) => {
                Err(cut_short())
            }
            Ok(true) => Ok(mem::take(&mut kept.read)),
            Ok(false) => Err(match kept.full {
                Some(full) => limits.refuse(full).into(),
                None => limits.body_too_large().into(),
            }),
            Err(error) => Err(broken(&error)),
        })
    }

    /// The room of a body that was read.
    pub(super) fn take_room(self: Pin<&mut Self>) -> Holding {
        let room = self.project().kept.room.take();
        room.expect("the room is taken once")
    }
}

/// The length of a body, if it is known before the body is read.
pub(super) fn promised(body: &impl Body) -> Option<usize> {
    let length = body.size_hint().exact()?;
    usize::try_from(length).ok()
}

impl Operation {
    /// Digests a large body on another thread, so that no other request waits, and in turns with
    /// other callers (G11).
    pub(super) async fn digest_aside(&self, head: &Parts, body: FullBody) -> Content {
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

    /// Reads a body that there is no room for, and keeps its digest alone. A body of unknown length,
    /// one that is compared as JSON, and one whose members a replay needs can't be digested so.
    pub(super) async fn digest<B>(
        &self,
        head: &mut Parts,
        body: B,
        full: Full,
    ) -> Result<Content, Stop>
    where
        B: Body,
        B::Error: Into<BoxError>,
    {
        let promised = promised(&body);
        let mut body = pin!(body);
        own_head(head);
        let rules = &self.core.rules;
        let sent = rules.routes.sent(head);
        let begin = |digests: &Digests| {
            let rules = &self.options.fingerprint;
            rules.of_body_in_pieces(digests, head, sent, promised?)
        };
        let all = [&rules.digests].into_iter().chain(&rules.old_digests);
        let begun: Option<Vec<BodyDigest>> = all.map(begin).collect();
        // A replay may need members of the body.
        let begun = begun.filter(|_| !self.options.replay_json.reads_requests());
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
}

/// A body that is kept while it is read.
struct Kept {
    read: BodyBuffer,
    /// The option `max_request_body`.
    may_have: usize,
    /// `None` once the body was read.
    room: Option<Holding>,
    /// Why there was no room for more.
    full: Option<Full>,
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
        let room = self.room.as_mut().expect("the body is being read");
        let admit = |bytes| {
            length += bytes;
            // An announced body has its room already.
            let more = length.saturating_sub(room.amount());
            length <= self.may_have && {
                self.full = room.grow(more).err();
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
