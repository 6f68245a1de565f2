//! `least_time`: the peer that is expected to be done first for its weight, by its average time and
//! the requests it has in flight; among equals, smooth weighted round robin.

use super::{View, least};
use crate::upstream::times::Moment;

/// Which time counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeastTime {
    /// The time of which moment.
    pub moment: Moment,
    /// `inflight`: attempts that still wait for the moment count as well.
    pub inflight: bool,
}

/// The next peer, or `None` when none is open.
pub fn pick(view: &mut View<'_>, by: LeastTime) -> Option<usize> {
    least::pick(view, |view, index| cost(view, index, by))
}

/// Milliseconds until the peer would be done with what it has and one more.
pub fn cost(view: &View<'_>, index: usize, by: LeastTime) -> u64 {
    let state = &view.set.states[index];
    let mut ms = state.average_ms(by.moment).unwrap_or(0);
    if ms >= STEP_MS {
        // What was slow may have become fast: a peer that is not asked is taken for faster with
        // each `fail_timeout`, until it is asked.
        let fail_timeout_ms = view.set.list[index].conf.params.fail_timeout_ms;
        let unasked_ms = state.unasked_ms(view.now_ms);
        if unasked_ms > fail_timeout_ms {
            let halvings = unasked_ms / fail_timeout_ms.saturating_add(HALVING_MIN_MS);
            let halvings = u32::try_from(halvings).unwrap_or(u32::MAX);
            ms = ms.checked_shr(halvings).unwrap_or(0);
        }
    }
    if by.inflight {
        ms = ms.max(state.waited_ms(view.now_ms));
    }
    // Times that are close take turns, and all that are beyond any patience are equally bad.
    let ms = (ms - ms % STEP_MS + STEP_MS).min(MAX_MS);
    ms * (1 + u64::from(state.conns()))
}

/// Times within the same step count as equal.
const STEP_MS: u64 = 20;
/// Above this, only the requests in flight make a difference.
const MAX_MS: u64 = 5000;
/// With `fail_timeout=0`, the time in which the average of a peer that is not asked halves.
const HALVING_MIN_MS: u64 = 1000;
