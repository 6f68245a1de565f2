//! Idle connections to upstream servers, kept by one worker.
//!
//! [`IdlePool`] is keyed by the live state of a peer, so its connections outlive reloads and
//! changes of address for as long as the peer itself is the same. The connection used last is taken
//! first; `keepalive N` bounds each group, and the connection idle for longest makes room.

use std::sync::Arc;

use super::peer::PeerState;

/// The `keepalive*` directives of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalive {
    /// `keepalive N`: idle connections kept per worker; 0 switches keepalive off.
    pub connections: u32,
    /// Connections are shared only among requests with the same tag (one location), which is the
    /// default and `keepalive N local`; otherwise by the whole group.
    pub local: bool,
    /// `keepalive_requests`: a connection that served so many is closed.
    pub requests: u64,
    /// `keepalive_time` in milliseconds: a connection older than this is closed after its request.
    pub time_ms: u64,
    /// `keepalive_timeout` in milliseconds: a connection idle for this long is closed.
    pub timeout_ms: u64,
}

/// A connection that can lie idle.
pub trait Idle {
    /// Whether the other side closed it, or sent what nobody asked for. Must not block.
    fn is_stale(&mut self) -> bool;
}

impl<C: Idle + ?Sized> Idle for Box<C> {
    fn is_stale(&mut self) -> bool {
        (**self).is_stale()
    }
}

/// A connection with what its upkeep needs to know. Made when the connection is.
#[derive(Debug)]
pub struct Kept<C> {
    /// The connection itself.
    pub conn: C,
    /// Requests it has served, the one under way included.
    pub requests: u64,
    peer: Arc<PeerState>,
    tag: u64,
    opened_ms: u64,
}

/// The idle connections of one worker.
#[derive(Debug)]
pub struct IdlePool<C> {
    nodes: Vec<Node<C>>,
    free: Vec<u32>,
    /// By group id: all its connections, the one put in last first.
    groups: Vec<List>,
    /// By peer slot: the connections of one peer, the one put in last first.
    peers: Vec<List>,
    len: usize,
    /// Sweeps in a row that found it empty.
    empty_sweeps: u32,
}

impl Keepalive {
    /// No connection is kept.
    pub const OFF: Keepalive = Keepalive {
        connections: 0,
        ..Keepalive::DEFAULT
    };

    /// What a group has without any `keepalive` directive.
    pub const DEFAULT: Keepalive = Keepalive {
        connections: 32,
        local: true,
        requests: 1000,
        time_ms: 3_600_000,
        timeout_ms: 60_000,
    };
}

impl Default for Keepalive {
    fn default() -> Self {
        Keepalive::DEFAULT
    }
}

impl<C> Kept<C> {
    /// A new connection to `peer`, about to serve its first request. `tag` says with whom it may be
    /// shared in a group with [`Keepalive::local`]; what differs in how connections are made (bind
    /// address, TLS settings) must differ in the tag.
    pub fn new(conn: C, peer: &Arc<PeerState>, tag: u64, now_ms: u64) -> Self {
        Kept {
            conn,
            requests: 1,
            peer: peer.clone(),
            tag,
            opened_ms: now_ms,
        }
    }

    /// When the connection was made, in monotonic milliseconds.
    pub fn opened_ms(&self) -> u64 {
        self.opened_ms
    }
}

impl<C: Idle> IdlePool<C> {
    /// An empty pool.
    pub fn new() -> Self {
        IdlePool {
            nodes: Vec::new(),
            free: Vec::new(),
            groups: Vec::new(),
            peers: Vec::new(),
            len: 0,
            empty_sweeps: 0,
        }
    }

    /// Takes the connection to `peer` that was used last, still lives and `is_fit`, counting one
    /// more request. Stale and timed out ones met on the way are closed.
    pub fn checkout(
        &mut self,
        peer: &PeerState,
        tag: u64,
        now_ms: u64,
        is_fit: impl Fn(&C) -> bool,
    ) -> Option<Kept<C>> {
        let mut at = self.peers.get(peer.slot())?.head;
        while at != NONE {
            let node = &mut self.nodes[at as usize];
            let next = node.peer_links.next;
            let Some(kept) = &mut node.kept else { break };
            debug_assert_eq!(kept.peer.serial(), peer.serial());
            let is_over = node.expires_ms <= now_ms || kept.conn.is_stale();
            let fits = node.tag.is_none_or(|own| own == tag) && is_fit(&kept.conn);
            if is_over {
                self.remove(at);
            } else if fits {
                let mut kept = self.remove(at)?;
                kept.requests += 1;
                return Some(kept);
            }
            at = next;
        }
        None
    }

