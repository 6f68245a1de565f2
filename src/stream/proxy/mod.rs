//! `proxy_pass`: from a session to a peer, and the bytes both ways.
//!
//! [`run`] is the loop of attempts to connect: the first server that takes the connection has the
//! session, and the client notices nothing of those that did not.

pub mod conf;
mod dynamic;
mod relay;

pub use conf::{Conf, Pass, ROWS, Raw};

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::base::clock;
use crate::base::places::Counted;
use crate::observe::{Level, os_error};
use crate::ring::{self, Addr, ConnectOpts, DatagramSocket, Socket};
use crate::upstream::{Attempt, Group, Inputs, Moment, Outcome, PeerAddr, Pick};

use super::client::Client;
use super::serve::End;
use super::session::{Session, UpstreamState};

/// Passes the session to an upstream.
///
/// # Errors
/// The session's status: 502 where no server takes it, 500 where it cannot be tried.
pub async fn run(s: &mut Session, client: &mut Client, pass: &Pass) -> Result<(), End> {
    let generation = s.generation();
    let conf = &generation.server(s.server).proxy;
    client.listen();
    s.doing = "connecting to upstream";
    let mut tries = Tries::new(s, pass, conf).await?;
    let (mut pick, peer) = tries.connect::<Socket>(s, conf).await?;
    s.doing = "proxying connection";
    relay::run(s, client, &peer.sock, conf).await;
    note_times(s, &mut pick);
    tries.release(s, pick, Outcome::Ok);
    Ok(())
}

/// Tells the balancer how long the peer took.
pub(super) fn note_times(s: &Session, pick: &mut Pick) {
    let Some(state) = s.upstream.last() else {
        return;
    };
    for (moment, ms) in [
        (Moment::FirstByte, state.first_byte_ms),
        (Moment::LastByte, state.session_ms),
    ] {
        if let Some(ms) = ms {
            pick.note(moment, ms);
        }
    }
}

/// What a session reaches a peer through.
pub(super) trait Connection: Sized {
    /// Connects.
    async fn connect(addr: &Addr, opts: &ConnectOpts) -> io::Result<Self>;

    /// Our end's address.
    fn local_addr(&self) -> io::Result<Addr>;
}

impl Connection for Socket {
    async fn connect(addr: &Addr, opts: &ConnectOpts) -> io::Result<Self> {
        ring::connect(addr, opts).await
    }

    fn local_addr(&self) -> io::Result<Addr> {
        self.local_addr()
    }
}

impl Connection for DatagramSocket {
    async fn connect(addr: &Addr, opts: &ConnectOpts) -> io::Result<Self> {
        DatagramSocket::connect(addr, opts)
    }

    fn local_addr(&self) -> io::Result<Addr> {
        self.local_addr()
    }
}

/// An established connection to a peer.
pub(super) struct PeerConn<C> {
    pub(super) sock: C,
    _counted: Counted,
}

/// The attempts of one session.
pub(super) struct Tries {
    group: Arc<Group>,
    /// The group's place in the configuration, for the key of `hash`.
    id: Option<u32>,
    attempt: Attempt,
    started_ms: u64,
}

impl Tries {
    /// None made yet, at the group that `pass` leads to.
    pub(super) async fn new(s: &mut Session, pass: &Pass, conf: &Conf) -> Result<Tries, End> {
        let (group, id) = match pass {
            Pass::Group(id) => {
                let group = &s.generation.stream.groups[*id as usize].group;
                (Arc::clone(group), Some(*id))
            }
            Pass::Dynamic(template) => dynamic::find(s, template, conf).await?,
        };
        let mut attempt = Attempt::default();
        attempt.reset(conf.tries);
        Ok(Tries {
            group,
            id,
            attempt,
            started_ms: clock::now_ms(),
        })
    }

    /// Tries one server after the other.
    pub(super) async fn connect<C: Connection>(
        &mut self,
        s: &mut Session,
        conf: &Conf,
    ) -> Result<(Pick, PeerConn<C>), End> {
        loop {
            let Some(mut pick) = self.pick(s) else {
                s.upstream.push(UpstreamState {
                    group: Some(Arc::clone(&self.group)),
                    session_ms: Some(0),
                    ..UpstreamState::default()
                });
                s.log(Level::Error, format_args!("no live upstreams"));
                return Err(502);
            };
            let Some(counted) = s.local.places.count_upstream() else {
                let max = s.local.places.max();
                s.log(
                    Level::Alert,
                    format_args!("{max} worker_connections are not enough"),
                );
                return Err(500);
            };
            match self.connect_to::<C>(s, conf, &mut pick).await {
                Ok(sock) => {
                    s.log_connected(&sock, &pick);
                    let peer = PeerConn {
                        sock,
                        _counted: counted,
                    };
                    return Ok((pick, peer));
                }
                Err(error) => {
                    log_failed(s, &pick, &error);
                    let more = self.may_go_on(conf);
                    self.release(s, pick, Outcome::Failed);
                    if !more {
                        return Err(502);
                    }
                }
            }
        }
    }

