//! The error of a name that is no option of its table.

use crate::display::one_of;

/// `known` are the names that the table may have.
pub(super) fn unknown(name: &str, known: &[&str]) -> String {
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

/// A name without what people often write in another way: `maxRequestBody` and
/// `max-request-body` are near `max_request_body`.
fn plain(name: &str) -> String {
    let letters = name.chars().filter(|char| !matches!(char, '_' | '-'));
    letters.take(64).collect::<String>().to_lowercase()
}

/// How many characters have to be added, dropped or changed.
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
