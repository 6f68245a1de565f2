//! What one worker has for its HTTP connections: the configuration in force, idle upstream
//! connections, and which client connections wait for a next request.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Waker;

use crate::base::clock;
use crate::upstream::{DynamicGroups, IdlePool, Locals};

use super::conf::HttpConf;
use super::exchange::Generation;
use super::proxy::connection::UpstreamConn;

/// A connection idle for this long gives up its buffers and its future.
const PARK_AFTER_MS: u64 = 1_000;

/// Numbers that all workers count together.
#[derive(Default)]
pub struct Shared {
    /// The last `$connection` given out.
    pub connections: AtomicU64,
}

/// One worker's part of `http`. Shared by its tasks, never by another thread.
pub struct Local {
    generation: RefCell<Rc<Generation>>,
    /// Idle connections to upstream peers.
    pub idle: RefCell<IdlePool<Box<UpstreamConn>>>,
    /// Balancing state of each upstream group; never shared between workers.
    pub balance: RefCell<Locals>,
    /// Destinations of `proxy_pass` with variables.
    pub dynamic: RefCell<DynamicGroups>,
    /// For the `random` balancing method.
    pub rng: RefCell<fastrand::Rng>,
    /// Client connections that are open.
    pub open: Cell<usize>,
    /// Connections to upstreams that are in use or lie idle.
    pub upstreams: Cell<usize>,
    /// `worker_connections`.
    pub connections_max: Cell<usize>,
    /// The worker finishes what it has and takes nothing new.
    pub draining: Cell<bool>,
    shared: Arc<Shared>,
    waiting: RefCell<Vec<Waiting>>,
    free: RefCell<Vec<usize>>,
    /// Woken when the last connection ends.
    drained: RefCell<Option<Waker>>,
}

/// One slot of the table of connections that may wait for a request.
struct Waiting {
    /// Monotonic ms since when the connection waits; 0 while it works.
    since: Cell<u64>,
    /// Wakes the connection's task so that it parks or, when draining, closes.
    waker: RefCell<Option<Waker>>,
    /// The sweep wants the connection to give up its buffers.
    park: Cell<bool>,
}

impl Waiting {
    fn ask_to_park(&self) {
        self.park.set(true);
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }
}

impl Shared {
    /// The numbers of this process.
    pub fn of_process() -> Arc<Shared> {
        static SHARED: std::sync::OnceLock<Arc<Shared>> = std::sync::OnceLock::new();
        Arc::clone(SHARED.get_or_init(Arc::default))
    }
}

impl Local {
    /// A worker's state, with the first configuration.
    pub fn new(conf: Arc<HttpConf>, shared: Arc<Shared>, connections_max: usize) -> Rc<Self> {
        Rc::new(Local {
            generation: RefCell::new(Rc::new(Generation::new(conf))),
            idle: RefCell::new(IdlePool::new()),
            balance: RefCell::default(),
            dynamic: RefCell::default(),
            rng: RefCell::new(fastrand::Rng::new()),
            open: Cell::new(0),
            upstreams: Cell::new(0),
            drained: RefCell::new(None),
            connections_max: Cell::new(connections_max),
            draining: Cell::new(false),
            shared,
            waiting: RefCell::new(Vec::new()),
            free: RefCell::new(Vec::new()),
        })
    }

    /// The configuration that new requests take.
    pub fn generation(&self) -> Rc<Generation> {
        Rc::clone(&self.generation.borrow())
    }

    /// Makes `conf` the configuration of every request from now on.
    pub fn replace(&self, conf: Arc<HttpConf>) {
        *self.generation.borrow_mut() = Rc::new(Generation::new(conf));
    }

    /// A number for a new connection, unique in the process.
    pub fn next_connection(&self) -> u64 {
        self.shared.connections.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// A place in the table of waiting connections. Give it back with [`Local::leave`].
    pub fn enter(&self) -> usize {
        if let Some(slot) = self.free.borrow_mut().pop() {
            return slot;
        }
        let mut waiting = self.waiting.borrow_mut();
        waiting.push(Waiting {
            since: Cell::new(0),
            waker: RefCell::new(None),
            park: Cell::new(false),
        });
        waiting.len() - 1
    }

    /// Gives a place back.
    pub fn leave(&self, slot: usize) {
        let waiting = self.waiting.borrow();
        waiting[slot].since.set(0);
        waiting[slot].waker.borrow_mut().take();
        self.free.borrow_mut().push(slot);
    }

    /// The connection in this place begins to wait for a request.
    pub fn begin_wait(&self, slot: usize) {
        let waiting = self.waiting.borrow();
        waiting[slot].since.set(clock::now_ms());
        waiting[slot].park.set(false);
    }

    /// The connection in this place waits parked: there is nothing more it could give up.
    pub fn begin_parked(&self, slot: usize) {
        self.begin_wait(slot);
        self.waiting.borrow()[slot].park.set(true);
    }

    /// The connection in this place works again.
    pub fn end_wait(&self, slot: usize) {
        self.waiting.borrow()[slot].since.set(0);
    }

    /// Whether the connection in this place has waited long enough to be parked. Remembers the
    /// waker of the task that asks.
    pub fn should_park(&self, slot: usize, waker: &Waker) -> bool {
        let waiting = self.waiting.borrow();
        let place = &waiting[slot];
        let mut kept = place.waker.borrow_mut();
        if !kept.as_ref().is_some_and(|k| k.will_wake(waker)) {
            *kept = Some(waker.clone());
        }
        place.park.get()
    }

    /// From now on connections close as soon as they are idle.
    pub fn drain(&self) {
        self.draining.set(true);
        for place in self.waiting.borrow().iter() {
            if place.since.get() != 0 {
                place.ask_to_park();
            }
        }
        self.idle.borrow_mut().clear();
    }

    /// Whether the worker drains and has no connection left; wakes `waker` when that changes.
    pub fn is_drained(&self, waker: &Waker) -> bool {
        *self.drained.borrow_mut() = Some(waker.clone());
        self.draining.get() && self.open.get() == 0
    }

    /// A connection was accepted.
    pub fn opened(&self) {
        self.open.set(self.open.get() + 1);
    }

    /// A connection has ended.
    pub fn closed(&self) {
        self.open.set(self.open.get() - 1);
        if self.open.get() == 0
            && self.draining.get()
            && let Some(waker) = self.drained.take()
        {
            waker.wake();
        }
    }

    /// Called several times a second by the worker's sweep.
    pub fn sweep(&self, now: u64) {
        let draining = self.draining.get();
        for place in self.waiting.borrow().iter() {
            let since = place.since.get();
            let due = since != 0 && (draining || now.saturating_sub(since) >= PARK_AFTER_MS);
            if due && !place.park.get() {
                place.ask_to_park();
            }
        }
        self.idle.borrow_mut().sweep(now);
    }
}
