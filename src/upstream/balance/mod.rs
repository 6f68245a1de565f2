//! The balancing methods, one file each, as pure functions: the peers, this worker's weights, the
//! request's own record, the time and the randomness go in; the index of a peer comes out.
//!
//! Each method chooses the server that nginx would choose. A chosen peer is already *claimed*: one
//! of its places is taken, and it is marked as tried by this request.

use std::sync::Arc;

use super::peer::{Peer, PeerState};

pub mod consistent;
pub mod hash;
pub mod ip_hash;
mod least;
pub mod least_conn;
pub mod least_time;
mod queue;
pub mod random;
pub mod round_robin;

/// The primary or the backup servers of a snapshot, in the order of the configuration.
#[derive(Debug)]
pub struct PeerSet {
    list: Box<[Arc<Peer>]>,
    /// The weights and the live states once more, side by side: a walk over a thousand peers must
    /// not follow a thousand pointers.
    weights: Box<[u32]>,
    states: Box<[Arc<PeerState>]>,
    /// Running totals of the weights: peer `i` owns `[ends[i - 1], ends[i])`.
    ends: Box<[u64]>,
    any_down: bool,
    any_limit: bool,
    ring: Option<consistent::Ring>,
}

/// The smooth weights of one set, kept by one worker.
#[derive(Debug, Default)]
pub struct Weights {
    list: Vec<Weight>,
    /// While this is in use, it and not `list` knows the current weights.
    queue: queue::Queue,
    /// Memory that a choice needs for a moment.
    scratch: Vec<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Weight {
    pub(super) current: i64,
    pub(super) effective: i64,
}

/// The peers a request has tried. Up to 64 live inline; beyond, in a vector that is reused.
#[derive(Debug, Default)]
pub struct Tried {
    first: u64,
    more: Vec<u64>,
    any: bool,
}

/// What the hashing and random methods remember from one try of a request to the next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Steps {
    pub(super) hash: u32,
    pub(super) rehash: u32,
    pub(super) tries: u32,
    pub(super) started: bool,
}

/// Everything a method sees and may change.
#[derive(Debug)]
pub struct View<'a> {
    /// The peers to choose from.
    pub set: &'a PeerSet,
    /// This worker's weights of these peers.
    pub weights: &'a mut Weights,
    /// What this request has tried.
    pub tried: &'a mut Tried,
    /// Monotonic milliseconds.
    pub now_ms: u64,
    /// No peer of the group has a failure on record.
    pub calm: bool,
}

impl PeerSet {
    /// A set of peers; `consistent` builds the ketama ring as well.
    pub fn new(list: Vec<Arc<Peer>>, consistent: bool) -> Self {
        let mut total = 0u64;
        let ends = list
            .iter()
            .map(|peer| {
                total += u64::from(peer.conf.params.weight);
                total
            })
            .collect();
        PeerSet {
            weights: list.iter().map(|peer| peer.conf.params.weight).collect(),
            states: list.iter().map(|peer| peer.state.clone()).collect(),
            ends,
            any_down: list.iter().any(|peer| peer.conf.params.down),
            any_limit: list.iter().any(|peer| peer.conf.params.max_conns != 0),
            ring: consistent.then(|| consistent::Ring::new(&list)),
            list: list.into(),
        }
    }

    /// The peers in the order of the configuration.
    pub fn list(&self) -> &[Arc<Peer>] {
        &self.list
    }

    /// How many peers there are.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The sum of the weights, those of servers marked `down` included.
    pub fn total_weight(&self) -> u64 {
        self.ends.last().copied().unwrap_or(0)
    }

    /// How many peers are not marked `down`: the tries a request may take among them.
    pub fn tries(&self) -> u32 {
        self.list
            .iter()
            .filter(|peer| !peer.conf.params.down)
            .count() as u32
    }

    /// The peer that owns `point`, which is below the total weight.
    fn at_weight(&self, point: u64) -> usize {
        debug_assert!(point < self.total_weight());
        // Equal weights are the common case and need no search.
        let guess = (point / u64::from(self.weights[0])) as usize;
        if guess < self.ends.len()
            && point < self.ends[guess]
            && point >= self.ends[guess] - u64::from(self.weights[guess])
        {
            return guess;
        }
        self.ends.partition_point(|&end| end <= point)
    }
}

