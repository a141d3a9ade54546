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

/// Writes the fields of a request's span that lines of the log have: the method and the route.
///
/// What became of the request is recorded in its span when nothing more is logged there, so each request
/// would format it in vain.
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
        let mut route = HasRoute(false);
        fields.record(&mut route);
        if !route.0 {
            return Ok(());
        }
        current.fields.push(' ');
        self.0.format_fields(current.as_writer(), fields)
    }
}

/// Whether the route is among some fields.
struct HasRoute(bool);

impl Visit for HasRoute {
    fn record_debug(&mut self, field: &Field, _: &dyn fmt::Debug) {
        self.0 |= field.name() == "http.route";
    }
}
