//! Servers marked `resolve`: their names are looked up again and again for as long as their group
//! lives, and its peers follow. With `service=` the name is that of SRV records.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Weak, mpsc};
use std::time::{Duration, Instant};

use super::peer::{PeerAddr, Registry, ServerParams};
use super::pool::{Group, ServerSpec};
use super::resolve::{ResolveError, Resolver, Service};

/// A server of a group, of which the addresses may change.
#[derive(Clone, Debug)]
pub struct Watched {
    /// The server; its `addrs` are used where nothing is looked up.
    pub spec: ServerSpec,
    /// What to look up; `None` for a server with a fixed address.
    pub lookup: Option<Lookup>,
    /// What is known so far.
    pub found: Vec<Found>,
}

/// What a server's addresses are asked for by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// A name, and the port that goes with it.
    Host(Box<str>, u16),
    /// The name of SRV records (`service=`).
    Service(Box<str>),
}

/// Addresses that a name was found to have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The addresses, sorted.
    pub addrs: Vec<PeerAddr>,
    /// The SRV record that led to them.
    pub record: Option<Record>,
}

/// One SRV record (RFC 2782), as far as it matters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Target and port, the name of the server.
    pub server: Arc<str>,
    /// The weight, used where the configuration gives none.
    pub weight: u32,
    /// Another record has a lower priority number: this one is for when those are out of use.
    pub is_lesser: bool,
}

impl Lookup {
    /// The name of the SRV records of `service` at `host`. A service without a dot is one over TCP:
    /// `http` means `_http._tcp`.
    pub fn service(service: &str, host: &str) -> Lookup {
        let name = match service.contains('.') {
            true => format!("{service}.{host}"),
            false => format!("_{service}._tcp.{host}"),
        };
        Lookup::Service(name.into())
    }
}

impl Watched {
    /// The server as what is known of it; with SRV records, one for each of them.
    pub fn specs(&self) -> impl Iterator<Item = ServerSpec> {
        let fixed = self.lookup.is_none().then(|| self.spec.clone());
        let found = self.found.iter().filter_map(|found| {
            let spec = ServerSpec {
                addrs: found.addrs.clone(),
                ..self.spec.clone()
            };
            let Some(record) = &found.record else {
                return Some(spec);
            };
            // The lesser records of a backup server would be backups of backups.
            let is_of_use = !(spec.params.backup && record.is_lesser);
            is_of_use.then(|| ServerSpec {
                name: record.server.clone(),
                params: ServerParams {
                    weight: match spec.params.weight {
                        1 => record.weight,
                        given => given,
                    },
                    backup: spec.params.backup || record.is_lesser,
                    ..spec.params
                },
                ..spec
            })
        });
        fixed.into_iter().chain(found)
    }

    /// Looks up what there is to look up. Says until when that holds (`None`: for ever), and
    /// whether it is something new. A name that cannot be looked up keeps its addresses; one that
    /// does not exist loses them.
    async fn refresh(&mut self, resolver: &Resolver) -> (Option<Instant>, bool) {
        let (found, until) = match &self.lookup {
            None => return (None, false),
            Some(Lookup::Host(name, port)) => {
                let (result, until) = resolver.look_up(name).await;
                (host(result, *port, None), until)
            }
            Some(Lookup::Service(name)) => {
                let (result, until) = resolver.look_up_service(name).await;
                match result {
                    Ok(services) => self.targets(resolver, services, until).await,
                    Err(ResolveError::NotFound) => (Some(Vec::new()), until),
                    Err(_) => (None, until),
                }
            }
        };
        let found = found.unwrap_or_else(|| self.found.clone());
        let is_new = found != self.found;
        self.found = found;
        (Some(until), is_new)
    }

    /// The addresses of what SRV records point to.
    async fn targets(
        &self,
        resolver: &Resolver,
        mut services: Vec<Service>,
        mut until: Instant,
    ) -> (Option<Vec<Found>>, Instant) {
        // Name servers rotate records, which is no change.
        services.sort();
        services.dedup();
        let first = services.first().map_or(0, |service| service.priority);
        let mut all = Vec::new();
        for service in services.iter().take(RECORDS_MAX) {
            let record = Record {
                server: format!("{}:{}", service.target, service.port).into(),
                weight: u32::from(service.weight).max(1),
                is_lesser: service.priority > first,
            };
            let (result, holds) = resolver.look_up(&service.target).await;
            until = until.min(holds);
            let before = |found: &&Found| {
                let known = found.record.as_ref();
                known.is_some_and(|known| known.server == record.server)
            };
            let before = self.found.iter().find(before);
            match host(result, service.port, Some(record.clone())) {
                Some(found) => all.extend(found),
                None => all.extend(before.map(|before| Found {
                    addrs: before.addrs.clone(),
                    record: Some(record.clone()),
                })),
            }
        }
        (Some(all), until)
    }
}

