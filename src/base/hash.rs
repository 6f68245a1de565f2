//! Hash functions: for tables in memory, and those whose results nginx's users can observe.

use std::hash::{BuildHasher, Hasher};

/// CRC-32 as zip and nginx's `hash` balancer have it.
pub fn crc32(bytes: &[u8]) -> u32 {
    crc32fast::hash(bytes)
}

/// MurmurHash2 with seed 0, which `split_clients` uses.
pub fn murmur2(bytes: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    // The length is part of the seed; nginx truncates it likewise.
    let mut hash = bytes.len() as u32;
    let (words, tail) = bytes.as_chunks::<4>();
    for word in words {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(M);
        k ^= k >> 24;
        hash = hash.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    if !tail.is_empty() {
        for (index, byte) in tail.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * index);
        }
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ (hash >> 15)
}

/// Builds the hasher for tables whose keys come from the configuration: a few multiplications per
/// key. It does not resist chosen keys, so never let a client's bytes become keys of such a table;
/// looking them up is harmless.
#[derive(Clone, Copy, Debug, Default)]
pub struct FastHasher;

impl BuildHasher for FastHasher {
    type Hasher = FastState;

    fn build_hasher(&self) -> FastState {
        FastState(0)
    }
}

/// The state of a [`FastHasher`].
#[derive(Clone, Debug)]
pub struct FastState(u64);

/// An odd number with its bits well spread (2^64 divided by the golden ratio).
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

impl FastState {
    fn add(&mut self, word: u64) {
        let product = u128::from(self.0 ^ word) * u128::from(SPREAD);
        self.0 = (product as u64) ^ ((product >> 64) as u64).rotate_left(23);
    }
}

impl Hasher for FastState {
    fn write(&mut self, bytes: &[u8]) {
        let (words, tail) = bytes.as_chunks::<8>();
        for word in words {
            self.add(u64::from_le_bytes(*word));
        }
        let mut last = [0; 8];
        last[..tail.len()].copy_from_slice(tail);
        // The length tells "a" from "a\0" and keeps an empty tail from being a fixed point.
        self.add(u64::from_le_bytes(last) ^ (bytes.len() as u64).rotate_left(56));
    }

    fn write_u8(&mut self, byte: u8) {
        self.add(u64::from(byte));
    }

    fn write_u32(&mut self, word: u32) {
        self.add(u64::from(word));
    }

    fn write_u64(&mut self, word: u64) {
        self.add(word);
    }

    fn write_usize(&mut self, word: usize) {
        self.add(word as u64);
    }

    fn finish(&self) -> u64 {
        // One more round: the table takes bits from both ends.
        self.0.wrapping_mul(SPREAD) ^ (self.0 >> 29)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc32_and_murmur2_have_their_known_values() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        assert_eq!(murmur2(b""), 0);
        assert_eq!(murmur2(b"test"), 0x1812_752e);
    }

    #[test]
    fn similar_keys_get_different_hashes() {
        let hash = |key: &[u8]| FastHasher.hash_one(key);
        let mut seen = std::collections::HashSet::new();
        for n in 0..10_000u32 {
            assert!(seen.insert(hash(format!("host{n}.example.com").as_bytes())));
            assert!(seen.insert(hash(format!("{n}").as_bytes())));
        }
        assert_ne!(hash(b"a"), hash(b"a\0"));
    }
}
