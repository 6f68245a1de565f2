//! The attempts to connect: one server after the other, until one takes the connection.

use std::io;
use std::sync::Arc;

use crate::base::clock;
use crate::base::places::Counted;
use crate::base::proxy_protocol::Transport;
use crate::observe::{Level, os_error};
use crate::ring::{self, Addr, ConnectOpts, DatagramSocket, Socket};
use crate::ssl;
use crate::ssl::upstream::Begun;
use crate::stream::serve::End;
use crate::stream::session::{Session, UpstreamState};
use crate::upstream::{Attempt, ConnectFailure, Group, Inputs, Moment, Outcome, Peer, Pick};
use crate::vars::Subject;

use super::{Conf, Pass, dynamic};

/// What a session reaches a peer through.
pub trait Connection: Sized {
    /// Whether a connection shows that the peer is there.
    const SHOWS_LIFE: bool;

    /// Connects.
    fn connect(addr: &Addr, opts: &ConnectOpts) -> impl Future<Output = io::Result<Self>>;

    /// Our end's address.
    fn local_addr(&self) -> io::Result<Addr>;

    /// Where TLS is spoken to the upstream, everything up to the end of the handshake.
    fn secure(
        &self,
        s: &mut Session,
        secret: Secret<'_>,
    ) -> impl Future<Output = Result<Option<Box<Begun>>, Failed>>;
}

/// What a handshake needs to know.
#[derive(Clone, Copy)]
pub struct Secret<'a> {
    conf: &'a Conf,
    group: &'a Group,
    /// A number of the peer.
    peer: u64,
    /// When it must be over.
    deadline_ms: Option<u64>,
}

impl Connection for Socket {
    const SHOWS_LIFE: bool = true;

    async fn connect(addr: &Addr, opts: &ConnectOpts) -> io::Result<Self> {
        ring::connect(addr, opts).await
    }

    fn local_addr(&self) -> io::Result<Addr> {
        self.local_addr()
    }

    async fn secure(
        &self,
        s: &mut Session,
        secret: Secret<'_>,
    ) -> Result<Option<Box<Begun>>, Failed> {
        let Some(ssl) = &secret.conf.ssl else {
            return Ok(None);
        };
        self.set_deadline(secret.deadline_ms);
        let header = super::header(s, secret.conf, Transport::Stream);
        if !header.is_empty() {
            let (sent, header) = self.send(header).await;
            sent.map_err(Failed::Peer)?;
            if let Some(state) = s.upstream.last_mut() {
                state.bytes_sent += header.len() as u64;
            }
        }
        s.doing = "SSL handshaking to upstream";
        let identity = ssl.identity(s, |_, out| {
            out.extend_from_slice(secret.group.name().as_bytes());
        });
        let begun = match ssl.client(s).await {
            Ok(ours) => {
                let target = identity.target(secret.peer);
                let begun = ssl::upstream::shake(self, &ours, target).await;
                begun
                    .map(|begun| Some(Box::new(begun)))
                    .map_err(Failed::Tls)
            }
            Err(why) => {
                s.log(Level::Error, format_args!("{why}"));
                Err(Failed::Own)
            }
        };
        identity.give_back(s);
        self.set_deadline(None);
        begun
    }
}

impl Connection for DatagramSocket {
    /// The peer hears of a session with its first datagram.
    const SHOWS_LIFE: bool = false;

    async fn connect(addr: &Addr, opts: &ConnectOpts) -> io::Result<Self> {
        DatagramSocket::connect(addr, opts)
    }

    fn local_addr(&self) -> io::Result<Addr> {
        self.local_addr()
    }

    /// Never, as in nginx.
    async fn secure(&self, _: &mut Session, _: Secret<'_>) -> Result<Option<Box<Begun>>, Failed> {
        Ok(None)
    }
}

/// An established connection to a peer.
pub struct PeerConn<C> {
    /// The connection.
    pub sock: C,
    /// What came of the handshake, where there was one.
    pub tls: Option<Box<Begun>>,
    _counted: Counted,
}

/// The attempts of one session.
pub struct Tries {
    group: Arc<Group>,
    /// The group's place in the configuration, for the key of `hash`.
    id: Option<u32>,
    attempt: Attempt,
    started_ms: u64,
}

/// Why an attempt has brought no connection.
pub enum Failed {
    /// The peer's fault.
    Peer(io::Error),
    /// The peer's fault, in a handshake.
    Tls(ssl::upstream::Failed),
    /// Ours; no other peer would help.
    Own,
}

impl Failed {
    fn log(&self, s: &Session, pick: &Pick) {
        match self {
            Failed::Peer(error) => {
                let failure = ConnectFailure::new(&pick.peer().conf.name, error);
                s.log(failure.level(), format_args!("{failure}"));
            }
            Failed::Tls(failure) => s.log(Level::Error, format_args!("{failure}")),
            // Whoever knew it has said it.
            Failed::Own => {}
        }
    }
}

