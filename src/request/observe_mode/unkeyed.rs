//! An observed request whose key may be in its body: the body passes as it is, and is searched for the
//! key once all of it has passed (`key_in_body`, `mcp`).

use std::mem;
use std::sync::Arc;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderName};
use http_body::Body;
use tracing::Span;

use crate::limits::{Account, Full, Holding, Resource};
use crate::message::body::BodyBuffer;
use crate::message::watched_body::{Passed, Watch};
use crate::observer::Would;
use crate::options::key::Key;
use crate::options::mcp::Wanted;
use crate::options::{Require, RouteOptions};
use crate::rejection::{Rejection, RejectionCode};
use crate::request::content::promised;
use crate::request::core::Core;
use crate::request::key_in_body::LONG;
use crate::request::observe_mode::observation::Observation;
use crate::request::observe_mode::report::{OnObserved, report, tell};
use crate::request::operation::{KnownCaller, ProtectedRequest};
use crate::runtime::{Handle, Instant, Mutex};

/// A request of which nothing is known before its body has passed.
pub(super) struct Unkeyed {
    core: Arc<Core>,
    options: Arc<RouteOptions>,
    told: Option<OnObserved>,
    found: Mutex<Found>,
}

/// What is known of a request.
enum Found {
    /// Its body has not passed, or is being searched.
    NotYet,
    /// It has this observation.
    Observation(Arc<Observation>),
    Decided(Would),
    /// Nobody can say what the layer would have done.
    Nothing,
}

/// What the response to a request meets.
pub(super) enum Known {
    Observation(Arc<Observation>),
    Decided(Would),
    Nothing,
}

/// The body of such a request, and what is needed once it has passed.
pub(super) struct SearchedBody {
    unkeyed: Arc<Unkeyed>,
    /// `None` once the body is searched, or will not be.
    asked: Option<Box<Asked>>,
    bytes: usize,
    began: Instant,
}

struct Asked {
    parts: Parts,
    in_header: Option<(Key, HeaderName)>,
    caller: Result<KnownCaller, Rejection>,
    account: Arc<Account>,
    read: BodyBuffer,
    room: Holding,
}

impl Unkeyed {
    pub(super) fn new(
        core: &Arc<Core>,
        options: &Arc<RouteOptions>,
        told: Option<&OnObserved>,
    ) -> Arc<Self> {
        Arc::new(Self {
            core: Arc::clone(core),
            options: Arc::clone(options),
            told: told.cloned(),
            found: Mutex::new(Found::NotYet),
        })
    }

    /// What is known by now. `None` before the body was searched.
    pub(super) fn known(&self) -> Option<Known> {
        match &*self.found.lock() {
            Found::NotYet => None,
            Found::Observation(own) => Some(Known::Observation(Arc::clone(own))),
            Found::Decided(would) => Some(Known::Decided(*would)),
            Found::Nothing => Some(Known::Nothing),
        }
    }

    /// What is known when the handler is done: a request whose body was not searched until then is not
    /// observed, since its record would not know how the operation ended.
    pub(super) fn known_at_last(&self) -> Known {
        self.give_up();
        self.known().unwrap_or(Known::Nothing)
    }

    fn give_up(&self) {
        if self.find(Found::Nothing) {
            self.core.leases.counts.not_observed.add();
            tell(self.told.as_ref(), None);
        }
    }

    fn decided(&self, would: Would, parts: &Parts) {
        if self.find(Found::Decided(would)) {
            report(&self.core, &self.options, &parts.method, would);
            let observed = self.core.observe(&self.options, parts);
            self.core.would(observed.as_deref(), would);
            tell(self.told.as_ref(), Some(would));
        }
    }

    /// Whether this is the first that is found.
    fn find(&self, own: Found) -> bool {
        let mut found = self.found.lock();
        let is_first = matches!(*found, Found::NotYet);
        if is_first {
            *found = own;
        }
        is_first
    }

