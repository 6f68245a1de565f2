//! `least_conn`: the peer with the fewest requests in flight for its weight; among equals, smooth
//! weighted round robin.

use super::View;

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
    let mut idlest = std::mem::take(&mut view.weights.scratch);
    find_idlest(view, &mut idlest);
    let best = match idlest[..] {
        [] => None,
        [only] => Some(only as usize),
        _ => Some(smoothest(view, &idlest)),
    };
    view.weights.scratch = idlest;
    best
}

/// The open peers with the fewest requests for their weight, in the order of the configuration.
/// Other workers go on counting meanwhile, so each count is looked at once.
fn find_idlest(view: &View<'_>, idlest: &mut Vec<u32>) {
    idlest.clear();
    let all_open = view.all_open();
    let (mut least_conns, mut its_weight) = (0, 1);
    for (index, state) in view.set.states.iter().enumerate() {
        if !all_open && !view.is_open(index) {
            continue;
        }
        let conns = u64::from(state.conns());
        let weight = u64::from(view.set.weights[index]);
        let (own, least) = (conns * its_weight, least_conns * weight);
        if idlest.is_empty() || own < least {
            idlest.clear();
            (least_conns, its_weight) = (conns, weight);
        } else if own > least {
            continue;
        }
        idlest.push(index as u32);
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
