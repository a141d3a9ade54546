//! How long a client waits, as it says in its request.

use std::time::Duration;

use http::{HeaderMap, HeaderName};

const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
const CONNECT_TIMEOUT_MS: HeaderName = HeaderName::from_static("connect-timeout-ms");

/// Removes the headers by which servers of gRPC, gRPC-Web and Connect end a call when its
/// client stops waiting. An operation goes on without its client (G4).
pub(crate) fn remove(headers: &mut HeaderMap) {
    headers.remove(GRPC_TIMEOUT);
    headers.remove(CONNECT_TIMEOUT_MS);
}

/// The time for which the client of a gRPC call waits. `None` if the call does not say, or not
/// in gRPC's form.
pub(crate) fn grpc_timeout(headers: &HeaderMap) -> Option<Duration> {
    let timeout = headers.get(GRPC_TIMEOUT)?.to_str().ok()?;
    let (number, unit) = timeout.split_at_checked(timeout.len().checked_sub(1)?)?;
    if !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: u64 = number.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number.saturating_mul(60 * 60)),
        "M" => Duration::from_secs(number.saturating_mul(60)),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}
