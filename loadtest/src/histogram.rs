//! Latencies in logarithmic buckets: fixed memory, relative error below 0.8 %.

/// Sub-buckets per power of two, as a power of two.
const SUB_BITS: u32 = 7;
const SUB_COUNT: u64 = 1 << SUB_BITS;
/// Values from here on (about 18 minutes) are counted as this.
const CEILING: u64 = (1 << 40) - 1;

/// Counts values, here nanoseconds, and answers quantiles.
#[derive(Clone, Debug)]
pub struct Histogram {
    buckets: Vec<u64>,
    count: u64,
    largest: u64,
}

impl Histogram {
    /// An empty histogram.
    pub fn new() -> Self {
        Self {
            buckets: vec![0; bucket(CEILING) + 1],
            count: 0,
            largest: 0,
        }
    }

    /// Counts one value.
    pub fn record(&mut self, nanos: u64) {
        let nanos = nanos.min(CEILING);
        self.buckets[bucket(nanos)] += 1;
        self.count += 1;
        self.largest = self.largest.max(nanos);
    }

    /// The largest value, exactly.
    pub fn largest(&self) -> u64 {
        self.largest
    }

    /// The value that a `fraction` (0 to 1) of all values does not exceed; 0 when empty.
    pub fn quantile(&self, fraction: f64) -> u64 {
        debug_assert!((0.0..=1.0).contains(&fraction));
        let rank = ((self.count as f64 * fraction).ceil() as u64).max(1);
        let mut seen = 0;
        for (index, in_bucket) in self.buckets.iter().enumerate() {
            seen += in_bucket;
            if seen >= rank {
                return upper_end(index).min(self.largest);
            }
        }
        self.largest
    }

    /// [`Histogram::quantile`] in microseconds.
    pub fn micros(&self, fraction: f64) -> f64 {
        self.quantile(fraction) as f64 / 1e3
    }
}

/// Values below `SUB_COUNT` have a bucket each; above, every power of two is cut into `SUB_COUNT`.
fn bucket(value: u64) -> usize {
    let shift = shift_of(value);
    (u64::from(shift) * SUB_COUNT + (value >> shift)) as usize
}

/// The largest value that [`bucket`] puts into `index`.
fn upper_end(index: usize) -> u64 {
    let index = index as u64;
    if index < 2 * SUB_COUNT {
        return index;
    }
    let shift = index / SUB_COUNT - 1;
    let top = index - shift * SUB_COUNT;
    ((top + 1) << shift) - 1
}

fn shift_of(value: u64) -> u32 {
    (u64::BITS - value.leading_zeros()).saturating_sub(SUB_BITS + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_contiguous_and_hold_their_upper_end() {
        let mut last = 0;
        for value in 0..200_000 {
            let index = bucket(value);
            assert!(index == last || index == last + 1, "hole before {value}");
            assert!(upper_end(index) >= value);
            assert_eq!(bucket(upper_end(index)), index);
            last = index;
        }
    }

    #[test]
    fn quantiles_are_within_the_promised_error() {
        let mut histogram = Histogram::new();
        for micros in 1..=100_000_u64 {
            histogram.record(micros * 1000);
        }
        for fraction in [0.5, 0.9, 0.99, 0.999] {
            let exact = fraction * 1e8;
            let error = (histogram.quantile(fraction) as f64 - exact).abs() / exact;
            assert!(error < 0.008, "{fraction}: {error}");
        }
        assert_eq!(histogram.quantile(1.0), 100_000_000);
    }

    #[test]
    fn extremes() {
        let mut histogram = Histogram::new();
        assert_eq!(histogram.quantile(0.99), 0);
        histogram.record(0);
        assert_eq!(histogram.quantile(0.5), 0);
        histogram.record(u64::MAX);
        assert_eq!(histogram.largest(), CEILING);
        assert_eq!(histogram.quantile(1.0), CEILING);
    }
}
