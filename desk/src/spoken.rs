//! Times and sizes, as people read them.

use std::time::{Duration, SystemTime};

/// A duration by its two largest units.
pub(crate) fn spoken(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0 => format!("{} ms", time.as_millis()),
        1..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..86400 => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86400, seconds / 3600 % 24),
    }
}

/// A short duration, to three digits at most.
pub(crate) fn precise(time: Duration) -> String {
    let micros = time.as_micros();
    match micros {
        0..1000 => format!("{micros} µs"),
        1000..10_000 => format!("{}.{} ms", micros / 1000, micros % 1000 / 100),
        10_000..1_000_000 => format!("{} ms", micros / 1000),
        _ => format!("{}.{} s", micros / 1_000_000, micros % 1_000_000 / 100_000),
    }
}

/// How long ago this was.
pub(crate) fn age(when: SystemTime) -> String {
    match when.elapsed() {
        Ok(age) => spoken(age),
        // Clocks of two machines differ.
        Err(_) => "0 s".to_owned(),
    }
}

/// The date and the time of day, in UTC. `httpdate` can't write times before 1970 and after 9999.
pub(crate) fn date(when: SystemTime) -> String {
    let seconds = when.duration_since(SystemTime::UNIX_EPOCH);
    let can_be_written = seconds.is_ok_and(|own| own.as_secs() < 253_402_300_800);
    if can_be_written {
        httpdate::fmt_http_date(when)
    } else {
        "a time that no calendar has".to_owned()
    }
}

pub(crate) fn bytes(size: u64) -> String {
    match size {
        0..1024 => format!("{size} B"),
        1024..0x10_0000 => format!("{} KiB", size >> 10),
        0x10_0000..0x4000_0000 => format!("{} MiB", size >> 20),
        _ => format!("{} GiB", size >> 30),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_told_by_its_two_largest_units() {
        for (millis, said) in [
            (0, "0 ms"),
            (999, "999 ms"),
            (59_999, "59 s"),
            (61_000, "1 min 1 s"),
            (3_600_000, "1 h 0 min"),
            (90_000_000, "1 d 1 h"),
        ] {
            assert_eq!(spoken(Duration::from_millis(millis)), said);
        }
        assert_eq!(age(SystemTime::now() + Duration::from_secs(9)), "0 s");
    }

    #[test]
    fn a_time_beyond_every_calendar_is_told_without_a_panic() {
        assert_eq!(
            date(SystemTime::UNIX_EPOCH),
            "Thu, 01 Jan 1970 00:00:00 GMT"
        );
        let year_10000 = SystemTime::UNIX_EPOCH + Duration::from_secs(253_402_300_800);
        for when in [year_10000, SystemTime::UNIX_EPOCH - Duration::from_secs(1)] {
            assert_eq!(date(when), "a time that no calendar has");
        }
    }
}
