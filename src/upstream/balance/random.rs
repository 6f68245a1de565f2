//! `random` and `random two [least_conn]`: a peer drawn by weight, or the idler of two such peers.
//! After 20 draws that fell on peers which are not open, round robin chooses.

use super::{Steps, TRIES_MAX, View, round_robin};

/// A random peer, or `None` when none is open.
pub fn pick(view: &mut View<'_>, steps: &mut Steps, rng: &mut fastrand::Rng) -> Option<usize> {
    if view.set.len() < 2 {
        return round_robin::pick(view);
    }
    while steps.tries <= TRIES_MAX {
        let index = draw(view, rng);
        if view.is_open(index) && view.claim(index) {
            return Some(index);
        }
        steps.tries += 1;
    }
    round_robin::pick(view)
}

/// The peer with fewer requests in flight for its weight, of two different random ones.
pub fn pick_two(view: &mut View<'_>, steps: &mut Steps, rng: &mut fastrand::Rng) -> Option<usize> {
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
        let idler = if load(view, index, other) > load(view, other, index) {
            other
        } else {
            index
        };
        if view.claim(idler) {
            return Some(idler);
        }
        first = None;
        steps.tries += 1;
    }
    round_robin::pick(view)
}

fn draw(view: &View<'_>, rng: &mut fastrand::Rng) -> usize {
    view.set.at_weight(rng.u64(..view.set.total_weight()))
}

/// The load of `index` scaled by the weight of `other`, so that two loads compare without division.
fn load(view: &View<'_>, index: usize, other: usize) -> u64 {
    let list = &view.set.list;
    u64::from(list[index].state.conns()) * u64::from(list[other].conf.weight)
}
