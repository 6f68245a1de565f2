//! What `http` and `stream` have variables for alike: the process, the time and the client's
//! connection; and what values are written with.
//!
//! Getters append to the buffer they are given and allocate nothing. What has no value at all
//! answers false (`-` in a log); what is merely empty answers true.

use std::fmt::Display;
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};

use super::Variable;
use crate::base::clock;
use crate::base::listen::ListenAddr;
use crate::base::proxy_protocol::ProxyProtocol;
use crate::base::remote::Remote;
use crate::observe::syslog;

/// A subject that came over a client's connection.
pub trait Connected: 'static {
    /// The client: the peer of the socket, unless a trusted proxy told of another.
    fn remote(&self) -> &Remote;
    /// The peer of the socket.
    fn peer(&self) -> &Remote;
    /// Our end of the connection; `None` for unix sockets.
    fn local_addr(&self) -> Option<SocketAddr>;
    /// The listening address it came to.
    fn listen_addr(&self) -> &ListenAddr;
    /// The PROXY protocol header, where `listen … proxy_protocol` asked for one.
    fn proxy_protocol(&self) -> Option<&ProxyProtocol>;
}

/// The variables of both ends of the client's connection.
pub const fn connection<S: Connected>() -> [Variable<S>; 11] {
    [
        Variable::new("binary_remote_addr", binary_remote_addr)
            .doc("Client address as 4 or 16 bytes."),
        Variable::new("remote_port", |s: &mut S, _, out| port(out, s.remote())).doc("Client port."),
        Variable::new("server_addr", server_addr).doc("Address that the client connected to."),
        Variable::new("server_port", |s: &mut S, _, out| match s.local_addr() {
            Some(local) => number(out, local.port()),
            None => true,
        })
        .doc("Port that the client connected to."),
        Variable::new("proxy_protocol_addr", |s: &mut S, _, out| {
            told(s, |header| header.source.ip(), out)
        })
        .doc("Client address of the PROXY protocol header."),
        Variable::new("proxy_protocol_port", |s: &mut S, _, out| {
            told(s, |header| header.source.port(), out)
        })
        .doc("Client port of the PROXY protocol header."),
        Variable::new("proxy_protocol_server_addr", |s: &mut S, _, out| {
            told(s, |header| header.destination.ip(), out)
        })
        .doc("Server address of the PROXY protocol header."),
        Variable::new("proxy_protocol_server_port", |s: &mut S, _, out| {
            told(s, |header| header.destination.port(), out)
        })
        .doc("Server port of the PROXY protocol header."),
        Variable::family("proxy_protocol_tlv_", |s: &mut S, name, out| {
            let header = s.proxy_protocol();
            header.is_some_and(|header| header.tlv(name, out))
        })
        .doc("An extension of a version 2 PROXY protocol header."),
        Variable::new("realip_remote_addr", |s: &mut S, _, out| {
            s.peer().write_ip(out);
            true
        })
        .doc("The address the connection came from."),
        Variable::new("realip_remote_port", |s: &mut S, _, out| {
            port(out, s.peer())
        })
        .doc("The port the connection came from."),
    ]
}

/// The variables of the process and of the time.
pub const fn process<S: 'static>() -> [Variable<S>; 6] {
    [
        Variable::new("hostname", |_: &mut S, _, out| {
            found(out, syslog::hostname().as_bytes())
        })
        .doc("Name of this machine."),
        Variable::new("pid", |_: &mut S, _, out| number(out, std::process::id()))
            .doc("Process id."),
        Variable::new("nginx_version", |_: &mut S, _, out| {
            found(out, env!("CARGO_PKG_VERSION").as_bytes())
        })
        .doc("Version of ringway."),
        Variable::new("msec", |_: &mut S, _, out| {
            let wall = clock::wall();
            match u64::try_from(wall.secs) {
                Ok(secs) => seconds(out, secs * 1000 + u64::from(wall.ms)),
                // A clock before 1970.
                Err(_) => number(out, wall.secs),
            }
        })
        .doc("Seconds since 1970 with milliseconds."),
        Variable::new("time_local", |_: &mut S, _, out| {
            clock::time_local(out);
            true
        })
        .doc("Local time in the format of common logs."),
        Variable::new("time_iso8601", |_: &mut S, _, out| {
            clock::iso8601(out);
            true
        })
        .doc("Local time in the format of ISO 8601."),
    ]
}

