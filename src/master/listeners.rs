//! The listening sockets: one per worker and internet address (SO_REUSEPORT), one per unix path.
//! They outlive reloads, and a new binary inherits them.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::thread;
use std::time::Duration;

use socket2::Socket;

use super::socket::{self, is_stale, probe};
use crate::base::listen::{ListenAddr, ListenOptions, ListenSpec, WorkerSocket};
use crate::log_process;
use crate::observe::{Level, os_error};

/// An address in use may be a predecessor about to exit.
const BIND_TRIES: u32 = 5;
const BIND_RETRY_PAUSE: Duration = Duration::from_millis(500);

/// All listening sockets of the process. The workers have duplicates; these here keep the sockets
/// open for workers to come and for a new binary.
#[derive(Debug, Default)]
pub struct Listeners {
    entries: Vec<Entry>,
    /// Sockets of an older binary that no configuration has asked for yet.
    inherited: Vec<(ListenAddr, Socket)>,
    /// Addresses of datagrams that are not listened on any more. Workers keep their sockets as
    /// long as there are sessions.
    lingering: Vec<ListenAddr>,
}

#[derive(Debug)]
struct Entry {
    spec: ListenSpec,
    sockets: Vec<Socket>,
    inherited: bool,
    /// Of datagram sockets, which are not shared: whom each belongs to.
    owners: Vec<Owner>,
}

/// Whom a datagram socket belongs to.
#[derive(Debug)]
struct Owner {
    worker: usize,
    /// It came to the worker by the last commit.
    is_new: bool,
    /// The worker that stays and has lost it by the last commit.
    taken_from: Option<usize>,
}

/// Sockets opened for a configuration that does not serve yet. Dropping it takes nothing away from
/// what serves.
#[derive(Debug)]
pub struct Prepared {
    workers: usize,
    fresh: Vec<Entry>,
    /// Further datagram sockets on addresses that stay.
    more: Vec<(ListenAddr, Socket)>,
    wanted: Vec<ListenSpec>,
}

/// The addresses could not all be bound. Which and why is in the error log.
#[derive(Debug, thiserror::Error)]
#[error("the listening sockets could not be opened")]
pub struct BindFailed;

impl Listeners {
    /// No sockets but those inherited from an older binary. They are used when their addresses are
    /// asked for; the first [`Listeners::commit`] closes the rest.
    pub fn with_inherited(sockets: Vec<OwnedFd>) -> Listeners {
        let inherited = sockets
            .into_iter()
            .map(Socket::from)
            .filter_map(|one| Some((socket::local_addr(&one)?, one)))
            .collect();
        Listeners {
            entries: Vec::new(),
            inherited,
            lingering: Vec::new(),
        }
    }

    /// Opens what `wanted` needs beyond the sockets there are, for `workers` workers: all or
    /// nothing. Failures are logged as nginx does; an address in use is tried again for two
    /// seconds.
    pub fn prepare(&self, wanted: &[ListenSpec], workers: usize) -> Result<Prepared, BindFailed> {
        assert!(workers > 0, "a gateway has at least one worker");
        let missing: Vec<&ListenSpec> =
            wanted.iter().filter(|spec| !self.has(&spec.addr)).collect();
        self.wait_until_free(&missing)?;
        let mut fresh = Vec::with_capacity(missing.len());
        for spec in missing {
            fresh.push(open(spec, workers).map_err(|error| bind_failed(spec, &error))?);
        }
        let mut more = Vec::new();
        for entry in self.entries.iter().filter(|entry| entry.spec.addr.is_udp()) {
            for _ in entry.sockets.len()..workers {
                let socket = open_one(&entry.spec).map_err(|e| bind_failed(&entry.spec, &e))?;
                more.push((entry.spec.addr.clone(), socket));
            }
        }
        Ok(Prepared {
            workers,
            fresh,
            more,
            wanted: wanted.to_vec(),
        })
    }

