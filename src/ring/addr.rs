//! Addresses of stream sockets.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::Path;

use socket2::SockAddr;

/// Where a socket listens or connects.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Addr {
    /// IPv4 or IPv6.
    Inet(SocketAddr),
    /// A unix socket; the path is empty where it has no name, as at the client's end.
    Unix(Box<Path>),
}

impl Addr {
    /// The IP address and port, unless it is a unix socket.
    pub fn inet(&self) -> Option<SocketAddr> {
        match self {
            Addr::Inet(address) => Some(*address),
            Addr::Unix(_) => None,
        }
    }

    /// As the kernel wants it. Fails for paths that are too long.
    pub(super) fn to_kernel(&self) -> io::Result<SockAddr> {
        match self {
            Addr::Inet(address) => Ok(SockAddr::from(*address)),
            Addr::Unix(path) => SockAddr::unix(path),
        }
    }
}

impl From<SocketAddr> for Addr {
    fn from(address: SocketAddr) -> Addr {
        Addr::Inet(address)
    }
}

impl From<&Path> for Addr {
    fn from(path: &Path) -> Addr {
        Addr::Unix(path.into())
    }
}

impl From<SockAddr> for Addr {
    /// What is neither IP nor a path becomes the nameless unix socket.
    fn from(address: SockAddr) -> Addr {
        match address.as_socket() {
            Some(address) => Addr::Inet(address),
            None => Addr::Unix(address.as_pathname().unwrap_or(Path::new("")).into()),
        }
    }
}

impl fmt::Display for Addr {
    /// `192.0.2.1:80`, `[2001:db8::1]:80` or `unix:/path`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Addr::Inet(address) => write!(f, "{address}"),
            Addr::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}