/// Appends a value that is there.
pub fn found(out: &mut Vec<u8>, value: &[u8]) -> bool {
    out.extend_from_slice(value);
    true
}

/// Appends a value that may be missing.
pub fn maybe(out: &mut Vec<u8>, value: Option<&[u8]>) -> bool {
    value.is_some_and(|value| found(out, value))
}

/// Appends a number.
pub fn number(out: &mut Vec<u8>, value: impl itoa::Integer) -> bool {
    found(out, itoa::Buffer::new().format(value).as_bytes())
}

/// Appends milliseconds as seconds with three decimals.
pub fn seconds(out: &mut Vec<u8>, ms: u64) -> bool {
    number(out, ms / 1000);
    out.push(b'.');
    found(out, &three_digits((ms % 1000) as u16))
}

/// As [`seconds`], for a time that may be missing.
pub fn maybe_seconds(out: &mut Vec<u8>, ms: Option<u64>) -> bool {
    ms.is_some_and(|ms| seconds(out, ms))
}

/// Appends a status with three digits.
pub fn status(out: &mut Vec<u8>, status: u16) -> bool {
    found(out, &three_digits(status))
}

/// Appends what only knows how to print itself.
pub fn display(out: &mut Vec<u8>, value: impl Display) -> bool {
    // Writing to a vector cannot fail.
    let _ = write!(out, "{value}");
    true
}

fn three_digits(number: u16) -> [u8; 3] {
    [number / 100, number / 10, number].map(|n| b'0' + (n % 10) as u8)
}

fn binary_remote_addr<S: Connected>(s: &mut S, _: &[u8], out: &mut Vec<u8>) -> bool {
    match s.remote() {
        Remote::Inet(addr) => match addr.ip() {
            IpAddr::V4(ip) => found(out, &ip.octets()),
            IpAddr::V6(ip) => found(out, &ip.octets()),
        },
        Remote::Unix => found(out, b"unix:"),
    }
}

fn server_addr<S: Connected>(s: &mut S, _: &[u8], out: &mut Vec<u8>) -> bool {
    if let Some(local) = s.local_addr() {
        return display(out, local.ip());
    }
    match s.listen_addr() {
        ListenAddr::Inet(addr) | ListenAddr::Udp(addr) => display(out, addr.ip()),
        ListenAddr::Unix(path) => {
            out.extend_from_slice(b"unix:");
            found(out, path.as_os_str().as_encoded_bytes())
        }
    }
}

/// Appends a port; nothing for a unix socket.
fn port(out: &mut Vec<u8>, remote: &Remote) -> bool {
    match remote.port() {
        0 => true,
        port => number(out, port),
    }
}

/// Appends what `part` takes out of the PROXY protocol header, if there is one.
fn told<T: Display>(
    s: &impl Connected,
    part: impl Fn(&ProxyProtocol) -> T,
    out: &mut Vec<u8>,
) -> bool {
    let header = s.proxy_protocol();
    header.is_some_and(|header| display(out, part(header)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn milliseconds_are_seconds_with_three_decimals() {
        for (ms, expected) in [
            (0, "0.000"),
            (7, "0.007"),
            (1_042, "1.042"),
            (60_500, "60.500"),
        ] {
            let mut out = Vec::new();
            assert!(seconds(&mut out, ms));
            assert_eq!(out, expected.as_bytes());
        }
    }
}
