//! Smooth weighted round robin: each round every open peer gains its effective weight, the highest
//! wins and pays the round's total. Weights 5, 1, 1 give `a a b a c a a`, never five in a row.

use super::View;

/// The next peer, or `None` when none is open.
pub fn pick(view: &mut View<'_>) -> Option<usize> {
    // A lost race for a place marks the peer as tried, so this ends after at most one turn each.
    loop {
        let best = if view.all_open() {
            best_of_all(view)
        } else {
            best_of_open(view)
        }?;
        if view.claim(best) {
            return Some(best);
        }
    }
}

fn best_of_all(view: &mut View<'_>) -> Option<usize> {
    let mut total = 0;
    let mut best = (usize::MAX, i64::MIN);
    for (index, weight) in view.weights.list.iter_mut().enumerate() {
        total += weight.step(view.set.list[index].conf.weight);
        if weight.current > best.1 {
            best = (index, weight.current);
        }
    }
    view.weights.list.get_mut(best.0)?.current -= total;
    Some(best.0)
}

fn best_of_open(view: &mut View<'_>) -> Option<usize> {
    let mut total = 0;
    let mut best = (usize::MAX, i64::MIN);
    for index in 0..view.set.len() {
        if !view.is_open(index) {
            continue;
        }
        let weight = &mut view.weights.list[index];
        total += weight.step(view.set.list[index].conf.weight);
        if weight.current > best.1 {
            best = (index, weight.current);
        }
    }
    view.weights.list.get_mut(best.0)?.current -= total;
    Some(best.0)
}
