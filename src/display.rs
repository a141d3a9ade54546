//! How lists, headers, times and sizes are written for people.

use std::time::Duration;

use http::HeaderName;

/// `a, b and c`.
pub(crate) fn join_with(items: &[String], conjunction: &str) -> String {
    match items {
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} {conjunction} {last}", first.join(", ")),
    }
}

/// `Idempotency-Key`, as people write the names of headers.
pub(crate) fn header_name(name: &HeaderName) -> String {
    let capitalized = |word: &str| match word {
        "www" => "WWW".to_owned(),
        "etag" => "ETag".to_owned(),
        word => {
            let mut chars = word.chars();
            let first = chars.next().map(|first| first.to_ascii_uppercase());
            first.into_iter().chain(chars).collect()
        }
    };
    let words: Vec<String> = name.as_str().split('-').map(capitalized).collect();
    words.join("-")
}

/// `24 hours`, in the largest unit that counts it exactly.
pub(crate) fn duration(duration: Duration) -> String {
    const DAY: u128 = 24 * 60 * 60 * 1_000_000_000;
    let nanos = duration.as_nanos();
    let units = [
        (DAY, "day"),
        (60 * 60 * 1_000_000_000, "hour"),
        (60 * 1_000_000_000, "minute"),
        (1_000_000_000, "second"),
        (1_000_000, "millisecond"),
        (1_000, "microsecond"),
        (1, "nanosecond"),
    ];
    // One day is 24 hours, as people say it.
    let fits =
        |unit: u128| nanos >= unit && nanos.is_multiple_of(unit) && !(unit == DAY && nanos == DAY);
    let unit = units.into_iter().find(|(unit, _)| fits(*unit));
    let (unit, name) = unit.unwrap_or((1, "nanosecond"));
    let count = nanos / unit;
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {name}{plural}")
}

/// `1 MiB`, in the largest unit that counts it exactly.
pub(crate) fn bytes(bytes: usize) -> String {
    let units = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    let unit = units
        .into_iter()
        .find(|(unit, _)| bytes >= *unit && bytes.is_multiple_of(*unit));
    match unit {
        Some((unit, name)) => format!("{} {name}", bytes / unit),
        None => format!("{bytes} bytes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_headers_begin_with_capitals() {
        for name in ["Idempotency-Key", "WWW-Authenticate", "X-", "ETag"] {
            assert_eq!(header_name(&name.parse().unwrap()), name);
        }
        assert_eq!(join_with(&[], "and"), "");
        assert_eq!(
            join_with(&["a", "b", "c"].map(str::to_owned), "or"),
            "a, b or c"
        );
    }

    #[test]
    fn times_and_sizes_are_said_exactly_and_short() {
        let spans = [
            (0, "0 nanoseconds"),
            (1, "1 millisecond"),
            (1500, "1500 milliseconds"),
            (1000, "1 second"),
            (90_000, "90 seconds"),
            (600_000, "10 minutes"),
            (86_400_000, "24 hours"),
            (7 * 86_400_000, "7 days"),
        ];
        for (millis, words) in spans {
            assert_eq!(duration(Duration::from_millis(millis)), words);
        }
        for (count, words) in [
            (0, "0 bytes"),
            (1000, "1000 bytes"),
            (1 << 20, "1 MiB"),
            (1536, "1536 bytes"),
        ] {
            assert_eq!(bytes(count), words);
        }
    }
}
