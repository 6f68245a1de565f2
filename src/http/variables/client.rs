//! The client's connection, the server's address, the process.

use std::net::IpAddr;

use super::{display, found, maybe, number, seconds};
use crate::base::clock;
use crate::base::listen::ListenAddr;
use crate::base::proxy_protocol::ProxyProtocol;
use crate::http::exchange::{Exchange, Remote};
use crate::http::token::Token;
use crate::observe::syslog;
use crate::vars::Variable;

type V = Variable<Exchange>;

pub(super) static TABLE: &[V] = &[
    V::new("remote_addr", |ex, _, out| {
        found(out, ex.client.remote_text.as_bytes())
    })
    .doc("Client address."),
    V::new("remote_port", |ex, _, out| match ex.client.remote.port() {
        0 => true,
        port => number(out, port),
    })
    .doc("Client port."),
    V::new("binary_remote_addr", binary_remote_addr).doc("Client address as 4 or 16 bytes."),
    V::new("proxy_add_x_forwarded_for", proxy_add_x_forwarded_for)
        .doc("X-Forwarded-For of the request with the client address added."),
    V::new("server_addr", server_addr).doc("Address that the client connected to."),
    V::new("server_port", |ex, _, out| match ex.client.local {
        Some(local) => number(out, local.port()),
        None => true,
    })
    .doc("Port that the client connected to."),
    V::new("scheme", |ex, _, out| {
        found(out, ex.client.scheme().as_bytes())
    })
    .doc("http or https."),
    V::new("https", |ex, _, out| match ex.client.tls {
        Some(_) => found(out, b"on"),
        None => true,
    })
    .doc("\"on\" for TLS connections, otherwise empty."),
    V::new("connection", |ex, _, out| number(out, ex.client.number))
        .doc("Number of the connection."),
    V::new("connection_requests", |ex, _, out| {
        number(out, ex.client.requests)
    })
    .doc("Requests begun on this connection."),
    V::new("connection_time", |ex, _, out| {
        seconds(
            out,
            clock::precise_ms().saturating_sub(ex.client.accepted_at),
        )
    })
    .doc("Age of the connection in seconds."),
    V::new("proxy_protocol_addr", |ex, _, out| {
        proxy_protocol(ex, |header| header.source.ip(), out)
    })
    .doc("Client address of the PROXY protocol header."),
    V::new("proxy_protocol_port", |ex, _, out| {
        proxy_protocol(ex, |header| header.source.port(), out)
    })
    .doc("Client port of the PROXY protocol header."),
    V::new("proxy_protocol_server_addr", |ex, _, out| {
        proxy_protocol(ex, |header| header.destination.ip(), out)
    })
    .doc("Server address of the PROXY protocol header."),
    V::new("proxy_protocol_server_port", |ex, _, out| {
        proxy_protocol(ex, |header| header.destination.port(), out)
    })
    .doc("Server port of the PROXY protocol header."),
    V::family("proxy_protocol_tlv_", |ex, name, out| {
        let header = ex.client.proxy_protocol.as_ref();
        header.is_some_and(|header| header.tlv(name, out))
    })
    .doc("An extension of a version 2 PROXY protocol header."),
    V::new("hostname", |_, _, out| {
        found(out, syslog::hostname().as_bytes())
    })
    .doc("Name of this machine."),
    V::new("pid", |_, _, out| number(out, std::process::id())).doc("Process id."),
    V::new("nginx_version", |_, _, out| {
        found(out, env!("CARGO_PKG_VERSION").as_bytes())
    })
    .doc("Version of ringway."),
];

fn binary_remote_addr(ex: &mut Exchange, _: &[u8], out: &mut Vec<u8>) -> bool {
    match &ex.client.remote {
        Remote::Inet(addr) => match addr.ip() {
            IpAddr::V4(ip) => found(out, &ip.octets()),
            IpAddr::V6(ip) => found(out, &ip.octets()),
        },
        Remote::Unix => found(out, ex.client.remote_text.as_bytes()),
    }
}

fn proxy_add_x_forwarded_for(ex: &mut Exchange, _: &[u8], out: &mut Vec<u8>) -> bool {
    for field in ex.request.head.fields.all(Token::XForwardedFor) {
        out.extend_from_slice(field.value.of(&ex.request.buf));
        out.extend_from_slice(b", ");
    }
    found(out, ex.client.remote_text.as_bytes())
}

fn server_addr(ex: &mut Exchange, _: &[u8], out: &mut Vec<u8>) -> bool {
    if let (Remote::Inet(_), Some(local)) = (&ex.client.remote, ex.client.local) {
        return display(out, local.ip());
    }
    match &*ex.client.listen {
        ListenAddr::Inet(addr) | ListenAddr::Udp(addr) => display(out, addr.ip()),
        ListenAddr::Unix(path) => {
            out.extend_from_slice(b"unix:");
            found(out, path.as_os_str().as_encoded_bytes())
        }
    }
}

/// Appends what `part` takes out of the PROXY protocol header, if there is one.
fn proxy_protocol<T: std::fmt::Display>(
    ex: &Exchange,
    part: impl Fn(&ProxyProtocol) -> T,
    out: &mut Vec<u8>,
) -> bool {
    match &ex.client.proxy_protocol {
        Some(header) => display(out, part(header)),
        None => maybe(out, None),
    }
}
