//! Groups nobody declared: the address in `proxy_pass http://host:port`, and the one a variable in
//! `proxy_pass` came to.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use super::keepalive::Keepalive;
use super::peer::{PeerAddr, Registry};
use super::pool::{Group, Method, ServerSpec};
use super::resolve::Resolver;

/// The group of an address known when the configuration loads. `name` is `host:port` or the unix
/// path as written.
pub fn group(registry: &Registry, name: &str, addrs: Vec<PeerAddr>, keepalive: Keepalive) -> Group {
    let servers = [ServerSpec::new(name, addrs)];
    Group::new(
        registry,
        KIND,
        name,
        &servers,
        Method::RoundRobin,
        keepalive,
    )
}

/// Looks up the name that a variable came to.
///
/// # Errors
/// The message about it for the log.
pub async fn resolve(resolver: Option<&Resolver>, host: &str) -> Result<Arc<[IpAddr]>, String> {
    let Some(resolver) = resolver else {
        return Err(format!("no resolver defined to resolve {host}"));
    };
    let found = resolver.resolve(host).await;
    found.map_err(|error| format!("{host} could not be resolved ({error})"))
}

/// The groups of addresses known only at run time, of one worker. A group lives on while its name
/// goes on meaning the same addresses, so that health is remembered from request to request.
#[derive(Debug, Default)]
pub struct DynamicGroups(HashMap<Box<str>, Known>);

#[derive(Debug)]
struct Known {
    ips: Arc<[IpAddr]>,
    port: u16,
    group: Arc<Group>,
}

impl DynamicGroups {
    /// The group of `name`, which now means `ips` at `port`. Allocates only for a name or a meaning
    /// not seen lately.
    pub fn group(&mut self, name: &str, ips: &Arc<[IpAddr]>, port: u16) -> Arc<Group> {
        if let Some(known) = self.0.get(name)
            && known.port == port
            && known.ips == *ips
        {
            return known.group.clone();
        }
        let addrs = ips
            .iter()
            .map(|&ip| SocketAddr::new(ip, port).into())
            .collect();
        self.remember(name, ips.clone(), port, addrs)
    }

    /// The group of the unix socket at `path`, which `name` is.
    pub fn unix(&mut self, name: &str, path: &Path) -> Arc<Group> {
        match self.0.get(name) {
            Some(known) => known.group.clone(),
            None => self.remember(name, Arc::new([]), 0, vec![path.to_owned().into()]),
        }
    }

    fn remember(
        &mut self,
        name: &str,
        ips: Arc<[IpAddr]>,
        port: u16,
        addrs: Vec<PeerAddr>,
    ) -> Arc<Group> {
        if self.0.len() >= NAMES_MAX {
            self.0.clear();
        }
        let group = Arc::new(Group::unregistered(name, &[ServerSpec::new(name, addrs)]));
        let known = Known {
            ips,
            port,
            group: group.clone(),
        };
        self.0.insert(name.into(), known);
        group
    }
}

const KIND: &str = "implicit";
/// Names one worker remembers; what a client can make up must not grow without bound.
const NAMES_MAX: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dynamic_group_lives_while_its_addresses_stay() {
        let mut groups = DynamicGroups::default();
        let ips: Arc<[IpAddr]> = Arc::new(["127.0.0.1".parse().unwrap()]);
        let first = groups.group("a:80", &ips, 80);
        let same: Arc<[IpAddr]> = ips.to_vec().into();
        assert!(Arc::ptr_eq(&first, &groups.group("a:80", &same, 80)));
        let other: Arc<[IpAddr]> = Arc::new(["127.0.0.2".parse().unwrap(), ips[0]]);
        let second = groups.group("a:80", &other, 80);
        assert!(!Arc::ptr_eq(&first, &second));
        assert_eq!(second.peers().all().count(), 2);
        let socket = groups.unix("unix:/s", Path::new("/s"));
        assert!(Arc::ptr_eq(
            &socket,
            &groups.unix("unix:/s", Path::new("/s"))
        ));
        for n in 0..3000 {
            groups.group(&format!("{n}:80"), &ips, 80);
            groups.unix(&format!("unix:/{n}"), Path::new("/s"));
        }
        assert!(groups.0.len() <= NAMES_MAX);
    }

    #[test]
    fn an_implicit_group_is_found_again() {
        let registry = Registry::new();
        let addrs = || vec![PeerAddr::Inet("127.0.0.1:80".parse().unwrap())];
        let first = group(&registry, "localhost:80", addrs(), Keepalive::OFF);
        let again = group(&registry, "localhost:80", addrs(), Keepalive::OFF);
        assert_eq!(first.id(), again.id());
        let serial = |group: &Group| group.peers().primary.list()[0].state.serial();
        assert_eq!(serial(&first), serial(&again));
    }
}
