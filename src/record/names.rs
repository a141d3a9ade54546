//! A table of names that are few and repeat: each is kept once.

use std::num::NonZeroU16;
use std::sync::Arc;

use crate::runtime::OnceLock;
use crate::runtime::atomic::{AtomicU16, Ordering};

/// How many names a table has at most. The routes of an application are fewer.
const MOST: u16 = 1024;

/// How many places one name may have in the table.
const PLACES: u16 = 32;

/// How many numbers a table remembers by the places of names in memory.
const SEEN: usize = 32;

/// Names, each with a number that it keeps as long as the table lives. A name is found without a
/// lock. A name for which there is no place has no number.
#[derive(Debug)]
pub(crate) struct Names {
    /// Made for the first name.
    places: OnceLock<Box<[OnceLock<Arc<str>>]>>,
    /// Numbers of names, by where their last parts were in memory. A name mostly comes from where it
    /// came from before, and to compare it there takes less than to hash it.
    seen: [AtomicU16; SEEN],
}

impl Names {
    pub(crate) fn new() -> Self {
        Self {
            places: OnceLock::new(),
            seen: [const { AtomicU16::new(0) }; SEEN],
        }
    }

    /// The number of the name that consists of these parts. `make` makes it if it is new.
    pub(crate) fn number(
        &self,
        parts: &[&str],
        make: impl FnOnce() -> Arc<str>,
    ) -> Option<NonZeroU16> {
        // What is allocated begins at a multiple of sixteen bytes.
        let address = parts.last().map_or(0, |part| part.as_ptr().addr());
        let seen = &self.seen[address / 16 % SEEN];
        // Relaxed: the name itself is compared below, whatever number this is.
        let number = NonZeroU16::new(seen.load(Ordering::Relaxed));
        let is = |number: &NonZeroU16| {
            let name = self.name(*number);
            name.is_some_and(|name| consists_of(name, parts))
        };
        if let Some(number) = number.filter(is) {
            return Some(number);
        }
        let number = self.find(parts, make)?;
        seen.store(number.get(), Ordering::Relaxed);
        Some(number)
    }

    #[cold]
    fn find(&self, parts: &[&str], make: impl FnOnce() -> Arc<str>) -> Option<NonZeroU16> {
        let places = self.places.get_or_init(|| {
            let empty = (0..MOST).map(|_| OnceLock::new());
            empty.collect()
        });
        let mut make = Some(make);
        let first = u16::try_from(hash(parts) % u64::from(MOST)).expect("less than their number");
        for step in 0..PLACES {
            let at = (first + step) % MOST;
            let place = &places[usize::from(at)];
            if place.get().is_none()
                && let Some(make) = make.take()
            {
                // Another thread may be faster, with any name: then this name has no number yet.
                let _ = place.set(make());
            }
            if place.get().is_some_and(|known| consists_of(known, parts)) {
                return NonZeroU16::new(at + 1);
            }
        }
        None
    }

    pub(crate) fn name(&self, number: NonZeroU16) -> Option<&Arc<str>> {
        let place = usize::from(number.get() - 1);
        self.places.get()?.get(place)?.get()
    }
}

fn consists_of(name: &str, parts: &[&str]) -> bool {
    let mut rest = name;
    for part in parts {
        match rest.strip_prefix(part) {
            Some(behind) => rest = behind,
            None => return false,
        }
    }
    rest.is_empty()
}

/// FNV-1a, which is fast for a few bytes. Names come from the application, so nobody can choose
/// them to collide.
fn hash(parts: &[&str]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325;
    // Two loops: the iterator over all bytes of all parts takes four times the instructions.
    for part in parts {
        for byte in part.bytes() {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    hash
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
