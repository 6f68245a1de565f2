//! One server of a group: where it is, what its `server` line says, and its live counters.
//!
//! A [`Peer`] is immutable and belongs to one snapshot. Its [`PeerState`] is shared by all workers
//! and by all snapshots and configurations that name the same peer: the [`Registry`] finds it again
//! by (group, server name, address), so a reload keeps in-flight counts and health.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use crossbeam::utils::CachePadded;

use crate::ring::Addr;

use super::times::{Moment, Times};
use super::watch::Found;

/// Where a peer listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PeerAddr {
    /// An IPv4 or IPv6 address with its port.
    Inet(SocketAddr),
    /// The path of a unix stream socket.
    Unix(Arc<Path>),
}

/// What one `server` line says about one of its addresses. Built once, never changed.
#[derive(Clone, Debug, PartialEq)]
pub struct PeerConf {
    /// The server as the configuration writes it, for example `backend1:8080`.
    pub server: Arc<str>,
    /// The address as nginx prints it (`$upstream_addr`, logs): `10.0.0.1:80`, `unix:/run/a.sock`.
    pub name: Box<str>,
    /// The address to connect to.
    pub addr: PeerAddr,
    /// The parameters of its server.
    pub params: ServerParams,
}

/// The parameters of one `server` line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerParams {
    /// `weight=`, at least 1.
    pub weight: u32,
    /// `max_conns=`; 0 means no limit.
    pub max_conns: u32,
    /// `max_fails=`; 0 means that failures are not counted.
    pub max_fails: u32,
    /// `fail_timeout=` in milliseconds.
    pub fail_timeout_ms: u64,
    /// `backup`: used when no primary server can be.
    pub backup: bool,
    /// `down`: never used.
    pub down: bool,
}

/// A peer of one snapshot.
#[derive(Debug)]
pub struct Peer {
    /// The parameters.
    pub conf: PeerConf,
    /// The live counters, shared with other snapshots of the same peer.
    pub state: Arc<PeerState>,
}

/// Live counters of one peer. Every update is a relaxed atomic: the numbers guide choices, they
/// guard no memory.
pub struct PeerState {
    slot: u32,
    serial: u64,
    cells: CachePadded<Cells>,
    trouble: Arc<Trouble>,
}

/// How many peers of a group have failures on record. While it is zero, choosing a peer need not
/// look at any of their cells.
#[derive(Debug, Default)]
pub struct Trouble(CachePadded<AtomicU32>);

/// Finds the live state of a peer by its identity. Locked only while a configuration loads, a name
/// is resolved anew, or the last holder of a peer goes away: never while choosing a peer.
pub struct Registry {
    inner: Mutex<Inner>,
}

impl PeerAddr {
    /// The IP address, or `None` for a unix socket.
    pub fn ip(&self) -> Option<IpAddr> {
        self.socket_addr().map(|addr| addr.ip())
    }

    /// The IP address and port, or `None` for a unix socket.
    pub fn socket_addr(&self) -> Option<SocketAddr> {
        match self {
            PeerAddr::Inet(addr) => Some(*addr),
            PeerAddr::Unix(_) => None,
        }
    }
}

impl Default for ServerParams {
    /// nginx's, where a line gives none.
    fn default() -> Self {
        ServerParams {
            weight: 1,
            max_conns: 0,
            max_fails: 1,
            fail_timeout_ms: 10_000,
            backup: false,
            down: false,
        }
    }
}

impl From<SocketAddr> for PeerAddr {
    fn from(addr: SocketAddr) -> Self {
        PeerAddr::Inet(addr)
    }
}

impl From<PathBuf> for PeerAddr {
    fn from(path: PathBuf) -> Self {
        PeerAddr::Unix(path.into())
    }
}

impl From<&PeerAddr> for Addr {
    fn from(addr: &PeerAddr) -> Self {
        match addr {
            PeerAddr::Inet(addr) => Addr::from(*addr),
            PeerAddr::Unix(path) => Addr::from(&**path),
        }
    }
}

