//! `ip_hash`: the first three octets of an IPv4 client address, or a whole IPv6 one, choose the
//! server; when it is not open, the hash is taken further, up to 20 times.

use std::net::IpAddr;

use super::{Steps, View, round_robin};

/// The next peer for this client (`None`: it came over a unix socket), or `None` if none is open.
pub fn pick(view: &mut View<'_>, steps: &mut Steps, client: Option<IpAddr>) -> Option<usize> {
    if !steps.started {
        steps.started = true;
        steps.hash = START;
    }
    if view.set.len() < 2 {
        return round_robin::pick(view);
    }
    view.search(steps, |steps, total| {
        steps.hash = match client {
            Some(IpAddr::V4(ip)) => fold(steps.hash, &ip.octets()[..3]),
            Some(IpAddr::V6(ip)) => fold(steps.hash, &ip.octets()),
            None => fold(steps.hash, &[0; 3]),
        };
        u64::from(steps.hash) % total
    })
}

fn fold(hash: u32, octets: &[u8]) -> u32 {
    octets
        .iter()
        .fold(hash, |hash, &octet| (hash * 113 + u32::from(octet)) % 6271)
}

const START: u32 = 89;
