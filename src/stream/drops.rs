//! `proxy_session_drop`: sessions that end when their server is taken out of its group.
//!
//! Names are resolved anew on another thread, which puts another list of peers in place; each
//! worker looks now and then whether the peers of its sessions are still there.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::sync::Arc;

use crate::relay::Stop;
use crate::upstream::{Group, Peer, Peers, Pick};

/// How often the lists are compared.
const EVERY_MS: u64 = 500;

/// The sessions of one worker that are to be dropped with their servers.
#[derive(Default)]
pub struct Watches {
    watched: RefCell<Vec<Weak<Watched>>>,
    looked_ms: Cell<u64>,
}

/// Keeps a session among the watched ones.
pub struct Watch(Rc<Watched>);

impl Watch {
    /// What ends the session.
    pub fn stop(&self) -> &Stop {
        &self.0.stop
    }
}

struct Watched {
    group: Arc<Group>,
    peer: Arc<Peer>,
    /// The list that the peer was last seen in.
    seen: RefCell<Arc<Peers>>,
    stop: Stop,
}

impl Watches {
    /// Asks for the session's end when the picked peer is no longer one of the group, as long as
    /// the result is kept.
    pub fn watch(&self, group: &Arc<Group>, pick: &Pick) -> Watch {
        let watched = Rc::new(Watched {
            group: Arc::clone(group),
            peer: Arc::clone(pick.peer()),
            seen: RefCell::new(group.peers()),
            stop: Stop::default(),
        });
        self.watched.borrow_mut().push(Rc::downgrade(&watched));
        Watch(watched)
    }

    /// Called several times a second by the worker's sweep.
    pub fn sweep(&self, now_ms: u64) {
        if now_ms < self.looked_ms.get() + EVERY_MS {
            return;
        }
        self.looked_ms.set(now_ms);
        self.watched.borrow_mut().retain(|watched| {
            let Some(watched) = watched.upgrade() else {
                return false;
            };
            watched.look();
            true
        });
    }
}

impl Watched {
    fn look(&self) {
        let now = self.group.peers();
        if Arc::ptr_eq(&now, &self.seen.borrow()) {
            return;
        }
        let serial = self.peer.state.serial();
        let is_it = |peer: &Arc<Peer>| peer.state.serial() == serial && !peer.conf.params.down;
        if !now.all().any(is_it) {
            self.stop.stop();
        }
        *self.seen.borrow_mut() = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::{Attempt, Inputs, Keepalive, Locals, Method, Registry, ServerSpec};

    fn server(name: &str) -> ServerSpec {
        ServerSpec::new(
            name,
            vec![name.parse::<std::net::SocketAddr>().unwrap().into()],
        )
    }

    #[test]
    fn a_session_ends_when_its_server_goes() {
        let registry = Registry::new();
        let (one, two) = (server("127.0.0.1:1"), server("127.0.0.1:2"));
        let group = Arc::new(Group::new(
            &registry,
            "stream",
            "db",
            std::slice::from_ref(&one),
            Method::RoundRobin,
            Keepalive::OFF,
        ));
        let mut attempt = Attempt::default();
        attempt.reset(0);
        let inputs = Inputs {
            key: b"",
            client: None,
            now_ms: 0,
        };
        let mut locals = Locals::default();
        let rng = &mut fastrand::Rng::with_seed(1);
        let pick = group
            .pick(&mut attempt, locals.of(&group), &inputs, rng)
            .unwrap();
        let watches = Watches::default();
        let watch = watches.watch(&group, &pick);
        let stop = watch.stop();
        watches.sweep(1_000);
        group.replace(&registry, &[one, two.clone()]);
        watches.sweep(2_000);
        assert!(!stop.is_asked(), "it is there still");
        group.replace(&registry, &[two]);
        watches.sweep(2_100);
        assert!(!stop.is_asked(), "not looked at yet");
        watches.sweep(3_000);
        assert!(stop.is_asked());
        drop(watch);
        watches.sweep(4_000);
        assert!(watches.watched.borrow().is_empty());
    }
}
