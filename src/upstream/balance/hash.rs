//! `hash KEY`: CRC32 of the key over the weights, as Cache::Memcached does it. When the server is
//! not open, the key is hashed anew with the number of the attempt before it, up to 20 times.

use super::{Steps, View, round_robin};

/// The next peer for this key, or `None` when none is open.
pub fn pick(view: &mut View<'_>, steps: &mut Steps, key: &[u8]) -> Option<usize> {
    if view.set.len() < 2 || key.is_empty() {
        return round_robin::pick(view);
    }
    view.search(steps, |steps, total| {
        let hash = crc32(steps.rehash, key) >> 16 & 0x7fff;
        steps.hash = steps.hash.wrapping_add(hash);
        steps.rehash += 1;
        u64::from(steps.hash) % total
    })
}

fn crc32(rehash: u32, key: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    if rehash > 0 {
        hasher.update(itoa::Buffer::new().format(rehash).as_bytes());
    }
    hasher.update(key);
    hasher.finalize()
}
