//! Sessions that a client can resume.
//!
//! They belong to one [`Client`](super::client::Client), so to one set of demands, and in it to a
//! peer and a name. All workers share them.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls::NamedGroup;
use rustls::client::{ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue};
use rustls::pki_types::ServerName;

/// Peers and names whose sessions are kept, at most.
const KEYS_MAX: usize = 1024;

/// Tickets kept for a key: each is good for one handshake, and connections come in bursts.
const TICKETS_MAX: usize = 16;

/// Whose session it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    peer: u64,
    is_told: bool,
    name: Box<[u8]>,
}

/// The sessions of a client.
#[derive(Default)]
pub struct Sessions {
    /// Locked some times by a handshake, which takes far longer, and by a ticket that comes; never
    /// by a request.
    table: Mutex<Table>,
}

/// The sessions with one key, as rustls asks for them.
pub struct Store {
    sessions: Arc<Sessions>,
    key: Key,
}

#[derive(Default)]
struct Table {
    kept: HashMap<Key, Kept>,
    /// Keys in the order they came.
    order: VecDeque<Key>,
}

#[derive(Default)]
struct Kept {
    group: Option<NamedGroup>,
    tls12: Option<Tls12ClientSessionValue>,
    tls13: VecDeque<Tls13ClientSessionValue>,
}

impl Key {
    /// Of sessions with a peer that was told this name, or only had to prove it.
    pub fn new(peer: u64, is_told: bool, name: &[u8]) -> Key {
        Key {
            peer,
            is_told,
            name: name.into(),
        }
    }
}

impl Store {
    /// The part of `sessions` with this key.
    pub fn new(sessions: &Arc<Sessions>, key: Key) -> Store {
        Store {
            sessions: Arc::clone(sessions),
            key,
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.sessions
            .table
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn with<R>(&self, act: impl FnOnce(&mut Kept) -> R) -> R {
        let mut table = self.table();
        if !table.kept.contains_key(&self.key) {
            if table.order.len() == KEYS_MAX
                && let Some(oldest) = table.order.pop_front()
            {
                table.kept.remove(&oldest);
            }
            table.order.push_back(self.key.clone());
        }
        act(table.kept.entry(self.key.clone()).or_default())
    }

    fn find<R>(&self, act: impl FnOnce(&mut Kept) -> Option<R>) -> Option<R> {
        act(self.table().kept.get_mut(&self.key)?)
    }
}

impl ClientSessionStore for Store {
    fn set_kx_hint(&self, _: ServerName<'static>, group: NamedGroup) {
        self.with(|kept| kept.group = Some(group));
    }

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        self.find(|kept| kept.group)
    }

    fn set_tls12_session(&self, _: ServerName<'static>, session: Tls12ClientSessionValue) {
        self.with(|kept| kept.tls12 = Some(session));
    }

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.find(|kept| kept.tls12.clone())
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {
        self.find(|kept| kept.tls12.take());
    }

    fn insert_tls13_ticket(&self, _: ServerName<'static>, ticket: Tls13ClientSessionValue) {
        self.with(|kept| {
            if kept.tls13.len() == TICKETS_MAX {
                kept.tls13.pop_front();
            }
            kept.tls13.push_back(ticket);
        });
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.find(|kept| kept.tls13.pop_back())
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Store({:?})", self.key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_keys_is_bounded() {
        let sessions = Arc::new(Sessions::default());
        let name = || ServerName::try_from("a").unwrap();
        let store = |peer: usize| Store::new(&sessions, Key::new(peer as u64, true, b"a"));
        for peer in 0..2 * KEYS_MAX {
            store(peer).set_kx_hint(name(), NamedGroup::X25519);
        }
        assert_eq!(store(0).kx_hint(&name()), None);
        let last = store(2 * KEYS_MAX - 1);
        assert_eq!(last.kx_hint(&name()), Some(NamedGroup::X25519));
        let table = last.table();
        assert_eq!((table.kept.len(), table.order.len()), (KEYS_MAX, KEYS_MAX));
    }
}
