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

    /// Bytes that may be sent in one piece before [`Limit::sent`] has to be asked again.
    pub fn piece(&self) -> usize {
        self.bytes_per_second.clamp(1, 64 << 10) as usize
    }

    /// Accounts for `n` bytes and waits until they are within the rate.
    pub async fn sent(&mut self, n: usize) {
        self.sent += n as u64;
        let counted = self.sent.saturating_sub(self.free);
        let due_ms = counted.saturating_mul(1000) / self.bytes_per_second;
        let elapsed_ms = clock::precise_ms() - self.started_ms;
        if due_ms > elapsed_ms {
            ring::sleep(Duration::from_millis(due_ms - elapsed_ms)).await;
        }
    }
}