    /// Keeps a connection whose request is over, unless it has served its time; then it is dropped
    /// and thereby closed.
    ///
    /// The limit of the group holds for connections that really lie idle: [`IdlePool::sweep`]
    /// closes what is above it. Answers come in batches, and the connections of one batch are idle
    /// only until the next requests, a moment later; closing them would open as many again.
    pub fn checkin(&mut self, kept: Kept<C>, group: usize, conf: &Keepalive, now_ms: u64) {
        let is_over = kept.requests >= conf.requests
            || now_ms.saturating_sub(kept.opened_ms) > conf.time_ms
            || conf.timeout_ms == 0
            || conf.connections == 0;
        if is_over {
            return;
        }
        let bound = conf.connections.saturating_add(BATCH_MAX);
        while self.groups.get(group).is_some_and(|list| list.len >= bound) {
            self.remove(self.groups[group].tail);
        }
        let tag = conf.local.then_some(kept.tag);
        let expires_ms = now_ms.saturating_add(conf.timeout_ms);
        self.insert(kept, group, tag, expires_ms, now_ms);
        self.groups[group].max = conf.connections;
    }

    /// Closes what timed out or went stale, and what a group has too many of. For a timer of some
    /// ten milliseconds.
    pub fn sweep(&mut self, now_ms: u64) {
        for group in 0..self.groups.len() {
            while self.groups[group].len > self.groups[group].max {
                let oldest = self.groups[group].tail;
                let idle_ms = now_ms.saturating_sub(self.nodes[oldest as usize].since_ms);
                if idle_ms < BATCH_MS {
                    break;
                }
                self.remove(oldest);
            }
        }
        for at in 0..self.nodes.len() {
            let node = &mut self.nodes[at];
            let Some(kept) = &mut node.kept else { continue };
            if node.expires_ms <= now_ms || kept.conn.is_stale() {
                self.remove(at as u32);
            }
        }
        // One that has emptied for good gives its memory back; one that is empty for the moment
        // has its lists ready for what comes back to it.
        self.empty_sweeps = if self.len == 0 {
            self.empty_sweeps + 1
        } else {
            0
        };
        if self.empty_sweeps >= EMPTY_SWEEPS_MAX {
            *self = IdlePool::new();
        }
    }

    /// Closes every connection, as at a graceful shutdown.
    pub fn clear(&mut self) {
        *self = IdlePool::new();
    }

    /// How many connections lie idle.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether none does.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn insert(
        &mut self,
        kept: Kept<C>,
        group: usize,
        tag: Option<u64>,
        expires_ms: u64,
        since_ms: u64,
    ) {
        let slot = kept.peer.slot();
        grow(&mut self.groups, group);
        grow(&mut self.peers, slot);
        let (group_links, peer_links) = (
            Links::before(self.groups[group].head),
            Links::before(self.peers[slot].head),
        );
        let group = group as u32;
        let node = Node {
            kept: Some(kept),
            tag,
            expires_ms,
            since_ms,
            group,
            group_links,
            peer_links,
        };
        let at = match self.free.pop() {
            Some(at) => {
                self.nodes[at as usize] = node;
                at
            }
            None => {
                self.nodes.push(node);
                self.nodes.len() as u32 - 1
            }
        };
        if group_links.next != NONE {
            self.nodes[group_links.next as usize].group_links.prev = at;
        }
        if peer_links.next != NONE {
            self.nodes[peer_links.next as usize].peer_links.prev = at;
        }
        self.groups[group as usize].push_front(at);
        self.peers[slot].push_front(at);
        self.len += 1;
    }

    fn remove(&mut self, at: u32) -> Option<Kept<C>> {
        let node = &mut self.nodes[at as usize];
        let kept = node.kept.take()?;
        let (group, in_group, in_peer) = (node.group as usize, node.group_links, node.peer_links);
        let slot = kept.peer.slot();
        match in_group.prev {
            NONE => self.groups[group].head = in_group.next,
            prev => self.nodes[prev as usize].group_links.next = in_group.next,
        }
        match in_group.next {
            NONE => self.groups[group].tail = in_group.prev,
            next => self.nodes[next as usize].group_links.prev = in_group.prev,
        }
        match in_peer.prev {
            NONE => self.peers[slot].head = in_peer.next,
            prev => self.nodes[prev as usize].peer_links.next = in_peer.next,
        }
        match in_peer.next {
            NONE => self.peers[slot].tail = in_peer.prev,
            next => self.nodes[next as usize].peer_links.prev = in_peer.prev,
        }
        self.groups[group].len -= 1;
        self.peers[slot].len -= 1;
        self.free.push(at);
        self.len -= 1;
        Some(kept)
    }
}

