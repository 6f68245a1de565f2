//! `limit_rate`: how fast a response may leave.

use std::time::Duration;

use crate::base::clock;
use crate::ring;

use super::exchange::Exchange;

/// The budget of one response.
pub struct Limit {
    bytes_per_second: u64,
    free: u64,
    sent: u64,
    started_ms: u64,
}

impl Limit {
    /// The limit in force for the exchange, if there is one.
    pub fn of(ex: &mut Exchange) -> Option<Limit> {
        let generation = ex.generation();
        let core = &generation.location(ex.location).core;
        let mut size = |template: &Option<crate::vars::Template<Exchange>>| {
            let mut text = Vec::new();
            template.as_ref()?.eval(ex, &mut text);
            crate::config::value::parse_size(&text)
        };
        let configured = size(&core.limit_rate);
        let after = size(&core.limit_rate_after);
        let rate = match ex.response.limit_rate {
            0 => configured.unwrap_or(0),
            set => set,
        };
        (rate > 0).then(|| Limit {
            bytes_per_second: rate,
            free: after.unwrap_or(0),
            sent: 0,
            started_ms: clock::precise_ms(),
        })
    }

    /// `proxy_limit_rate`, if it is in force.
    pub fn of_upstream(ex: &mut Exchange, conf: &super::proxy::Conf) -> Option<Limit> {
        let template = conf.limit_rate.as_ref()?;
        let rate = template.with(ex, |_, text| crate::config::value::parse_size(text))?;
        (rate > 0).then(|| Limit {
            bytes_per_second: rate,
            free: 0,
            sent: 0,
            started_ms: clock::precise_ms(),
        })
    }

    /// Waits until something may be sent, and says how much of `wanted` bytes. A first second's
    /// worth goes at once, as nginx has it.
    pub async fn take(&mut self, wanted: usize) -> usize {
        loop {
            match self.try_take(wanted) {
                Ok(n) => return n,
                Err(wait) => ring::sleep(wait).await,
            }
        }
    }

    /// As [`Limit::take`], but says how long to wait where it would.
    pub fn try_take(&mut self, wanted: usize) -> Result<usize, Duration> {
        // Pieces are large enough that a fast response is not cut into crumbs.
        let least = (wanted as u64).min((self.bytes_per_second / PIECES_PER_SECOND).max(1));
        let before = self.bytes_per_second + self.free;
        let due_ms = ms_for(
            (self.sent + least).saturating_sub(before),
            self.bytes_per_second,
        );
        let elapsed_ms = clock::precise_ms() - self.started_ms;
        if due_ms > elapsed_ms {
            return Err(Duration::from_millis(due_ms - elapsed_ms));
        }
        let earned = u128::from(self.bytes_per_second) * u128::from(elapsed_ms) / 1000;
        let earned = u64::try_from(earned).unwrap_or(u64::MAX);
        let may = earned.saturating_add(before).saturating_sub(self.sent);
        let n = may.max(least).min(wanted as u64);
        self.sent += n;
        Ok(n as usize)
    }

    /// Accounts for `n` bytes that have come; how long it takes until they are within the rate.
    pub fn came(&mut self, n: usize) -> Option<Duration> {
        self.sent += n as u64;
        let due_ms = ms_for(self.sent.saturating_sub(self.free), self.bytes_per_second);
        let elapsed_ms = clock::precise_ms() - self.started_ms;
        (due_ms > elapsed_ms).then(|| Duration::from_millis(due_ms - elapsed_ms))
    }
}

/// A response that is limited leaves in at most so many pieces a second.
const PIECES_PER_SECOND: u64 = 10;

/// How long `n` bytes take, rounded up.
fn ms_for(n: u64, bytes_per_second: u64) -> u64 {
    n.saturating_mul(1000).div_ceil(bytes_per_second)
}
