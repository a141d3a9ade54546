//! How lists, headers, times and sizes are written for people.

use std::time::{SystemTime, UNIX_EPOCH};

use http::{HeaderName, HeaderValue};

/// An enum whose variants have words, by which configuration files and contracts name them.
#[cfg(feature = "config")]
pub(crate) trait Words: Copy + 'static {
    /// The word of each variant.
    const WORDS: &'static [(&'static str, Self)];
    /// Older words of variants, which a file may still use.
    const ALIASES: &'static [(&'static str, Self)];
}

/// Gives each variant of an enum its word, and older words after `|`.
macro_rules! words {
    ($($type:ident { $($variant:ident = $word:literal $(| $alias:literal)*),+ $(,)? })+) => {$(
        impl $type {
            /// Returns the word for this value in configuration files and contracts.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word),+
                }
            }
        }

        #[cfg(feature = "config")]
        impl $crate::display::Words for $type {
            const WORDS: &'static [(&'static str, Self)] = &[$(($word, Self::$variant)),+];
            const ALIASES: &'static [(&'static str, Self)] = &[$($(($alias, Self::$variant),)*)+];
        }
    )+};
}
pub(crate) use words;

/// Joins items as in `a, b and c`, where `conjunction` is `and`.
pub(crate) fn join_with(items: &[String], conjunction: &str) -> String {
    match items {
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} {conjunction} {last}", first.join(", ")),
    }
}

/// Quotes words and joins them, as in `` `a`, `b` or `c` ``.
#[cfg(feature = "config")]
pub(crate) fn one_of(words: &[&str]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("`{word}`")).collect();
    join_with(&quoted, "or")
}

/// Returns the name of a header as people write it, such as `Idempotency-Key`.
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

/// Returns a duration such as `24 hours`, in the largest unit of which it is a whole number.
#[cfg(any(test, feature = "contract"))]
pub(crate) fn duration(duration: std::time::Duration) -> String {
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
    // A duration of one day is written as 24 hours, which is more usual.
    let fits =
        |unit: u128| nanos >= unit && nanos.is_multiple_of(unit) && !(unit == DAY && nanos == DAY);
    let unit = units.into_iter().find(|(unit, _)| fits(*unit));
    let (unit, name) = unit.unwrap_or((1, "nanosecond"));
    let count = nanos / unit;
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {name}{plural}")
}

/// Returns a size such as `1 MiB`, in the largest unit of which it is a whole number.
#[cfg(any(test, feature = "contract"))]
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

/// Returns a time in UTC in the form of RFC 3339, without fractions of a second:
/// `2023-11-14T22:13:20Z`. `None` for a time before 1970 or after 9999.
pub(crate) fn rfc3339(time: SystemTime) -> Option<HeaderValue> {
    let seconds = time.duration_since(UNIX_EPOCH).ok()?.as_secs();
    let (year, month, day) = date(seconds / 86_400).filter(|(year, ..)| *year <= 9999)?;
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let text = format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z");
    HeaderValue::try_from(text).ok()
}

/// Returns the year, month and day that are `days` after 1970-01-01.
///
/// The function counts years from March, so that a leap day is the last day of its year. Then the
/// lengths of the months repeat every five months (153 days), and the calendar repeats every 400
/// years (146 097 days).
fn date(days: u64) -> Option<(u64, u64, u64)> {
    // The sum counts days since the first of March in the year 0.
    let days = days.checked_add(719_468)?;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let is_next_year = month >= 10;
    let month = if is_next_year { month - 9 } else { month + 3 };
    Some((400 * era + year + u64::from(is_next_year), month, day))
}

/// Returns the UUID (RFC 9562) with these bits, with hyphens and in lower case. The version and
/// the variant replace six of the bits.
pub(crate) fn uuid(bits: u128, version: u8) -> String {
    let bits = bits & !(0xf << 76) | u128::from(version) << 76;
    let hex = format!("{:032x}", bits & !(0x3 << 62) | 0x2 << 62);
    [
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..],
    ]
    .join("-")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

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

    #[test]
    fn times_are_written_as_rfc_3339() {
        let written = |seconds| rfc3339(UNIX_EPOCH + Duration::from_secs(seconds));
        let times = [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_700_000_000, "2023-11-14T22:13:20Z"),
            (253_402_300_799, "9999-12-31T23:59:59Z"),
        ];
        for (seconds, text) in times {
            assert_eq!(written(seconds).unwrap(), text);
        }
        assert_eq!(written(253_402_300_800), None);
        assert_eq!(rfc3339(UNIX_EPOCH - Duration::from_secs(1)), None);
        let last = UNIX_EPOCH + Duration::from_millis(999);
        assert_eq!(rfc3339(last).unwrap(), "1970-01-01T00:00:00Z");
    }

    #[test]
    fn every_day_until_9999_has_its_date() {
        let mut days = 0;
        for year in 1970..10_000 {
            let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
            let february = if is_leap { 29 } else { 28 };
            let months = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
            for (month, length) in (1..).zip(months) {
                for day in 1..=length {
                    assert_eq!(date(days), Some((year, month, day)));
                    days += 1;
                }
            }
        }
    }

    /// The examples of RFC 9562, appendices A.3, A.6 and B.1, with other bits for version and
    /// variant.
    #[test]
    fn uuids_are_those_that_were_published() {
        for (bits, version, published) in [
            (
                0x9191_08f7_52d1_0320_1bac_f847_db41_48a8,
                4,
                "919108f7-52d1-4320-9bac-f847db4148a8",
            ),
            (
                0x017f_22e2_79b0_fcc3_d8c4_dc0c_0c07_398f,
                7,
                "017f22e2-79b0-7cc3-98c4-dc0c0c07398f",
            ),
            (
                0x2489_e9ad_2ee2_0e00_0ec9_32d5_f691_81c0,
                8,
                "2489e9ad-2ee2-8e00-8ec9-32d5f69181c0",
            ),
        ] {
            assert_eq!(uuid(bits, version), published);
        }
    }
}
