//! A group of servers and the choice among them.
//!
//! A [`Group`] holds its peers as one arc-swapped snapshot. A request keeps an [`Attempt`] (reused
//! from request to request), a worker keeps a [`LocalState`] per group; [`Group::pick`] takes both
//! and answers with a [`Pick`], which holds one place of the peer until it is released or dropped.
//! Choosing takes no lock and allocates nothing.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use arc_swap::ArcSwap;

use super::balance::{
    PeerSet, Steps, Tried, View, Weight, Weights, consistent, hash, ip_hash, least_conn,
    least_time::{self, LeastTime},
    random, round_robin,
};
use super::keepalive::Keepalive;
use super::peer::{Peer, PeerAddr, PeerConf, Registry, ServerParams, Trouble};
use super::times::Moment;

/// How a group chooses. The key of the hashing methods comes with each request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Method {
    /// Smooth weighted round robin, the default.
    #[default]
    RoundRobin,
    /// `least_conn`
    LeastConn,
    /// `least_time`
    LeastTime(LeastTime),
    /// `ip_hash`
    IpHash,
    /// `hash KEY`
    Hash,
    /// `hash KEY consistent`
    HashConsistent,
    /// `random`
    Random,
    /// `random two` and `random two least_conn`
    RandomTwo,
    /// `random two least_time=…`
    RandomTwoTime(Moment),
}

/// One `server` line with its addresses; each of them becomes a peer.
#[derive(Clone, Debug, PartialEq)]
pub struct ServerSpec {
    /// The server as written, for example `backend1:8080`.
    pub name: Arc<str>,
    /// Its addresses.
    pub addrs: Vec<PeerAddr>,
    /// Its parameters.
    pub params: ServerParams,
}

/// One `upstream {}`, or the implicit one of an address in `proxy_pass`.
#[derive(Debug)]
pub struct Group {
    name: Box<str>,
    id: u32,
    lineage: u64,
    method: Method,
    keepalive: Keepalive,
    trouble: Arc<Trouble>,
    peers: ArcSwap<Peers>,
}

/// The peers of a group at one moment. Immutable.
#[derive(Debug)]
pub struct Peers {
    /// The servers not marked `backup`.
    pub primary: PeerSet,
    /// The servers marked `backup`, if any.
    pub backup: Option<PeerSet>,
    generation: u64,
    lineage: u64,
    tries: u32,
}

/// What one request remembers while it goes from peer to peer.
#[derive(Debug, Default)]
pub struct Attempt {
    generation: u64,
    on_backup: bool,
    tried: Tried,
    steps: Steps,
    tries_max: u32,
    tries: u32,
    begun: bool,
}

/// What one worker remembers about one group.
#[derive(Debug, Default)]
pub struct LocalState {
    generation: u64,
    lineage: u64,
    primary: Weights,
    backup: Weights,
    /// [`PeerState::serial`](super::PeerState::serial) of the peers, primaries then backups.
    serials: Vec<u64>,
}

/// The [`LocalState`]s of one worker, by group.
#[derive(Debug, Default)]
pub struct Locals(Vec<LocalState>);

/// What a method may look at.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// The value of the hash key; empty where the method needs none.
    pub key: &'a [u8],
    /// The address of the client; `None` over a unix socket.
    pub client: Option<IpAddr>,
    /// Monotonic milliseconds.
    pub now_ms: u64,
}

/// A chosen peer. Holds one of its places (`conns`) until released; a drop without a release, as
/// when a task panics, gives the place back and says nothing about the peer's health.
#[derive(Debug)]
pub struct Pick {
    peer: Arc<Peer>,
    index: u32,
    on_backup: bool,
    single: bool,
    generation: u64,
    /// The moment whose time the group's method goes by, until it is told.
    moment: Option<Moment>,
    /// When the attempt began, while it counts among those that wait for the moment.
    waits_since_ms: Option<u64>,
}

/// How an attempt ended, for [`Group::release`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The peer answered. Also an answer that `proxy_next_upstream` passes on without blame (403,
    /// 404).
    Ok,
    /// The peer failed: this counts towards `max_fails`.
    Failed,
    /// Nothing is said about the peer, and the try is not used up (a stale connection, a client
    /// that left).
    NotCounted,
}

