//! Connections counted by key: the zone of `limit_conn_zone`.
//!
//! A zone is a table of 64-bit cells: 48 bits of a key's hash and a count of 16 bits, seven to a
//! bucket of one cache line. Counting is one compare-and-swap on the key's cell. A cell whose count
//! is 0 keeps its hash until another key takes it. A key has one cell at most, in one of two
//! buckets: who adds one holds the first bucket's guard while looking through both, some ten
//! nanoseconds without a system call; others who count the keys that are there do not notice.
//!
//! Keys are told apart by their hash alone, keyed by a secret of the process; that two of a million
//! share a cell has a chance of one in 10^9.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

/// A table of counts with a name and a size in bytes.
pub struct Zone {
    /// The zone's name, for messages.
    pub name: Box<str>,
    /// The table, in pages that come into being when they are first needed.
    pages: Box<[OnceLock<Box<Page>>]>,
    secret: RandomState,
}

/// Why a connection was not counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// There are as many as may be.
    Limit,
    /// The zone has no room for another key.
    Full,
}

/// One counted connection; counted out when dropped.
pub struct Held {
    zone: Arc<Zone>,
    page: u32,
    bucket: u8,
    cell: u8,
}

type Page = [Bucket; BUCKETS];

/// One cache line.
#[derive(Default)]
#[repr(align(64))]
struct Bucket {
    cells: [AtomicU64; CELLS],
    /// Held by who adds a key that has its first bucket here.
    guard: AtomicBool,
}

const CELLS: usize = 7;
const BUCKETS: usize = 64;
const PAGE_BYTES: usize = BUCKETS * 64;
const COUNT_BITS: u32 = 16;

/// The most connections that can be counted for one key.
pub const COUNT_MAX: u16 = u16::MAX;

/// Where a key may be.
struct Place {
    /// The hash as it stands in a cell, count 0.
    tag: u64,
    buckets: [usize; 2],
}

impl Zone {
    /// The zone of this process with the name, key and size, so that counts outlive a reload.
    /// `kind` tells apart zones of one name that have different uses.
    pub fn named(kind: &'static str, name: &str, key: &str, bytes: u64) -> Arc<Zone> {
        type Identity = (&'static str, Box<str>, Box<str>, u64);
        type Known = HashMap<Identity, Weak<Zone>>;
        static KNOWN: OnceLock<Mutex<Known>> = OnceLock::new();
        // Taken while a configuration is read, never by a worker.
        let known = KNOWN.get_or_init(Mutex::default);
        let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, zone| zone.strong_count() > 0);
        let identity = (kind, Box::from(name), Box::from(key), bytes);
        if let Some(zone) = known.get(&identity).and_then(Weak::upgrade) {
            return zone;
        }
        let zone = Arc::new(Zone::new(name, bytes));
        known.insert(identity, Arc::downgrade(&zone));
        zone
    }

    /// An empty zone that never takes more than `bytes` for its counts.
    fn new(name: &str, bytes: u64) -> Zone {
        let pages = (bytes as usize / PAGE_BYTES).max(1);
        Zone {
            name: name.into(),
            pages: (0..pages).map(|_| OnceLock::new()).collect(),
            secret: RandomState::new(),
        }
    }

    /// Counts a connection for `key`, if there are fewer than `max`.
    ///
    /// # Errors
    /// Why it is not counted.
    pub fn count(self: &Arc<Self>, key: &[u8], max: u16) -> Result<Held, Refused> {
        let place = self.place(key);
        if let Some(result) = self.join(&place, max) {
            return result;
        }
        let _guard = Guard::of(self.bucket(place.buckets[0]));
        match self.join(&place, max) {
            Some(result) => result,
            None => self.add(&place),
        }
    }

    fn place(&self, key: &[u8]) -> Place {
        let hash = self.secret.hash_one(key);
        let count = self.pages.len() * BUCKETS;
        let first = ((hash >> 32) as usize * count) >> 32;
        Place {
            // Not 0, which is what stands in an unused cell.
            tag: (hash | 1) << COUNT_BITS,
            buckets: [first, (first + 1) % count],
        }
    }

    fn bucket(&self, at: usize) -> &Bucket {
        let page =
            self.pages[at / BUCKETS].get_or_init(|| Box::new([const { Bucket::new() }; BUCKETS]));
        &page[at % BUCKETS]
    }

    /// Counts for a key that has its cell.
    fn join(self: &Arc<Self>, place: &Place, max: u16) -> Option<Result<Held, Refused>> {
        for at in place.buckets {
            for (index, cell) in self.bucket(at).cells.iter().enumerate() {
                let mut value = cell.load(Ordering::Acquire);
                while tag(value) == place.tag {
                    if count(value) >= max {
                        return Some(Err(Refused::Limit));
                    }
                    match swap(cell, value, value + 1) {
                        Ok(()) => return Some(Ok(self.held(at, index))),
                        Err(now) => value = now,
                    }
                }
            }
        }
        None
    }

    /// Gives the key a cell, with a count of 1. The guard of its first bucket is held.
    fn add(self: &Arc<Self>, place: &Place) -> Result<Held, Refused> {
        for at in place.buckets {
            for (index, cell) in self.bucket(at).cells.iter().enumerate() {
                let value = cell.load(Ordering::Acquire);
                if count(value) == 0 && swap(cell, value, place.tag | 1).is_ok() {
                    return Ok(self.held(at, index));
                }
            }
        }
        Err(Refused::Full)
    }

