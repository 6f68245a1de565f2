//! The session, both ends of its connection, the process and the time.

use std::net::IpAddr;

use super::{display, found, number, seconds};
use crate::base::clock;
use crate::base::listen::ListenAddr;
use crate::base::proxy_protocol::ProxyProtocol;
use crate::base::remote::Remote;
use crate::observe::syslog;
use crate::stream::session::Session;
use crate::vars::Variable;

type V = Variable<Session>;

pub(super) static TABLE: &[V] = &[
    V::new("binary_remote_addr", binary_remote_addr).doc("Client address as 4 or 16 bytes."),
    V::new("remote_addr", |s, _, out| match &s.remote {
        Remote::Inet(addr) => display(out, addr.ip()),
        Remote::Unix => found(out, b"unix:"),
    })
    .doc("Client address."),
    V::new("remote_port", |s, _, out| match s.remote.port() {
        0 => true,
        port => number(out, port),
    })
    .doc("Client port."),
    V::new("server_addr", server_addr).doc("Address that the client connected to."),
    V::new("server_port", |s, _, out| match s.local_addr {
        Some(local) => number(out, local.port()),
        None => true,
    })
    .doc("Port that the client connected to."),
    V::new("proxy_protocol_addr", |s, _, out| {
        proxy_protocol(s, |header| header.source.ip(), out)
    })
    .doc("Client address of the PROXY protocol header."),
    V::new("proxy_protocol_port", |s, _, out| {
        proxy_protocol(s, |header| header.source.port(), out)
    })
    .doc("Client port of the PROXY protocol header."),
    V::new("proxy_protocol_server_addr", |s, _, out| {
        proxy_protocol(s, |header| header.destination.ip(), out)
    })
    .doc("Server address of the PROXY protocol header."),
    V::new("proxy_protocol_server_port", |s, _, out| {
        proxy_protocol(s, |header| header.destination.port(), out)
    })
    .doc("Server port of the PROXY protocol header."),
    V::family("proxy_protocol_tlv_", |s, name, out| {
        let header = s.proxy_protocol.as_ref();
        header.is_some_and(|header| header.tlv(name, out))
    })
    .doc("An extension of a version 2 PROXY protocol header."),
    V::new("bytes_sent", |s, _, out| number(out, s.sent)).doc("Bytes sent to the client."),
    V::new("bytes_received", |s, _, out| number(out, s.received))
        .doc("Bytes received from the client."),
    V::new("session_time", |s, _, out| seconds(out, s.elapsed_ms()))
        .doc("Age of the session in seconds."),
    V::new("status", |s, _, out| {
        let status = s.status;
        found(out, &[b'0' + (status / 100 % 10) as u8]);
        found(
            out,
            &[b'0' + (status / 10 % 10) as u8, b'0' + (status % 10) as u8],
        )
    })
    .doc("How the session ended: 200, 400, 403, 500, 502 or 503."),
    V::new("connection", |s, _, out| number(out, s.number)).doc("Number of the session."),
    V::new("protocol", |s, _, out| {
        let name: &[u8] = if s.listen_addr.is_udp() {
            b"UDP"
        } else {
            b"TCP"
        };
        found(out, name)
    })
    .doc("TCP or UDP."),
    V::new("hostname", |_, _, out| {
        found(out, syslog::hostname().as_bytes())
    })
    .doc("Name of this machine."),
    V::new("pid", |_, _, out| number(out, std::process::id())).doc("Process id."),
    V::new("nginx_version", |_, _, out| {
        found(out, env!("CARGO_PKG_VERSION").as_bytes())
    })
    .doc("Version of ringway."),
    V::new("msec", |_, _, out| {
        let wall = clock::wall();
        match u64::try_from(wall.secs) {
            Ok(secs) => seconds(out, secs * 1000 + u64::from(wall.ms)),
            // A clock before 1970.
            Err(_) => number(out, wall.secs),
        }
    })
    .doc("Seconds since 1970 with milliseconds."),
    V::new("time_local", |_, _, out| {
        clock::time_local(out);
        true
    })
    .doc("Local time in the format of common logs."),
    V::new("time_iso8601", |_, _, out| {
        clock::iso8601(out);
        true
    })
    .doc("Local time in the format of ISO 8601."),
];

fn binary_remote_addr(s: &mut Session, _: &[u8], out: &mut Vec<u8>) -> bool {
    match &s.remote {
        Remote::Inet(addr) => match addr.ip() {
            IpAddr::V4(ip) => found(out, &ip.octets()),
            IpAddr::V6(ip) => found(out, &ip.octets()),
        },
        Remote::Unix => found(out, b"unix:"),
    }
}

fn server_addr(s: &mut Session, _: &[u8], out: &mut Vec<u8>) -> bool {
    if let Some(local) = s.local_addr {
        return display(out, local.ip());
    }
    match &*s.listen_addr {
        ListenAddr::Inet(addr) | ListenAddr::Udp(addr) => display(out, addr.ip()),
        ListenAddr::Unix(path) => {
            out.extend_from_slice(b"unix:");
            found(out, path.as_os_str().as_encoded_bytes())
        }
    }
}

/// Appends what `part` takes out of the PROXY protocol header, if there is one.
fn proxy_protocol<T: std::fmt::Display>(
    s: &Session,
    part: impl Fn(&ProxyProtocol) -> T,
    out: &mut Vec<u8>,
) -> bool {
    match &s.proxy_protocol {
        Some(header) => display(out, part(header)),
        None => false,
    }
}
