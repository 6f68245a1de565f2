//! `random` and `random two [METHOD]`: a peer drawn by weight, or of two such peers the one that
//! `least_conn` or `least_time` would choose. After 20 draws that fell on peers which are not open,
//! round robin chooses.

use super::{Steps, TRIES_MAX, View, round_robin};

/// A random peer, or `None` when none is open.
pub fn pick(view: &mut View<'_>, steps: &mut Steps, rng: &mut fastrand::Rng) -> Option<usize> {
    if view.set.len() < 2 {
        return round_robin::pick(view);
    }
    view.search(steps, |_, total| rng.u64(..total))
}

/// The peer of the lesser `cost` for its weight, of two different random ones.
pub fn pick_two(
    view: &mut View<'_>,
    steps: &mut Steps,
    rng: &mut fastrand::Rng,
    cost: impl Fn(&View<'_>, usize) -> u64,
) -> Option<usize> {
    if view.set.len() < 2 {
        return round_robin::pick(view);
    }
    let mut first = None;
    while steps.tries <= TRIES_MAX {
        let index = draw(view, rng);
        if first == Some(index) || !view.is_open(index) {
            steps.tries += 1;
            continue;
        }
        let Some(other) = first else {
            first = Some(index);
            continue;
        };
        // Each cost times the weight of the other, so that they compare without a division.
        let weight = |index: usize| u64::from(view.set.weights[index]);
        let (own, others) = (cost(view, index), cost(view, other));
        let better = if own * weight(other) > others * weight(index) {
            other
        } else {
            index
        };
        if view.claim(better) {
            return Some(better);
        }
        first = None;
        steps.tries += 1;
    }
    round_robin::pick(view)
}

fn draw(view: &View<'_>, rng: &mut fastrand::Rng) -> usize {
    view.set.at_weight(rng.u64(..view.set.total_weight()))
}