    fn held(self: &Arc<Self>, bucket: usize, cell: usize) -> Held {
        Held {
            zone: Arc::clone(self),
            page: (bucket / BUCKETS) as u32,
            bucket: (bucket % BUCKETS) as u8,
            cell: cell as u8,
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let bucket = self
            .zone
            .bucket(self.page as usize * BUCKETS + usize::from(self.bucket));
        let before = bucket.cells[usize::from(self.cell)].fetch_sub(1, Ordering::Release);
        debug_assert!(count(before) > 0, "counted out more often than in");
    }
}

impl Bucket {
    const fn new() -> Bucket {
        Bucket {
            cells: [const { AtomicU64::new(0) }; CELLS],
            guard: AtomicBool::new(false),
        }
    }
}

/// The right to add keys to a bucket.
struct Guard<'a>(&'a AtomicBool);

impl Guard<'_> {
    fn of(bucket: &Bucket) -> Guard<'_> {
        let guard = &bucket.guard;
        while guard.swap(true, Ordering::Acquire) {
            std::hint::spin_loop();
        }
        Guard(guard)
    }
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

fn tag(value: u64) -> u64 {
    value >> COUNT_BITS << COUNT_BITS
}

fn count(value: u64) -> u16 {
    value as u16
}

fn swap(cell: &AtomicU64, old: u64, new: u64) -> Result<(), u64> {
    let result = cell.compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire);
    result.map(|_| ())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::thread;

    use proptest::prelude::*;

    use super::*;

    const SIZE: u64 = 32 << 10;

    fn zone() -> Arc<Zone> {
        Arc::new(Zone::new("z", SIZE))
    }

    #[test]
    fn a_cell_is_a_cache_line_s_part() {
        assert_eq!(size_of::<Bucket>(), 64);
        assert_eq!(size_of::<Page>(), PAGE_BYTES);
    }

    #[test]
    fn keys_are_limited_each_for_itself() {
        let zone = zone();
        let one = zone.count(b"a", 1).unwrap();
        assert_eq!(zone.count(b"a", 1).err(), Some(Refused::Limit));
        let other = zone.count(b"b", 1).unwrap();
        drop(one);
        let again = zone.count(b"a", 1).unwrap();
        assert_eq!(zone.count(b"b", 1).err(), Some(Refused::Limit));
        drop((other, again));
    }

    #[test]
    fn a_zone_is_found_again_while_it_is_in_use() {
        let zone = Zone::named("test", "z", "$key", SIZE);
        let held = zone.count(b"k", 1);
        assert!(Arc::ptr_eq(&zone, &Zone::named("test", "z", "$key", SIZE)));
        for other in [
            Zone::named("test", "z", "$key", SIZE * 2),
            Zone::named("test", "z", "$other", SIZE),
            Zone::named("other", "z", "$key", SIZE),
        ] {
            assert!(!Arc::ptr_eq(&zone, &other));
        }
        drop((held, zone));
        let again = Zone::named("test", "z", "$key", SIZE);
        assert!(again.count(b"k", 1).is_ok());
    }

    #[test]
    fn a_full_zone_refuses_and_gets_room_again() {
        let zone = zone();
        let cells = SIZE as usize / 64 * CELLS;
        let mut held = Vec::new();
        let mut refused = 0;
        for key in 0..cells as u32 * 2 {
            match zone.count(&key.to_ne_bytes(), 1) {
                Ok(one) => held.push(one),
                Err(reason) => {
                    assert_eq!(reason, Refused::Full);
                    refused += 1;
                }
            }
        }
        assert!(held.len() <= cells && refused >= cells);
        assert!(held.len() > cells / 2, "{} of {cells}", held.len());
        held.clear();
        assert!(zone.count(b"new", 1).is_ok());
    }

    #[test]
    fn threads_never_count_more_than_the_limit() {
        const LIMIT: usize = 3;
        let zone = zone();
        let inside: Vec<AtomicUsize> = (0..20).map(|_| AtomicUsize::new(0)).collect();
        thread::scope(|scope| {
            for seed in 0..4 {
                let (zone, inside) = (&zone, &inside);
                scope.spawn(move || {
                    let mut rng = fastrand::Rng::with_seed(seed);
                    let mut held = Vec::new();
                    for _ in 0..20_000 {
                        let key = rng.usize(..inside.len());
                        if rng.bool()
                            && let Ok(one) = zone.count(&[key as u8], LIMIT as u16)
                        {
                            let now = inside[key].fetch_add(1, Ordering::SeqCst);
                            assert!(now < LIMIT);
                            held.push((key, one));
                        } else if !held.is_empty() {
                            let (key, one) = held.swap_remove(rng.usize(..held.len()));
                            inside[key].fetch_sub(1, Ordering::SeqCst);
                            drop(one);
                        }
                    }
                    for (key, _) in &held {
                        inside[*key].fetch_sub(1, Ordering::SeqCst);
                    }
                });
            }
        });
        for key in 0..20u8 {
            let all: Vec<_> = (0..=LIMIT)
                .map(|_| zone.count(&[key], LIMIT as u16))
                .collect();
            assert_eq!(all.iter().filter(|held| held.is_ok()).count(), LIMIT);
        }
    }

    proptest! {
        #[test]
        fn a_zone_counts_as_a_map_does(
            steps in proptest::collection::vec((0..6u8, 1..4u16, any::<bool>()), 0..200),
        ) {
            let zone = zone();
            let mut model: HashMap<u8, Vec<Held>> = HashMap::new();
            for (key, max, enters) in steps {
                let held = model.entry(key).or_default();
                if !enters {
                    held.pop();
                    continue;
                }
                match zone.count(&[key], max) {
                    Ok(one) => {
                        prop_assert!(held.len() < usize::from(max));
                        held.push(one);
                    }
                    Err(_) => prop_assert!(held.len() >= usize::from(max)),
                }
            }
        }
    }
}
