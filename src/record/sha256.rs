//! SHA-256 of parts that come one after the other.
//!
//! A digest of the layer has about ten parts, most of them of a few bytes. The block function of the crate
//! `sha2` does the work; what is here puts parts together to blocks and pads the last one. The buffer
//! of that crate takes three times as many instructions for parts as short as these.

use sha2::block_api::compress256;

/// A block, in bytes.
const BLOCK: usize = 64;

/// The last bytes of the last block: the length of the message in bits.
const LENGTH: usize = 8;

/// The state before the first block (FIPS 180-4, 5.3.3).
const FIRST: [u32; 8] = [
    0x6a09_e667,
    0xbb67_ae85,
    0x3c6e_f372,
    0xa54f_f53a,
    0x510e_527f,
    0x9b05_688c,
    0x1f83_d9ab,
    0x5be0_cd19,
];

#[derive(Clone)]
pub(super) struct Sha256 {
    state: [u32; 8],
    /// How many bytes were compressed.
    compressed: u64,
    /// Zero behind what is filled.
    block: [u8; BLOCK],
    /// How many bytes of `block` are filled: never all.
    filled: usize,
}

impl Sha256 {
    pub(super) const fn new() -> Self {
        Self {
            state: FIRST,
            compressed: 0,
            block: [0; BLOCK],
            filled: 0,
        }
    }

    #[inline]
    pub(super) fn byte(&mut self, byte: u8) {
        self.block[self.filled] = byte;
        self.filled += 1;
        if self.filled == BLOCK {
            self.compress();
        }
    }

    #[inline]
    pub(super) fn update(&mut self, bytes: &[u8]) {
        let end = self.filled + bytes.len();
        match self.block.get_mut(self.filled..end) {
            Some(free) if end < BLOCK => {
                free.copy_from_slice(bytes);
                self.filled = end;
            }
            _ => self.update_blocks(bytes),
        }
    }

    /// Adds a part of so few bytes, after their number, that it does not fill the block. Returns
    /// `false` for any other part, of which nothing is added.
    #[inline]
    pub(super) fn add_short(&mut self, part: &[u8]) -> bool {
        let (start, end) = (self.filled + 1, self.filled + 1 + part.len());
        let Some(free) = self.block.get_mut(start..end).filter(|_| end < BLOCK) else {
            return false;
        };
        free.copy_from_slice(part);
        self.block[start - 1] = part.len().to_le_bytes()[0];
        self.filled = end;
        true
    }

    /// Adds bytes that fill the block at least.
    #[cold]
    #[inline(never)]
    fn update_blocks(&mut self, bytes: &[u8]) {
        let (first, rest) = bytes.split_at(BLOCK - self.filled);
        self.block[self.filled..].copy_from_slice(first);
        self.compress();
        let (blocks, rest) = rest.as_chunks();
        compress256(&mut self.state, blocks);
        self.compressed += (BLOCK * blocks.len()) as u64;
        self.block[..rest.len()].copy_from_slice(rest);
        self.filled = rest.len();
    }

    #[cold]
    #[inline(never)]
    fn compress(&mut self) {
        compress256(&mut self.state, &[self.block]);
        self.compressed += BLOCK as u64;
        self.block = [0; BLOCK];
        self.filled = 0;
    }

    pub(super) fn finish(mut self) -> [u8; 32] {
        let bits = 8 * (self.compressed + self.filled as u64);
        self.block[self.filled] = 0x80;
        if self.filled >= BLOCK - LENGTH {
            self.compress();
        }
        self.block[BLOCK - LENGTH..].copy_from_slice(&bits.to_be_bytes());
        compress256(&mut self.state, &[self.block]);
        let mut digest = [0; 32];
        let (words, _) = digest.as_chunks_mut();
        for (word, of_state) in words.iter_mut().zip(self.state) {
            *word = of_state.to_be_bytes();
        }
        digest
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sha2::Digest;

    use super::*;

    fn of(parts: &[&[u8]]) -> [u8; 32] {
        let mut hasher = Sha256::new();
        for part in parts {
            hasher.update(part);
        }
        hasher.finish()
    }

    #[test]
    fn messages_of_every_length_around_blocks_have_the_digest_of_the_standard() {
        let message: Vec<u8> = (0..=255).cycle().take(4 * BLOCK).collect();
        for length in 0..=message.len() {
            let message = &message[..length];
            let expected: [u8; 32] = sha2::Sha256::digest(message).into();
            assert_eq!(of(&[message]), expected, "{length}");
            let mut bytes = Sha256::new();
            for byte in message {
                bytes.byte(*byte);
            }
            assert_eq!(bytes.finish(), expected, "{length}");
        }
    }

    #[test]
    fn a_short_part_is_its_length_and_its_bytes_or_is_refused() {
        for before in 0..BLOCK {
            for length in 0..=BLOCK {
                let part = vec![7; length];
                let mut hasher = Sha256::new();
                hasher.update(&[1; BLOCK][..before]);
                let is_added = hasher.add_short(&part);
                assert_eq!(is_added, before + 1 + length < BLOCK);
                if !is_added {
                    hasher.byte(u8::try_from(length).unwrap());
                    hasher.update(&part);
                }
                let mut message = vec![1; before];
                message.push(u8::try_from(length).unwrap());
                message.extend(part);
                assert_eq!(hasher.finish(), of(&[&message]), "{before} {length}");
            }
        }
    }

    proptest! {
        #[test]
        fn a_message_has_one_digest_in_whatever_parts_it_comes(
            parts: Vec<Vec<u8>>,
            long in prop::collection::vec(any::<u8>(), 0..3 * BLOCK),
        ) {
            let mut parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
            parts.insert(parts.len() / 2, &long);
            let expected: [u8; 32] = sha2::Sha256::digest(parts.concat()).into();
            prop_assert_eq!(of(&parts), expected);
        }
    }
}
