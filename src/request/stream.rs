//! Steps 7 and 8 for a response that is sent while it is read: a task reads the
//! handler's body ahead of the client, and records it at its end.
//!
//! A slow client holds the task up only once the body is too large to record, or there is no
//! room to keep it. If the client leaves, or reads nothing for too long, the task goes on to the
//! end (G4).

use std::error::Error;
use std::fmt;
use std::future::{Future, poll_fn};
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::SystemTime;

use bytes::{Buf, Bytes};
use http::{HeaderMap, Response, Version, response};
use http_body::Body;
use tracing::{Instrument, debug};

use crate::lease::{Ended, LeaseOwner, Verdict};
use crate::limits::Holding;
use crate::message::body::{BodyBuffer, BoxError, FullBody, TURN};
use crate::message::first_read::{AnnouncedLength, Misannounced};
use crate::message::kept::{AHEAD, Room, unsent};
use crate::message::pipe::{Demand, End, Pipe};
use crate::message::pipe_body::PipeBody;
use crate::message::response_body::ResponseBody;
use crate::message::send_timeout::SendTimeout;
use crate::options::OnDisconnect;
use crate::request::judge::{BodyEnd, head_for_judging, judge};
use crate::request::operation::Operation;
use crate::request::withheld::Withheld;
use crate::runtime::catch::{CatchUnwind, Panic};
use crate::runtime::{Handle, Sleep, sleep};

/// A response whose body a task reads while it is sent.
pub(crate) struct ReadAhead<R> {
    operation: Arc<Operation>,
    body: Pin<Box<R>>,
    pipe: Arc<Pipe>,
    length: AnnouncedLength,
    record: KeptBody,
    /// How many more bytes can be recorded.
    recordable: usize,
    withheld: Withheld,
    /// Whether the body was longer than it announced.
    is_off: bool,
    /// Whether the body has no end that could be waited for.
    endless: bool,
    /// When a stream of events that is recorded has taken too long for that.
    events_end_by: Option<Pin<Box<Sleep>>>,
    /// Whether the client is let go if its caller needs the room of a large frame.
    makes_room: bool,
    trailers: Option<HeaderMap>,
    overdue: Option<Pin<Box<Sleep>>>,
    send_timeout: SendTimeout,
}

/// Whether the body is kept to be recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum KeptBody {
    Kept,
    /// It is too large to record, or has no end.
    TooLarge,
    /// There was no room to keep it.
    NoRoom,
}

/// Why the task reads no more.
enum Finished {
    Full,
    Broken(BoxError),
    Panicked(Panic),
    /// A stream of events has reached a limit within which it is recorded.
    Unrecordable,
    /// The client has left, and this body is not read without one.
    Ended,
}

