//! How long a peer takes: averages for `least_time`, shared by all workers without a lock.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};

/// A moment of an attempt; what counts is the time from the attempt's beginning to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// The connection is made.
    Connect,
    /// The head of a response is there, or the first byte of a session.
    FirstByte,
    /// The response or the session is complete.
    LastByte,
}

/// The times of one peer. Every update is relaxed: an average survives the loss of a sample.
#[derive(Debug, Default)]
pub(super) struct Times {
    /// One per [`Moment`], in parts of a millisecond, plus one: zero is a peer not heard of yet.
    averages: [AtomicU32; 3],
    /// How many attempts wait for their moment, above the sum of when they began. One word, so
    /// that both always belong together.
    waiting: AtomicU64,
    /// The average is old.
    doubted: AtomicBool,
}

impl Times {
    /// The average in milliseconds; `None` before the first sample.
    pub fn average_ms(&self, moment: Moment) -> Option<u64> {
        let stored = self.averages[moment as usize].load(Relaxed);
        stored.checked_sub(1).map(|parts| u64::from(parts) / PARTS)
    }

    /// Takes one more sample into the average.
    pub fn add(&self, moment: Moment, ms: u64) {
        let cell = &self.averages[moment as usize];
        let sample = (ms.min(SAMPLE_MAX_MS) * PARTS) as i64;
        let average = match cell.load(Relaxed).checked_sub(1) {
            Some(before) => {
                let before = i64::from(before);
                let is_old = self.doubted.load(Relaxed) && self.doubted.swap(false, Relaxed);
                before + (sample - before) / if is_old { 2 } else { SAMPLES }
            }
            None => sample,
        };
        cell.store(average as u32 + 1, Relaxed);
    }

    /// Nobody used the peer for long: the next sample weighs as much as all before it.
    pub fn doubt(&self) {
        self.doubted.store(true, Relaxed);
    }

    /// An attempt begins to wait for its moment.
    pub fn begin(&self, now_ms: u64) {
        self.change(|count, sum| (count.wrapping_add(1), sum.wrapping_add(now_ms)));
    }

    /// The attempt that began at `begun_ms` waits no longer.
    pub fn end(&self, begun_ms: u64) {
        self.change(|count, sum| (count.wrapping_sub(1), sum.wrapping_sub(begun_ms)));
    }

    /// How long the attempts that wait have waited, on average.
    pub fn waited_ms(&self, now_ms: u64) -> u64 {
        let word = self.waiting.load(Relaxed);
        let (count, sum) = (word >> SUM_BITS, word & SUM_MASK);
        if count == 0 {
            return 0;
        }
        let waited = count.wrapping_mul(now_ms).wrapping_sub(sum) & SUM_MASK;
        // Another worker's clock may be ahead by a moment; then nobody has waited.
        match waited <= SUM_MASK / 2 {
            true => waited / count,
            false => 0,
        }
    }

    fn change(&self, step: impl Fn(u64, u64) -> (u64, u64)) {
        let changed = |word: u64| {
            let (count, sum) = step(word >> SUM_BITS, word & SUM_MASK);
            Some(count << SUM_BITS | sum & SUM_MASK)
        };
        let _ = self.waiting.fetch_update(Relaxed, Relaxed, changed);
    }
}

/// Parts of a millisecond that an average is kept in, so that small differences still count.
const PARTS: u64 = 256;
/// A new sample moves the average by one part in this many of the difference.
const SAMPLES: i64 = 20;
/// An hour; longer ones say no more, and an average fits its cell.
const SAMPLE_MAX_MS: u64 = 3_600_000;
/// A million attempts, which all together have waited 270 years.
const SUM_BITS: u32 = 44;
const SUM_MASK: u64 = (1 << SUM_BITS) - 1;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_average_begins_with_the_first_sample_and_follows_the_later_ones() {
        let times = Times::default();
        assert_eq!(times.average_ms(Moment::Connect), None);
        times.add(Moment::Connect, 0);
        assert_eq!(times.average_ms(Moment::Connect), Some(0));
        times.add(Moment::LastByte, 1000);
        assert_eq!(times.average_ms(Moment::LastByte), Some(1000));
        times.add(Moment::LastByte, 0);
        assert_eq!(times.average_ms(Moment::LastByte), Some(950));
        for _ in 0..200 {
            times.add(Moment::LastByte, 7);
        }
        assert_eq!(times.average_ms(Moment::LastByte), Some(7));
        assert_eq!(times.average_ms(Moment::FirstByte), None);
        times.add(Moment::FirstByte, u64::MAX);
        assert_eq!(times.average_ms(Moment::FirstByte), Some(SAMPLE_MAX_MS));
    }

    #[test]
    fn a_clock_behind_another_workers_is_no_wait() {
        let times = Times::default();
        times.begin(1000);
        assert_eq!(times.waited_ms(999), 0);
        assert_eq!(times.waited_ms(1005), 5);
    }

    proptest! {
        /// The average lies between the least and the greatest sample.
        #[test]
        fn an_average_stays_among_its_samples(
            samples in prop::collection::vec(0u64..100_000, 1..200),
        ) {
            let times = Times::default();
            for &sample in &samples {
                times.add(Moment::FirstByte, sample);
            }
            let average = times.average_ms(Moment::FirstByte).unwrap();
            prop_assert!(samples.iter().min().unwrap() <= &average);
            prop_assert!(samples.iter().max().unwrap() >= &average);
        }

        /// Beginnings and ends in any order leave the mean age of those in between.
        #[test]
        fn the_wait_is_the_mean_age(
            steps in prop::collection::vec((any::<bool>(), 0u64..5000, any::<u16>()), 1..100),
        ) {
            let times = Times::default();
            // A clock that has run for a year.
            let mut now_ms = 31_536_000_000u64;
            let mut begun = Vec::new();
            for (begins, pause_ms, which) in steps {
                now_ms += pause_ms;
                if begins || begun.is_empty() {
                    times.begin(now_ms);
                    begun.push(now_ms);
                } else {
                    times.end(begun.swap_remove(usize::from(which) % begun.len()));
                }
                let ages: u64 = begun.iter().map(|at| now_ms - at).sum();
                let mean = ages.checked_div(begun.len() as u64).unwrap_or(0);
                prop_assert_eq!(times.waited_ms(now_ms), mean);
            }
        }
    }
}