impl Group {
    /// A group with its peers. `kind` (`http`, `stream` …) and `name` are the identity under which
    /// live state is found again.
    pub fn new(
        registry: &Registry,
        kind: &str,
        name: &str,
        servers: &[ServerSpec],
        method: Method,
        keepalive: Keepalive,
    ) -> Self {
        let (id, trouble) = registry.group(kind, name);
        let lineage = next_serial();
        let peers = Peers::new(registry, id, lineage, &trouble, servers, method);
        Group {
            name: name.into(),
            id,
            lineage,
            method,
            keepalive,
            trouble,
            peers: ArcSwap::from_pointee(peers),
        }
    }

    /// A group that leaves no trace in the registry: plain round robin, no idle connections. For
    /// addresses known only at run time.
    pub(super) fn unregistered(name: &str, servers: &[ServerSpec]) -> Self {
        let registry = Registry::new();
        let mut group = Group::new(
            &registry,
            "",
            name,
            servers,
            Method::RoundRobin,
            Keepalive::OFF,
        );
        group.id = 0;
        group
    }

    /// Puts other addresses in place. Peers that stay keep their live state, and each worker's
    /// weights for them. For the thread that resolves names.
    pub fn replace(&self, registry: &Registry, servers: &[ServerSpec]) {
        let (id, lineage) = (self.id, self.lineage);
        let peers = Peers::new(registry, id, lineage, &self.trouble, servers, self.method);
        self.peers.store(Arc::new(peers));
    }

    /// Chooses the peer for the next try of a request. `None`: no live upstreams (502).
    pub fn pick(
        &self,
        attempt: &mut Attempt,
        local: &mut LocalState,
        inputs: &Inputs<'_>,
        rng: &mut fastrand::Rng,
    ) -> Option<Pick> {
        let peers = self.peers.load();
        attempt.enter(&peers);
        local.enter(&peers);
        if peers.is_single() {
            return pick_single(&peers);
        }
        let calm = self.is_calm();
        if !attempt.on_backup {
            let mut view = View {
                set: &peers.primary,
                weights: &mut local.primary,
                tried: &mut attempt.tried,
                now_ms: inputs.now_ms,
                calm,
            };
            if let Some(index) = self.choose(&mut view, &mut attempt.steps, inputs, rng) {
                return Some(self.picked(&peers, index, false, inputs.now_ms));
            }
            attempt.tried.clear();
            attempt.on_backup = true;
        }
        let set = peers.backup.as_ref()?;
        let mut view = View {
            set,
            weights: &mut local.backup,
            tried: &mut attempt.tried,
            now_ms: inputs.now_ms,
            calm,
        };
        let index = match self.method {
            Method::LeastConn => least_conn::pick(&mut view),
            Method::LeastTime(by) => least_time::pick(&mut view, by),
            _ => round_robin::pick(&mut view),
        }?;
        Some(self.picked(&peers, index, true, inputs.now_ms))
    }

    /// Ends the attempt with `pick`. The answer is whether the peer is now out of use, which nginx
    /// logs at level `warn` as "upstream server temporarily disabled".
    pub fn release(
        &self,
        pick: Pick,
        outcome: Outcome,
        attempt: &mut Attempt,
        local: &mut LocalState,
        now_ms: u64,
    ) -> bool {
        let peer = &*pick.peer;
        match outcome {
            Outcome::NotCounted => return false,
            Outcome::Ok | Outcome::Failed if pick.single => {
                attempt.tries = 0;
                if outcome == Outcome::Failed {
                    peer.state.failed_single();
                }
                return false;
            }
            Outcome::Ok | Outcome::Failed => attempt.tries = attempt.tries.saturating_sub(1),
        }
        if outcome == Outcome::Ok {
            peer.state.succeeded();
            return false;
        }
        let is_out = peer.state.failed(&peer.conf.params, now_ms);
        if local.generation == pick.generation {
            let weights = if pick.on_backup {
                &mut local.backup
            } else {
                &mut local.primary
            };
            weights.lower(pick.index as usize, peer);
        }
        is_out
    }

    /// The name given to [`Group::new`].
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A small number that belongs to the name for the life of the process. All groups that are
    /// not registered share 0.
    pub fn id(&self) -> usize {
        self.id as usize
    }

    /// The balancing method.
    pub fn method(&self) -> Method {
        self.method
    }

    /// How idle connections to this group are kept.
    pub fn keepalive(&self) -> &Keepalive {
        &self.keepalive
    }

