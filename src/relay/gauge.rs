//! Whether a direction is bulky. Pure: it is told what has come and says how to go on.

use crate::ring::{Class, Expect};

/// How a direction is to move its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Through the worker's buffers of a class.
    Copy(Class),
    /// Through a pipe.
    Splice,
}

/// Full small buffers in a row after which large ones are used.
const SMALL_FULL: u8 = 2;

/// Well filled large buffers in a row after which a pipe is used.
const LARGE_FULL: u8 = 4;

/// Bytes in a large buffer that make it a well filled one. (A socket gives out what has come, so
/// that a fast sender's buffers are seldom filled to the last byte.)
const WELL_FILLED: usize = 16 << 10;

/// Bytes at a time up to which a pipe costs more than it saves.
const CALM_BYTES: u64 = 32 << 10;

/// Bursts of so few bytes, one after the other, that end splicing.
const CALM_BURSTS: u8 = 2;

/// Bytes that are copied at least after a pipe could not be had.
const REFUSED_BYTES: u64 = 4 << 20;

/// Bytes that are copied at least after splicing: messages of just the size that looks bulky, one
/// at a time, are not to go back and forth.
const CALMED_BYTES: u64 = 1 << 20;

/// The state of one direction.
#[derive(Debug, Default)]
pub struct Gauge {
    stage: Stage,
    /// Occurrences in a row of what leads to another stage.
    row: u8,
    /// More is likely to be there already.
    goes_on: bool,
    /// Bytes to be copied until a pipe is asked for again; `u64::MAX` for never.
    copying: u64,
    /// Bytes through the pipe since the source was last found empty.
    burst: u64,
    #[cfg(test)]
    forced: Option<Forced>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    Small,
    Large,
    Splice,
}

impl Gauge {
    /// For a direction that no pipe will do for.
    pub fn without_pipe() -> Gauge {
        Gauge {
            copying: u64::MAX,
            ..Gauge::default()
        }
    }

    /// Whether more is likely to be there already.
    pub fn expect(&self) -> Expect {
        // After a message nothing is there yet; in the midst of a bulk there surely is.
        if self.goes_on {
            Expect::Now
        } else {
            Expect::Later
        }
    }

    /// How to go on.
    pub fn mode(&self) -> Mode {
        match self.stage {
            Stage::Small => Mode::Copy(Class::Stream),
            Stage::Large => Mode::Copy(Class::Large),
            Stage::Splice => Mode::Splice,
        }
    }

    /// Buffers to receive into, where a pipe is not, or no longer, in question.
    pub fn class(&self) -> Class {
        match self.mode() {
            Mode::Copy(class) => class,
            Mode::Splice => Class::Large,
        }
    }

    /// A receive has brought `count` bytes, as many as fit into its buffer if `is_full`.
    pub fn received(&mut self, count: usize, is_full: bool) {
        #[cfg(test)]
        if let Some(forced) = &mut self.forced {
            self.stage = forced.after(count as u64);
            return;
        }
        if self.copying != u64::MAX {
            self.copying = self.copying.saturating_sub(count as u64);
        }
        self.goes_on = match self.stage {
            Stage::Small => is_full,
            _ => count >= WELL_FILLED,
        };
        self.row = if self.goes_on {
            self.row.saturating_add(1)
        } else {
            0
        };
        match self.stage {
            Stage::Small if self.row >= SMALL_FULL => self.enter(Stage::Large),
            Stage::Large if self.row >= LARGE_FULL && self.copying == 0 => {
                self.enter(Stage::Splice);
            }
            Stage::Large if count < WELL_FILLED / 4 => self.enter(Stage::Small),
            _ => {}
        }
    }

    /// No pipe was to be had.
    pub fn refused(&mut self) {
        self.copying = REFUSED_BYTES;
        self.enter(Stage::Large);
    }

    /// Bytes that may go into the pipe before [`Gauge::spliced`] is to be told.
    pub fn splice_most(&self) -> u64 {
        #[cfg(test)]
        if let Some(forced) = &self.forced {
            return forced.left();
        }
        u64::MAX
    }

    /// `count` bytes have come into the pipe.
    pub fn spliced(&mut self, count: u64) {
        #[cfg(test)]
        if let Some(forced) = &mut self.forced {
            self.stage = forced.after(count);
            return;
        }
        self.burst += count;
    }

