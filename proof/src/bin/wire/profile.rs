//! This module says which functions take the instructions beyond a no-op layer.

use std::collections::HashMap;
use std::fmt::Write as _;

use crate::BoxError;
use crate::callgrind::{Counter, Place};
use crate::client::Kind;
use crate::rows::WAYS;

/// How much of the whole the listed functions add up to.
const SHOWN: f64 = 0.97;

/// What the names of the allocator's functions begin with.
const ALLOCATION: &[&str] = &[
    "malloc",
    "free",
    "realloc",
    "calloc",
    "_int_",
    "unlink_chunk",
    "tcache",
    "__rustc::__r",
];

/// The profile of a kind of request at a server, in instructions of one request.
pub(crate) fn profile(server: &str, kind: Kind) -> Result<String, BoxError> {
    let way = WAYS.iter().find(|way| way.name == server);
    let way = way.ok_or_else(|| format!("there is no server `{server}`"))?;
    let mut counter = Counter::start(&std::env::current_exe()?, &["serve"])?;
    let no_op = counter.count(&way.app(Kind::NoOp), way.protocol, Kind::NoOp)?;
    let kind_of = counter.count(&way.app(kind), way.protocol, kind)?;
    let mut places = kind_of.beyond(&no_op);
    let whole: f64 = places.iter().map(|(_, count)| count).sum();
    let mut text = String::new();
    writeln!(
        text,
        "{server}, {}: {:.0} instructions beyond a no-op layer's {:.0}, without SHA-256's compression",
        kind.name(),
        whole,
        no_op.without_compression()
    )?;
    let mut groups: HashMap<&str, f64> = HashMap::new();
    for (place, count) in &places {
        *groups.entry(group(place)).or_default() += count;
    }
    let mut groups: Vec<_> = groups.into_iter().collect();
    groups.sort_by(|one, other| other.1.total_cmp(&one.1));
    writeln!(text, "\nBy crate:")?;
    for (name, count) in groups.iter().filter(|(_, count)| count.abs() >= 1.0) {
        writeln!(
            text,
            "{count:>9.0} {:>6.1} %  {name}",
            100.0 * count / whole
        )?;
    }
    writeln!(
        text,
        "\nBy function, and the file that its instructions come from:"
    )?;
    places.sort_by(|one, other| other.1.abs().total_cmp(&one.1.abs()));
    // What is missing from the list adds up to less than the rest of the whole, whatever its sign.
    let mut left: f64 = places.iter().map(|(_, count)| count.abs()).sum();
    for (place, count) in &places {
        if left <= whole.abs() * (1.0 - SHOWN) {
            break;
        }
        left -= count.abs();
        let (crate_name, file) = (group(place), short(&place.file));
        writeln!(
            text,
            "{count:>9.1}  {crate_name:18} {file:34} {}",
            place.function
        )?;
    }
    writeln!(text, "{left:>9.1}  what is left")?;
    Ok(text)
}

/// The crate that a place belongs to. Code of the standard library that was compiled into
/// a function of the layer is the layer's.
fn group(place: &Place) -> &str {
    let (function, file) = (place.function.as_str(), place.file.as_str());
    let begins = |names: &[&str]| names.iter().any(|name| function.starts_with(name));
    let contains = |names: &[&str]| names.iter().any(|name| function.contains(name));
    let registry = file.split_once("/registry/src/");
    let package = registry.and_then(|(_, rest)| rest.split('/').nth(1));
    if file.contains("malloc") || begins(ALLOCATION) {
        "allocator"
    } else if contains(&["memcpy", "memmove", "memset", "memcmp", "bcmp"]) {
        "memory copies"
    } else if let Some(package) = package {
        let version = package.find(|c: char| c.is_ascii_digit());
        package[..version.unwrap_or(package.len())].trim_end_matches('-')
    } else if file.contains("/library/") {
        if function.contains("tower_idempotency::") {
            "tower-idempotency, code of std"
        } else {
            "std"
        }
    } else if file.contains("proof/") {
        "this program"
    } else if file.contains("src/") && function.contains("::") {
        "tower-idempotency"
    } else {
        "libc and others"
    }
}

/// The last two parts of a file's path.
fn short(file: &str) -> String {
    let mut parts: Vec<&str> = file.rsplit('/').take(2).collect();
    parts.reverse();
    parts.join("/")
}
