//! What to say of a name that is no option where it stands.

use super::file::{OF_LAYER, OF_ROUTES, TOP};
use super::read::one_of;

/// `known` are the options of that place.
pub(super) fn unknown(name: &str, known: &[&str]) -> String {
    // Of a table with few entries: the places of options don't matter there.
    let place = if known.contains(&"match") || known.contains(&"lease") || known.contains(&"route")
    {
        place(name)
    } else {
        None
    };
    if let Some(place) = place {
        return format!("stands in the wrong place: it belongs {place}");
    }
    let nearest = known
        .iter()
        .map(|own| (distance(&plain(own), &plain(name)), *own))
        .min_by_key(|(distance, _)| *distance)
        .filter(|(distance, own)| *distance <= 2 && *distance * 2 <= own.len());
    match nearest {
        Some((_, nearest)) => format!("is not an option: did you mean `{nearest}`?"),
        None => format!("is not an option: it must be {}", one_of(known)),
    }
}

fn place(name: &str) -> Option<&'static str> {
    if TOP.contains(&name) {
        Some("at the top of the file, before any table")
    } else if OF_LAYER.contains(&name) {
        Some("in `[idempotency]`, since it is of all requests")
    } else if OF_ROUTES.contains(&name) {
        Some("in `[idempotency]` or in a `[[route]]`")
    } else {
        None
    }
}

/// `maxRequestBody` and `max-request-body` are meant for `max_request_body`.
fn plain(name: &str) -> String {
    let letters = name.chars().filter(|char| !matches!(char, '_' | '-'));
    letters.take(64).collect::<String>().to_lowercase()
}

/// How many characters are to be added, dropped or changed.
fn distance(one: &str, other: &str) -> usize {
    let mut row: Vec<usize> = (0..=other.chars().count()).collect();
    for (at, own) in one.chars().enumerate() {
        let mut before = row[0];
        row[0] = at + 1;
        for (index, char) in other.chars().enumerate() {
            let changed = before + usize::from(own != char);
            before = row[index + 1];
            row[index + 1] = changed.min(before + 1).min(row[index] + 1);
        }
    }
    row.last().copied().unwrap_or(0)
}
