//! What one worker has for its HTTP connections: the configuration in force, idle upstream
//! connections, and which client connections wait for a next request.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Waker;

use crate::base::memory;
use crate::log_process;
use crate::observe::Level;
use crate::upstream::{DynamicGroups, IdlePool, Locals};

use super::conf::HttpConf;
use super::exchange::Generation;
use super::proxy::connection::UpstreamConn;
use super::waiting::Waiting;

/// Idle connections are closed when no more than this part of `worker_connections` is free (as
/// nginx: one in sixteen) …
const TIGHT_PART: usize = 16;
/// … this many at once.
const REUSED_AT_ONCE: usize = 32;

/// The memory of so many connections is worth giving back to the system …
const FREED_MIN: usize = 64;
/// … once in this time at most.
const COLLECT_EVERY_MS: u64 = 2_000;

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
    open: Cell<usize>,
    /// Connections to upstreams that are in use or lie idle.
    upstreams: Rc<Cell<usize>>,
    /// `worker_connections`.
    pub connections_max: Cell<usize>,
    /// The worker finishes what it has and takes nothing new.
    pub draining: Cell<bool>,
    shared: Arc<Shared>,
    /// Client connections that wait for a request.
    pub(super) waiting: Waiting,
    /// Connections parked or closed since memory was last given back, and when that was.
    freed: Cell<usize>,
    collected_ms: Cell<u64>,
    /// Woken when the last connection ends.
    drained: RefCell<Option<Waker>>,
}

/// A connection to an upstream, counted from before it stands until it is closed.
pub struct Counted(Rc<Cell<usize>>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
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
            upstreams: Rc::default(),
            drained: RefCell::new(None),
            connections_max: Cell::new(connections_max),
            draining: Cell::new(false),
            shared,
            waiting: Waiting::default(),
            freed: Cell::new(0),
            collected_ms: Cell::new(0),
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

    /// Whether `worker_connections` leaves room for one more connection. Where it gets tight, idle
    /// ones have to go, those to upstreams first: another is made when it is needed.
    pub fn has_room(&self) -> bool {
        let max = self.connections_max.get();
        let in_use = || self.open.get() + self.upstreams.get() - self.waiting.leaving();
        if in_use() + max / TIGHT_PART < max {
            return true;
        }
        self.idle.borrow_mut().clear();
        if in_use() + max / TIGHT_PART >= max && self.waiting.close_oldest(REUSED_AT_ONCE) > 0 {
            log_process!(
                Level::Warn,
                "{max} worker_connections are not enough, reusing connections"
            );
        }
        in_use() < max
    }

    /// Counts a connection to an upstream that is about to be made; `None` if there is no room.
    pub fn count_upstream(&self) -> Option<Counted> {
        if !self.has_room() {
            return None;
        }
        self.upstreams.set(self.upstreams.get() + 1);
        Some(Counted(Rc::clone(&self.upstreams)))
    }

    /// From now on connections close as soon as they are idle.
    pub fn drain(&self) {
        self.draining.set(true);
        self.waiting.close_oldest(usize::MAX);
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
        if self.draining.get() {
            self.waiting.close_oldest(usize::MAX);
        }
        self.waiting.sweep(now);
        self.idle.borrow_mut().sweep(now);
        if self.freed.get() >= FREED_MIN && now >= self.collected_ms.get() + COLLECT_EVERY_MS {
            self.freed.set(0);
            self.collected_ms.set(now);
            memory::collect();
        }
    }

    /// A connection has freed what it needed to work.
    pub fn freed(&self) {
        self.freed.set(self.freed.get() + 1);
    }
}
