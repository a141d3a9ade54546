//! How long a client waits, as it says in its request.

use std::time::Duration;

use http::{HeaderMap, HeaderName};

static GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
static CONNECT_TIMEOUT_MS: HeaderName = HeaderName::from_static("connect-timeout-ms");

/// Removes the headers by which servers of gRPC, gRPC-Web and Connect end a call when its
/// client stops waiting. An operation goes on without its client (G4).
pub(crate) fn remove(headers: &mut HeaderMap) {
    let is_timeout = |name: &HeaderName| *name == GRPC_TIMEOUT || *name == CONNECT_TIMEOUT_MS;
    // Most requests have neither, and a few headers are looked through faster than two are looked up.
    if headers.keys().any(is_timeout) {
        headers.remove(&GRPC_TIMEOUT);
        headers.remove(&CONNECT_TIMEOUT_MS);
    }
}

/// The time for which the client of a gRPC call waits. `None` if the call does not say, or not
/// in gRPC's form.
pub(crate) fn grpc_timeout(headers: &HeaderMap) -> Option<Duration> {
    let timeout = headers.get(&GRPC_TIMEOUT)?.to_str().ok()?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_timeout_of_a_grpc_call_has_one_of_six_units() {
        let read = |timeout: &'static str| {
            grpc_timeout(&HeaderMap::from_iter([(
                GRPC_TIMEOUT.clone(),
                timeout.parse().unwrap(),
            )]))
        };
        for (timeout, is) in [
            ("3H", Duration::from_secs(10_800)),
            ("3M", Duration::from_secs(180)),
            ("3S", Duration::from_secs(3)),
            ("3m", Duration::from_millis(3)),
            ("3u", Duration::from_micros(3)),
            ("3n", Duration::from_nanos(3)),
            ("99999999H", Duration::from_secs(359_999_996_400)),
            ("18446744073709551615H", Duration::from_secs(u64::MAX)),
        ] {
            assert_eq!(read(timeout), Some(is), "{timeout}");
        }
        for wrong in ["", "3", "S", "3s", "3D", "+3S", "-3S", "3.5S", " 3S", "3 S"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
        assert_eq!(grpc_timeout(&HeaderMap::new()), None);
    }
}
