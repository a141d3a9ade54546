//! A table of names that are few and repeat: each is kept once.

use std::num::NonZeroU16;
use std::sync::Arc;

use crate::runtime::OnceLock;

/// How many names a table has at most. The routes of an application are fewer.
const MOST: u16 = 1024;

/// How many places one name may have in the table.
const PLACES: u16 = 32;

/// Names, each with a number that it keeps as long as the table lives. A name is found without a
/// lock. A name for which there is no place has no number.
#[derive(Debug)]
pub(crate) struct Names {
    /// Made for the first name.
    places: OnceLock<Box<[OnceLock<Arc<str>>]>>,
}

impl Names {
    pub(crate) fn new() -> Self {
        Self {
            places: OnceLock::new(),
        }
    }

    /// The number of the name that consists of these parts. `make` makes it if it is new.
    pub(crate) fn number(
        &self,
        parts: &[&str],
        make: impl FnOnce() -> Arc<str>,
    ) -> Option<NonZeroU16> {
        let places = self.places.get_or_init(|| {
            let empty = (0..MOST).map(|_| OnceLock::new());
            empty.collect()
        });
        let mut make = Some(make);
        let first = u16::try_from(hash(parts) % u64::from(MOST)).expect("less than their number");
        let mut near = (0..PLACES).map(|step| (first + step) % MOST);
        let found = near.find(|place| {
            let place = &places[usize::from(*place)];
            if place.get().is_none()
                && let Some(make) = make.take()
            {
                // Another thread may be faster, with any name: then this name has no number yet.
                let _ = place.set(make());
            }
            place.get().is_some_and(|known| consists_of(known, parts))
        });
        NonZeroU16::new(found? + 1)
    }

    pub(crate) fn name(&self, number: NonZeroU16) -> Option<&Arc<str>> {
        let place = usize::from(number.get() - 1);
        self.places.get()?.get(place)?.get()
    }
}

fn consists_of(name: &str, parts: &[&str]) -> bool {
    let rest = parts
        .iter()
        .try_fold(name, |rest, part| rest.strip_prefix(part));
    rest == Some("")
}

/// FNV-1a, which is fast for a few bytes. Names come from the application, so nobody can choose
/// them to collide.
fn hash(parts: &[&str]) -> u64 {
    let bytes = parts.iter().flat_map(|part| part.bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use super::*;

    fn number(names: &Names, name: &str) -> Option<NonZeroU16> {
        names.number(&[name], || name.into())
    }

    #[test]
    fn a_name_has_one_number_however_it_is_put_together() {
        let names = Names::new();
        let one = number(&names, "POST /a").unwrap();
        let again = names.number(&["POST", " ", "/a"], || unreachable!());
        assert_eq!(again, Some(one));
        assert_eq!(&**names.name(one).unwrap(), "POST /a");
        assert_ne!(number(&names, "POST /b"), Some(one));
    }

    #[test]
    fn a_table_has_hundreds_of_names_and_takes_none_for_another() {
        let names = Names::new();
        for count in 0..4 * usize::from(MOST) {
            let name = format!("POST /{count}");
            let number = number(&names, &name);
            assert!(number.is_some() || count > usize::from(MOST) / 2, "{count}");
            let found = number.map(|number| names.name(number).unwrap());
            assert!(found.is_none_or(|found| **found == *name));
        }
    }
}
