//! One session: what every phase, module and variable works on.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use crate::base::client_hello::ClientHello;
use crate::base::clock;
use crate::base::listen::ListenAddr;
use crate::base::places::Places;
use crate::base::proxy_protocol::ProxyProtocol;
use crate::base::remote::Remote;
use crate::limits::conn::Counted;
use crate::observe::{Context, ErrorLog, Level};
use crate::ssl::Secured;
use crate::upstream::{Group, Peer};
use crate::vars::{Store, Subject};

use super::local::{Generation, Local};

/// A session from its first byte to its log line. It keeps the configuration it began with.
pub struct Session {
    /// The worker it runs on.
    pub local: Rc<Local>,
    /// The configuration in force.
    pub generation: Rc<Generation>,
    /// Index of the listening address in the configuration.
    pub listen: u32,
    /// Id of the server.
    pub server: u32,
    /// `$connection`: a number that is unique within the process.
    pub number: u64,
    /// Precise monotonic ms at which the session began.
    pub started_ms: u64,
    /// The other end; `realip` may replace it.
    pub remote: Remote,
    /// Our end of the client's connection; `None` for unix sockets.
    pub local_addr: Option<SocketAddr>,
    /// The listening address it came to.
    pub listen_addr: Rc<ListenAddr>,
    /// The peer of the socket, where `remote` is another address.
    pub peer: Option<Remote>,
    /// The PROXY protocol header, where `listen … proxy_protocol` asked for one.
    pub proxy_protocol: Option<Box<ProxyProtocol>>,
    /// What `ssl_preread` found.
    pub hello: Option<Box<ClientHello>>,
    /// What is known of the client's connection, if it has TLS.
    pub tls: Option<Rc<Secured>>,
    /// What `limit_conn` counts the session for.
    pub limit_conn: Counted,
    /// How often the connection was handed on by `pass`.
    pub passes: u8,
    /// `$status`; 0 while the session runs.
    pub status: u16,
    /// `$bytes_received`: bytes that came from the client.
    pub received: u64,
    /// `$bytes_sent`: bytes that went to the client.
    pub sent: u64,
    /// `proxy_pass` has begun: lines of the error log tell what went to and fro.
    pub proxied: bool,
    /// The attempts at upstream peers, oldest first.
    pub upstream: Vec<UpstreamState>,
    /// Slots of user-defined variables and captures of the last regular expression; most sessions
    /// need none.
    store: Option<Box<Store>>,
    /// What the session was doing, for log lines: "connecting to upstream".
    pub doing: &'static str,
}

/// What one attempt at one peer looked like: `$upstream_addr` and friends.
#[derive(Default)]
pub struct UpstreamState {
    /// The peer.
    pub peer: Option<Arc<Peer>>,
    /// The group in which no peer could be chosen; goes for the name of the peer then.
    pub group: Option<Arc<Group>>,
    /// Precise monotonic ms at which the attempt began.
    pub started_ms: u64,
    /// ms until the connection stood.
    pub connect_ms: Option<u64>,
    /// ms until the peer's first byte.
    pub first_byte_ms: Option<u64>,
    /// ms until the attempt was over.
    pub session_ms: Option<u64>,
    /// Bytes sent to the peer.
    pub bytes_sent: u64,
    /// Bytes received from the peer.
    pub bytes_received: u64,
}

impl UpstreamState {
    /// What `$upstream_addr` and the log call the peer.
    pub fn name(&self) -> Option<&str> {
        match (&self.peer, &self.group) {
            (Some(peer), _) => Some(&peer.conf.name),
            (None, group) => group.as_ref().map(|group| group.name()),
        }
    }
}

impl Subject for Session {
    fn store(&self) -> &Store {
        static EMPTY: Store = Store::new();
        self.store.as_deref().unwrap_or(&EMPTY)
    }

    fn store_mut(&mut self) -> &mut Store {
        self.store.get_or_insert_default()
    }
}

impl Session {
    /// A session that begins now, at a listening address of `generation`.
    pub fn new(
        local: Rc<Local>,
        generation: Rc<Generation>,
        listen: u32,
        listen_addr: Rc<ListenAddr>,
        remote: Remote,
    ) -> Session {
        let server = generation.stream.listens[listen as usize].default_server;
        Session {
            local,
            generation,
            listen,
            server,
            number: Places::next_connection(),
            started_ms: clock::precise_ms(),
            remote,
            local_addr: None,
            listen_addr,
            peer: None,
            proxy_protocol: None,
            hello: None,
            tls: None,
            limit_conn: Counted::default(),
            passes: 0,
            status: 0,
            received: 0,
            sent: 0,
            proxied: false,
            // Most sessions have one attempt.
            upstream: Vec::with_capacity(1),
            store: None,
            doing: "",
        }
    }

    /// The configuration with its owner, so that the session itself stays free to be changed while
    /// it is read.
    pub fn generation(&self) -> Rc<Generation> {
        Rc::clone(&self.generation)
    }

    /// What log lines put before the ends of the session: `udp ` or nothing.
    pub fn udp(&self) -> &'static str {
        if self.listen_addr.is_udp() {
            "udp "
        } else {
            ""
        }
    }

    /// Milliseconds since the session began.
    pub fn elapsed_ms(&self) -> u64 {
        clock::precise_ms().saturating_sub(self.started_ms)
    }

    /// The error log of the server in force.
    pub fn error_log(&self) -> &ErrorLog {
        &self.generation.server(self.server).core.error_log
    }

    /// Writes to the error log: `*N message while …, client: …, server: …, upstream: "…" …`.
    pub fn log(&self, level: Level, message: std::fmt::Arguments<'_>) {
        let log = self.error_log();
        if log.enabled(level) {
            log.log(level, message, Some(self));
        }
    }

    /// As [`Session::log`], without what follows the message.
    pub fn log_plain(&self, level: Level, message: std::fmt::Arguments<'_>) {
        let log = self.error_log();
        if log.enabled(level) {
            log.log(level, message, Some(&Plain(self.number)));
        }
    }
}

/// Only the number of the session.
struct Plain(u64);

impl Context for Plain {
    fn connection(&self) -> u64 {
        self.0
    }

    fn write_suffix(&self, _: &mut Vec<u8>) -> io::Result<()> {
        Ok(())
    }
}

impl Context for Session {
    fn connection(&self) -> u64 {
        self.number
    }

    fn write_suffix(&self, out: &mut Vec<u8>) -> io::Result<()> {
        if !self.doing.is_empty() {
            write!(out, " while {}", self.doing)?;
        }
        match &self.remote {
            Remote::Inet(addr) => write!(out, ", {}client: {}", self.udp(), addr.ip())?,
            Remote::Unix => write!(out, ", client: unix:")?,
        }
        write!(out, ", server: {}", self.listen_addr)?;
        if !self.proxied {
            return Ok(());
        }
        let state = self.upstream.last();
        if let Some(name) = state.and_then(UpstreamState::name) {
            write!(out, ", upstream: \"{name}\"")?;
        }
        let (from, to) = state.map_or((0, 0), |state| (state.bytes_received, state.bytes_sent));
        write!(
            out,
            ", bytes from/to client:{}/{}, bytes from/to upstream:{from}/{to}",
            self.received, self.sent
        )
    }
}
