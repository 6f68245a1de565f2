//! What one run has counted so far.

use std::time::{Duration, Instant};

use super::{Errors, Handshakes};
use crate::histogram::Histogram;
use crate::tls::Handshake;

/// Counts of one run. Times are nanoseconds since its start.
pub struct Tally {
    begin: Instant,
    /// When counting began and ended.
    counted: (u64, u64),
    completed: u64,
    completed_before: u64,
    /// Of requests in the counted time.
    pub latencies: Histogram,
    /// Failures, those of the warm-up included.
    pub errors: Errors,
    /// Those of connections made in the counted time.
    pub handshakes: Handshakes,
}

impl Tally {
    /// Time begins now.
    pub fn new() -> Self {
        Self {
            begin: Instant::now(),
            counted: (u64::MAX, u64::MAX),
            completed: 0,
            completed_before: 0,
            latencies: Histogram::new(),
            errors: Errors::default(),
            handshakes: Handshakes::default(),
        }
    }

    /// From here on requests count.
    pub fn start_counting(&mut self) {
        self.counted.0 = self.now();
        self.completed_before = self.completed;
    }

    /// Ends the counting; says how many requests were completed in which time.
    pub fn stop_counting(&mut self) -> (u64, Duration) {
        self.counted.1 = self.now();
        let length = Duration::from_nanos(self.counted.1 - self.counted.0);
        (self.completed - self.completed_before, length)
    }

    /// A request that began at `since` is complete; it counts if `moment` does.
    pub fn complete(&mut self, now: u64, since: u64, moment: u64) {
        self.completed += 1;
        if self.counts(moment) {
            self.latencies.record(now - since);
        }
    }

    /// A handshake is over.
    pub fn note_handshake(&mut self, handshake: Handshake, moment: u64) {
        if self.counts(moment) {
            match handshake {
                Handshake::Unfinished => {}
                Handshake::Full => self.handshakes.full += 1,
                Handshake::Resumed => self.handshakes.resumed += 1,
            }
        }
    }

    /// Whether this moment is in the counted time.
    pub fn counts(&self, moment: u64) -> bool {
        (self.counted.0..self.counted.1).contains(&moment)
    }

    /// When the counting ended.
    pub fn end(&self) -> u64 {
        self.counted.1
    }

    /// Nanoseconds since the start.
    pub fn now(&self) -> u64 {
        self.begin.elapsed().as_nanos() as u64
    }
}