    /// Whether [`Inputs::key`] matters.
    pub fn needs_key(&self) -> bool {
        matches!(self.method, Method::Hash | Method::HashConsistent)
    }

    /// Whether no peer has a failure on record.
    pub fn is_calm(&self) -> bool {
        self.trouble.is_none()
    }

    /// The peers at this moment, for status pages and tests.
    pub fn peers(&self) -> Arc<Peers> {
        self.peers.load_full()
    }

    fn choose(
        &self,
        view: &mut View<'_>,
        steps: &mut Steps,
        inputs: &Inputs<'_>,
        rng: &mut fastrand::Rng,
    ) -> Option<usize> {
        match self.method {
            Method::RoundRobin => round_robin::pick(view),
            Method::LeastConn => least_conn::pick(view),
            Method::LeastTime(by) => least_time::pick(view, by),
            Method::IpHash => ip_hash::pick(view, steps, inputs.client),
            Method::Hash => hash::pick(view, steps, inputs.key),
            Method::HashConsistent => consistent::pick(view, steps, inputs.key),
            Method::Random => random::pick(view, steps, rng),
            Method::RandomTwo => random::pick_two(view, steps, rng, least_conn::cost),
            Method::RandomTwoTime(moment) => {
                let inflight = false;
                let by = LeastTime { moment, inflight };
                random::pick_two(view, steps, rng, |view, at| least_time::cost(view, at, by))
            }
        }
    }

    fn picked(&self, peers: &Peers, index: usize, on_backup: bool, now_ms: u64) -> Pick {
        let set = match &peers.backup {
            Some(backup) if on_backup => backup,
            _ => &peers.primary,
        };
        let mut pick = Pick::new(peers, set, index, on_backup);
        match self.method {
            Method::LeastTime(by) => {
                pick.moment = Some(by.moment);
                if by.inflight {
                    pick.peer.state.times().begin(now_ms);
                    pick.waits_since_ms = Some(now_ms);
                }
            }
            Method::RandomTwoTime(moment) => pick.moment = Some(moment),
            _ => {}
        }
        pick
    }
}

impl Method {
    /// Whether servers may be marked `backup`.
    pub fn has_backups(self) -> bool {
        matches!(
            self,
            Method::RoundRobin | Method::LeastConn | Method::LeastTime(_)
        )
    }
}

impl ServerSpec {
    /// A server with nginx's defaults for every parameter.
    pub fn new(name: &str, addrs: Vec<PeerAddr>) -> Self {
        ServerSpec {
            name: name.into(),
            addrs,
            params: ServerParams::default(),
        }
    }
}

impl Peers {
    fn new(
        registry: &Registry,
        group: u32,
        lineage: u64,
        trouble: &Arc<Trouble>,
        servers: &[ServerSpec],
        method: Method,
    ) -> Self {
        let mut primary = Vec::new();
        let mut backup = Vec::new();
        for server in servers {
            for addr in &server.addrs {
                let state = registry.peer(group, &server.name, addr, trouble);
                let peer = Arc::new(Peer {
                    conf: server.peer(addr),
                    state,
                });
                if server.params.backup {
                    &mut backup
                } else {
                    &mut primary
                }
                .push(peer);
            }
        }
        let primary = PeerSet::new(primary, method == Method::HashConsistent);
        let backup = (!backup.is_empty()).then(|| PeerSet::new(backup, false));
        let tries = primary.tries() + backup.as_ref().map_or(0, PeerSet::tries);
        Peers {
            primary,
            backup,
            generation: next_serial(),
            lineage,
            tries,
        }
    }

    /// A group of one server, without backups, is never taken out of use.
    pub fn is_single(&self) -> bool {
        self.primary.len() == 1 && self.backup.is_none()
    }

    /// Primaries, then backups.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Peer>> {
        self.primary
            .list()
            .iter()
            .chain(self.backup.iter().flat_map(|set| set.list()))
    }
}

impl ServerSpec {
    fn peer(&self, addr: &PeerAddr) -> PeerConf {
        PeerConf {
            server: self.name.clone(),
            name: addr.to_string().into(),
            addr: addr.clone(),
            params: self.params,
        }
    }
}

impl Attempt {
    /// Makes ready for a request that may try `tries_max` peers (`proxy_next_upstream_tries`; 0:
    /// all).
    pub fn reset(&mut self, tries_max: u32) {
        self.generation = 0;
        self.begun = false;
        self.tries_max = tries_max;
        self.tries = 0;
    }

