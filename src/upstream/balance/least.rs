//! The peer that costs least for its weight; among equals, smooth weighted round robin. What a
//! cost is, `least_conn` and `least_time` say.

use super::View;

/// The next peer, or `None` when none is open.
pub fn pick(view: &mut View<'_>, cost: impl Fn(&View<'_>, usize) -> u64) -> Option<usize> {
    // A lost race for a place marks the peer as tried, so this ends after at most one turn each.
    loop {
        let best = best(view, &cost)?;
        if view.claim(best) {
            return Some(best);
        }
    }
}

fn best(view: &mut View<'_>, cost: impl Fn(&View<'_>, usize) -> u64) -> Option<usize> {
    let mut least = std::mem::take(&mut view.weights.scratch);
    find_least(view, &mut least, cost);
    let best = match least[..] {
        [] => None,
        [only] => Some(only as usize),
        _ => Some(smoothest(view, &least)),
    };
    view.weights.scratch = least;
    best
}

/// The open peers that cost least for their weight, in the order of the configuration. Other
/// workers go on meanwhile, so each cost is looked at once.
fn find_least(view: &View<'_>, found: &mut Vec<u32>, cost: impl Fn(&View<'_>, usize) -> u64) {
    found.clear();
    let all_open = view.all_open();
    let (mut least_cost, mut its_weight) = (0, 1);
    for (index, &weight) in view.set.weights.iter().enumerate() {
        if !all_open && !view.is_open(index) {
            continue;
        }
        let (cost, weight) = (cost(view, index), u64::from(weight));
        let (own, least) = (cost * its_weight, least_cost * weight);
        if found.is_empty() || own < least {
            found.clear();
            (least_cost, its_weight) = (cost, weight);
        } else if own > least {
            continue;
        }
        found.push(index as u32);
    }
}

/// One round of smooth weighted round robin among these peers.
fn smoothest(view: &mut View<'_>, among: &[u32]) -> usize {
    let list = view.weights.list();
    let mut total = 0;
    let mut best = (0, i64::MIN);
    for index in among.iter().map(|&index| index as usize) {
        let weight = &mut list[index];
        total += weight.step(view.set.weights[index]);
        if weight.current > best.1 {
            best = (index, weight.current);
        }
    }
    list[best.0].current -= total;
    best.0
}