impl<R> ReadAhead<R>
where
    R: Body + Send + 'static,
    R::Data: Send,
    R::Error: Into<BoxError>,
{
    /// `events` says of a stream of events that is recorded, if it ends within the limits, when its
    /// operation began, and whether it is of MCP and can be read.
    pub(crate) fn new(
        operation: &Arc<Operation>,
        body: Pin<Box<R>>,
        read: BodyBuffer,
        mut room: Room,
        length: AnnouncedLength,
        version: Version,
        events: Option<(SystemTime, bool)>,
    ) -> Self {
        let recordable = operation.options.max_recorded_body;
        let account = operation.account();
        let FullBody { data, trailers } = read.joined();
        let least = length.by_header.unwrap_or_default().max(data.len() as u64);
        let record = if least > recordable as u64 {
            KeptBody::TooLarge
        } else if room.reach(account, data.len()) {
            KeptBody::Kept
        } else {
            KeptBody::NoRoom
        };
        // What is not kept is there all the same, so it counts until it is sent.
        let (data, room) = match record {
            KeptBody::Kept => (data, room),
            _ => (room.of_whole(data, account), Room::default()),
        };
        let pipe = Pipe::new(account, room);
        let mut reading = Self {
            operation: Arc::clone(operation),
            body,
            pipe: Arc::new(pipe),
            length,
            record: KeptBody::Kept,
            recordable,
            withheld: Withheld::new(version, length.by_header, events.map(|(_, of_mcp)| of_mcp)),
            is_off: false,
            endless: false,
            events_end_by: events.map(|(began_at, _)| {
                let took = began_at.elapsed().unwrap_or_default();
                let left = operation.options.max_operation.saturating_sub(took);
                Box::pin(sleep(left))
            }),
            makes_room: false,
            trailers: trailers.map(|trailers| *trailers),
            overdue: None,
            send_timeout: SendTimeout::new(operation.core.send_timeout),
        };
        if record == KeptBody::Kept {
            reading.data(data);
        } else {
            reading.forgo_record(record);
            reading.waits(&data);
            reading.show(data);
        }
        reading
    }

    /// For a body that has no end that could be waited for: the operation is over when
    /// its client leaves.
    pub(crate) fn endless(operation: &Arc<Operation>, body: Pin<Box<R>>) -> Self {
        let length = AnnouncedLength::UNKNOWN;
        let (read, room) = (BodyBuffer::default(), Room::default());
        let mut reading = Self::new(operation, body, read, room, length, Version::HTTP_11, None);
        reading.forgo_record(KeptBody::TooLarge);
        reading.endless = true;
        reading
    }

    /// The response whose body a task reads from here on. `None` if another owner has
    /// taken over already.
    pub(crate) fn send(
        self,
        runtime: &Handle,
        owner: LeaseOwner,
        mut head: response::Parts,
        began_at: SystemTime,
    ) -> Option<Response<ResponseBody<R>>> {
        let operation = Arc::clone(&self.operation);
        if operation.is_lost() {
            owner.overtaken();
            return None;
        }
        operation.watch();
        let head_for_judging = head_for_judging(&head);
        operation.mark(&mut head.headers, began_at, None);
        let pipe = Arc::clone(&self.pipe);
        let body = PipeBody::new(pipe, self.length.by_size_hint);
        let run = self.run(owner, head_for_judging, began_at);
        runtime.spawn(run.instrument(operation.span.clone()));
        Some(Response::from_parts(head, ResponseBody::streamed(body)))
    }

    async fn run(self, owner: LeaseOwner, head: response::Parts, began_at: SystemTime) {
        let (pipe, limit) = (Arc::clone(&self.pipe), self.send_timeout.limit());
        self.operate(owner, head, began_at).await;
        // Nothing but the pipe is held here any more.
        SendTimeout::new(limit).until_taken(&pipe).await;
    }

    async fn operate(mut self, owner: LeaseOwner, head: response::Parts, began_at: SystemTime) {
        let mut owner = Some(owner);
        let mut finished = self.read().await;
        let mut cut = None;
        if matches!(finished, Finished::Unrecordable) {
            let end = BodyEnd::TooLarge(None);
            let verdict = judge(&self.operation.options, &head, end, began_at).into_owned();
            // An operation that may run again runs until its response has ended.
            if !matches!(verdict, Verdict::Release(_))
                && let Some(owner) = owner.take()
            {
                cut = Cut::after(owner.end(verdict).await);
            }
            if cut.is_none() {
                self.withhold_nothing();
                finished = self.read().await;
            }
        }
        if let Some(owner) = owner {
            let is_whole = matches!(finished, Finished::Full) && self.record == KeptBody::Kept;
            let whole = is_whole.then(|| FullBody {
                data: self.pipe.whole(),
                trailers: self.trailers.clone().map(Box::new),
            });
            let operation = Arc::clone(&self.operation);
            let end = match &whole {
                Some(body) => BodyEnd::of_full(&operation, &head.headers, body).await,
                None => self.body_end(&finished),
            };
            let verdict = judge(&operation.options, &head, end, began_at).into_owned();
            cut = Cut::after(owner.end(verdict).await);
        }
        let end = match (finished, cut) {
            (Finished::Panicked(panic), _) => End::Panicked(panic),
            (Finished::Broken(error), _) => End::Broken(error),
            (_, Some(cut)) => End::Broken(Box::new(cut)),
            (_, None) => End::Full(self.trailers.take()),
        };
        // The operation counts as one without a client until all that it held is dropped.
        let without_client = self.end(end);
        drop(self);
        drop(without_client);
    }

    async fn read(&mut self) -> Finished {
        let read = CatchUnwind::call(|| poll_fn(|cx| self.poll(cx))).await;
        read.unwrap_or_else(Finished::Panicked)
    }

    /// The end of a body that was not kept, or not read to its end.
    fn body_end(&self, finished: &Finished) -> BodyEnd<'_> {
        let trailers = self.trailers.as_ref();
        match (finished, self.record) {
            (Finished::Full | Finished::Ended, KeptBody::TooLarge) => BodyEnd::TooLarge(trailers),
            (Finished::Full | Finished::Ended, KeptBody::NoRoom) => BodyEnd::NoRoom(trailers),
            // An endless body that breaks off is as complete as it gets.
            (Finished::Broken(_) | Finished::Panicked(_), _) if self.endless => {
                BodyEnd::TooLarge(trailers)
            }
            _ => BodyEnd::Broken,
        }
    }

    /// Hands the client the end of the body, with the data that was withheld.
    fn end(&mut self, end: End) -> Option<Holding> {
        let last = match &end {
            End::Full(_) => self.withheld.rest(),
            End::Broken(error) => {
                debug!(error = &**error as &dyn Error, "a response was cut off");
                [None, None]
            }
            End::Panicked(_) | End::Delivered => [None, None],
        };
        self.pipe.end(last.into_iter().flatten(), end)
    }

    /// Reads on, and lets the client go that reads nothing.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Finished> {
        let finished = self.poll_body(cx);
        if finished.is_pending() && self.send_timeout.poll(&self.pipe, cx).is_ready() {
            debug!("a client read nothing for too long: the operation goes on without it");
            cx.waker().wake_by_ref();
        }
        finished
    }

    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Finished> {
        for _ in 0..TURN {
            if self.is_off {
                return Poll::Ready(Finished::Broken(Box::new(Misannounced)));
            }
            // Before a client that takes nothing holds the task up: the lease would lapse.
            if self.is_over(cx) {
                return Poll::Ready(Finished::Unrecordable);
            }
            match self.pipe.demand(self.record != KeptBody::Kept, cx) {
                Demand::More => {}
                Demand::Enough => return Poll::Pending,
                Demand::Gone if self.ends_with_client() => return Poll::Ready(Finished::Ended),
                // A body without an end must not be read for ever without a client.
                Demand::Gone => {
                    let limit = self.operation.options.max_operation;
                    let overdue = self.overdue.get_or_insert_with(|| Box::pin(sleep(limit)));
                    if overdue.as_mut().poll(cx).is_ready() {
                        return Poll::Ready(Finished::Ended);
                    }
                }
            }
            let Poll::Ready(frame) = self.body.as_mut().poll_frame(cx) else {
                if let Some(data) = self.withheld.pending() {
                    self.pipe.push(data);
                }
                return Poll::Pending;
            };
            match frame {
                None if self.withheld.may_end() => return Poll::Ready(Finished::Full),
                None => return Poll::Ready(Finished::Broken(Box::new(Misannounced))),
                Some(Err(error)) => return Poll::Ready(Finished::Broken(error.into())),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(mut data) => self.data(data.copy_to_bytes(data.remaining())),
                    Err(frame) => {
                        if let Ok(fields) = frame.into_trailers() {
                            self.trailers.get_or_insert_default().extend(fields);
                        }
                    }
                },
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Whether a stream of events has just reached a limit within which it is recorded. From then on
    /// it is one without an end.
    fn is_over(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(end_by) = &mut self.events_end_by else {
            return false;
        };
        if self.record == KeptBody::Kept && end_by.as_mut().poll(cx).is_pending() {
            return false;
        }
        if self.record == KeptBody::Kept {
            self.forgo_record(KeptBody::TooLarge);
        }
        self.events_end_by = None;
        self.endless = true;
        true
    }

    /// What was withheld until the stream is recorded is sent: it is sealed, or its operation may run
    /// again.
    fn withhold_nothing(&mut self) {
        let waited = self.withheld.let_go().into_iter().flatten();
        waited.for_each(|data| self.pipe.push(data));
    }

    fn forgo_record(&mut self, why: KeptBody) {
        self.record = why;
        self.pipe.forgo_record();
    }

    /// How many bytes the record's body will have at most.
    fn most(&self) -> usize {
        let most = self.operation.options.max_recorded_body;
        let announced = self.length.by_header.map(usize::try_from);
        announced.map_or(most, |length| length.unwrap_or(most).min(most))
    }

    fn ends_with_client(&self) -> bool {
        self.endless || self.operation.options.on_disconnect == OnDisconnect::Cancel
    }

    fn data(&mut self, data: Bytes) {
        if self.record == KeptBody::Kept {
            match self.recordable.checked_sub(data.len()) {
                None => self.forgo_record(KeptBody::TooLarge),
                Some(_) if !self.pipe.keep(&data, self.most()) => {
                    self.forgo_record(KeptBody::NoRoom);
                }
                Some(left) => self.recordable = left,
            }
        }
        if self.record == KeptBody::Kept {
            self.show(data);
            return;
        }
        self.waits(&data);
        let data = unsent(data, self.operation.account());
        self.show(data);
    }

    /// These data are not recorded, and may wait for the client.
    fn waits(&mut self, data: &Bytes) {
        if data.len() > AHEAD && !mem::replace(&mut self.makes_room, true) {
            let account = self.operation.account();
            account.waits(Arc::<Pipe>::downgrade(&self.pipe));
        }
    }

    /// Hands data to the client, but for those that wait for the record.
    fn show(&mut self, data: Bytes) {
        let sent = self.withheld.next(data, |data| self.pipe.push(data));
        self.is_off |= sent.is_err();
    }
}

impl<R> Drop for ReadAhead<R> {
    /// The task can end without an end of the body: the store or a rule panicked, or
    /// the runtime is shut down. Without this the client would wait for ever.
    fn drop(&mut self) {
        self.pipe.cut(|| Box::new(Cut::Unread));
    }
}

/// Why a client does not get the end of a response.
#[derive(Clone, Copy, Debug)]
enum Cut {
    Unrecorded,
    Overtaken,
    Unread,
}

impl Cut {
    fn after(ended: Ended) -> Option<Self> {
        match ended {
            Ended::Pending => Some(Cut::Unrecorded),
            Ended::Overtaken => Some(Cut::Overtaken),
            Ended::Recorded
            | Ended::Sealed
            | Ended::Released
            | Ended::OutcomeUnknown
            | Ended::LeftInFlight => None,
        }
    }
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Cut::Unrecorded => "the response was not recorded in time, so its end was not sent",
            Cut::Overtaken => {
                "another execution has taken over, so the end of this response was not sent"
            }
            Cut::Unread => {
                "the task that read the response ended early, so the response's end was not sent"
            }
        })
    }
}

impl Error for Cut {}
