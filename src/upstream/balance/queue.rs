//! Smooth weighted round robin among many undisturbed peers, without a walk over all of them.
//!
//! While every peer is open and at its full weight, each gains its weight every round, so after `t`
//! rounds its current weight is `base + weight * t`, and only the winner's base changes. Among
//! peers of one weight the order of bases is therefore the order of current weights: one heap per
//! weight holds them, and a round compares the heads. The choices are exactly those of the walk.

use std::collections::BinaryHeap;

use super::Weight;

/// The heaps. In use from [`begin`](Queue::begin) until [`settle`](Queue::settle).
#[derive(Debug, Default)]
pub struct Queue {
    classes: Vec<Class>,
    rounds: i64,
    in_use: bool,
    /// The last look at the weights found one that is not full, so the next look can wait.
    patience: u32,
}

#[derive(Debug)]
struct Class {
    weight: u32,
    heap: BinaryHeap<Entry>,
}

/// Highest base first; of equals, the peer named first.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    base: i64,
    index: std::cmp::Reverse<u32>,
}

impl Queue {
    /// Makes the queue ready; `false` while some peer is not at its `full` weight, which takes some
    /// rounds of the walk to recover.
    pub fn begin(&mut self, list: &[Weight], full: &[u32]) -> bool {
        if self.in_use {
            return true;
        }
        if self.patience > 0 {
            self.patience -= 1;
            return false;
        }
        if list
            .iter()
            .zip(full)
            .any(|(weight, &full)| weight.effective != i64::from(full))
        {
            self.patience = PATIENCE;
            return false;
        }
        self.rounds = 0;
        self.in_use = true;
        for class in &mut self.classes {
            class.heap.clear();
        }
        for (index, (weight, &full)) in list.iter().zip(full).enumerate() {
            let at = self
                .classes
                .binary_search_by_key(&full, |class| class.weight);
            let at = at.unwrap_or_else(|at| {
                self.classes.insert(
                    at,
                    Class {
                        weight: full,
                        heap: BinaryHeap::new(),
                    },
                );
                at
            });
            let index = std::cmp::Reverse(index as u32);
            self.classes[at].heap.push(Entry {
                base: weight.current,
                index,
            });
        }
        self.classes.retain(|class| !class.heap.is_empty());
        true
    }

    /// Plays one round; `total` is the sum of all weights.
    pub fn next(&mut self, total: u64) -> Option<usize> {
        debug_assert!(self.in_use);
        self.rounds += 1;
        let rounds = self.rounds;
        let head = |class: &Class| {
            let entry = class.heap.peek()?;
            Some((entry.base + i64::from(class.weight) * rounds, entry.index))
        };
        let winner = self.classes.iter_mut().max_by_key(|class| head(class))?;
        // Changing the head in place sifts once, where a pop and a push would sift twice.
        let mut entry = winner.heap.peek_mut()?;
        entry.base -= total as i64;
        Some(entry.index.0 as usize)
    }

    /// Writes the current weights back, and is no longer in use.
    pub fn settle(&mut self, list: &mut [Weight]) {
        if !self.in_use {
            return;
        }
        self.in_use = false;
        for class in &self.classes {
            let gained = i64::from(class.weight) * self.rounds;
            for entry in class.heap.iter() {
                list[entry.index.0 as usize].current = entry.base + gained;
            }
        }
    }
}

/// Rounds of the walk between two looks at whether all weights are full again.
const PATIENCE: u32 = 8;