impl Weights {
    /// The weights a group starts with.
    pub fn new(set: &PeerSet) -> Self {
        Weights::from_list(set.weights.iter().copied().map(Weight::full).collect())
    }

    pub(super) fn from_list(list: Vec<Weight>) -> Self {
        Weights {
            list,
            ..Weights::default()
        }
    }

    /// The weight of each peer.
    pub(super) fn list(&mut self) -> &mut [Weight] {
        self.queue.settle(&mut self.list);
        &mut self.list
    }

    /// Lowers the effective weight of a peer that failed, by its share of `max_fails`.
    pub(super) fn lower(&mut self, index: usize, peer: &Peer) {
        if let Some(share) = peer
            .conf
            .params
            .weight
            .checked_div(peer.conf.params.max_fails)
        {
            let weight = &mut self.list()[index];
            weight.effective = (weight.effective - i64::from(share)).max(0);
        }
    }
}

impl Weight {
    pub(super) fn full(weight: u32) -> Self {
        Weight {
            current: 0,
            effective: i64::from(weight),
        }
    }

    /// One step of the smooth weighted round robin for a peer that could be chosen; the answer is
    /// what it adds to the round's total.
    fn step(&mut self, weight: u32) -> i64 {
        let effective = self.effective;
        self.current += effective;
        if effective < i64::from(weight) {
            self.effective += 1;
        }
        effective
    }
}

impl Tried {
    /// Whether peer `index` was tried.
    pub fn has(&self, index: usize) -> bool {
        match index {
            0..64 => self.first >> index & 1 == 1,
            _ => self
                .more
                .get(index / 64 - 1)
                .is_some_and(|word| word >> (index % 64) & 1 == 1),
        }
    }

    /// Marks peer `index`.
    pub fn set(&mut self, index: usize) {
        self.any = true;
        if index < 64 {
            self.first |= 1 << index;
            return;
        }
        let word = index / 64 - 1;
        if word >= self.more.len() {
            self.more.resize(word + 1, 0);
        }
        self.more[word] |= 1 << (index % 64);
    }

    /// Forgets all, keeping the memory.
    pub fn clear(&mut self) {
        self.first = 0;
        self.more.clear();
        self.any = false;
    }

    /// Whether nothing was tried.
    pub fn is_empty(&self) -> bool {
        !self.any
    }
}

impl View<'_> {
    /// Claims the first open peer of those that own the points which `next` gives, each below the
    /// total weight that it is told. When they are too often not open, weights decide.
    fn search(
        &mut self,
        steps: &mut Steps,
        mut next: impl FnMut(&mut Steps, u64) -> u64,
    ) -> Option<usize> {
        while steps.tries <= TRIES_MAX {
            let point = next(steps, self.set.total_weight());
            let index = self.set.at_weight(point);
            if self.is_open(index) && self.claim(index) {
                return Some(index);
            }
            steps.tries += 1;
        }
        round_robin::pick(self)
    }

    /// Whether peer `index` may be chosen: not tried, not `down`, not failed, not full.
    fn is_open(&self, index: usize) -> bool {
        !self.tried.has(index) && (self.is_plain() || self.is_able(index))
    }

    /// Whether every peer is known to be open without looking at any.
    fn all_open(&self) -> bool {
        self.is_plain() && self.tried.is_empty()
    }

    /// Whether nothing but having been tried can keep a peer from being chosen.
    fn is_plain(&self) -> bool {
        self.calm && !self.set.any_down && !self.set.any_limit
    }

    fn is_able(&self, index: usize) -> bool {
        let peer = &*self.set.list[index];
        !peer.conf.params.down
            && (self.calm || !peer.state.is_failed(&peer.conf.params, self.now_ms))
            && (!self.set.any_limit || !peer.state.is_full(&peer.conf.params))
    }

    /// Takes a place of peer `index` and marks it as tried, whether or not that worked.
    fn claim(&mut self, index: usize) -> bool {
        self.tried.set(index);
        let peer = &*self.set.list[index];
        peer.state.claim(&peer.conf.params, self.now_ms)
    }
}

/// After this many fruitless steps the hashing and random methods leave the choice to round robin.
const TRIES_MAX: u32 = 20;

#[cfg(test)]
mod tests;
