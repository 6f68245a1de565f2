//! `hash KEY consistent`: ketama. Every unit of weight puts 160 points on a ring of CRC32 values,
//! in the chain that Cache::Memcached::Fast defines; a key belongs to the first point at or after
//! its own hash. A server lost moves only its own keys.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Steps, TRIES_MAX, View, round_robin};
use crate::upstream::peer::Peer;

/// The points of all servers, sorted. 8 bytes each, 160 per unit of weight.
#[derive(Debug)]
pub struct Ring {
    points: Box<[Point]>,
    /// The peers of each distinct server name: a name with several addresses is one server here.
    servers: Box<[Box<[u32]>]>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Point {
    hash: u32,
    server: u32,
}

/// The next peer for this key, or `None` when none is open.
pub fn pick(view: &mut View<'_>, steps: &mut Steps, key: &[u8]) -> Option<usize> {
    let set = view.set;
    let Some(ring) = set
        .ring
        .as_ref()
        .filter(|_| set.len() > 1 && !key.is_empty())
    else {
        return round_robin::pick(view);
    };
    if !steps.started {
        steps.started = true;
        steps.hash = ring.find(crc32fast::hash(key)) as u32;
    }
    while steps.tries <= TRIES_MAX {
        let point = ring.points[steps.hash as usize % ring.points.len()];
        if let Some(index) = pick_of(view, &ring.servers[point.server as usize]) {
            return Some(index);
        }
        steps.hash = steps.hash.wrapping_add(1);
        steps.tries += 1;
    }
    round_robin::pick(view)
}

impl Ring {
    /// Builds the ring; servers marked `down` keep their points, so that their return moves no key.
    pub fn new(peers: &[Arc<Peer>]) -> Self {
        let mut names: HashMap<&str, u32> = HashMap::new();
        let mut servers: Vec<Vec<u32>> = Vec::new();
        let mut points = Vec::new();
        // What the name servers say has no bound; the file is checked when it is read.
        let total: u64 = peers
            .iter()
            .map(|peer| u64::from(peer.conf.params.weight))
            .sum();
        let excess = total.div_ceil(WEIGHT_MAX).max(1);
        for (index, peer) in peers.iter().enumerate() {
            let server = *names.entry(&peer.conf.server).or_insert_with(|| {
                servers.push(Vec::new());
                servers.len() as u32 - 1
            });
            servers[server as usize].push(index as u32);
            let weight = (u64::from(peer.conf.params.weight) / excess).max(1);
            add_points(&mut points, server, &peer.conf.server, weight);
        }
        // Stable, and the first of equal hashes stays: the server named first in the file.
        points.sort_by_key(|point| point.hash);
        points.dedup_by_key(|point| point.hash);
        Ring {
            points: points.into(),
            servers: servers.into_iter().map(Vec::into_boxed_slice).collect(),
        }
    }

    /// The first point at or after `hash`; past the last one, the number of points.
    fn find(&self, hash: u32) -> usize {
        self.points.partition_point(|point| point.hash < hash)
    }
}

/// Smooth round robin among the open peers of one server name.
fn pick_of(view: &mut View<'_>, peers: &[u32]) -> Option<usize> {
    loop {
        let mut total = 0;
        let mut best = (usize::MAX, i64::MIN);
        for &index in peers {
            let index = index as usize;
            if !view.is_open(index) {
                continue;
            }
            let weight = &mut view.weights.list()[index];
            total += weight.step(view.set.weights[index]);
            if weight.current > best.1 {
                best = (index, weight.current);
            }
        }
        view.weights.list().get_mut(best.0)?.current -= total;
        if view.claim(best.0) {
            return Some(best.0);
        }
    }
}

fn add_points(points: &mut Vec<Point>, server: u32, name: &str, weight: u64) {
    let (host, port) = split(name);
    let mut base = crc32fast::Hasher::new();
    base.update(host.as_bytes());
    base.update(&[0]);
    base.update(port.as_bytes());
    let mut previous = 0u32;
    for _ in 0..weight.saturating_mul(POINTS_PER_WEIGHT) {
        let mut hasher = base.clone();
        hasher.update(&previous.to_le_bytes());
        previous = hasher.finalize();
        points.push(Point {
            hash: previous,
            server,
        });
    }
}

/// Host and port of a server as written. The port is empty where the name has none, and the whole
/// path of a unix socket is the host.
fn split(name: &str) -> (&str, &str) {
    if name
        .get(..5)
        .is_some_and(|scheme| scheme.eq_ignore_ascii_case("unix:"))
    {
        return (&name[5..], "");
    }
    match name.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => (host, port),
        _ => (name, ""),
    }
}

const POINTS_PER_WEIGHT: u64 = 160;
/// The most that the weights of a ring may add up to: 160 points of 8 bytes each, 128 MB.
pub const WEIGHT_MAX: u64 = 100_000;
