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
    let least = least(view)?;
    Some(if least.tied {
        smoothest(view, &least)
    } else {
        least.index
    })
}

struct Least {
    index: usize,
    conns: u64,
    weight: u64,
    tied: bool,
}

fn least(view: &View<'_>) -> Option<Least> {
    let all_open = view.all_open();
    let mut best: Option<Least> = None;
    for (index, state) in view.set.states.iter().enumerate() {
        if !all_open && !view.is_open(index) {
            continue;
        }
        let conns = u64::from(state.conns());
        let weight = u64::from(view.set.weights[index]);
        match &mut best {
            Some(best) if conns * best.weight > best.conns * weight => {}
            Some(best) if conns * best.weight == best.conns * weight => best.tied = true,
            _ => {
                best = Some(Least {
                    index,
                    conns,
                    weight,
                    tied: false,
                })
            }
        }
    }
    best
}

/// One round of smooth weighted round robin among the peers as idle as `least`, the first of them.
fn smoothest(view: &mut View<'_>, least: &Least) -> usize {
    let all_open = view.all_open();
    let mut total = 0;
    let mut best = (least.index, i64::MIN);
    view.weights.queue.settle(&mut view.weights.list);
    for index in least.index..view.set.len() {
        let full = view.set.weights[index];
        if index != least.index {
            // Other workers go on counting: whoever is no longer as idle is simply not in the round.
            let conns = u64::from(view.set.states[index].conns());
            let is_tied = conns * least.weight == least.conns * u64::from(full);
            if !is_tied || (!all_open && !view.is_open(index)) {
                continue;
            }
        }
        let weight = &mut view.weights.list[index];
        total += weight.step(full);
        if weight.current > best.1 {
            best = (index, weight.current);
        }
    }
    view.weights.list[best.0].current -= total;
    best.0
}
