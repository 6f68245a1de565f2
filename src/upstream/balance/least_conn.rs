//! `least_conn`: the peer with the fewest requests in flight for its weight; among equals, smooth
//! weighted round robin.

use super::{View, least};

/// The next peer, or `None` when none is open.
pub fn pick(view: &mut View<'_>) -> Option<usize> {
    least::pick(view, cost)
}

/// Requests in flight.
pub fn cost(view: &View<'_>, index: usize) -> u64 {
    u64::from(view.set.states[index].conns())
}