    /// The source has been found empty, and so is the pipe.
    pub fn ran_dry(&mut self) {
        #[cfg(test)]
        if self.forced.is_some() {
            return;
        }
        self.row = if self.burst < CALM_BYTES {
            self.row + 1
        } else {
            0
        };
        self.burst = 0;
        if self.row >= CALM_BURSTS {
            self.copying = CALMED_BYTES;
            self.enter(Stage::Small);
        }
    }

    fn enter(&mut self, stage: Stage) {
        self.stage = stage;
        self.row = 0;
    }
}

/// Switches at given places, for tests.
#[cfg(test)]
#[derive(Debug)]
pub struct Forced {
    /// Bytes between one switch and the next; the last is repeated.
    lengths: Vec<u64>,
    at: usize,
    passed: u64,
}

#[cfg(test)]
impl Gauge {
    /// Switches after each of the lengths from one mode to the next.
    pub fn forced(lengths: Vec<u64>) -> Gauge {
        Gauge {
            forced: Some(Forced {
                lengths,
                at: 0,
                passed: 0,
            }),
            ..Gauge::default()
        }
    }
}

#[cfg(test)]
impl Forced {
    fn left(&self) -> u64 {
        let length = self.lengths[self.at.min(self.lengths.len() - 1)];
        length.saturating_sub(self.passed).max(1)
    }

    fn after(&mut self, count: u64) -> Stage {
        self.passed += count;
        while self.passed >= self.left() {
            self.passed -= self.left().min(self.passed);
            self.at += 1;
        }
        match self.at % 4 {
            0 => Stage::Small,
            2 => Stage::Large,
            _ => Stage::Splice,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LARGE: usize = 32 << 10;

    fn splicing() -> Gauge {
        let mut gauge = Gauge::default();
        (0..SMALL_FULL).for_each(|_| gauge.received(4096, true));
        (0..LARGE_FULL).for_each(|_| gauge.received(LARGE, true));
        assert_eq!(gauge.mode(), Mode::Splice);
        gauge
    }

    #[test]
    fn messages_stay_in_small_buffers() {
        let mut gauge = Gauge::default();
        for _ in 0..100 {
            gauge.received(4096, true);
            gauge.received(300, false);
            assert_eq!(gauge.mode(), Mode::Copy(Class::Stream));
        }
    }

    #[test]
    fn a_bulky_direction_goes_by_large_buffers_to_a_pipe() {
        let mut gauge = Gauge::default();
        gauge.received(4096, true);
        gauge.received(4096, true);
        assert_eq!(gauge.mode(), Mode::Copy(Class::Large));
        for _ in 0..3 {
            gauge.received(LARGE, true);
        }
        // Not quite full is no end of it, hardly filled is.
        gauge.received(9000, false);
        assert_eq!(gauge.mode(), Mode::Copy(Class::Large));
        gauge.received(100, false);
        assert_eq!(gauge.mode(), Mode::Copy(Class::Stream));
        splicing();
    }

    #[test]
    fn it_calms_down_after_small_bursts() {
        let mut gauge = splicing();
        let mut burst = |count| {
            gauge.spliced(count);
            gauge.ran_dry();
            gauge.mode()
        };
        for count in [100, 1 << 20, 100] {
            assert_eq!(burst(count), Mode::Splice);
        }
        assert_eq!(burst(100), Mode::Copy(Class::Stream));

        // Messages of a middling size do not make it go back and forth.
        let mut gauge = splicing();
        let mut switches = 0;
        for _ in 0..500 {
            let before = gauge.mode();
            if before == Mode::Splice {
                gauge.spliced(20_000);
                gauge.ran_dry();
            } else {
                gauge.received(20_000, false);
            }
            switches += u32::from((before == Mode::Splice) != (gauge.mode() == Mode::Splice));
        }
        assert!(switches <= 20, "{switches} switches");
    }

    #[test]
    fn without_a_pipe_it_goes_on_copying() {
        let mut gauge = splicing();
        gauge.refused();
        let copied = REFUSED_BYTES as usize / LARGE;
        for _ in 1..copied {
            gauge.received(LARGE, true);
            assert_eq!(gauge.mode(), Mode::Copy(Class::Large));
        }
        gauge.received(LARGE, true);
        assert_eq!(gauge.mode(), Mode::Splice);
    }
}