impl<C: Idle> Default for IdlePool<C> {
    fn default() -> Self {
        IdlePool::new()
    }
}

#[derive(Debug)]
struct Node<C> {
    kept: Option<Kept<C>>,
    /// The tag a request must have; `None`: any request of the group may use the connection.
    tag: Option<u64>,
    expires_ms: u64,
    /// Monotonic ms since when it lies idle.
    since_ms: u64,
    group: u32,
    group_links: Links,
    peer_links: Links,
}

#[derive(Clone, Copy, Debug)]
struct Links {
    prev: u32,
    next: u32,
}

impl Links {
    fn before(next: u32) -> Self {
        Links { prev: NONE, next }
    }
}

#[derive(Clone, Copy, Debug)]
struct List {
    head: u32,
    tail: u32,
    len: u32,
    /// Of a group: how many may lie idle.
    max: u32,
}

impl List {
    const EMPTY: List = List {
        head: NONE,
        tail: NONE,
        len: 0,
        max: 0,
    };

    fn push_front(&mut self, at: u32) {
        self.head = at;
        if self.tail == NONE {
            self.tail = at;
        }
        self.len += 1;
    }
}

fn grow(lists: &mut Vec<List>, index: usize) {
    if index >= lists.len() {
        lists.resize(index + 1, List::EMPTY);
    }
}

/// Connections above the limit of a group that may wait for the requests of the next moment.
const BATCH_MAX: u32 = 1024;
/// How long they may wait. A connection above the limit closes within this and a sweep.
const BATCH_MS: u64 = 20;

/// Sweeps that find the pool empty before it gives up its lists.
const EMPTY_SWEEPS_MAX: u32 = 100;

