//! The hasher of the maps.

use std::hash::{BuildHasher, Hasher};

/// Hashes record ids. An id is a digest, so its bits are random already. They are
/// folded with a seed of this process, so that no client can choose keys whose
/// ids all fall into one part.
#[derive(Clone)]
pub(super) struct IdHasher {
    seed: u64,
    factor: u64,
    hash: u64,
}

impl IdHasher {
    pub(super) fn random() -> Self {
        // A schedule of shuttle can be run again only if the same shards are locked.
        let (seed, factor) = if cfg!(shuttle) {
            (0, 3)
        } else {
            (rand::random(), rand::random())
        };
        Self {
            seed,
            factor: factor | 1,
            hash: 0,
        }
    }
}

impl BuildHasher for IdHasher {
    type Hasher = Self;

    fn build_hasher(&self) -> Self {
        self.clone()
    }
}

impl Hasher for IdHasher {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u64(&mut self, word: u64) {
        let folded = u128::from(self.hash ^ word ^ self.seed) * u128::from(self.factor);
        #[expect(clippy::cast_possible_truncation, reason = "both halves are meant")]
        {
            self.hash = folded as u64 ^ (folded >> 64) as u64;
        }
    }

    fn finish(&self) -> u64 {
        self.hash
    }
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use super::*;

    fn hash(seed: u64, factor: u64, words: &[u64]) -> u64 {
        let hash = 0;
        let mut hasher = IdHasher { seed, factor, hash };
        for word in words {
            hasher.write_u64(*word);
        }
        hasher.finish()
    }

    #[test]
    fn both_halves_of_the_product_are_in_the_hash() {
        // 6 · (2⁶³ + 1) is 3 · 2⁶⁴ + 6.
        assert_eq!(hash(0, 6, &[(1 << 63) | 1]), 3 ^ 6);
        assert_eq!(hash(1, 6, &[1 << 63]), 3 ^ 6, "the seed is in it");
        assert_eq!(hash(3, 1, &[5]), 6);
        // The factor 2³² swaps the halves of a word.
        let word = 0x0123_4567_89ab_cdef;
        assert_eq!(hash(0, 1 << 32, &[word]), word.rotate_left(32));
        let second = word ^ word.rotate_left(32);
        let both = hash(0, 1 << 32, &[word, word]);
        assert_eq!(
            both,
            second.rotate_left(32),
            "the first word is in the second's hash"
        );
    }

    #[test]
    fn bytes_are_taken_as_words_of_eight() {
        let bytes: Vec<u8> = (1..=11).collect();
        let mut hasher = IdHasher {
            seed: 9,
            factor: 7,
            hash: 0,
        };
        hasher.write(&bytes);
        let words = [0x0807_0605_0403_0201, 0x000b_0a09];
        assert_eq!(hasher.finish(), hash(9, 7, &words));
    }

    /// An even factor would lose a bit of every word.
    #[test]
    fn a_random_hasher_has_an_odd_factor_and_begins_with_nothing() {
        for _ in 0..64 {
            let random = IdHasher::random();
            assert_eq!((random.factor % 2, random.hash), (1, 0));
        }
    }
}
