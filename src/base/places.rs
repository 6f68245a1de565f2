//! `worker_connections`: the places for connections that one worker has, for clients and upstreams
//! of every kind of server together.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Waker;

/// The last `$connection` given out in this process.
static CONNECTIONS: AtomicU64 = AtomicU64::new(0);

/// The connections of one worker, counted. Shared by its tasks, never by another thread.
#[derive(Default)]
pub struct Places {
    /// Client connections that are open.
    clients: Cell<usize>,
    /// Connections to upstreams that are in use or lie idle.
    upstreams: Cell<usize>,
    max: Cell<usize>,
    draining: Cell<bool>,
    /// Woken when the last connection ends.
    drained: RefCell<Option<Waker>>,
    relief: RefCell<Option<Box<dyn Relief>>>,
}

/// Who can give places back when they get scarce: connections that are idle.
pub trait Relief {
    /// Client connections that were told to close and have not done so yet.
    fn leaving(&self) -> usize;

    /// Closes what is idle; `is_full` tells whether that was enough.
    fn relieve(&self, is_full: &dyn Fn() -> bool);
}

/// A connection to an upstream, counted from before it stands until it is closed.
pub struct Counted(Rc<Places>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.upstreams.set(self.0.upstreams.get() - 1);
    }
}

/// Idle connections are closed when no more than this part of `worker_connections` is free (as
/// nginx: one in sixteen).
const TIGHT_PART: usize = 16;

impl Places {
    /// So many places, all free.
    pub fn new(max: usize) -> Rc<Places> {
        let places = Places::default();
        places.max.set(max);
        Rc::new(places)
    }

    /// A number for a new connection, unique in the process.
    pub fn next_connection() -> u64 {
        CONNECTIONS.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Who is asked to close idle connections.
    pub fn set_relief(&self, relief: impl Relief + 'static) {
        *self.relief.borrow_mut() = Some(Box::new(relief));
    }

    /// `worker_connections`.
    pub fn max(&self) -> usize {
        self.max.get()
    }

    /// Changes `worker_connections`; what is open stays.
    pub fn set_max(&self, max: usize) {
        self.max.set(max);
    }

    /// Whether there is a place for one more connection. Where it gets tight, idle ones have to
    /// go.
    pub fn has_room(&self) -> bool {
        let max = self.max.get();
        if self.in_use() + max / TIGHT_PART < max {
            return true;
        }
        if let Some(relief) = &*self.relief.borrow() {
            relief.relieve(&|| self.in_use() + max / TIGHT_PART >= max);
        }
        self.in_use() < max
    }

    /// Counts a connection to an upstream that is about to be made; `None` if there is no room.
    pub fn count_upstream(self: &Rc<Self>) -> Option<Counted> {
        if !self.has_room() {
            return None;
        }
        self.upstreams.set(self.upstreams.get() + 1);
        Some(Counted(Rc::clone(self)))
    }

    /// A client's connection was accepted.
    pub fn opened(&self) {
        self.clients.set(self.clients.get() + 1);
    }

    /// A client's connection has ended.
    pub fn closed(&self) {
        self.clients.set(self.clients.get() - 1);
        if self.clients.get() == 0
            && self.draining.get()
            && let Some(waker) = self.drained.take()
        {
            waker.wake();
        }
    }

    /// From now on the worker finishes what it has and takes nothing new.
    pub fn drain(&self) {
        self.draining.set(true);
    }

    /// Whether the worker finishes what it has.
    pub fn is_draining(&self) -> bool {
        self.draining.get()
    }

    /// Whether the worker drains and has no client left; wakes `waker` when that changes.
    pub fn is_drained(&self, waker: &Waker) -> bool {
        *self.drained.borrow_mut() = Some(waker.clone());
        self.draining.get() && self.clients.get() == 0
    }

    fn in_use(&self) -> usize {
        let leaving = self.relief.borrow().as_ref().map_or(0, |r| r.leaving());
        (self.clients.get() + self.upstreams.get()).saturating_sub(leaving)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Idle(Rc<Cell<usize>>);

    impl Relief for Idle {
        fn leaving(&self) -> usize {
            self.0.get()
        }

        fn relieve(&self, is_full: &dyn Fn() -> bool) {
            if is_full() {
                self.0.set(self.0.get() + 1);
            }
        }
    }

    #[test]
    fn clients_and_upstreams_share_the_places() {
        let places = Places::new(3);
        places.opened();
        places.opened();
        let upstream = places.count_upstream().unwrap();
        assert!(!places.has_room() && places.count_upstream().is_none());
        drop(upstream);
        assert!(places.has_room());
        places.set_max(2);
        assert!(!places.has_room());
        places.closed();
        assert!(places.has_room());
    }

    #[test]
    fn idle_connections_make_room() {
        let places = Places::new(2);
        let leaving = Rc::new(Cell::new(0));
        places.set_relief(Idle(Rc::clone(&leaving)));
        places.opened();
        places.opened();
        assert!(places.has_room());
        assert_eq!(leaving.get(), 1);
    }

    #[test]
    fn the_last_client_ends_the_draining() {
        let places = Places::new(2);
        places.opened();
        places.drain();
        assert!(!places.is_drained(Waker::noop()));
        places.closed();
        assert!(places.is_drained(Waker::noop()));
    }
}
