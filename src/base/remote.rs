//! The other end of a client's connection.

use std::net::{IpAddr, SocketAddr};

/// The other end of the client's connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Remote {
    /// A TCP or UDP peer.
    Inet(SocketAddr),
    /// A unix socket; nginx shows `unix:`.
    Unix,
}

impl Remote {
    /// The address without the port, if it is an internet address.
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            Remote::Inet(addr) => Some(addr.ip().to_canonical()),
            Remote::Unix => None,
        }
    }

    /// The address with the port, if it is an internet address.
    pub fn addr(&self) -> Option<SocketAddr> {
        match self {
            Remote::Inet(addr) => Some(*addr),
            Remote::Unix => None,
        }
    }

    /// Appends the address without the port, `unix:` for unix sockets.
    pub fn write_ip(&self, out: &mut Vec<u8>) {
        use std::io::Write;
        // Writing into memory does not fail.
        let _ = match self {
            Remote::Inet(addr) => write!(out, "{}", addr.ip()),
            Remote::Unix => write!(out, "unix:"),
        };
    }

    /// The port, 0 for unix sockets.
    pub fn port(&self) -> u16 {
        match self {
            Remote::Inet(addr) => addr.port(),
            Remote::Unix => 0,
        }
    }
}

impl std::fmt::Display for Remote {
    /// The address with its port as nginx shows it: `192.0.2.1:80`, `[2001:db8::1]:80` or `unix:`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Remote::Inet(addr) => addr.fmt(f),
            Remote::Unix => f.write_str("unix:"),
        }
    }
}