impl fmt::Display for PeerAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PeerAddr::Inet(addr) => addr.fmt(f),
            PeerAddr::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl PeerState {
    /// A small number, unique among the peers alive now and reused later: an index for tables.
    pub fn slot(&self) -> usize {
        self.slot as usize
    }

    /// A number no other peer of this process ever has.
    pub fn serial(&self) -> u64 {
        self.serial
    }

    /// Requests or sessions in flight now, over all workers.
    pub fn conns(&self) -> u32 {
        self.cells.conns.load(Relaxed)
    }

    /// Failures on record (nginx's `fails`); compare with `max_fails`.
    pub fn fails(&self) -> u32 {
        self.cells.fails.load(Relaxed)
    }

    /// How often the peer was chosen since the process began.
    pub fn requests(&self) -> u64 {
        self.cells.requests.load(Relaxed)
    }

    /// How many of these attempts failed.
    pub fn failures(&self) -> u64 {
        self.cells.failures.load(Relaxed)
    }

    /// The average time until a moment, in milliseconds; `None` where no group that balances by it
    /// has used the peer.
    pub fn average_ms(&self, moment: Moment) -> Option<u64> {
        self.cells.times.average_ms(moment)
    }

    /// How long the attempts in flight have waited for their moment, on average.
    pub(super) fn waited_ms(&self, now_ms: u64) -> u64 {
        self.cells.times.waited_ms(now_ms)
    }

    /// How long the peer was not chosen, to the precision of `fail_timeout`.
    pub(super) fn unasked_ms(&self, now_ms: u64) -> u64 {
        now_ms.saturating_sub(self.cells.checked_ms.load(Relaxed))
    }

    pub(super) fn times(&self) -> &Times {
        &self.cells.times
    }

    /// Whether passive health keeps the peer out: `max_fails` reached and `fail_timeout` not over.
    pub fn is_failed(&self, params: &ServerParams, now_ms: u64) -> bool {
        params.max_fails != 0
            && self.fails() >= params.max_fails
            && now_ms.saturating_sub(self.cells.checked_ms.load(Relaxed)) <= params.fail_timeout_ms
    }

    /// Whether `max_conns` is reached.
    pub fn is_full(&self, params: &ServerParams) -> bool {
        params.max_conns != 0 && self.conns() >= params.max_conns
    }

    /// Takes one of the peer's places. `false` when another worker was faster: the last place of
    /// `max_conns` is gone, or the single trial after `fail_timeout` is under way.
    pub(super) fn claim(&self, params: &ServerParams, now_ms: u64) -> bool {
        let before = self.cells.conns.fetch_add(1, Relaxed);
        if params.max_conns != 0 && before >= params.max_conns {
            self.unclaim();
            return false;
        }
        let checked_ms = self.cells.checked_ms.load(Relaxed);
        let unasked_ms = now_ms.saturating_sub(checked_ms);
        if unasked_ms > params.fail_timeout_ms {
            // A peer in constant use is a little over one `fail_timeout` here, never near two.
            if unasked_ms.saturating_sub(UNUSED_MS) / 2 > params.fail_timeout_ms {
                self.cells.times.doubt();
            }
            let mine = self
                .cells
                .checked_ms
                .compare_exchange(checked_ms, now_ms, Relaxed, Relaxed)
                .is_ok();
            if !mine && params.max_fails != 0 && self.fails() >= params.max_fails {
                self.unclaim();
                return false;
            }
        }
        self.cells.requests.fetch_add(1, Relaxed);
        true
    }

    /// As [`claim`](Self::claim) for the only server of a group, whose health is not watched.
    pub(super) fn claim_single(&self, params: &ServerParams) -> bool {
        let before = self.cells.conns.fetch_add(1, Relaxed);
        if params.max_conns != 0 && before >= params.max_conns {
            self.unclaim();
            return false;
        }
        self.cells.requests.fetch_add(1, Relaxed);
        true
    }

    /// Gives the place back.
    pub(super) fn unclaim(&self) {
        let before = self.cells.conns.fetch_sub(1, Relaxed);
        debug_assert!(before > 0, "a place was given back twice");
    }

    /// Records a failed attempt; the answer is whether the peer is now out of use.
    pub(super) fn failed(&self, params: &ServerParams, now_ms: u64) -> bool {
        self.cells.failures.fetch_add(1, Relaxed);
        if params.max_fails == 0 {
            return false;
        }
        let before = self.cells.fails.fetch_add(1, Relaxed);
        if before == 0 {
            self.trouble.0.fetch_add(1, Relaxed);
        }
        self.cells.accessed_ms.store(now_ms, Relaxed);
        self.cells.checked_ms.store(now_ms, Relaxed);
        before + 1 >= params.max_fails
    }

    /// Counts a failure that has no bearing on health (the only server of a group).
    pub(super) fn failed_single(&self) {
        self.cells.failures.fetch_add(1, Relaxed);
    }

    /// Records a good attempt: it clears the failures if the window has moved on since the last
    /// one.
    pub(super) fn succeeded(&self) {
        if self.fails() == 0 {
            return;
        }
        if self.cells.accessed_ms.load(Relaxed) < self.cells.checked_ms.load(Relaxed)
            && self.cells.fails.swap(0, Relaxed) > 0
        {
            self.trouble.0.fetch_sub(1, Relaxed);
        }
    }
}

