//! Where the executions of records came from, in few bytes a record: a route is kept once.

use std::num::NonZeroU16;
use std::sync::Arc;

use crate::record::names::Names;
use crate::record::{Origin, TraceContext};

/// The bytes that a trace takes in a packed completion.
pub(super) const TRACE_BYTES: usize = 25;

/// The route of a record, in two bytes.
pub(super) type RouteNumber = NonZeroU16;

/// An [`Origin`] as a record has it.
#[derive(Clone, Default)]
pub(super) struct KeptOrigin {
    /// In a box, because most records either have none or are completions, which have it in their
    /// packed bytes.
    pub(super) trace: Option<Box<TraceContext>>,
    pub(super) route: Option<RouteNumber>,
}

impl KeptOrigin {
    /// How many bytes a completion takes more for its origin.
    pub(super) fn weight(&self) -> usize {
        self.trace.as_ref().map_or(0, |_| TRACE_BYTES)
    }
}

/// The routes that a store has seen.
pub(super) struct Routes(Names);

impl Routes {
    pub(super) fn new() -> Self {
        Self(Names::new())
    }

    pub(super) fn keep(&self, origin: &Origin) -> KeptOrigin {
        let number = |route: &Arc<str>| self.0.number(&[route], || Arc::clone(route));
        KeptOrigin {
            trace: origin.trace.map(Box::new),
            route: origin.kept_route().and_then(number),
        }
    }

    pub(super) fn origin(&self, kept: KeptOrigin) -> Origin {
        let mut origin = Origin::none();
        origin.trace = kept.trace.map(|trace| *trace);
        let route = kept.route.and_then(|number| self.0.name(number));
        origin.route = route.map(Arc::clone);
        origin
    }
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_kept_as_it_was() {
        let routes = Routes::new();
        let trace = TraceContext {
            trace_id: [1; 16],
            span_id: [2; 8],
            flags: 1,
        };
        let all = [
            Origin::none(),
            Origin::none().route("POST /a"),
            Origin::none().trace(trace),
            Origin::none().route("POST /b").trace(trace),
            Origin::none().route("POST /a"),
        ];
        let kept = all.clone().map(|origin| routes.keep(&origin));
        assert_eq!(kept[1].route, kept[4].route);
        assert_eq!(kept.map(|kept| routes.origin(kept)), all);
    }
}
