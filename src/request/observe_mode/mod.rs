//! A request in [`Mode::Observe`](crate::options::Mode::Observe): it passes as if there were no
//! layer, and what the layer would have done is found out beside it.
//!
//! [`observe`] takes steps 1 to 3. The body of the request is digested while the handler reads it
//! (`asked.rs`), and its end sends the claim, whose answer is the report (`observation.rs`). What the
//! handler responds with (`responded.rs`, by `observing.rs`) ends the record, so that later duplicates
//! are known. Records of this mode
//! have ids of their own: protection never finds one.

mod asked;
mod observation;
mod observing;
mod report;
mod responded;

use std::sync::Arc;

use http::Request;
use http::request::Parts;
use http_body::Body;
use tracing::{Span, warn};

use crate::limits::Full;
use crate::observer::Would;
use crate::options::{OnLapsedLease, Require, RouteOptions};
use crate::record::{Fingerprint, RecordId};
use crate::rejection::RejectionCode;
use crate::request::core::Core;
use crate::request::observe_mode::asked::Asked;
use crate::request::observe_mode::observation::Observation;
use crate::request::observe_mode::observing::Kind;
use crate::request::observe_mode::report::{report, tell};
use crate::request::operation::{KnownCaller, Operation, ProtectedRequest};
use crate::store::Claim;

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
        Ok((body, observation)) => (body, Kind::Observation(observation)),
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

/// What begins: a body that is digested, or the decision that is there already. `None` for a request
/// of which the layer can't say what it would have done.
type Begun<B> = Result<(B, Option<Arc<Observation>>), (B, Option<Would>)>;

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
    let none_yet = Fingerprint::from_bytes([0; 32]);
    let claim = Claim {
        // What nobody resolves must not stay for ever: a lapsed record is forgotten in time.
        on_lapsed_lease: OnLapsedLease::Rerun,
        origin: known.origin(parts),
        ..known.claim_under(0, known.scope, parts, none_yet)
    };
    // The same layer further out observes this request already.
    let mark = Observed(claim.id);
    if parts.extensions.get() == Some(&mark) {
        return Ok((body, None));
    }
    parts.extensions.insert(mark);
    let place = known.place().ok();
    let Ok(place) = known.may_begin(place) else {
        return Err((body, None));
    };
    let operation = Arc::new(Operation::new(known, None));
    let observation = Observation::new(operation, parts.method.clone(), told.cloned(), place);
    if body.is_end_stream() {
        let fingerprint = observation.request.fingerprint(0, parts, &[]);
        observation.claim(claim, fingerprint);
        return Ok((body, Some(observation)));
    }
    if !core.rules.observed_bodies.has::<B>() {
        if core.rules.routes.may_warn() {
            warn!(
                "requests are not observed, because the layer does not know their type of bodies: \
                 see `IdempotencyLayerBuilder::observed_body`"
            );
        }
        return Err((body, None));
    }
    match Asked::new(&observation, claim, parts, &body) {
        Ok(asked) => {
            let body = core.rules.observed_bodies.watch(body, Box::new(asked));
            Ok((body, Some(observation)))
        }
        Err(Full { .. }) => Err((body, None)),
    }
}

/// In the extensions of a request, the record of its observation.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Observed(RecordId);
