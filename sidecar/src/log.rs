//! The log of the program, on stderr.

use std::fmt;
use std::io::IsTerminal as _;

use tracing::Level;
use tracing::field::{Field, Visit};
use tracing::span::Record;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::FormattedFields;
use tracing_subscriber::fmt::format::{DefaultFields, Writer};

/// Begins the log: what is at least as severe as `default`, unless `RUST_LOG` says otherwise.
pub(crate) fn log(default: Level, change: impl FnOnce(EnvFilter) -> EnvFilter) {
    let filter = EnvFilter::builder()
        .with_default_directive(default.into())
        .from_env_lossy();
    let filter = change(filter);
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .fmt_fields(EarlyFields::default())
        // The target tells the events of the audit from what else is logged.
        .with_target(default == Level::WARN)
        // Otherwise a line that can't be written, since nobody reads stderr any more, is a panic.
        .log_internal_errors(false)
        .init();
}

/// Writes the fields of a request's span that lines of the log have: the method, the route and the
/// record, which a line about the rest of a streamed response needs.
///
/// What else became of the request is recorded in its span when it has its response, so each request would
/// format it in vain.
#[derive(Debug, Default)]
struct EarlyFields(DefaultFields);

impl<'writer> FormatFields<'writer> for EarlyFields {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'writer>, fields: R) -> fmt::Result {
        self.0.format_fields(writer, fields)
    }

    fn add_fields(
        &self,
        current: &'writer mut FormattedFields<Self>,
        fields: &Record<'_>,
    ) -> fmt::Result {
        let mut shown = IsShown(false);
        fields.record(&mut shown);
        if !shown.0 {
            return Ok(());
        }
        current.fields.push(' ');
        self.0.format_fields(current.as_writer(), fields)
    }
}

/// Whether the route or the record is among some fields.
struct IsShown(bool);

impl Visit for IsShown {
    fn record_debug(&mut self, field: &Field, _: &dyn fmt::Debug) {
        self.0 |= matches!(field.name(), "http.route" | "idempotency.record");
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, Read as _};
    use std::sync::Arc;

    use tracing::field::Empty;
    use tracing::{info_span, subscriber, warn};

    use super::EarlyFields;

    #[test]
    fn a_line_about_the_rest_of_a_response_names_the_record() {
        let (mut written, writer) = io::pipe().unwrap();
        let log = tracing_subscriber::fmt()
            .fmt_fields(EarlyFields::default())
            .with_ansi(false)
            .with_writer(Arc::new(writer))
            .finish();
        subscriber::with_default(log, || {
            let span = info_span!(
                "idempotency",
                http.route = Empty,
                idempotency.record = Empty,
                idempotency.outcome = Empty
            );
            span.record("http.route", "/charges");
            span.record("idempotency.outcome", "executed");
            span.record("idempotency.record", "5f2e");
            span.in_scope(|| warn!("the upstream's response stalled"));
        });
        let mut line = String::new();
        written.read_to_string(&mut line).unwrap();
        assert!(line.contains("/charges") && line.contains("5f2e"), "{line}");
        assert!(!line.contains("executed"), "{line}");
    }
}