    /// How many more tries there are. Known after the first [`Group::pick`]; after a release of the
    /// last possible peer it is 0, and the request is not to be tried again.
    pub fn tries(&self) -> u32 {
        self.tries
    }

    fn enter(&mut self, peers: &Peers) {
        if self.generation == peers.generation {
            return;
        }
        // A snapshot swapped in between two tries starts the record anew, but grants no more tries.
        self.generation = peers.generation;
        self.on_backup = false;
        self.tried.clear();
        self.steps = Steps::default();
        if !self.begun {
            self.begun = true;
            self.tries = match self.tries_max {
                0 => peers.tries,
                max => peers.tries.min(max),
            };
        }
    }
}

impl LocalState {
    fn enter(&mut self, peers: &Peers) {
        if self.generation != peers.generation {
            self.follow(peers);
        }
    }

    /// Takes over a new snapshot: of the same group, with the weights of the peers that stayed; of
    /// a newly loaded configuration, from the start.
    #[cold]
    fn follow(&mut self, peers: &Peers) {
        let mut known: HashMap<u64, Weight> = HashMap::new();
        if self.lineage == peers.lineage {
            let kept = self.primary.list().iter().chain(self.backup.list().iter());
            known.extend(self.serials.iter().copied().zip(kept.copied()));
        }
        let weigh = |peer: &Arc<Peer>| {
            let known = known.get(&peer.state.serial()).copied();
            known.unwrap_or(Weight::full(peer.conf.params.weight))
        };
        let backup = peers.backup.as_ref().map_or(&[][..], PeerSet::list);
        self.primary = Weights::from_list(peers.primary.list().iter().map(weigh).collect());
        self.backup = Weights::from_list(backup.iter().map(weigh).collect());
        self.serials.clear();
        self.serials
            .extend(peers.all().map(|peer| peer.state.serial()));
        self.generation = peers.generation;
        self.lineage = peers.lineage;
    }
}

impl Locals {
    /// This worker's state of `group`.
    pub fn of(&mut self, group: &Group) -> &mut LocalState {
        let id = group.id();
        if id >= self.0.len() {
            self.0.resize_with(id + 1, LocalState::default);
        }
        &mut self.0[id]
    }
}

impl Pick {
    fn new(peers: &Peers, set: &PeerSet, index: usize, on_backup: bool) -> Self {
        Pick {
            peer: set.list()[index].clone(),
            index: index as u32,
            on_backup,
            single: peers.is_single(),
            generation: peers.generation,
            moment: None,
            waits_since_ms: None,
        }
    }

    /// The peer to connect to.
    pub fn peer(&self) -> &Arc<Peer> {
        &self.peer
    }

    /// The place of the peer among the primaries (or the backups) of its group.
    pub fn index(&self) -> usize {
        self.index as usize
    }

    /// Whether the group's method goes by `moment`, and it was not told yet.
    pub fn awaits(&self, moment: Moment) -> bool {
        self.moment == Some(moment)
    }

    /// The attempt reached `moment`, `ms` after it began: `least_time` goes by that, and by the
    /// first such word. Only attempts that do not count as failures are to be told of.
    pub fn note(&mut self, moment: Moment, ms: u64) {
        if self.awaits(moment) {
            self.moment = None;
            self.peer.state.times().add(moment, ms);
            self.wait_no_longer();
        }
    }

    /// The connection is made. A session says so at once, since it may go on for days before it
    /// is released: a peer that was out is in use again from now on.
    pub fn connected(&mut self, ms: u64) {
        self.note(Moment::Connect, ms);
        if !self.single {
            self.peer.state.succeeded();
        }
    }

    fn wait_no_longer(&mut self) {
        if let Some(begun_ms) = self.waits_since_ms.take() {
            self.peer.state.times().end(begun_ms);
        }
    }
}

impl Drop for Pick {
    fn drop(&mut self) {
        self.wait_no_longer();
        self.peer.state.unclaim();
    }
}

fn pick_single(peers: &Peers) -> Option<Pick> {
    let peer = &peers.primary.list()[0];
    let is_open = !peer.conf.params.down && peer.state.claim_single(&peer.conf.params);
    is_open.then(|| Pick::new(peers, &peers.primary, 0, false))
}

fn next_serial() -> u64 {
    static SERIAL: AtomicU64 = AtomicU64::new(1);
    SERIAL.fetch_add(1, Relaxed)
}
