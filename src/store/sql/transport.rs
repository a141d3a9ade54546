//! Whether the connections to a database are encrypted.

use std::time::Duration;

use sqlx::{Connection, Database, Pool};
use sqlx_core::net::tls;
use tokio::time::timeout;

use crate::store::tls::{is_local, warn_of_plain_text};

/// How long the server may take to say whether it has TLS.
const PATIENCE: Duration = Duration::from_secs(2);

/// What a driver's options say of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum Mode {
    /// No TLS.
    Plain,
    /// TLS if the server has it, and plain text otherwise.
    Preferred,
    /// TLS, with any certificate.
    Required,
    /// TLS, with a certificate of a trusted CA.
    OfCa,
    /// TLS, with a certificate of a trusted CA for the host of the URL.
    OfHost,
}

type Options<DB> = <<DB as Database>::Connection as Connection>::Options;

/// A database that is reached over a network.
pub(in crate::store) trait Transport: Database {
    /// What a URL says for [`Mode::OfHost`].
    const VERIFIED: &'static str;

    fn mode(options: &Options<Self>) -> Mode;

    fn with_mode(options: Options<Self>, mode: Mode) -> Options<Self>;

    /// Whether the server is on this machine.
    fn is_local(options: &Options<Self>) -> bool;
}

/// The options for a URL that may name the file of a CA. A CA is named to be asked: with one, the
/// modes that would connect to a server of any other CA become those that verify the server.
pub(in crate::store) fn with_ca<DB: Transport>(
    options: Options<DB>,
    names_ca: bool,
) -> Options<DB> {
    match DB::mode(&options) {
        Mode::Preferred if names_ca => DB::with_mode(options, Mode::OfHost),
        Mode::Required if names_ca => DB::with_mode(options, Mode::OfCa),
        _ => options,
    }
}

/// Whether the options allow no connection without TLS.
pub(in crate::store) fn needs_tls<DB: Transport>(options: &Options<DB>) -> bool {
    !matches!(DB::mode(options), Mode::Plain | Mode::Preferred)
}

/// Warns if the connections of the pool go to another machine and are not encrypted.
///
/// Where the server decides, one more connection that must be encrypted finds out. A query could not
/// tell: behind a pooler it tells of the pooler's connection to the server.
pub(super) async fn check<DB: Transport>(pool: &Pool<DB>) {
    let options = pool.connect_options();
    if DB::is_local(&options) || needs_tls::<DB>(&options) {
        return;
    }
    if DB::mode(&options) == Mode::Preferred && tls::available() {
        let encrypted = DB::with_mode((*options).clone(), Mode::Required);
        let connecting = Box::pin(DB::Connection::connect_with(&encrypted));
        match timeout(PATIENCE, connecting).await {
            // The driver says so alone where the server has no TLS.
            Ok(Err(sqlx::Error::Tls(_))) => {}
            Ok(Ok(connection)) => {
                let _ = connection.close().await;
                return;
            }
            _ => return,
        }
    }
    warn_of_plain_text(DB::VERIFIED);
}

pub(super) fn is_local_server(host: &str, has_socket: bool) -> bool {
    has_socket || host.starts_with('/') || is_local(host)
}
