//! Smooth weighted round robin: each round every open peer gains its effective weight, the highest
//! wins and pays the round's total. Weights 5, 1, 1 give `a a b a c a a`, never five in a row.

use super::{View, Weight};

/// The next peer, or `None` when none is open.
pub fn pick(view: &mut View<'_>) -> Option<usize> {
    // A lost race for a place marks the peer as tried, so this ends after at most one turn each.
    loop {
        let best = best(view)?;
        if view.claim(best) {
            return Some(best);
        }
    }
}

fn best(view: &mut View<'_>) -> Option<usize> {
    if !view.all_open() {
        return best_of_open(view);
    }
    let weights = &mut *view.weights;
    if view.set.len() >= QUEUE_FROM && weights.queue.begin(&weights.list, &view.set.weights) {
        return weights.queue.next(view.set.total_weight());
    }
    best_of_all(weights.list(), &view.set.weights)
}

fn best_of_all(list: &mut [Weight], full: &[u32]) -> Option<usize> {
    let mut total = 0;
    let mut best = (usize::MAX, i64::MIN);
    for (index, (weight, &full)) in list.iter_mut().zip(full).enumerate() {
        total += weight.step(full);
        if weight.current > best.1 {
            best = (index, weight.current);
        }
    }
    list.get_mut(best.0)?.current -= total;
    Some(best.0)
}

fn best_of_open(view: &mut View<'_>) -> Option<usize> {
    let mut total = 0;
    let mut best = (usize::MAX, i64::MIN);
    view.weights.queue.settle(&mut view.weights.list);
    for index in 0..view.set.len() {
        if !view.is_open(index) {
            continue;
        }
        let weight = &mut view.weights.list[index];
        total += weight.step(view.set.weights[index]);
        if weight.current > best.1 {
            best = (index, weight.current);
        }
    }
    view.weights.list.get_mut(best.0)?.current -= total;
    Some(best.0)
}

/// From so many peers on, a queue is cheaper than a walk.
const QUEUE_FROM: usize = 32;
