//! What one worker has for its HTTP connections: the configuration in force, idle upstream
//! connections, and which client connections wait for a next request.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::sync::Arc;

use crate::base::memory;
use crate::base::places::{Places, Relief};
use crate::log_process;
use crate::observe::Level;
use crate::upstream::{DynamicGroups, IdlePool, Locals};

use super::conf::HttpConf;
use super::exchange::Generation;
use super::h2::timers::Timers;
use super::proxy::connection::UpstreamConn;
use super::proxy::h2::pool::Pool;
use super::waiting::Waiting;

/// So many idle connections are closed at once where places get scarce.
const REUSED_AT_ONCE: usize = 32;

/// The memory of so many connections is worth giving back to the system …
const FREED_MIN: usize = 64;
/// … once in this time at most.
const COLLECT_EVERY_MS: u64 = 2_000;

/// One worker's part of `http`. Shared by its tasks, never by another thread.
pub struct Local {
    generation: RefCell<Rc<Generation>>,
    /// How often it was replaced.
    reloads: Cell<u64>,
    /// Idle connections to upstream peers.
    pub idle: RefCell<IdlePool<Box<UpstreamConn>>>,
    /// HTTP/2 connections to upstream peers.
    pub lines: RefCell<Pool>,
    /// Balancing state of each upstream group; never shared between workers.
    pub balance: RefCell<Locals>,
    /// Destinations of `proxy_pass` with variables.
    pub dynamic: RefCell<DynamicGroups>,
    /// For the `random` balancing method.
    pub rng: RefCell<fastrand::Rng>,
    /// `worker_connections`.
    pub places: Rc<Places>,
    /// Client connections that wait for a request.
    pub(super) waiting: Waiting,
    /// Deadlines of streams, and of connections with streams.
    pub timers: Timers,
    /// Connections parked or closed since memory was last given back, and when that was.
    freed: Cell<usize>,
    collected_ms: Cell<u64>,
}

/// Idle HTTP connections are what can go where places get scarce.
struct Idle(Weak<Local>);

impl Relief for Idle {
    fn leaving(&self) -> usize {
        self.0.upgrade().map_or(0, |local| local.waiting.leaving())
    }

    /// Those to upstreams go first: another is made when it is needed.
    fn relieve(&self, is_full: &dyn Fn() -> bool) {
        let Some(local) = self.0.upgrade() else {
            return;
        };
        local.idle.borrow_mut().clear();
        local.lines.borrow().close_idle();
        if is_full() && local.waiting.close_oldest(REUSED_AT_ONCE) > 0 {
            let max = local.places.max();
            log_process!(
                Level::Warn,
                "{max} worker_connections are not enough, reusing connections"
            );
        }
    }
}

impl Local {
    /// A worker's state, with the first configuration.
    pub fn new(conf: Arc<HttpConf>, places: Rc<Places>) -> Rc<Self> {
        let local = Rc::new(Local {
            generation: RefCell::new(Rc::new(Generation::new(conf))),
            reloads: Cell::new(0),
            idle: RefCell::new(IdlePool::new()),
            lines: RefCell::default(),
            balance: RefCell::default(),
            dynamic: RefCell::default(),
            rng: RefCell::new(fastrand::Rng::new()),
            places,
            waiting: Waiting::default(),
            timers: Timers::default(),
            freed: Cell::new(0),
            collected_ms: Cell::new(0),
        });
        local.places.set_relief(Idle(Rc::downgrade(&local)));
        local
    }

    /// The configuration that new requests take.
    pub fn generation(&self) -> Rc<Generation> {
        Rc::clone(&self.generation.borrow())
    }

    /// Makes `conf` the configuration of every request from now on. Where it has no server at all,
    /// who is there, and who waits to be accepted, is served as before.
    pub fn replace(&self, conf: Arc<HttpConf>) {
        if conf.listens.is_empty() {
            return;
        }
        *self.generation.borrow_mut() = Rc::new(Generation::new(conf));
        self.reloads.set(self.reloads.get() + 1);
        // For connections that told their client something which is different now.
        self.timers.wake_all();
    }

    /// How often the configuration was replaced.
    pub fn reloads(&self) -> u64 {
        self.reloads.get()
    }

    /// From now on connections close as soon as they are idle.
    pub fn drain(&self) {
        self.places.drain();
        self.waiting.close_oldest(usize::MAX);
        self.timers.wake_all();
        self.idle.borrow_mut().clear();
        self.lines.borrow().close_idle();
    }

    /// Called several times a second by the worker's sweep.
    pub fn sweep(&self, now: u64) {
        if self.places.is_draining() {
            self.waiting.close_oldest(usize::MAX);
            self.lines.borrow().close_idle();
        }
        self.waiting.sweep(now);
        self.timers.sweep(now);
        self.idle.borrow_mut().sweep(now);
        self.lines.borrow_mut().sweep(now);
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