    /// The whole body of this request asks for this.
    fn wants(&self, wanted: Wanted, asked: Box<Asked>, header: Option<&HeaderName>, body: Bytes) {
        let Asked {
            parts,
            caller,
            room,
            ..
        } = *asked;
        let key = match wanted {
            Wanted::Operation { key: Some(key), .. } => key,
            Wanted::Operation { key: None, .. } if self.options.require == Require::Required => {
                Err(self.options.keys.required())
            }
            Wanted::Nothing | Wanted::Operation { key: None, .. } => {
                return self.decided(Would::Pass, &parts);
            }
        };
        let (key, caller) = match key.and_then(|key| Ok((key, caller?))) {
            Ok(known) => known,
            Err(rejection) => return self.decided(Would::Reject(rejection.code()), &parts),
        };
        let span = Span::none();
        let known = ProtectedRequest::new(
            &self.core,
            &self.options,
            key,
            header,
            caller,
            &parts,
            &span,
        );
        let claim = Observation::claim_of(&known, &parts);
        let Ok(observation) = Observation::of(known, &parts, self.told.as_ref()) else {
            return self.give_up();
        };
        // The response of a handler that did not wait for its body has met nothing.
        if !self.find(Found::Observation(Arc::clone(&observation))) {
            return observation.over();
        }
        if !self.options.fingerprint.takes_long(&parts, body.len()) {
            let fingerprint = observation.request.fingerprint(0, &parts, &body);
            return observation.claim_while_running(claim, fingerprint);
        }
        // Another thread digests it, in turns with other callers (G11).
        observation.in_background(async move |own| {
            let request = Arc::clone(&own.request);
            let digest = move || request.fingerprint(0, &parts, &body);
            let caller = own.request.account().caller();
            let digested = own.request.core.turns.run(caller, digest.clone()).await;
            let fingerprint = digested.unwrap_or_else(digest);
            drop(room);
            own.claim_while_running(claim, fingerprint);
        });
    }
}

impl SearchedBody {
    pub(super) fn new(
        unkeyed: &Arc<Unkeyed>,
        in_header: Option<(Key, HeaderName)>,
        caller: Result<KnownCaller, Rejection>,
        account: Arc<Account>,
        parts: &Parts,
        body: &impl Body,
    ) -> Result<Self, Full> {
        let length = promised(body);
        let mut room = account.nothing(Resource::RequestBytes);
        room.grow(length.unwrap_or(0))?;
        Ok(Self {
            unkeyed: Arc::clone(unkeyed),
            asked: Some(Box::new(Asked {
                parts: parts.clone(),
                in_header,
                caller,
                account,
                read: BodyBuffer::of_length(length),
                room,
            })),
            bytes: 0,
            began: Instant::now(),
        })
    }

    fn reject(&mut self, code: RejectionCode) {
        if let Some(asked) = self.asked.take() {
            self.unkeyed.decided(Would::Reject(code), &asked.parts);
        }
    }
}

impl Watch for SearchedBody {
    fn data(&mut self, data: &Bytes) {
        self.bytes = self.bytes.saturating_add(data.len());
        if self.bytes > self.unkeyed.options.max_request_body {
            return self.reject(RejectionCode::BodyTooLarge);
        }
        let Some(asked) = &mut self.asked else { return };
        let more = self.bytes.saturating_sub(asked.room.amount());
        if asked.room.grow(more).is_ok() {
            asked.read.push(data.clone());
        } else {
            self.asked = None;
            self.unkeyed.give_up();
        }
    }

    fn trailers(&mut self, _: &HeaderMap) {}

    fn ended(&mut self, how: Passed) {
        if self.asked.is_none() {
            return;
        }
        match how {
            Passed::Part => return self.unkeyed.give_up(),
            Passed::Broken => return self.reject(RejectionCode::BodyUnreadable),
            Passed::Whole if self.began.elapsed() > self.unkeyed.options.body_timeout => {
                return self.reject(RejectionCode::BodyTimeout);
            }
            Passed::Whole => {}
        }
        let Some(mut asked) = self.asked.take() else {
            return;
        };
        let read = mem::replace(&mut asked.read, BodyBuffer::of_length(None));
        let data = read.joined().data;
        let in_header = asked.in_header.take();
        let header = in_header.as_ref().map(|(_, header)| header.clone());
        let unkeyed = Arc::clone(&self.unkeyed);
        let options = &unkeyed.options;
        if data.len() <= LONG {
            let wanted = options.wanted(in_header, &data);
            return unkeyed.wants(wanted, asked, header.as_ref(), data);
        }
        let Ok(runtime) = Handle::try_current() else {
            return unkeyed.give_up();
        };
        // Another thread searches it, in turns with other callers (G11).
        let account = Arc::clone(&asked.account);
        let task = async move {
            let search = {
                let (options, data) = (Arc::clone(&unkeyed.options), data.clone());
                move || options.wanted(in_header, &data)
            };
            let turns = &unkeyed.core.turns;
            let searched = turns.run(asked.account.caller(), search.clone()).await;
            // Without a thread for it, the work holds up this one.
            let wanted = searched.unwrap_or_else(search);
            unkeyed.wants(wanted, asked, header.as_ref(), data);
        };
        account.spawn(&runtime, task);
    }
}
