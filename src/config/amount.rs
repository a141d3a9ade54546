//! Sizes and durations.

use std::time::Duration;

use super::value::{Plain, values};

values! {
    /// Bytes.
    #[derive(Copy)]
    Size(usize): "a size: a number of bytes such as 1048576, or \"64KiB\", \"1MiB\", \"1GiB\"",
        { "anyOf": [
            { "type": "integer", "minimum": 0 },
            { "type": "string", "pattern": "^[0-9]+(KiB|MiB|GiB)$" },
        ]},
        |plain| match plain {
            Plain::Number(number) => number.try_into().ok(),
            Plain::Text(text) => {
                let units = [("KiB", 10), ("MiB", 20), ("GiB", 30)];
                units.iter().find_map(|(unit, shift)| {
                    let number = usize::try_from(whole(text.strip_suffix(unit)?)?).ok()?;
                    number.checked_mul(1 << shift)
                })
            }
            Plain::Switch(_) => None,
        };
    /// A duration. Longer ones are of no use, and the clock of some store would overflow.
    #[derive(Copy)]
    Time(Duration): "a duration such as \"300ms\", \"30s\", \"10m\", \"24h\" or \"7d\", at most \"36500d\"",
        { "type": "string", "pattern": "^[0-9]+(ms|s|m|h|d)$" },
        |plain| {
            let Plain::Text(text) = plain else { return None };
            let units = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", DAY)];
            let millis = units
                .iter()
                .find_map(|(unit, millis)| whole(text.strip_suffix(unit)?)?.checked_mul(*millis))?;
            (millis <= 36_500 * DAY).then(|| Duration::from_millis(millis))
        };
}

/// In milliseconds.
const DAY: u64 = 86_400_000;

/// A number of digits alone: `parse` would take a sign too.
pub(super) fn whole(text: &str) -> Option<u64> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok())?
}