    /// Tries all of `specs` before any is opened: SO_REUSEPORT would let a second gateway bind
    /// beside a first one unnoticed, and a wildcard of ours would be in the way of the next
    /// address.
    fn wait_until_free(&self, specs: &[&ListenSpec]) -> Result<(), BindFailed> {
        for attempt in 1..=BIND_TRIES {
            let mut in_use = false;
            for spec in specs {
                match self.try_bind(spec) {
                    Ok(()) => {}
                    Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                        bind_failed(spec, &error);
                        in_use = true;
                    }
                    Err(error) => return Err(bind_failed(spec, &error)),
                }
            }
            if !in_use {
                return Ok(());
            }
            if attempt < BIND_TRIES {
                log_process!(Level::Notice, "try again to bind() after 500ms");
                thread::sleep(BIND_RETRY_PAUSE);
            }
        }
        log_process!(Level::Emerg, "still could not bind()");
        Err(BindFailed)
    }

    /// Whether every address of `wanted` could be bound by this user on this machine; for `-t`. An
    /// address in use is fine: mostly the running gateway has it. Failures are logged.
    pub fn check(wanted: &[ListenSpec]) -> Result<(), BindFailed> {
        for spec in wanted {
            let Some(addr) = spec.addr.inet() else {
                continue;
            };
            match probe(addr, spec.addr.is_udp(), &spec.options) {
                Err(error) if error.kind() != io::ErrorKind::AddrInUse => {
                    return Err(bind_failed(spec, &error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Takes `prepared` in: from now on exactly its addresses are listened on. Options that changed
    /// on a kept address are applied. Returns the addresses that were removed; the workers must
    /// drain theirs.
    pub fn commit(&mut self, prepared: Prepared) -> Vec<ListenAddr> {
        let Prepared {
            workers,
            fresh,
            more,
            wanted,
        } = prepared;
        self.entries.extend(fresh);
        let inherited = std::mem::take(&mut self.inherited);
        for (addr, socket) in inherited.into_iter().chain(more) {
            let Some(spec) = wanted.iter().find(|spec| spec.addr == addr) else {
                continue;
            };
            match self
                .entries
                .iter_mut()
                .find(|entry| entry.spec.addr == addr)
            {
                Some(entry) => entry.sockets.push(socket),
                None => {
                    // Options unlike any, so that those of the configuration are applied below.
                    let options = ListenOptions {
                        backlog: Some(-1),
                        ..spec.options.clone()
                    };
                    let spec = ListenSpec { addr, options };
                    self.entries.push(Entry {
                        spec,
                        sockets: vec![socket],
                        inherited: true,
                        owners: Vec::new(),
                    });
                }
            }
        }
        let mut removed = Vec::new();
        self.entries.retain_mut(|entry| {
            match wanted.iter().find(|spec| spec.addr == entry.spec.addr) {
                Some(spec) => {
                    entry.adopt(&spec.options);
                    entry.assign(workers);
                    true
                }
                None => {
                    entry.unlink();
                    if entry.spec.addr.is_udp() && !self.lingering.contains(&entry.spec.addr) {
                        self.lingering.push(entry.spec.addr.clone());
                    }
                    removed.push(entry.spec.addr.clone());
                    false
                }
            }
        });
        removed
    }

    /// Duplicates of the sockets that worker `index` of `workers` accepts from. Every socket
    /// belongs to at least one worker, and every worker has one for each address; but datagrams are
    /// never taken from one socket by two workers, which would tear sessions apart.
    pub fn for_worker(&self, index: usize, workers: usize) -> io::Result<Vec<WorkerSocket>> {
        self.duplicate(|entry, socket| match entry.owners.get(socket) {
            Some(owner) => owner.worker == index,
            None => is_share(index, workers, entry.sockets.len(), socket),
        })
    }

    /// Duplicates of those sockets of a worker that it did not have before the last commit, when
    /// there were `workers_before`: on addresses that are not `kept`, and those of workers that
    /// end.
    pub fn added_for_worker(
        &self,
        index: usize,
        workers: usize,
        workers_before: usize,
        kept: &[ListenAddr],
    ) -> io::Result<Vec<WorkerSocket>> {
        self.duplicate(|entry, socket| {
            if let Some(owner) = entry.owners.get(socket) {
                return owner.worker == index && owner.is_new;
            }
            let count = entry.sockets.len();
            let is_kept = kept.contains(&entry.spec.addr);
            let had = is_kept && is_share(index, workers_before, count, socket);
            is_share(index, workers, count, socket) && !had
        })
    }

    /// The sockets that worker `index` is to leave to another since the last commit: address and
    /// number.
    pub fn taken_from_worker(&self, index: usize) -> Vec<(ListenAddr, usize)> {
        let mut taken = Vec::new();
        for entry in &self.entries {
            let owners = entry.owners.iter().enumerate();
            let lost = owners.filter(|(_, owner)| owner.taken_from == Some(index));
            taken.extend(lost.map(|(number, _)| (entry.spec.addr.clone(), number)));
        }
        taken
    }

    fn duplicate(&self, wanted: impl Fn(&Entry, usize) -> bool) -> io::Result<Vec<WorkerSocket>> {
        let mut sockets = Vec::new();
        for entry in &self.entries {
            for (number, socket) in entry.sockets.iter().enumerate() {
                if wanted(entry, number) {
                    let fd = OwnedFd::from(socket.try_clone()?);
                    sockets.push(WorkerSocket {
                        addr: entry.spec.addr.clone(),
                        fd,
                        number,
                    });
                }
            }
        }
        Ok(sockets)
    }

    /// Every socket, for a new binary to inherit.
    pub fn descriptors(&self) -> impl Iterator<Item = RawFd> {
        self.entries
            .iter()
            .flat_map(|entry| &entry.sockets)
            .map(AsRawFd::as_raw_fd)
    }

    /// Closes everything. `unlink` removes the files of unix sockets: not when another binary still
    /// serves them.
    pub fn close(self, unlink: bool) {
        if unlink {
            self.entries.iter().for_each(Entry::unlink);
        }
    }

    /// Whether some socket came from an older binary.
    pub fn any_inherited(&self) -> bool {
        self.entries.iter().any(|entry| entry.inherited)
    }

    fn has(&self, addr: &ListenAddr) -> bool {
        self.entries.iter().any(|entry| entry.spec.addr == *addr)
            || self
                .inherited
                .iter()
                .any(|(inherited, _)| inherited == addr)
    }

    /// Whether the address is nobody else's.
    fn try_bind(&self, spec: &ListenSpec) -> io::Result<()> {
        match &spec.addr {
            ListenAddr::Inet(_) | ListenAddr::Udp(_) if self.overlaps(&spec.addr) => Ok(()),
            ListenAddr::Inet(addr) => probe(*addr, false, &spec.options).map(drop),
            ListenAddr::Udp(addr) => probe(*addr, true, &spec.options).map(drop),
            ListenAddr::Unix(path) if path.exists() && !is_stale(path) => {
                Err(io::Error::from_raw_os_error(libc::EADDRINUSE))
            }
            ListenAddr::Unix(_) => Ok(()),
        }
    }

    /// Whether one of our own sockets makes an exclusive bind of `addr` fail.
    fn overlaps(&self, addr: &ListenAddr) -> bool {
        let ours = self.entries.iter().map(|entry| &entry.spec.addr);
        ours.chain(self.inherited.iter().map(|(addr, _)| addr))
            .chain(&self.lingering)
            .filter(|other| other.is_udp() == addr.is_udp())
            .any(|other| match (other.inet(), addr.inet()) {
                (Some(other), Some(addr)) => {
                    let wildcard = other.ip().is_unspecified() || addr.ip().is_unspecified();
                    other == addr || other.port() == addr.port() && wildcard
                }
                _ => false,
            })
    }
}

impl Entry {
    /// Gives each datagram socket to one of `workers` workers. Those that have one keep it, but one
    /// that has several, since others had ended, leaves them to those without: what is sent there
    /// begins a new session, which costs fewer of them than one more socket, by whose number the
    /// kernel would divide all clients anew.
    fn assign(&mut self, workers: usize) {
        if !self.spec.addr.is_udp() {
            return;
        }
        let before = std::mem::take(&mut self.owners);
        let stays = |number: usize| {
            let owner = before.get(number).map(|owner: &Owner| owner.worker);
            owner.filter(|worker| *worker < workers)
        };
        let mut counts = vec![0_usize; workers];
        for worker in (0..self.sockets.len()).filter_map(stays) {
            counts[worker] += 1;
        }
        let without_owner = (0..self.sockets.len()).filter(|number| stays(*number).is_none());
        let idle = counts.iter().filter(|count| **count == 0).count();
        let mut to_leave = idle.saturating_sub(without_owner.count());
        let mut owners = Vec::with_capacity(self.sockets.len());
        for number in 0..self.sockets.len() {
            let stays = stays(number);
            let has_several = stays.is_some_and(|worker| counts[worker] > 1);
            if let Some(worker) = stays.filter(|_| to_leave == 0 || !has_several) {
                owners.push(Owner {
                    worker,
                    is_new: false,
                    taken_from: None,
                });
                continue;
            }
            if let Some(worker) = stays {
                to_leave -= 1;
                counts[worker] -= 1;
            }
            let poorest = (0..workers).min_by_key(|worker| counts[*worker]);
            let worker = poorest.expect("a gateway has at least one worker");
            counts[worker] += 1;
            owners.push(Owner {
                worker,
                is_new: true,
                taken_from: stays,
            });
        }
        self.owners = owners;
    }

    /// Applies options that a reload changed; an option the kernel refuses is only reported.
    fn adopt(&mut self, options: &ListenOptions) {
        if self.spec.options == *options {
            return;
        }
        for one in &self.sockets {
            let applied =
                socket::apply(one, &self.spec.addr, options).and_then(|()| match self.spec.addr {
                    ListenAddr::Udp(_) => Ok(()),
                    _ => socket::listen(one, options),
                });
            if let Err(error) = applied {
                let shown = os_error(&error);
                log_process!(
                    Level::Alert,
                    "listen() to {} failed {shown}",
                    self.spec.addr
                );
            }
        }
        self.spec.options = options.clone();
    }

    fn unlink(&self) {
        let ListenAddr::Unix(path) = &self.spec.addr else {
            return;
        };
        if let Err(error) = fs::remove_file(path) {
            let shown = os_error(&error);
            log_process!(Level::Emerg, "unlink() {} failed {shown}", path.display());
        }
    }
}

/// Opens and listens on one address.
fn open(spec: &ListenSpec, workers: usize) -> io::Result<Entry> {
    let count = match spec.addr {
        ListenAddr::Unix(_) => 1,
        ListenAddr::Inet(_) | ListenAddr::Udp(_) => workers,
    };
    let sockets = (0..count)
        .map(|_| open_one(spec))
        .collect::<Result<_, _>>()?;
    Ok(Entry {
        spec: spec.clone(),
        sockets,
        inherited: false,
        owners: Vec::new(),
    })
}

fn open_one(spec: &ListenSpec) -> io::Result<Socket> {
    let socket = match &spec.addr {
        ListenAddr::Unix(path) => socket::open_unix(path)?,
        ListenAddr::Inet(addr) => socket::open_inet(*addr, false, &spec.options)?,
        ListenAddr::Udp(addr) => return socket::open_inet(*addr, true, &spec.options),
    };
    socket::listen(&socket, &spec.options)?;
    Ok(socket)
}

/// Logs that an address could not be bound.
fn bind_failed(spec: &ListenSpec, error: &io::Error) -> BindFailed {
    log_process!(
        Level::Emerg,
        "bind() to {} failed {}",
        spec.addr,
        os_error(error)
    );
    BindFailed
}

/// Whether worker `index` of `workers` accepts from socket `number` of the `count` on one address.
/// With fewer sockets than workers (unix paths, workers added by a reload) workers share; with more
/// (workers removed by a reload, a binary that had more) a worker has several.
fn is_share(index: usize, workers: usize, count: usize, number: usize) -> bool {
    if count < workers {
        index % count == number
    } else {
        number % workers == index
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{SocketAddr, TcpListener, TcpStream};
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixStream;

    use super::*;

    fn free_port() -> SocketAddr {
        TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
    }

    fn spec(addr: SocketAddr) -> ListenSpec {
        ListenSpec {
            addr: ListenAddr::Inet(addr),
            options: ListenOptions::default(),
        }
    }

    fn accepts(sockets: &[WorkerSocket]) -> bool {
        sockets.iter().any(|socket| {
            let listener = TcpListener::from(socket.fd.try_clone().unwrap());
            listener.set_nonblocking(true).unwrap();
            (0..100).any(|_| {
                thread::sleep(Duration::from_millis(1));
                listener.accept().is_ok()
            })
        })
    }

    #[test]
    fn each_worker_has_its_own_socket_and_a_reload_keeps_it() {
        let (one, two) = (free_port(), free_port());
        let mut listeners = Listeners::default();
        let prepared = listeners.prepare(&[spec(one)], 2).unwrap();
        assert!(listeners.commit(prepared).is_empty());
        let before: Vec<RawFd> = listeners.descriptors().collect();
        assert_eq!(before.len(), 2);
        let prepared = listeners.prepare(&[spec(one), spec(two)], 2).unwrap();
        listeners.commit(prepared);
        assert!(listeners.descriptors().take(2).eq(before));
        let kept = [ListenAddr::Inet(one)];
        let sockets: Vec<_> = (0..2)
            .map(|index| listeners.added_for_worker(index, 2, 2, &kept).unwrap())
            .collect();
        assert!(sockets.iter().all(|sockets| sockets.len() == 1));
        let _client = TcpStream::connect(two).unwrap();
        assert!(sockets.iter().any(|sockets| accepts(sockets)));
        let prepared = listeners.prepare(&[spec(two)], 2).unwrap();
        assert_eq!(listeners.commit(prepared), [ListenAddr::Inet(one)]);
        assert!(TcpStream::connect(one).is_err());
    }

    #[test]
    fn an_address_that_another_process_has_is_not_shared() {
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        let wanted = [spec(other.local_addr().unwrap())];
        assert!(Listeners::default().try_bind(&wanted[0]).is_err());
        assert!(Listeners::check(&wanted).is_ok(), "-t accepts what runs");
        let ours = free_port();
        let mut first = Listeners::default();
        first.commit(first.prepare(&[spec(ours)], 1).unwrap());
        let error = Listeners::default().try_bind(&spec(ours)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn a_wildcard_and_one_of_its_addresses_are_both_ours() {
        let port = free_port().port();
        let wildcard = spec(SocketAddr::from(([0, 0, 0, 0], port)));
        let single = spec(SocketAddr::from(([127, 0, 0, 3], port)));
        let mut listeners = Listeners::default();
        listeners.commit(
            listeners
                .prepare(&[wildcard.clone(), single.clone()], 1)
                .unwrap(),
        );
        assert_eq!(listeners.descriptors().count(), 2);
        let mut listeners = Listeners::default();
        let port = free_port().port();
        let wildcard = spec(SocketAddr::from(([0, 0, 0, 0], port)));
        let single = spec(SocketAddr::from(([127, 0, 0, 3], port)));
        listeners.commit(
            listeners
                .prepare(std::slice::from_ref(&wildcard), 1)
                .unwrap(),
        );
        listeners.commit(listeners.prepare(&[wildcard, single], 1).unwrap());
        assert_eq!(listeners.descriptors().count(), 2);
    }

    #[test]
    fn inherited_sockets_are_all_served_by_fewer_and_by_more_workers() {
        let addr = free_port();
        let mut old = Listeners::default();
        old.commit(old.prepare(&[spec(addr)], 3).unwrap());
        let inherited = (0..3).flat_map(|index| old.for_worker(index, 3).unwrap());
        let mut new = Listeners::with_inherited(inherited.map(|socket| socket.fd).collect());
        new.commit(new.prepare(&[spec(addr)], 2).unwrap());
        let counts = [0, 1].map(|index| new.for_worker(index, 2).unwrap().len());
        assert_eq!(counts, [2, 1]);
        let counts = [0, 1, 2, 3].map(|index| new.for_worker(index, 4).unwrap().len());
        assert_eq!(counts, [1, 1, 1, 1]);
        assert!(new.any_inherited());
    }

    #[test]
    fn the_sockets_of_workers_that_end_pass_to_those_that_stay() {
        let addr = free_port();
        let mut listeners = Listeners::default();
        listeners.commit(listeners.prepare(&[spec(addr)], 4).unwrap());
        let kept = [ListenAddr::Inet(addr)];
        let added = |index, now, before| {
            listeners
                .added_for_worker(index, now, before, &kept)
                .unwrap()
                .len()
        };
        // Two of four stay: each takes over one socket.
        assert_eq!([added(0, 2, 4), added(1, 2, 4)], [1, 1]);
        // One of four stays and has all.
        assert_eq!(added(0, 1, 4), 3);
        // As many as before: nothing changes.
        assert_eq!(added(2, 4, 4), 0);
    }

    #[test]
    fn a_datagram_socket_belongs_to_one_worker() {
        let spec = ListenSpec {
            addr: ListenAddr::Udp(free_port()),
            options: ListenOptions::default(),
        };
        let mut listeners = Listeners::default();
        let (mut before, mut had) = (0, Vec::new());
        let kept = [spec.addr.clone()];
        // The sockets of each worker, and those of them that are new to it.
        for (workers, all, added) in [
            (2, &[1, 1][..], &[1, 1][..]),
            (3, &[1, 1, 1], &[0, 0, 1]),
            (1, &[3], &[2]),
            (1, &[3], &[0]),
            // Workers that come get some of those who have several.
            (2, &[2, 1], &[0, 1]),
            (4, &[1, 1, 1, 1], &[0, 0, 1, 1]),
            (2, &[2, 2], &[1, 1]),
            (4, &[1, 1, 1, 1], &[0, 0, 1, 1]),
        ] {
            let prepared = listeners.prepare(std::slice::from_ref(&spec), workers);
            listeners.commit(prepared.unwrap());
            let count = |found: io::Result<Vec<WorkerSocket>>| found.unwrap().len();
            for index in 0..workers {
                let found = count(listeners.for_worker(index, workers));
                assert_eq!(found, all[index], "worker {index} of {workers}");
                let found = listeners.added_for_worker(index, workers, before, &kept);
                assert_eq!(count(found), added[index], "worker {index} of {workers}");
                let taken = listeners.taken_from_worker(index).len();
                let had = if index < before { had[index] } else { 0 };
                assert_eq!(had + added[index] - taken, all[index]);
            }
            had = all.to_vec();
            before = workers;
        }
    }

    #[test]
    fn a_stale_unix_socket_is_replaced_and_a_live_one_is_not() {
        let path = std::env::temp_dir().join(format!("ringway-listen-{}", std::process::id()));
        let _ = fs::remove_file(&path);
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let wanted = ListenSpec {
            addr: ListenAddr::Unix(path.clone()),
            options: ListenOptions::default(),
        };
        let mut listeners = Listeners::default();
        listeners.commit(listeners.prepare(std::slice::from_ref(&wanted), 2).unwrap());
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o666
        );
        UnixStream::connect(&path).unwrap().write_all(b"x").unwrap();
        assert!(Listeners::default().try_bind(&wanted).is_err());
        listeners.close(true);
        assert!(!path.exists());
    }
}