/// What an answer to the question for addresses says; `None` where it says nothing new.
fn host(
    result: Result<Arc<[IpAddr]>, ResolveError>,
    port: u16,
    record: Option<Record>,
) -> Option<Vec<Found>> {
    let ips = match result {
        Ok(ips) => ips,
        Err(ResolveError::NotFound) => return Some(Vec::new()),
        Err(_) => return None,
    };
    let mut addrs: Vec<PeerAddr> = ips
        .iter()
        .map(|&ip| SocketAddr::new(ip, port).into())
        .collect();
    // The order of addresses, which name servers rotate, is no change either.
    addrs.sort_by_key(PeerAddr::ip);
    addrs.dedup();
    Some(vec![Found { addrs, record }])
}

/// The task that keeps one group in step with the names of its servers.
pub(super) struct Watch {
    pub(super) resolver: Resolver,
    pub(super) registry: &'static Registry,
    pub(super) group: Weak<Group>,
    pub(super) servers: Vec<Watched>,
    /// Hears once, when every name was looked up for the first time.
    pub(super) first: Option<mpsc::Sender<()>>,
}

impl Watch {
    /// Runs for as long as the group lives.
    pub(super) async fn run(mut self) {
        loop {
            let mut wait = self.resolver.conf().timeout;
            let mut is_new = false;
            for server in &mut self.servers {
                let (until, changed) = server.refresh(&self.resolver).await;
                is_new |= changed;
                if let Some(until) = until {
                    let left = until.saturating_duration_since(Instant::now());
                    wait = wait.min(left.max(PAUSE_MIN));
                }
            }
            let Some(group) = self.group.upgrade() else {
                return;
            };
            if is_new {
                let specs: Vec<_> = self.servers.iter().flat_map(Watched::specs).collect();
                group.replace(self.registry, &specs);
                for server in &self.servers {
                    let name = &server.spec.name;
                    self.registry
                        .remember(group.id() as u32, name, &server.found);
                }
            }
            drop(group);
            if let Some(first) = self.first.take() {
                let _ = first.send(());
            }
            self.sleep(wait).await;
            if self.group.strong_count() == 0 {
                return;
            }
        }
    }

    /// Sleeps in short steps, so that a group which a reload took away is soon let go.
    async fn sleep(&self, wait: Duration) {
        let end = Instant::now() + wait;
        while Instant::now() < end && self.group.strong_count() > 0 {
            let left = end.saturating_duration_since(Instant::now());
            tokio::time::sleep(left.min(PAUSE_MIN)).await;
        }
    }
}

/// A name is not asked for more often than this, whatever its TTL.
const PAUSE_MIN: Duration = Duration::from_secs(1);
/// SRV records of one name that are followed at most.
const RECORDS_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    fn watched(spec: ServerSpec, records: &[(&str, u32, bool)]) -> Watched {
        let found = |(n, &(server, weight, is_lesser)): (usize, &(&str, u32, bool))| Found {
            addrs: vec![SocketAddr::from(([127, 0, 0, n as u8 + 1], 80)).into()],
            record: Some(Record {
                server: server.into(),
                weight,
                is_lesser,
            }),
        };
        Watched {
            spec,
            lookup: Some(Lookup::service("http", "a.test")),
            found: records.iter().enumerate().map(found).collect(),
        }
    }

    #[test]
    fn a_service_has_a_name() {
        let name = |service, host| match Lookup::service(service, host) {
            Lookup::Service(name) => name.into_string(),
            Lookup::Host(..) => unreachable!(),
        };
        assert_eq!(name("http", "a.test"), "_http._tcp.a.test");
        assert_eq!(name("_dns._udp", "a.test"), "_dns._udp.a.test");
        assert_eq!(name("one.backend", "a.test"), "one.backend.a.test");
    }

    #[test]
    fn records_become_servers_by_priority_and_weight() {
        let records = [("a:1", 5, false), ("b:2", 7, true)];
        let spec = ServerSpec::new("a.test", Vec::new());
        let list = |spec: &ServerSpec| -> Vec<(String, u32, bool)> {
            watched(spec.clone(), &records)
                .specs()
                .map(|spec| {
                    (
                        spec.name.to_string(),
                        spec.params.weight,
                        spec.params.backup,
                    )
                })
                .collect()
        };
        assert_eq!(
            list(&spec),
            [("a:1".into(), 5, false), ("b:2".into(), 7, true)]
        );
        let mut heavy = spec.clone();
        heavy.params.weight = 3;
        assert_eq!(
            list(&heavy),
            [("a:1".into(), 3, false), ("b:2".into(), 3, true)]
        );
        let mut backup = spec;
        backup.params.backup = true;
        assert_eq!(list(&backup), [("a:1".into(), 5, true)]);
    }
}