impl Tries {
    /// None made yet, at the group that `pass` leads to.
    ///
    /// # Errors
    /// 500 where it leads nowhere.
    pub async fn new(s: &mut Session, pass: &Pass, conf: &Conf) -> Result<Tries, End> {
        s.proxied = true;
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

    /// The group that is tried.
    pub fn group(&self) -> &Arc<Group> {
        &self.group
    }

    /// Tries one server after the other. The pick is to be released when the session is over.
    ///
    /// # Errors
    /// The session's status: 502 where no server takes it, 500 where it cannot be tried.
    pub async fn connect<C: Connection>(
        &mut self,
        s: &mut Session,
        conf: &Conf,
    ) -> Result<(Pick, PeerConn<C>), End> {
        loop {
            s.doing = "connecting to upstream";
            let Some(mut pick) = self.pick(s) else {
                s.upstream.push(UpstreamState {
                    group: Some(Arc::clone(&self.group)),
                    session_ms: Some(0),
                    ..UpstreamState::default()
                });
                s.log(Level::Error, format_args!("no live upstreams"));
                return Err(502);
            };
            match self.connect_to(s, conf, &mut pick).await {
                Ok(conn) => {
                    log_connected(s, &conn.sock, &pick);
                    s.doing = "proxying connection";
                    return Ok((pick, conn));
                }
                Err(Failed::Own) => {
                    self.release(s, pick, Outcome::NotCounted);
                    return Err(500);
                }
                Err(failed) => {
                    failed.log(s, &pick);
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
        if !self.group.needs_key() {
            return self.pick_by(s, b"");
        }
        let mut key = s.store_mut().lend();
        let generation = s.generation();
        let group = self.id.map(|id| &generation.stream.groups[id as usize]);
        if let Some(template) = group.and_then(|group| group.key.as_ref()) {
            template.eval(s, &mut key);
        }
        let pick = self.pick_by(s, &key);
        s.store_mut().give_back(key);
        pick
    }

    fn pick_by(&mut self, s: &Session, key: &[u8]) -> Option<Pick> {
        let inputs = Inputs {
            key,
            client: s.remote.ip(),
            now_ms: clock::now_ms(),
        };
        self.group.pick(
            &mut self.attempt,
            s.local.balance.borrow_mut().of(&self.group),
            &inputs,
            &mut s.local.rng.borrow_mut(),
        )
    }

    /// One attempt.
    async fn connect_to<C: Connection>(
        &self,
        s: &mut Session,
        conf: &Conf,
        pick: &mut Pick,
    ) -> Result<PeerConn<C>, Failed> {
        let peer = Arc::clone(pick.peer());
        let started_ms = clock::precise_ms();
        s.upstream.push(UpstreamState {
            peer: Some(Arc::clone(&peer)),
            started_ms,
            ..UpstreamState::default()
        });
        let connected = self.make::<C>(s, conf, &peer).await;
        let elapsed_ms = clock::precise_ms().saturating_sub(started_ms);
        if let Some(state) = s.upstream.last_mut() {
            match &connected {
                Ok(_) => state.connect_ms = Some(elapsed_ms),
                Err(_) => state.session_ms = Some(elapsed_ms),
            }
        }
        if connected.is_ok() {
            match C::SHOWS_LIFE {
                true => pick.connected(elapsed_ms),
                false => pick.note(Moment::Connect, elapsed_ms),
            }
        }
        connected
    }

    /// A connection that is ready for the session's bytes.
    async fn make<C: Connection>(
        &self,
        s: &mut Session,
        conf: &Conf,
        peer: &Peer,
    ) -> Result<PeerConn<C>, Failed> {
        let Some(counted) = s.local.places.count_upstream() else {
            let max = s.local.places.max();
            s.log(
                Level::Alert,
                format_args!("{max} worker_connections are not enough"),
            );
            return Err(Failed::Own);
        };
        let options = options(s, conf);
        let addr = Addr::from(&peer.conf.addr);
        let sock = match C::connect(&addr, &options).await {
            Ok(sock) => sock,
            Err(error) => {
                let (Some(why), Some(bind)) = (ring::bind_error(&error), options.bind) else {
                    return Err(Failed::Peer(error));
                };
                let shown = os_error(why);
                match bind.port() {
                    0 => {
                        let ip = bind.ip();
                        s.log(Level::Crit, format_args!("bind({ip}) failed {shown}"));
                    }
                    _ => s.log(Level::Crit, format_args!("bind({bind}) failed {shown}")),
                }
                return Err(Failed::Own);
            }
        };
        let secret = Secret {
            conf,
            group: &self.group,
            peer: peer.state.serial(),
            deadline_ms: options.deadline_ms,
        };
        Ok(PeerConn {
            tls: sock.secure(s, secret).await?,
            sock,
            _counted: counted,
        })
    }

    /// Whether another server may be tried after the one at hand failed.
    pub fn may_go_on(&self, conf: &Conf) -> bool {
        let is_late = conf.next_timeout_ms > 0
            && clock::now_ms().saturating_sub(self.started_ms) >= conf.next_timeout_ms;
        conf.next_upstream && self.attempt.tries() > 1 && !is_late
    }

    /// Ends the attempt with `pick`.
    pub fn release(&mut self, s: &Session, pick: Pick, outcome: Outcome) {
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

/// The line about a connection to a peer that stands.
fn log_connected(s: &Session, sock: &impl Connection, pick: &Pick) {
    if s.error_log().enabled(Level::Info)
        && let Ok(ours) = sock.local_addr()
    {
        let (udp, name) = (s.udp(), &pick.peer().conf.name);
        s.log_plain(
            Level::Info,
            format_args!("{udp}proxy {ours} connected to {name}"),
        );
    }
}

fn options(s: &mut Session, conf: &Conf) -> ConnectOpts {
    let mut options = ConnectOpts {
        bind: None,
        transparent: false,
        keepalive: conf.socket_keepalive,
        deadline_ms: Some(clock::now_ms() + conf.connect_timeout_ms),
    };
    if let Some(bind) = &conf.bind {
        options.transparent = bind.transparent;
        options.bind = bind.addr(s, Session::log);
    }
    options
}
