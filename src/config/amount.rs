//! Sizes and durations.

use std::time::Duration;

use schemars::{Schema, SchemaGenerator, json_schema};

use super::value::{Value, values};

values![Size, Time];

/// Bytes.
#[derive(Clone, Copy)]
pub(super) struct Size(pub(super) usize);

impl Value for Size {
    const ALLOWED: &'static str =
        "a size: a number of bytes such as 1048576, or \"64KiB\", \"1MiB\", \"1GiB\"";

    fn number(number: u64) -> Result<Self, String> {
        let size = usize::try_from(number).map(Size);
        size.map_err(|_| Self::not_allowed())
    }

    fn text(text: &str) -> Result<Self, String> {
        let units = [("KiB", 10), ("MiB", 20), ("GiB", 30)];
        let size = units.iter().find_map(|(unit, shift)| {
            let number = whole(text.strip_suffix(unit)?)?;
            usize::try_from(number).ok()?.checked_mul(1 << shift)
        });
        size.map(Size).ok_or_else(Self::not_allowed)
    }

    fn schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [
            { "type": "integer", "minimum": 0 },
            { "type": "string", "pattern": "^[0-9]+(KiB|MiB|GiB)$" },
        ]})
    }
}

/// A duration.
#[derive(Clone, Copy)]
pub(super) struct Time(pub(super) Duration);

impl Time {
    /// Longer ones are no use, and some store's clock would overflow.
    const MOST: Duration = Duration::from_secs(36_500 * 24 * 3600);
}

impl Value for Time {
    const ALLOWED: &'static str =
        "a duration such as \"300ms\", \"30s\", \"10m\", \"24h\" or \"7d\"";

    fn text(text: &str) -> Result<Self, String> {
        let units = [
            ("ms", 1),
            ("s", 1_000),
            ("m", 60_000),
            ("h", 3_600_000),
            ("d", 86_400_000),
        ];
        let millis = units
            .iter()
            .find_map(|(unit, millis)| whole(text.strip_suffix(unit)?)?.checked_mul(*millis));
        let time = millis
            .map(Duration::from_millis)
            .ok_or_else(Self::not_allowed)?;
        if time > Self::MOST {
            return Err("must not be longer than 36500d".to_owned());
        }
        Ok(Time(time))
    }

    fn schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^[0-9]+(ms|s|m|h|d)$" })
    }
}

/// Digits alone: `parse` takes a sign, too.
pub(super) fn whole(text: &str) -> Option<u64> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok())?
}
