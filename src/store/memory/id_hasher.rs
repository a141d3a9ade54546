//! The hasher of the map.

use std::hash::{BuildHasher, Hasher};

/// Hashes record ids. An id is a digest, so its bits are random already. They are
/// folded with a seed of this process, so that no client can choose keys whose
/// ids all fall into one shard.
#[derive(Clone)]
pub(super) struct IdHasher {
    seed: u64,
    factor: u64,
    hash: u64,
}

impl IdHasher {
    pub(super) fn random() -> Self {
        Self {
            seed: rand::random(),
            factor: rand::random::<u64>() | 1,
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