impl Drop for PeerState {
    fn drop(&mut self) {
        if *self.cells.fails.get_mut() > 0 {
            self.trouble.0.fetch_sub(1, Relaxed);
        }
        Slots::global().give_back(self.slot);
    }
}

impl fmt::Debug for PeerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerState")
            .field("serial", &self.serial)
            .field("conns", &self.conns())
            .field("fails", &self.fails())
            .finish_non_exhaustive()
    }
}

impl Trouble {
    /// Whether no peer of the group has a failure on record.
    pub fn is_none(&self) -> bool {
        self.0.load(Relaxed) == 0
    }
}

impl Registry {
    /// An empty registry, for tests; the process uses [`Registry::global`].
    pub fn new() -> Self {
        Registry {
            inner: Mutex::new(Inner::default()),
        }
    }

    /// The registry of the process.
    pub fn global() -> &'static Registry {
        static GLOBAL: OnceLock<Registry> = OnceLock::new();
        GLOBAL.get_or_init(Registry::new)
    }

    /// The number of a group, from 1; the same identity gets the same one again.
    pub(super) fn group_id(&self, kind: &str, name: &str) -> u32 {
        self.group(kind, name).0
    }

    /// The number and the trouble cell of a group.
    pub(super) fn group(&self, kind: &str, name: &str) -> (u32, Arc<Trouble>) {
        let mut inner = self.lock();
        let next = inner.groups.len() as u32 + 1;
        let key = (Box::from(kind), Box::from(name));
        let (id, trouble) = inner
            .groups
            .entry(key)
            .or_insert_with(|| (next, Arc::default()));
        (*id, trouble.clone())
    }

    /// Keeps what a name was last found to mean, for the next configuration to start with.
    pub(super) fn remember(&self, group: u32, server: &str, found: &[Found]) {
        self.lock()
            .found
            .insert((group, server.into()), found.to_vec());
    }

    /// What [`remember`](Self::remember) kept; empty if nothing.
    pub(super) fn recall(&self, group: u32, server: &str) -> Vec<Found> {
        self.lock()
            .found
            .get(&(group, server.into()))
            .cloned()
            .unwrap_or_default()
    }

    /// The live state of a peer: the one in use under this identity, or a new one.
    pub(super) fn peer(
        &self,
        group: u32,
        server: &str,
        addr: &PeerAddr,
        trouble: &Arc<Trouble>,
    ) -> Arc<PeerState> {
        let key = (group, Box::<str>::from(server), addr.clone());
        let mut inner = self.lock();
        if let Some(state) = inner.peers.get(&key).and_then(Weak::upgrade) {
            return state;
        }
        // Forget the peers nobody holds any more, at a cost shared by the insertions in between.
        if inner.peers.len() >= inner.sweep_at {
            inner.peers.retain(|_, state| state.strong_count() > 0);
            inner.sweep_at = (inner.peers.len() * 2).max(SWEEP_AT_MIN);
        }
        let state = Arc::new(PeerState::new(trouble.clone()));
        inner.peers.insert(key, Arc::downgrade(&state));
        state
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Registry {
    fn default() -> Self {
        Registry::new()
    }
}

type GroupCell = (u32, Arc<Trouble>);

#[derive(Default)]
struct Inner {
    /// By kind and name.
    groups: HashMap<(Box<str>, Box<str>), GroupCell>,
    found: HashMap<(u32, Box<str>), Vec<Found>>,
    peers: HashMap<(u32, Box<str>, PeerAddr), Weak<PeerState>>,
    sweep_at: usize,
}

#[derive(Default)]
struct Cells {
    conns: AtomicU32,
    fails: AtomicU32,
    accessed_ms: AtomicU64,
    checked_ms: AtomicU64,
    requests: AtomicU64,
    failures: AtomicU64,
    times: Times,
}

impl PeerState {
    pub(super) fn new(trouble: Arc<Trouble>) -> Self {
        static SERIAL: AtomicU64 = AtomicU64::new(1);
        PeerState {
            slot: Slots::global().take(),
            serial: SERIAL.fetch_add(1, Relaxed),
            cells: CachePadded::default(),
            trouble,
        }
    }
}

/// The numbers handed out as [`PeerState::slot`]; the lowest free one first, so tables stay small.
#[derive(Default)]
struct Slots(Mutex<(u32, Vec<u32>)>);

impl Slots {
    fn global() -> &'static Slots {
        static GLOBAL: OnceLock<Slots> = OnceLock::new();
        GLOBAL.get_or_init(Slots::default)
    }

    fn take(&self) -> u32 {
        let mut slots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        slots.1.pop().unwrap_or_else(|| {
            slots.0 += 1;
            slots.0 - 1
        })
    }

    fn give_back(&self, slot: u32) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .1
            .push(slot);
    }
}

