//! A request in [`Mode::Observe`](crate::options::Mode::Observe): it passes as if there were no
//! layer, and what the layer would have done is found out beside it.
//!
//! [`observe`] takes steps 1 to 3. The body of the request is digested while the handler reads it
//! (`asked.rs`), and its end sends the claim, whose answer is the report (`observation.rs`). What the
//! handler responds with (`responded.rs`, by `observing.rs`) ends the record, so that later duplicates
//! are known. A request whose key may be in its body is searched for it once the body has passed
//! (`unkeyed.rs`). Records of this mode
//! have ids of their own: protection never finds one.

mod asked;
mod observation;
mod observing;
mod report;
mod responded;
mod unkeyed;

use std::sync::Arc;

use http::request::Parts;
use http::{HeaderName, Request};
use http_body::Body;
use tracing::{Span, warn};

use crate::limits::Full;
use crate::message::watched_body::{Passed, Watch};
use crate::observer::Would;
use crate::options::key::Key;
use crate::options::{Require, RouteOptions};
use crate::record::RecordId;
use crate::rejection::RejectionCode;
use crate::request::content::ReadLimits;
use crate::request::core::Core;
use crate::request::key_in_body::NOBODY;
use crate::request::observe_mode::asked::Asked;
use crate::request::observe_mode::observation::Observation;
use crate::request::observe_mode::observing::Kind;
use crate::request::observe_mode::report::{report, tell};
use crate::request::observe_mode::unkeyed::{SearchedBody, Unkeyed};
use crate::request::operation::{KnownCaller, ProtectedRequest};

pub(crate) use observing::Observing;
pub use report::OnObserved;

/// Begins to observe a request, and returns it for its handler.
pub(crate) fn observe<B>(
    core: &Arc<Core>,
    options: &Arc<RouteOptions>,
    request: Request<B>,
) -> (Request<B>, Observing)
where
    B: Body + 'static,
{
    let (mut parts, body) = request.into_parts();
    let told = parts.extensions.remove::<OnObserved>();
    let (body, kind) = match begin(core, options, &mut parts, body, told.as_ref()) {
        Ok((body, kind)) => (body, kind),
        Err((body, None)) => {
            core.leases.counts.not_observed.add();
            tell(told.as_ref(), None);
            (body, Kind::Nothing)
        }
        Err((body, Some(would))) => {
            report(core, options, &parts.method, would);
            core.would(core.observe(options, &parts).as_deref(), would);
            tell(told.as_ref(), Some(would));
            (body, Kind::Decided(would))
        }
    };
    let marks = options.mark_observed;
    (Request::from_parts(parts, body), Observing { kind, marks })
}

/// What begins: a body that is digested, or searched for a key, or the decision that is there already.
/// `None` for a request of which the layer can't say what it would have done.
type Begun<B> = Result<(B, Kind), (B, Option<Would>)>;

fn begin<B>(
    core: &Arc<Core>,
    options: &Arc<RouteOptions>,
    parts: &mut Parts,
    body: B,
    told: Option<&OnObserved>,
) -> Begun<B>
where
    B: Body + 'static,
{
    let (key, header) = match options.keys.read(&parts.headers) {
        read @ (Some(Ok(_)) | None) if options.keys.may_be_in_body(&parts.headers) => {
            let in_header = read.and_then(Result::ok);
            let in_header = in_header.map(|(key, header)| (key, header.clone()));
            return begin_without_key(core, options, parts, body, told, in_header);
        }
        Some(Ok(read)) => read,
        None if options.require == Require::Optional => return Err((body, Some(Would::Pass))),
        refused => {
            let rejection = match refused {
                Some(Err(rejection)) => rejection,
                _ => options.keys.required(),
            };
            return Err((body, Some(Would::Reject(rejection.code()))));
        }
    };
    let caller = match KnownCaller::of(core, options, parts) {
        Ok(caller) => caller,
        Err(rejection) => return Err((body, Some(Would::Reject(rejection.code())))),
    };
    let (header, span) = (Some(header), Span::none());
    let known = ProtectedRequest::new(core, options, key, header, caller, parts, &span);
    if known.limits().check_announced(parts, &body).is_err() {
        return Err((body, Some(Would::Reject(RejectionCode::BodyTooLarge))));
    }
    let claim = Observation::claim_of(&known, parts);
    // The same layer further out observes this request already.
    let mark = Observed(claim.id);
    if parts.extensions.get() == Some(&mark) {
        return Ok((body, Kind::Nothing));
    }
    parts.extensions.insert(mark);
    let Ok(observation) = Observation::of(known, parts, told) else {
        return Err((body, None));
    };
    if body.is_end_stream() {
        let fingerprint = observation.request.fingerprint(0, parts, &[]);
        observation.claim(claim, fingerprint);
        return Ok((body, Kind::Observation(Some(observation))));
    }
    if !knows_body::<B>(core) {
        return Err((body, None));
    }
    match Asked::new(&observation, claim, parts, &body) {
        Ok(asked) => {
            let body = core.rules.observed_bodies.watch(body, Box::new(asked));
            Ok((body, Kind::Observation(Some(observation))))
        }
        Err(Full { .. }) => Err((body, None)),
    }
}

/// Begins to observe a request whose key may be in its body.
fn begin_without_key<B>(
    core: &Arc<Core>,
    options: &Arc<RouteOptions>,
    parts: &mut Parts,
    body: B,
    told: Option<&OnObserved>,
    in_header: Option<(Key, HeaderName)>,
) -> Begun<B>
where
    B: Body + 'static,
{
    let mark = Searched(Arc::as_ptr(core).addr());
    if parts.extensions.get() == Some(&mark) {
        return Ok((body, Kind::Nothing));
    }
    parts.extensions.insert(mark);
    let is_required = options.require == Require::Required;
    let caller = match KnownCaller::of(core, options, parts) {
        Err(rejection) if options.mcp.is_none() && (is_required || in_header.is_some()) => {
            return Err((body, Some(Would::Reject(rejection.code()))));
        }
        caller => caller,
    };
    let account = match &caller {
        Ok(caller) => Arc::clone(caller.account()),
        Err(_) => core.accounts.of(Some(&NOBODY)),
    };
    let limits = ReadLimits {
        core,
        options,
        account: &account,
    };
    if limits.check_announced(parts, &body).is_err() {
        return Err((body, Some(Would::Reject(RejectionCode::BodyTooLarge))));
    }
    let unkeyed = Unkeyed::new(core, options, told);
    let is_empty = body.is_end_stream();
    if !is_empty && !knows_body::<B>(core) {
        return Err((body, None));
    }
    let Ok(mut searched) = SearchedBody::new(&unkeyed, in_header, caller, account, parts, &body)
    else {
        return Err((body, None));
    };
    let body = if is_empty {
        searched.ended(Passed::Whole);
        body
    } else {
        core.rules.observed_bodies.watch(body, Box::new(searched))
    };
    Ok((body, Kind::Unkeyed(unkeyed)))
}

fn knows_body<B: 'static>(core: &Core) -> bool {
    let knows = core.rules.observed_bodies.has::<B>();
    if !knows && core.rules.routes.may_warn() {
        warn!(
            "requests are not observed, because the layer does not know their type of bodies: \
             see `IdempotencyLayerBuilder::observed_body`"
        );
    }
    knows
}

/// In the extensions of a request, the record of its observation.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Observed(RecordId);

/// In the extensions of a request, the layer that searches its body for a key.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Searched(usize);
