//! `proxy_upload_rate`, `proxy_download_rate`: how fast one direction may go.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::base::clock;
use crate::ring;

/// The budget of one direction: every piece is followed by the time that it takes at the rate.
pub struct Pace {
    bytes_per_second: u64,
    /// When the next piece may go, in microseconds of [`clock::precise_us`].
    next_us: u64,
    wait: Option<Pin<Box<dyn Future<Output = ()>>>>,
}

/// A direction that is limited moves its bytes in at most so many pieces a second, unless these
/// would be larger than a buffer.
const PIECES_PER_SECOND: u64 = 20;

/// The size of a piece is at least this, if that is not more than one second's worth.
const PIECE_MIN: u64 = 4096;

impl Pace {
    /// None without a limit, that is, for 0.
    pub fn new(bytes_per_second: u64) -> Option<Box<Pace>> {
        (bytes_per_second > 0).then(|| {
            Box::new(Pace {
                bytes_per_second,
                next_us: 0,
                wait: None,
            })
        })
    }

    /// How many bytes may go next, once the time has come. Calls `pauses` with the milliseconds
    /// to go when a wait begins.
    pub fn poll(&mut self, cx: &mut Context<'_>, pauses: impl Fn(u64)) -> Poll<u64> {
        loop {
            if let Some(wait) = &mut self.wait {
                if wait.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
                self.wait = None;
            }
            let left_us = self.next_us.saturating_sub(clock::precise_us());
            if left_us == 0 {
                return Poll::Ready(self.piece());
            }
            let left = Duration::from_micros(left_us);
            pauses(left.as_millis() as u64 + 1);
            self.wait = Some(Box::pin(ring::sleep(left)));
        }
    }

    /// `count` bytes have gone.
    pub fn passed(&mut self, count: u64) {
        let takes = u128::from(count) * 1_000_000 / u128::from(self.bytes_per_second);
        let takes = u64::try_from(takes).unwrap_or(u64::MAX);
        let begun = self
            .next_us
            .max(clock::precise_us().saturating_sub(SLACK_US));
        self.next_us = begun.saturating_add(takes);
    }

    fn piece(&self) -> u64 {
        let piece = (self.bytes_per_second / PIECES_PER_SECOND).max(PIECE_MIN);
        piece.min(self.bytes_per_second)
    }
}

/// How late a piece may be without the next one being later: timers have a millisecond's grain.
const SLACK_US: u64 = 10_000;