const SWEEP_AT_MIN: usize = 64;
/// Beyond this and two `fail_timeout`s, a peer was not used.
const UNUSED_MS: u64 = 1000;

#[cfg(test)]
mod tests {
    use super::*;

    fn params(max_fails: u32, max_conns: u32) -> ServerParams {
        ServerParams {
            max_conns,
            max_fails,
            ..ServerParams::default()
        }
    }

    #[test]
    fn identity_finds_the_same_state_while_it_lives() {
        let registry = Registry::new();
        let (id, trouble) = registry.group("t", "g");
        let addr = PeerAddr::Inet("127.0.0.1:80".parse().unwrap());
        let first = registry.peer(id, "a:80", &addr, &trouble);
        let again = registry.peer(id, "a:80", &addr, &trouble);
        assert_eq!(first.serial(), again.serial());
        let other = registry.peer(id, "b:80", &addr, &trouble);
        assert_ne!(first.serial(), other.serial());
        let serial = first.serial();
        drop((first, again));
        assert_ne!(registry.peer(id, "a:80", &addr, &trouble).serial(), serial);
        assert_eq!(registry.group("t", "g").0, id);
        assert_ne!(registry.group("t", "h").0, id);
    }

    #[test]
    fn one_trial_after_fail_timeout_then_out_again() {
        let params = params(1, 0);
        let trouble = Arc::new(Trouble::default());
        let state = PeerState::new(trouble.clone());
        assert!(state.claim(&params, 100_000));
        assert!(state.failed(&params, 100_000));
        state.unclaim();
        assert!(!trouble.is_none());
        assert!(state.is_failed(&params, 110_000));
        assert!(!state.is_failed(&params, 110_001));
        assert!(state.claim(&params, 110_001));
        assert!(
            state.is_failed(&params, 110_002),
            "only one trial at a time"
        );
        state.succeeded();
        state.unclaim();
        assert!(trouble.is_none());
        assert_eq!((state.fails(), state.conns()), (0, 0));
    }

    #[test]
    fn a_success_inside_the_window_does_not_clear() {
        let params = params(3, 0);
        let state = PeerState::new(Arc::new(Trouble::default()));
        assert!(!state.failed(&params, 50_000));
        assert!(state.claim(&params, 50_500));
        state.succeeded();
        assert_eq!(state.fails(), 1);
        assert!(state.claim(&params, 60_001));
        state.succeeded();
        assert_eq!(state.fails(), 0);
    }

    #[test]
    fn max_conns_is_exact() {
        let params = params(1, 2);
        let state = PeerState::new(Arc::new(Trouble::default()));
        assert!(state.claim(&params, 1) && state.claim(&params, 1));
        assert!(state.is_full(&params));
        assert!(!state.claim(&params, 1));
        assert_eq!(state.conns(), 2);
        state.unclaim();
        assert!(state.claim(&params, 1));
    }
}
