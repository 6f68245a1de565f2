//! What `listen` says: the address and the socket options. Shared by every kind of server and by
//! the code that opens the sockets.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ListenAddr {
    /// An internet address; a wildcard has the unspecified address.
    Inet(SocketAddr),
    /// An internet address where datagrams come (`udp`).
    Udp(SocketAddr),
    /// A unix socket.
    Unix(PathBuf),
}

impl ListenAddr {
    /// The internet address, unless it is a unix socket.
    pub fn inet(&self) -> Option<SocketAddr> {
        match self {
            ListenAddr::Inet(addr) | ListenAddr::Udp(addr) => Some(*addr),
            ListenAddr::Unix(_) => None,
        }
    }

    /// Whether datagrams come here instead of connections.
    pub fn is_udp(&self) -> bool {
        matches!(self, ListenAddr::Udp(_))
    }
}

impl std::fmt::Display for ListenAddr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ListenAddr::Inet(addr) | ListenAddr::Udp(addr) => addr.fmt(f),
            ListenAddr::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Socket options of `listen`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListenOptions {
    /// `backlog=`; nginx's default on Linux is 511.
    pub backlog: Option<i32>,
    /// `rcvbuf=`, bytes.
    pub rcvbuf: Option<usize>,
    /// `sndbuf=`, bytes.
    pub sndbuf: Option<usize>,
    /// `so_keepalive=`.
    pub so_keepalive: Option<KeepaliveOption>,
    /// `ipv6only=`; on by default.
    pub ipv6only: Option<bool>,
    /// `fastopen=`: queue length.
    pub fastopen: Option<i32>,
    /// `deferred`: TCP_DEFER_ACCEPT.
    pub deferred: bool,
    /// `reuseport` was written. Workers always have a socket each where it is possible.
    pub reuseport: bool,
}

/// The value of `so_keepalive=`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeepaliveOption {
    /// `on` or `off`.
    Switch(bool),
    /// `keepidle:keepintvl:keepcnt`; seconds, seconds, probes.
    Tuned {
        /// Seconds of silence before the first probe.
        idle: Option<u32>,
        /// Seconds between probes.
        interval: Option<u32>,
        /// Unanswered probes that end the connection.
        count: Option<u32>,
    },
}

/// One address to listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenSpec {
    /// The address.
    pub addr: ListenAddr,
    /// The options of its socket.
    pub options: ListenOptions,
}

/// A worker's socket for one address.
#[derive(Debug)]
pub struct WorkerSocket {
    /// What it listens on, as the configuration says it.
    pub addr: ListenAddr,
    /// The worker's own duplicate; it listens already and does not block.
    pub fd: OwnedFd,
    /// Tells the sockets of one address apart.
    pub number: usize,
}