    fn pick(&mut self, s: &mut Session) -> Option<Pick> {
        let mut key = s.store.lend();
        if self.group.needs_key() {
            let generation = s.generation();
            let group = self.id.map(|id| &generation.stream.groups[id as usize]);
            if let Some(template) = group.and_then(|group| group.key.as_ref()) {
                template.eval(s, &mut key);
            }
        }
        let inputs = Inputs {
            key: &key,
            client: s.remote.ip(),
            now_ms: clock::now_ms(),
        };
        let pick = self.group.pick(
            &mut self.attempt,
            s.local.balance.borrow_mut().of(&self.group),
            &inputs,
            &mut s.local.rng.borrow_mut(),
        );
        s.store.give_back(key);
        pick
    }

    async fn connect_to<C: Connection>(
        &self,
        s: &mut Session,
        conf: &Conf,
        pick: &mut Pick,
    ) -> io::Result<C> {
        let peer = pick.peer();
        let started_ms = clock::precise_ms();
        s.upstream.push(UpstreamState {
            peer: Some(Arc::clone(peer)),
            started_ms,
            ..UpstreamState::default()
        });
        let options = connect_options(s, conf);
        let addr = match &peer.conf.addr {
            PeerAddr::Inet(addr) => Addr::from(*addr),
            PeerAddr::Unix(path) => Addr::from(&**path),
        };
        let connected = C::connect(&addr, &options).await;
        let elapsed_ms = clock::precise_ms().saturating_sub(started_ms);
        if let Some(state) = s.upstream.last_mut() {
            match &connected {
                Ok(_) => state.connect_ms = Some(elapsed_ms),
                Err(_) => state.session_ms = Some(elapsed_ms),
            }
        }
        if connected.is_ok() {
            pick.connected(elapsed_ms);
        }
        connected
    }

    /// Whether another server may be tried after the one at hand failed.
    pub(super) fn may_go_on(&self, conf: &Conf) -> bool {
        let is_late = conf.next_timeout_ms > 0
            && clock::now_ms().saturating_sub(self.started_ms) >= conf.next_timeout_ms;
        conf.next_upstream && self.attempt.tries() > 1 && !is_late
    }

    pub(super) fn release(&mut self, s: &Session, pick: Pick, outcome: Outcome) {
        let mut balance = s.local.balance.borrow_mut();
        let local = balance.of(&self.group);
        let is_out = self
            .group
            .release(pick, outcome, &mut self.attempt, local, clock::now_ms());
        if is_out {
            s.log(
                Level::Warn,
                format_args!("upstream server temporarily disabled"),
            );
        }
    }
}

/// Logs a connection that could not be made: what only an operator can mend (a socket that is not
/// there, no local port left) is graver than a server that is down.
fn log_failed(s: &Session, pick: &Pick, error: &io::Error) {
    if error.kind() == io::ErrorKind::TimedOut {
        s.log(
            Level::Error,
            format_args!("upstream timed out (110: Connection timed out)"),
        );
        return;
    }
    let name = &pick.peer().conf.name;
    let shown = os_error(error);
    let level = match error.raw_os_error() {
        Some(libc::ECONNREFUSED | libc::ECONNRESET | libc::EHOSTDOWN | libc::EHOSTUNREACH)
            if !name.starts_with("unix:") =>
        {
            s.log(Level::Error, format_args!("connect() failed {shown}"));
            return;
        }
        Some(libc::ECONNREFUSED | libc::EAGAIN | libc::ENETDOWN | libc::ENETUNREACH) => {
            Level::Error
        }
        _ => Level::Crit,
    };
    s.log(level, format_args!("connect() to {name} failed {shown}"));
}

fn connect_options(s: &mut Session, conf: &Conf) -> ConnectOpts {
    let mut options = ConnectOpts {
        bind: None,
        transparent: false,
        keepalive: conf.socket_keepalive,
        deadline_ms: Some(clock::now_ms() + conf.connect_timeout_ms),
    };
    if let Some((template, transparent)) = &conf.bind {
        options.transparent = *transparent;
        options.bind = template.with(s, |s, value| {
            let text = String::from_utf8_lossy(value);
            let addr = parse_bind(&text);
            if addr.is_none() && !text.is_empty() {
                s.log(
                    Level::Error,
                    format_args!("invalid local address \"{text}\""),
                );
            }
            addr
        });
    }
    options
}

/// An address with or without a port.
fn parse_bind(text: &str) -> Option<SocketAddr> {
    let addr = text.parse::<SocketAddr>();
    addr.or_else(|_| text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, 0)))
        .ok()
}

impl Session {
    /// The line about a connection to a peer that stands.
    fn log_connected(&self, sock: &impl Connection, pick: &Pick) {
        if self.error_log().enabled(Level::Info)
            && let Ok(ours) = sock.local_addr()
        {
            let (udp, name) = (self.udp(), &pick.peer().conf.name);
            self.log_plain(
                Level::Info,
                format_args!("{udp}proxy {ours} connected to {name}"),
            );
        }
    }
}
