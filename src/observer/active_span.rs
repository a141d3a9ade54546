//! The span of OpenTelemetry in which a request runs.

use opentelemetry::Context;
use opentelemetry::trace::TraceContextExt;

use crate::record::TraceContext;

/// `None` if no span is active in the current context.
pub(crate) fn active_span() -> Option<TraceContext> {
    Context::map_current(|context| {
        let span = context.span();
        let span = span.span_context();
        span.is_valid().then(|| TraceContext {
            trace_id: span.trace_id().to_bytes(),
            span_id: span.span_id().to_bytes(),
            flags: span.trace_flags().to_u8(),
        })
    })
}