/// No node: the end of a list.
const NONE: u32 = u32::MAX;

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::collections::HashMap;
    use std::rc::Rc;

    use proptest::prelude::*;

    use super::*;
    use crate::upstream::{Group, Method, PeerAddr, Registry, ServerSpec};

    struct Conn {
        id: u32,
        stale: Rc<Cell<bool>>,
    }

    impl Idle for Conn {
        fn is_stale(&mut self) -> bool {
            self.stale.get()
        }
    }

    fn conn(id: u32) -> Conn {
        Conn {
            id,
            stale: Rc::default(),
        }
    }

    fn peers(registry: &Registry, count: u16) -> Vec<Arc<PeerState>> {
        let server = |n| {
            let addr = format!("127.0.0.1:{}", 8000 + n);
            ServerSpec::new(&addr, vec![PeerAddr::Inet(addr.parse().unwrap())])
        };
        let servers: Vec<_> = (0..count).map(server).collect();
        let group = Group::new(
            registry,
            "t",
            "g",
            &servers,
            Method::RoundRobin,
            Keepalive::DEFAULT,
        );
        group.peers().all().map(|peer| peer.state.clone()).collect()
    }

    const SHARED: Keepalive = Keepalive {
        connections: 3,
        local: false,
        ..Keepalive::DEFAULT
    };

    #[test]
    fn the_connection_used_last_comes_first_and_the_oldest_makes_room() {
        let peers = peers(&Registry::new(), 2);
        let mut pool = IdlePool::new();
        for id in 0..5 {
            pool.checkin(
                Kept::new(conn(id), &peers[id as usize % 2], 0, 10),
                0,
                &SHARED,
                10,
            );
        }
        // One batch may be above the limit, but not for longer than a moment.
        pool.sweep(10 + BATCH_MS - 1);
        assert_eq!(pool.len(), 5);
        pool.sweep(10 + BATCH_MS);
        assert_eq!(pool.len(), 3);
        let mut take = |peer: usize| {
            pool.checkout(&peers[peer], 0, 40, |_| true)
                .map(|kept| kept.conn.id)
        };
        assert_eq!([take(0), take(0), take(0)], [Some(4), Some(2), None]);
        assert_eq!([take(1), take(1)], [Some(3), None]);
    }

    #[test]
    fn limits_of_a_connection_end_it() {
        let peers = peers(&Registry::new(), 1);
        let conf = Keepalive {
            requests: 2,
            time_ms: 1000,
            timeout_ms: 100,
            ..SHARED
        };
        let mut pool = IdlePool::new();
        pool.checkin(Kept::new(conn(1), &peers[0], 0, 0), 0, &conf, 0);
        let kept = pool.checkout(&peers[0], 0, 99, |_| true).unwrap();
        assert_eq!(kept.requests, 2);
        pool.checkin(kept, 0, &conf, 99);
        assert!(pool.is_empty(), "keepalive_requests");
        pool.checkin(Kept::new(conn(2), &peers[0], 0, 0), 0, &conf, 1001);
        assert!(pool.is_empty(), "keepalive_time");
        pool.checkin(Kept::new(conn(3), &peers[0], 0, 1001), 0, &conf, 1001);
        assert!(
            pool.checkout(&peers[0], 0, 1101, |_| true).is_none(),
            "keepalive_timeout"
        );
        pool.checkin(
            Kept::new(conn(4), &peers[0], 0, 1101),
            0,
            &Keepalive::OFF,
            1101,
        );
        assert!(pool.is_empty(), "keepalive 0");
    }

    #[test]
    fn stale_connections_are_passed_over_and_swept() {
        let peers = peers(&Registry::new(), 1);
        let mut pool = IdlePool::new();
        let stale = conn(2);
        let flag = stale.stale.clone();
        pool.checkin(Kept::new(conn(1), &peers[0], 0, 0), 0, &SHARED, 0);
        pool.checkin(Kept::new(stale, &peers[0], 0, 0), 0, &SHARED, 0);
        flag.set(true);
        assert_eq!(pool.checkout(&peers[0], 0, 1, |_| true).unwrap().conn.id, 1);
        assert!(pool.is_empty());
        pool.checkin(Kept::new(conn(3), &peers[0], 0, 0), 0, &SHARED, 0);
        pool.sweep(59_999);
        assert_eq!(pool.len(), 1);
        pool.sweep(60_000);
        assert!(pool.is_empty());
    }

    #[test]
    fn local_groups_share_only_within_a_tag() {
        let peers = peers(&Registry::new(), 1);
        let local = Keepalive {
            local: true,
            ..SHARED
        };
        let mut pool = IdlePool::new();
        pool.checkin(Kept::new(conn(1), &peers[0], 7, 0), 0, &local, 0);
        assert!(pool.checkout(&peers[0], 8, 1, |_| true).is_none());
        assert_eq!(pool.checkout(&peers[0], 7, 1, |_| true).unwrap().conn.id, 1);
        pool.checkin(Kept::new(conn(2), &peers[0], 7, 0), 0, &SHARED, 0);
        assert_eq!(pool.checkout(&peers[0], 8, 1, |_| true).unwrap().conn.id, 2);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// The linked lists behave as a plain list searched from its end.
        #[test]
        fn agrees_with_a_plain_list(
            steps in prop::collection::vec((0u8..10, 0usize..4, 0usize..2, 0u64..40), 1..200),
        ) {
            let registry = Registry::new();
            let peers = peers(&registry, 4);
            let conf = Keepalive { connections: 4, timeout_ms: 100, ..SHARED };
            let mut pool = IdlePool::new();
            let mut model: Vec<(u32, usize, usize, u64)> = Vec::new();
            let mut flags: HashMap<u32, Rc<Cell<bool>>> = HashMap::new();
            let mut now_ms = 0;
            for (id, (action, peer, group, pause_ms)) in (0u32..).zip(steps) {
                now_ms += pause_ms;
                match action {
                    0..=4 => {
                        let conn = conn(id);
                        flags.insert(id, conn.stale.clone());
                        let kept = Kept::new(conn, &peers[peer], 0, now_ms);
                        pool.checkin(kept, group, &conf, now_ms);
                        model.push((id, peer, group, now_ms + 100));
                    }
                    5..=7 => {
                        let dead = |entry: &(u32, usize, usize, u64)| {
                            entry.3 <= now_ms || flags[&entry.0].get()
                        };
                        let mut expected = None;
                        while let Some(at) = model.iter().rposition(|entry| entry.1 == peer) {
                            let entry = model.remove(at);
                            if !dead(&entry) {
                                expected = Some(entry.0);
                                break;
                            }
                        }
                        let got = pool.checkout(&peers[peer], 0, now_ms, |_| true);
                        prop_assert_eq!(got.map(|kept| kept.conn.id), expected);
                    }
                    8 => {
                        if let Some(entry) = model.get(peer) {
                            flags[&entry.0].set(true);
                        }
                    }
                    _ => {
                        pool.sweep(now_ms);
                        for group in 0..2 {
                            let of_group = |entry: &&(u32, usize, usize, u64)| entry.2 == group;
                            while model.iter().filter(of_group).count() > 4 {
                                let oldest = model.iter().position(|entry| entry.2 == group);
                                let oldest = oldest.unwrap();
                                if now_ms - (model[oldest].3 - 100) < BATCH_MS {
                                    break;
                                }
                                model.remove(oldest);
                            }
                        }
                        model.retain(|entry| entry.3 > now_ms && !flags[&entry.0].get());
                    }
                }
                prop_assert_eq!(pool.len(), model.len());
            }
        }
    }
}
