//! What one worker has for its sessions: the configuration in force and the state of balancing.

use std::cell::RefCell;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use crate::base::listen::ListenAddr;
use crate::base::places::Places;
use crate::upstream::{DynamicGroups, Locals};

use super::conf::{Server, StreamConf};
use super::drops::Watches;
use super::modules::pass::Doors;
use super::udp::table::Tables;

/// The configuration that a session works with, as one worker holds it. Cloned by reference count
/// without atomics; a session keeps the one it began with.
pub struct Generation {
    /// The compiled `stream {}` block, shared by all workers.
    pub stream: Arc<StreamConf>,
}

impl Generation {
    /// The server with this id.
    pub fn server(&self, id: u32) -> &Server {
        &self.stream.servers[id as usize]
    }
}

/// One worker's part of `stream`. Shared by its tasks, never by another thread.
pub struct Local {
    generation: RefCell<Rc<Generation>>,
    /// The one before it, while sockets that it alone listens on are being closed.
    previous: RefCell<Option<Rc<Generation>>>,
    /// Balancing state of each upstream group; never shared between workers.
    pub balance: RefCell<Locals>,
    /// Destinations of `proxy_pass` with variables.
    pub dynamic: RefCell<DynamicGroups>,
    /// For the `random` balancing method.
    pub rng: RefCell<fastrand::Rng>,
    /// Sessions of datagrams.
    pub udp: Tables,
    /// `worker_connections`.
    pub places: Rc<Places>,
    /// Sessions that end when their server goes (`proxy_session_drop`).
    pub sessions: Watches,
    /// Who takes the connections of `pass`.
    doors: RefCell<Option<Weak<dyn Doors>>>,
}

impl Local {
    /// A worker's state, with the first configuration.
    pub fn new(conf: Arc<StreamConf>, places: Rc<Places>) -> Rc<Self> {
        Rc::new(Local {
            generation: RefCell::new(Rc::new(Generation { stream: conf })),
            previous: RefCell::default(),
            balance: RefCell::default(),
            dynamic: RefCell::default(),
            rng: RefCell::new(fastrand::Rng::new()),
            udp: Tables::default(),
            places,
            sessions: Watches::default(),
            doors: RefCell::default(),
        })
    }

    /// Says who takes the connections of `pass`.
    pub fn set_doors(&self, doors: Weak<dyn Doors>) {
        *self.doors.borrow_mut() = Some(doors);
    }

    /// Who takes the connections of `pass`.
    pub fn doors(&self) -> Option<Rc<dyn Doors>> {
        self.doors.borrow().as_ref()?.upgrade()
    }

    /// The configuration of a session that begins now at `addr`, and the address' place in it.
    /// `None`: no server of `stream` listens there.
    pub fn listen_at(&self, addr: &ListenAddr) -> Option<(Rc<Generation>, u32)> {
        let look = |generation: &Rc<Generation>| {
            let listen = generation.stream.listen_at(addr)?;
            Some((Rc::clone(generation), listen))
        };
        look(&self.generation.borrow()).or_else(|| self.previous.borrow().as_ref().and_then(look))
    }

    /// Makes `conf` the configuration of every session from now on, except at addresses that only
    /// the one before has: those last until [`Local::forget_previous`].
    pub fn replace(&self, conf: Arc<StreamConf>) {
        let newest = Rc::new(Generation { stream: conf });
        let previous = self.generation.replace(newest);
        *self.previous.borrow_mut() = Some(previous);
    }

    /// Called several times a second by the worker's sweep.
    pub fn sweep(&self, now_ms: u64) {
        self.sessions.sweep(now_ms);
    }

    /// Every socket of the configuration before is closed.
    pub fn forget_previous(&self) {
        *self.previous.borrow_mut() = None;
    }
}
